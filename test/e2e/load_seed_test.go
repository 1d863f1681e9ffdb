package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
	"github.com/gatehouse-project/gatehouse/test/signing"
)

const (
	// seedRuns is how often the Deployment is measured in each way.
	seedRuns = 20
	// farAway is a round trip to a registry of a cloud.
	farAway = 25 * time.Millisecond
	// everySignature is a requirement that all of an image's are good, as Ratify's
	// are by default.
	everySignature = "{verifier: notation, every: true}"
)

// TestLoadSeed applies the Deployment whose verification Ratify's authors
// measured at 2.7 to 3.3 s: four images of two registries, five signatures each.
func TestLoadSeed(t *testing.T) {
	var far []*registry.Registry
	w := begin(t, settings{registries: 2, config: func(c *process.Config) {
		c.Require = everySignature
		for range 2 {
			r := must(registry.Start(registry.Options{Latency: farAway}))(t)
			t.Cleanup(r.Close)
			far = append(far, r)
			c.PlainHTTP = append(c.PlainHTTP, r.Host())
		}
	}})
	w.registries = append(w.registries, far...)
	t.Cleanup(func() { w.remove(w.deploymentsPath()) })
	gauges := w.gauges()
	var rows [][]string
	for _, place := range []seedPlace{{"0 ms", 0, false}, {"25 ms", 2, true}} {
		rows = append(rows, w.measureSeed(place, kubectlApply, w.applyDeployment)...)
		rows = append(rows, w.measureSeed(place, "API", w.postDeployment)...)
	}
	gauges.allAnswered()
	figures.add(t, "The seed's Deployment", fmt.Sprintf(`Four containers, images of two registries, five Notary signatures on each, all of which have to be valid. %d times each: images
that nobody has asked about before (cold), then again (warm), with Gatekeeper's cache off, by a process and over connections that have been used, unless it says otherwise. Ratify's
authors give 2.7 to 3.3 s for Ratify's part. "Provider" is the process's own figure for the same requests (`+"`gatehouse_http_duration_seconds`"+`).`, seedRuns),
		[]string{"Round trip to the registry", "By", "Images", "User: median", "p95", "least", "most", "Provider: median", "p95", "least", "most"}, rows...)
}

// seedPlace is where the images are: in two registries from an index on. With
// fresh set, processes that were just started are asked too.
type seedPlace struct {
	latency string
	from    int
	fresh   bool
}

const kubectlApply = "kubectl apply"

// measureSeed has the Deployment made by somebody, cold and warm in turns, and
// where it is asked for by a process that was started for it.
func (w *world) measureSeed(place seedPlace, by string, create func(name string, images []string) (time.Duration, error)) [][]string {
	w.t.Helper()
	ways := []string{"cold", "warm"}
	if place.fresh && by == kubectlApply {
		ways = []string{"cold", "warm", "cold, process just started"}
	}
	samples := make([]seedSample, len(ways))
	for run := range seedRuns {
		images := w.seedImages(place.from, fmt.Sprintf("signed-%d-%s", run, by[:3]))
		for i := range ways {
			if i == 2 {
				images = w.seedImages(place.from, fmt.Sprintf("signed-%d-new", run))
				w.ok(w.process.Stop())
				w.serve()
			}
			samples[i].run(w, func() (time.Duration, error) {
				return create(strings.ToLower(fmt.Sprintf("seed-%s-%d-%d-%d", by[:3], place.from, run, i)), images)
			})
		}
	}
	var rows [][]string
	for i, s := range samples {
		about := fmt.Sprintf("Deployment of four images with five signatures each, %s, registries %s away, by %s", ways[i], place.latency, by)
		table.add("seed", about, fmt.Sprintf("created; median of %d, of which the provider's %s", seedRuns, millis(s.provider.at(0.5))), s.user.at(0.5))
		row := append([]string{place.latency, by, ways[i]}, s.user.spread()...)
		rows = append(rows, append(row, s.provider.spread()...))
	}
	return rows
}

// seedSample are times of one Deployment's creations.
type seedSample struct{ user, provider durations }

// run makes the Deployment once. The provider has to be asked once for it.
func (s *seedSample) run(w *world, create func() (time.Duration, error)) {
	w.t.Helper()
	before := w.answered("verify")
	user, err := create()
	w.ok(err)
	after := w.answered("verify").since(before)
	// The process counts an answer once it has left.
	for until := time.Now().Add(5 * time.Second); after.count == 0 && time.Now().Before(until); {
		after = w.answered("verify").since(before)
	}
	if after.count != 1 {
		w.t.Errorf("the provider was asked %v times about one Deployment", after.count)
	}
	s.user, s.provider = append(s.user, user), append(s.provider, after.took)
}

// seedImages are the four images anew, under a tag.
func (w *world) seedImages(from int, tag string) []string {
	w.t.Helper()
	var images []string
	for i, repository := range []string{"notary/subjects/nginx", "notary/subjects/nginx", "notary/subjects/alpine", "notary/subjects/alpine"} {
		images = append(images, w.signedOften(from+i%2, repository, tag, 5))
	}
	return images
}

// signedOften is signed with several signatures, in both envelopes.
func (w *world) signedOften(at int, repository, tag string, signatures int) string {
	w.t.Helper()
	name, desc := w.image(at, repository, tag)
	for i := range signatures {
		w.sign(at, repository, desc, w.people.acmeSigner, signing.SignOptions{Format: []signing.Format{signing.JWS, signing.COSE}[i%2]})
	}
	return name
}

var seedContainers = []string{"nginx1", "nginx2", "alpine1", "alpine2"}

func (w *world) applyDeployment(name string, images []string) (time.Duration, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: %s, namespace: %s, labels: {app: %[1]s}}\nspec:\n  replicas: 1\n  selector: {matchLabels: {app: %[1]s}}\n"+
		"  template:\n    metadata: {labels: {app: %[1]s}}\n    spec:\n      containers:\n", name, w.namespace)
	for i, image := range images {
		fmt.Fprintf(&b, "      - {name: %s, image: %q}\n", seedContainers[i], image)
	}
	o, err := w.Kubectl(w.t.Context(), b.String(), "apply", "-f", "-")
	if err == nil && !o.OK() {
		err = fmt.Errorf("kubectl apply: %s", o)
	}
	return o.Elapsed, err
}

func (w *world) deploymentsPath() string {
	return "/apis/apps/v1/namespaces/" + w.namespace + "/deployments"
}

func (w *world) postDeployment(name string, images []string) (time.Duration, error) {
	answer, err := w.api.Do(w.t.Context(), http.MethodPost, w.deploymentsPath(), deployment(name, images...))
	if err == nil && !answer.OK() {
		err = fmt.Errorf("create a Deployment: %s", answer.Message())
	}
	return answer.Elapsed, err
}

// deployment is a Deployment of at most four containers, for the API.
func deployment(name string, images ...string) map[string]any {
	type object = map[string]any
	labels := object{"app": name}
	containers := make([]object, len(images))
	for i, image := range images {
		containers[i] = object{"name": seedContainers[i], "image": image}
	}
	return object{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": object{"name": name, "labels": labels},
		"spec": object{"replicas": 1, "selector": object{"matchLabels": labels}, "template": object{"metadata": object{"labels": labels}, "spec": object{"containers": containers}}},
	}
}
