package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"

	"github.com/gatehouse-project/gatehouse/test/process"
)

// kubelet lays out the files of a pod's container in a folder, as the program of
// that name does at the root of a file system, and gives the command line that
// finds them there. Nothing else of a container is imitated: the command, its
// arguments, its environment and its files are the manifest's.
type kubelet struct {
	w    *world
	root string
}

// command is a container's command line and environment.
type command struct{ args, env []string }

func (k kubelet) run(namespace string, pod corev1.PodSpec, container corev1.Container) command {
	k.w.t.Helper()
	sources := make(map[string]corev1.Volume, len(pod.Volumes))
	for _, volume := range pod.Volumes {
		sources[volume.Name] = volume
	}
	for _, mount := range container.VolumeMounts {
		volume, known := sources[mount.Name]
		if !known || mount.SubPath != "" {
			k.w.t.Fatalf("mount %q: there is no such volume, or only a part of it is mounted", mount.Name)
		}
		dir := filepath.Join(k.root, mount.MountPath)
		k.w.ok(os.MkdirAll(dir, 0o700))
		for _, part := range parts(k.w.t, volume) {
			k.project(namespace, part, dir)
		}
	}
	c := command{}
	for _, arg := range append(container.Command[1:], container.Args...) {
		if strings.HasPrefix(arg, "/") {
			arg = filepath.Join(k.root, arg)
		}
		c.args = append(c.args, arg)
	}
	for _, e := range container.Env {
		if e.ValueFrom != nil {
			k.w.t.Fatalf("the value of %s comes from where the chart had none come from", e.Name)
		}
		c.env = append(c.env, e.Name+"="+e.Value)
	}
	return c
}

// parts are what a volume is made of.
func parts(t *testing.T, volume corev1.Volume) []corev1.VolumeProjection {
	t.Helper()
	switch {
	case volume.Projected != nil:
		return volume.Projected.Sources
	case volume.EmptyDir != nil:
		return nil
	default:
		t.Fatalf("volume %q is of a kind that the chart did not have", volume.Name)
		return nil
	}
}

// project writes what one source of a volume has.
func (k kubelet) project(namespace string, part corev1.VolumeProjection, dir string) {
	k.w.t.Helper()
	data, items := map[string][]byte{}, []corev1.KeyToPath(nil)
	switch {
	case part.Secret != nil:
		var secret corev1.Secret
		k.w.get("/api/v1/namespaces/"+namespace+"/secrets/"+part.Secret.Name, &secret)
		data, items = secret.Data, part.Secret.Items
	case part.ConfigMap != nil:
		var from corev1.ConfigMap
		k.w.get("/api/v1/namespaces/"+namespace+"/configmaps/"+part.ConfigMap.Name, &from)
		for name, text := range from.Data {
			data[name] = []byte(text)
		}
		items = part.ConfigMap.Items
	default:
		k.w.t.Fatalf("a projection is of a kind that the chart did not have: %+v", part)
	}
	if items == nil {
		for name := range data {
			items = append(items, corev1.KeyToPath{Key: name, Path: name})
		}
	}
	for _, item := range items {
		content, known := data[item.Key]
		if !known {
			k.w.t.Fatalf("a volume wants %q, which its source does not have", item.Key)
		}
		path := filepath.Join(dir, item.Path)
		k.w.ok(os.MkdirAll(filepath.Dir(path), 0o700))
		k.w.ok(process.Replace(path, content))
	}
}

// get reads an object of the API server.
func (w *world) get(path string, into any) {
	w.t.Helper()
	answer := must(w.api.Do(w.t.Context(), "GET", path, nil))(w.t)
	if !answer.OK() {
		w.t.Fatalf("GET %s: %s", path, answer.Message())
	}
	w.ok(json.Unmarshal(answer.Body, into))
}

// atLoopback has a configuration of the chart listen on free ports of loopback: a
// pod has an address of its own, a process here has not.
func (k kubelet) atLoopback(config, address string) {
	k.w.t.Helper()
	var all map[string]any
	k.w.ok(yaml.Unmarshal(must(os.ReadFile(config))(k.w.t), &all))
	for section, change := range map[string][2]string{"server": {":6001", address}, "admin": {":8888", "127.0.0.1:0"}} {
		of, _ := all[section].(map[string]any)
		if of["address"] != change[0] {
			k.w.t.Fatalf("%s.address is %v, not %s", section, of["address"], change[0])
		}
		of["address"] = change[1]
	}
	k.w.ok(process.Replace(config, must(yaml.Marshal(all))(k.w.t)))
}
