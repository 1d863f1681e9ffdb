package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"

	"github.com/gatehouse-project/gatehouse/test/chart"
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
		k.lay(namespace, volume, dir)
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

// lay writes the files of a volume.
func (k kubelet) lay(namespace string, volume corev1.Volume, dir string) {
	k.w.t.Helper()
	switch {
	case volume.EmptyDir != nil:
	case volume.Projected != nil:
		must(chart.Project(volume, k.contents(namespace, volume.Projected.Sources), dir))(k.w.t)
	default:
		k.w.t.Fatalf("volume %q is of a kind that the chart did not have", volume.Name)
	}
}

// contents are what the sources of a volume hold at the API server.
func (k kubelet) contents(namespace string, sources []corev1.VolumeProjection) chart.Contents {
	k.w.t.Helper()
	contents := chart.Contents{}
	for _, source := range sources {
		switch {
		case source.Secret != nil:
			var secret corev1.Secret
			k.w.get("/api/v1/namespaces/"+namespace+"/secrets/"+source.Secret.Name, &secret)
			contents["Secret/"+secret.Name] = secret.Data
		case source.ConfigMap != nil:
			var from corev1.ConfigMap
			k.w.get("/api/v1/namespaces/"+namespace+"/configmaps/"+source.ConfigMap.Name, &from)
			data := make(map[string][]byte, len(from.Data))
			for name, text := range from.Data {
				data[name] = []byte(text)
			}
			contents["ConfigMap/"+from.Name] = data
		}
	}
	return contents
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
