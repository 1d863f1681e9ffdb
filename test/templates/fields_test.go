package templates_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// How fields that name images are found: every text within a PodSpec, at any
// depth, is a candidate if its path or its documentation in the API says image
// or OCI. Each candidate has to be in one of the two lists below, so a field
// that a new version of the API brings fails TestImageFields until somebody
// has decided what it is; and each of the first list is then asked about, or
// TestShippedFields fails.

// imageFields name what the kubelet pulls.
func imageFields() []string {
	return []string{
		"containers[].image",
		"ephemeralContainers[].image",
		"initContainers[].image",
		"volumes[].image.reference",
	}
}

// otherFields speak of images, or are below what does, and name none.
func otherFields() map[string]string {
	fields := map[string]string{
		"imagePullSecrets[].name":                      "a secret",
		"volumes[].image.pullPolicy":                   "when to pull",
		"volumes[].rbd.image":                          "a block device of a Ceph cluster",
		"securityContext.windowsOptions.runAsUserName": "a user",
	}
	for _, list := range []string{"containers[]", "ephemeralContainers[]", "initContainers[]"} {
		fields[list+".command[]"] = "a command"
		fields[list+".args[]"] = "a command"
		fields[list+".workingDir"] = "a folder"
		fields[list+".imagePullPolicy"] = "when to pull"
		fields[list+".securityContext.windowsOptions.runAsUserName"] = "a user"
	}
	return fields
}

// candidate is a text field of a PodSpec.
type candidate struct {
	path, doc string
}

var aboutImages = regexp.MustCompile(`(?i)images?\b|\bOCI\b`)

func (c candidate) speaksOfImages() bool {
	return strings.Contains(strings.ToLower(c.path), "image") || aboutImages.MatchString(c.doc)
}

// textsOf lists the texts within a type, with their documentation.
func textsOf(typ reflect.Type, path, doc string, within []reflect.Type) []candidate {
	if reflect.PointerTo(typ).Implements(reflect.TypeFor[json.Marshaler]()) {
		return []candidate{{path, doc}} // a quantity, a time
	}
	switch typ.Kind() {
	case reflect.String:
		return []candidate{{path, doc}}
	case reflect.Pointer:
		return textsOf(typ.Elem(), path, doc, within)
	case reflect.Slice:
		return textsOf(typ.Elem(), path+"[]", doc, within)
	case reflect.Map:
		return textsOf(typ.Elem(), path+"{}", doc, within)
	case reflect.Struct:
		if slices.Contains(within, typ) {
			panic("a type within itself: " + typ.String())
		}
		return textsOfFields(typ, path, append(within, typ))
	default:
		return nil
	}
}

func textsOfFields(typ reflect.Type, path string, within []reflect.Type) (all []candidate) {
	docs := map[string]string{}
	if documented, ok := reflect.TypeAssert[interface{ SwaggerDoc() map[string]string }](reflect.Zero(typ)); ok {
		docs = documented.SwaggerDoc()
	}
	for field := range typ.Fields() {
		if !field.IsExported() {
			continue
		}
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		below := path
		if name != "" {
			below = strings.TrimPrefix(path+"."+name, ".")
		} else if !field.Anonymous || !strings.Contains(options, "inline") {
			panic("a field without a name: " + typ.String() + "." + field.Name)
		}
		all = append(all, textsOf(field.Type, below, docs[name], within)...)
	}
	return all
}

func TestImageFields(t *testing.T) {
	t.Parallel()
	known := slices.Concat(imageFields(), slices.Collect(maps.Keys(otherFields())))
	var found []string
	for _, c := range textsOf(reflect.TypeFor[corev1.PodSpec](), "", "", nil) {
		if !c.speaksOfImages() {
			continue
		}
		found = append(found, c.path)
		if !slices.Contains(known, c.path) {
			t.Errorf("%s is new: does it name an image? %s", c.path, c.doc)
		}
	}
	for _, path := range known {
		if !slices.Contains(found, path) {
			t.Errorf("%s is listed and is no field that speaks of images", path)
		}
	}
}

// kind is a kind of the API that holds a PodSpec, below at.
type kind struct {
	schema.GroupVersionKind

	typ reflect.Type
	at  string
}

// kinds are those of the API groups in which there are pods and their
// controllers.
func kinds(t *testing.T) (all []kind) {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	for _, version := range []schema.GroupVersion{corev1.SchemeGroupVersion, appsv1.SchemeGroupVersion, batchv1.SchemeGroupVersion} {
		for name, typ := range scheme.KnownTypes(version) {
			if _, one := reflect.TypeAssert[metav1.Object](reflect.New(typ)); !one {
				continue // a list, or a request
			}
			for _, at := range specsOf(typ, "", nil) {
				all = append(all, kind{version.WithKind(name), typ, at})
			}
		}
	}
	return all
}

// specsOf are the places of PodSpecs within a type.
func specsOf(typ reflect.Type, path string, within []reflect.Type) (all []string) {
	switch {
	case typ == reflect.TypeFor[corev1.PodSpec]():
		return []string{path}
	case typ.Kind() == reflect.Pointer:
		return specsOf(typ.Elem(), path, within)
	case typ.Kind() == reflect.Slice:
		return specsOf(typ.Elem(), path+"[]", within)
	case typ.Kind() != reflect.Struct || slices.Contains(within, typ):
		return nil
	}
	for field := range typ.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if field.IsExported() {
			all = append(all, specsOf(field.Type, strings.Trim(path+"."+name, "."), append(within, typ))...)
		}
	}
	return all
}

// object is one of the kind with a text at a place, and else empty.
func (k kind) object(t *testing.T, place, text string) any {
	t.Helper()
	value := reflect.New(k.typ)
	object := value.Interface().(runtime.Object)
	object.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind)
	object.(metav1.Object).SetName("x")
	plant(t, value.Elem(), strings.Split(place, "."), text)
	return object
}

// plant sets the field at a path, and makes what is on the way.
func plant(t *testing.T, value reflect.Value, path []string, text string) {
	t.Helper()
	for value.Kind() == reflect.Pointer {
		if value.IsNil() {
			value.Set(reflect.New(value.Type().Elem()))
		}
		value = value.Elem()
	}
	if len(path) == 0 {
		value.SetString(text)
		return
	}
	name, list := strings.CutSuffix(path[0], "[]")
	field := value.FieldByNameFunc(func(goName string) bool {
		f, _ := value.Type().FieldByName(goName)
		is, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		return is == name
	})
	if !field.IsValid() {
		t.Fatalf("%s has no field %s", value.Type(), name)
	}
	if list {
		field.Set(reflect.Append(field, reflect.Zero(field.Type().Elem())))
		field = field.Index(field.Len() - 1)
	}
	plant(t, field, path[1:], text)
}

// TestShippedFields plants an image at every field that names one, of every
// kind that has a pod's specification, and expects the question.
func TestShippedFields(t *testing.T) {
	t.Parallel()
	var found []string
	for _, k := range kinds(t) {
		found = append(found, k.Kind)
		for _, field := range imageFields() {
			place := k.at + "." + field
			image := fmt.Sprintf("registry.example.com/%s:v1", strings.ToLower(k.Kind))
			got := scene{request: request(t, k.object(t, place, image))}.play(t)
			asks := controllersProvider
			if k.Kind == "Pod" {
				asks = podsProvider
			}
			if diff := cmp.Diff(map[string][][]string{asks: {{image}}}, got.asked); diff != "" || len(got.violations) > 0 {
				t.Errorf("%s %s: violations %q; asked (-want +got):\n%s", k.Kind, place, got.messages(), diff)
			}
		}
	}
	slices.Sort(found)
	want := []string{
		"CronJob", "DaemonSet", "Deployment", "Job", "Pod", "PodTemplate", "ReplicaSet", "ReplicationController", "StatefulSet",
	}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("kinds (-want +got):\n%s", diff)
	}
}
