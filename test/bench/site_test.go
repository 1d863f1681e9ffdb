package bench

import (
	"fmt"
	"maps"
	"os"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
)

// site is some registries with images.
type site struct {
	material   *material
	registries []*registry.Registry
	// keys name all images, by tag or by digest.
	keys []string
}

// newSite starts n registries with the same options.
func newSite(tb testing.TB, m *material, n int, opts registry.Options) *site {
	tb.Helper()
	s := &site{material: m}
	for range n {
		r := must(registry.Start(opts))(tb)
		tb.Cleanup(r.Close)
		s.registries = append(s.registries, r)
	}
	return s
}

// spread pushes every image, the first to the first registry and so on, into
// so many repositories of each registry. Keys pin digests or name tags.
func (s *site) spread(tb testing.TB, repositories int, pinned bool) *site {
	tb.Helper()
	for i, image := range s.material.images {
		r := s.registries[i%len(s.registries)]
		repo := fmt.Sprintf("team/app-%03d", i/len(s.registries)%repositories)
		tag, suffix := "", "@"+image.desc.Digest.String()
		if !pinned {
			tag = fmt.Sprintf("v%d", i)
			suffix = ":" + tag
		}
		s.material.push(tb, r, i, repo, tag)
		s.keys = append(s.keys, r.Host()+"/"+repo+suffix)
	}
	return s
}

// config is for a process that demands the requirement of every image.
func (s *site) config(require string) process.Config {
	c := process.Config{Roots: map[string][]byte{"acme.crt": s.material.root}, Require: require}
	for _, r := range s.registries {
		c.PlainHTTP = append(c.PlainHTTP, r.Host())
	}
	return c
}

func (s *site) reset() {
	for _, r := range s.registries {
		r.ResetStats()
	}
}

// stats are those of all registries; of the peaks the highest one counts.
func (s *site) stats() registry.Stats {
	var sum registry.Stats
	for _, r := range s.registries {
		one := r.Stats()
		sum.Challenge += one.Challenge
		sum.Unauthorized += one.Unauthorized
		sum.Token += one.Token
		sum.Resolve += one.Resolve
		sum.Referrers += one.Referrers
		sum.Manifest += one.Manifest
		sum.Blob += one.Blob
		sum.Other += one.Other
		sum.Total += one.Total
		sum.Throttled += one.Throttled
		sum.Connections += one.Connections
		sum.Peak = max(sum.Peak, one.Peak)
	}
	return sum
}

// start runs a process on a configuration with further sections in YAML, such
// as "governor: {perHost: {rate: 45}}"; empty adds none.
func start(tb testing.TB, c process.Config, sections string) *process.Process {
	tb.Helper()
	binary := must(process.Build(tb.Context()))(tb)
	return binary.Start(tb, write(tb, c, sections))
}

// write writes a configuration as start reads it and returns its path.
func write(tb testing.TB, c process.Config, sections string) string {
	tb.Helper()
	path := must(c.Write(tb.TempDir()))(tb)
	if sections == "" {
		return path
	}
	var whole, more process.Map
	for text, into := range map[string]*process.Map{string(must(os.ReadFile(path))(tb)): &whole, sections: &more} {
		if err := yaml.Unmarshal([]byte(text), into); err != nil {
			tb.Fatal(err)
		}
	}
	maps.Copy(whole, more)
	if err := process.Replace(path, must(yaml.Marshal(whole))(tb)); err != nil {
		tb.Fatal(err)
	}
	return path
}

// verified counts the signatures that passed, and fails on what is not allowed.
func verified(tb testing.TB, answer process.Answer, keys []string) (passed int) {
	tb.Helper()
	if answer.SystemError != "" {
		tb.Fatalf("systemError: %.2000s", answer.SystemError)
	}
	for _, key := range keys {
		item, found := answer.Item(key)
		if !found || !item.Value.IsSuccess {
			tb.Fatalf("%s is not allowed: %+v", key, item)
		}
		for _, report := range item.Value.Reports {
			if report.IsSuccess && report.Type == "notation" {
				passed++
			}
		}
	}
	return passed
}
