package chart_test

import (
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/gatehouse-project/gatehouse/test/chart"
)

// TestMain tolerates one goroutine: a logger that a library of Gatekeeper's types links
// starts it when the process does, and gives no way to end it.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

const minimal = "testdata/values/minimal.yaml"

// shape is a set of values.
type shape struct{ name, namespace, file string }

func (s shape) options() chart.Options {
	return chart.Options{Namespace: s.namespace, Values: []string{s.file}}
}

// eachShape runs a test on the objects of each file in testdata/values.
func eachShape(t *testing.T, test func(t *testing.T, s shape, objects chart.Objects)) {
	t.Helper()
	files, err := filepath.Glob("testdata/values/*.yaml")
	if err != nil || len(files) < 6 {
		t.Fatalf("%d shapes, %v", len(files), err)
	}
	elsewhere := map[string]string{"certmanager": "gatehouse"}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		s := shape{name, "gatekeeper-system", file}
		if namespace := elsewhere[name]; namespace != "" {
			s.namespace = namespace
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, s, render(t, s.options()))
		})
	}
}

func render(t *testing.T, o chart.Options) chart.Objects {
	t.Helper()
	objects, err := chart.Render(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// with renders the minimal values with single ones set.
func with(t *testing.T, set ...string) chart.Objects {
	t.Helper()
	return render(t, chart.Options{Values: []string{minimal}, Set: set})
}

// as decodes an object's content strictly.
func as[T any](t *testing.T, objects chart.Objects, kind, name string) T {
	t.Helper()
	var typed T
	object := objects.Find(kind, name)
	if object == nil {
		t.Fatalf("%s %s is not rendered", kind, name)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, &typed, true); err != nil {
		t.Fatalf("%s %s: %v", kind, name, err)
	}
	return typed
}
