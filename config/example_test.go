package config_test

import (
	"fmt"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/gatehouse-project/gatehouse/config"
)

func ExampleParse() {
	_, err := config.Parse("gatehouse.yaml", []byte(`
version: v1alpha1
server:
  insecureHttp: true
stores:
  - {name: registry, type: oras}
policy:
  rules:
    - {name: all, images: ["**"], require: {verifier: notation}}
`))
	fmt.Println(err)
	// Output:
	// gatehouse.yaml:4:3: server: unknown field "insecureHttp"; did you mean "insecureHTTP"? upper and lower case count
	// gatehouse.yaml:9:55: policy.rules[0].require.verifier: no verifier has the name "notation"; the configuration has no verifiers
}

func ExampleDecode() {
	var options struct {
		Timeout    time.Duration `yaml:"timeout" default:"500ms"`
		CacheBytes int64         `yaml:"cacheBytes" unit:"bytes"`
	}
	var node yaml.Node
	if err := yaml.Unmarshal([]byte("cacheBytes: 8MiB"), &node); err != nil {
		fmt.Println(err)
	}
	fmt.Println(config.Decode(&node, &options), options.Timeout, options.CacheBytes)
	// Output: <nil> 500ms 8388608
}
