package chart

import (
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/gatehouse-project/gatehouse/test/process"
)

// Objects are those of a release.
type Objects []*unstructured.Unstructured

// Find gives the object of a kind and name, nil if there is none.
func (o Objects) Find(kind, name string) *unstructured.Unstructured {
	for _, object := range o.Kind(kind) {
		if object.GetName() == name {
			return object
		}
	}
	return nil
}

// Kind gives the objects of a kind.
func (o Objects) Kind(kind string) Objects {
	var found Objects
	for _, object := range o {
		if object.GetKind() == kind {
			found = append(found, object)
		}
	}
	return found
}

// Pod gives the pod that a Deployment or StatefulSet makes. A field that Kubernetes does
// not know is an error.
func (o Objects) Pod(kind, name string) (corev1.PodTemplateSpec, error) {
	var pod corev1.PodTemplateSpec
	object := o.Find(kind, name)
	if object == nil {
		return pod, fmt.Errorf("%s %s: not rendered", kind, name)
	}
	template, found, err := unstructured.NestedMap(object.Object, "spec", "template")
	if err != nil || !found {
		return pod, fmt.Errorf("%s %s: has no pods: %w", kind, name, err)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(template, &pod, true); err != nil {
		return pod, fmt.Errorf("%s %s: %w", kind, name, err)
	}
	return pod, nil
}

// Contents are the data of Secrets and ConfigMaps by kind and name, "Secret/NAME".
type Contents map[string]map[string][]byte

// ConfigMaps are the contents of all that are rendered.
func (o Objects) ConfigMaps() (Contents, error) {
	contents := Contents{}
	for _, object := range o.Kind("ConfigMap") {
		data, _, err := unstructured.NestedStringMap(object.Object, "data")
		if err != nil {
			return nil, fmt.Errorf("ConfigMap %s: %w", object.GetName(), err)
		}
		files := map[string][]byte{}
		for key, text := range data {
			files[key] = []byte(text)
		}
		contents["ConfigMap/"+object.GetName()] = files
	}
	return contents, nil
}

// Project writes the files of a projected volume into a folder, as a kubelet does, each
// exchanged as a whole, and gives their paths below it. A source or a key that is not in contents is an error, as it
// is for a pod that then does not start.
func Project(volume corev1.Volume, contents Contents, into string) ([]string, error) {
	if volume.Projected == nil {
		return nil, fmt.Errorf("volume %s: is not projected", volume.Name)
	}
	var paths []string
	for _, source := range volume.Projected.Sources {
		name, items := sourceOf(source)
		data, there := contents[name]
		if !there {
			return nil, fmt.Errorf("volume %s: %s: not found", volume.Name, name)
		}
		for _, item := range itemsOf(items, data) {
			text, there := data[item.Key]
			if !there {
				return nil, fmt.Errorf("volume %s: %s: no key %s", volume.Name, name, item.Key)
			}
			file := filepath.Join(into, filepath.FromSlash(item.Path))
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				return nil, err
			}
			if err := process.Replace(file, text); err != nil {
				return nil, err
			}
			paths = append(paths, item.Path)
		}
	}
	return paths, nil
}

func sourceOf(source corev1.VolumeProjection) (string, []corev1.KeyToPath) {
	switch {
	case source.Secret != nil:
		return "Secret/" + source.Secret.Name, source.Secret.Items
	case source.ConfigMap != nil:
		return "ConfigMap/" + source.ConfigMap.Name, source.ConfigMap.Items
	default:
		return "of another kind", nil
	}
}

// itemsOf are those that are named, or else all.
func itemsOf(items []corev1.KeyToPath, data map[string][]byte) []corev1.KeyToPath {
	if len(items) > 0 {
		return items
	}
	for key := range data {
		items = append(items, corev1.KeyToPath{Key: key, Path: key})
	}
	return items
}
