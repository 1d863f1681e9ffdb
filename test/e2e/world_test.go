package e2e

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/test/e2e/cluster"
	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
	"github.com/gatehouse-project/gatehouse/test/signing"
)

// settings are what differs between the worlds of tests. The zero value is: the
// library's templates and constraints, no mutation, Gatekeeper keeps no answers,
// nothing is audited, webhooks have 10 s.
type settings struct {
	gatekeeper cluster.GatekeeperOptions
	hooks      cluster.Webhooks
	// mutation applies the library's Assigns.
	mutation bool
	// provider is a Provider's timeout in seconds, 5 if zero; the process's own
	// ends a tenth before.
	provider int
	// registries is how many there are, 1 if zero.
	registries int
	// config changes the process's configuration.
	config func(*process.Config)
	// constraints replaces the library's constraints.
	constraints string
	// bare leaves out the provider, and all that install applies.
	bare bool
}

// world is what a test plays on: registries, the process as Gatekeeper's
// provider, Gatekeeper with the library's templates, and a namespace.
type world struct {
	*cluster.Cluster
	t          *testing.T
	settings   settings
	people     people
	registries []*registry.Registry
	namespace  string
	api        *cluster.API

	// The provider.
	dir     string
	ca      *cluster.Authority
	config  process.Config
	process *process.Process
	address string

	gatekeeper *cluster.Gatekeeper
}

// people are the two authorities of these tests and a signer of each.
type people struct {
	acme, stranger             *signing.Authority
	acmeSigner, strangerSigner *signing.Signer
}

var everyone = sync.OnceValues(func() (p people, err error) {
	if p.acme, err = signing.NewAuthority("acme root", signing.ECDSA256, signing.AuthorityOptions{}); err != nil {
		return p, err
	}
	if p.stranger, err = signing.NewAuthority("stranger root", signing.ECDSA256, signing.AuthorityOptions{}); err != nil {
		return p, err
	}
	early := signing.IssueOptions{NotBefore: time.Now().Add(-2 * time.Hour)}
	if p.acmeSigner, err = p.acme.Issue("release", signing.ECDSA256, early); err != nil {
		return p, err
	}
	p.strangerSigner, err = p.stranger.Issue("release", signing.ECDSA256, early)
	return p, err
})

// begin makes a world for a test, which has the cluster for itself until it
// ends.
func begin(t *testing.T, with settings) *world {
	t.Helper()
	if !enabled() {
		t.Skip("make e2e runs this: it needs a control plane")
	}
	plane.Lock()
	t.Cleanup(plane.Unlock)
	w := &world{Cluster: plane.Cluster, t: t, settings: with, dir: t.TempDir(), people: must(everyone())(t)}
	w.namespace = strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	w.api = must(w.API())(t)
	t.Cleanup(w.api.Close)
	for range max(with.registries, 1) {
		r := must(registry.Start(registry.Options{}))(t)
		t.Cleanup(r.Close)
		w.registries = append(w.registries, r)
	}
	if with.bare {
		w.startGatekeeper()
		return w
	}
	w.startProvider()
	w.startGatekeeper()
	w.install()
	return w
}

func must[V any](v V, err error) func(testing.TB) V {
	return func(tb testing.TB) V {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// startProvider starts the process behind mutual TLS. It stays at its address
// however often it is started, which an edit of its configuration must not change.
func (w *world) startProvider() {
	w.t.Helper()
	w.ca = must(cluster.NewAuthority("gatehouse-ca"))(w.t)
	w.rotate()
	w.ok(process.Replace(filepath.Join(w.dir, "client-ca.crt"), plane.at.Authority.PEM))
	timeout := time.Duration(w.providerTimeout()) * time.Second * 9 / 10
	w.config = process.Config{Timeout: timeout, Roots: map[string][]byte{"acme.crt": w.people.acme.PEM()}}
	for _, r := range w.registries {
		w.config.PlainHTTP = append(w.config.PlainHTTP, r.Host())
	}
	w.config.Server = process.Map{"tls": process.Map{
		"certificate": cluster.CertificateFile, "key": cluster.KeyFile, "clientCA": "client-ca.crt", "clientNames": []string{cluster.GatekeeperName},
	}}
	if w.settings.config != nil {
		w.settings.config(&w.config)
	}
	w.address = freeAddress(w.t)
	w.config.Server["address"] = w.address
	w.serve()
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.ok(os.WriteFile(filepath.Join(w.Dir(), w.namespace+"-gatehouse.log"), w.process.Log(), 0o600))
		}
		w.ok(w.process.Stop())
	})
}

// freeAddress is one of loopback that nobody listened at a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l := must((&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0"))(t)
	defer func() { _ = l.Close() }() // it is only held until it is known
	return l.Addr().String()
}

// serve starts the process, again after an end of it.
func (w *world) serve() {
	w.t.Helper()
	path := must(w.config.Write(w.dir))(w.t)
	w.process = must(must(process.Build(w.t.Context()))(w.t).Serve(w.t.Context(), path))(w.t)
}

// rotate gives the provider another certificate of its authority.
func (w *world) rotate() {
	w.t.Helper()
	w.ok(must(w.ca.Issue(cluster.Subject{CommonName: "gatehouse"}))(w.t).Write(w.dir))
}

func (w *world) providerTimeout() int {
	if w.settings.provider == 0 {
		return 5
	}
	return w.settings.provider
}

func (w *world) startGatekeeper() {
	w.t.Helper()
	hooks := w.settings.hooks
	if hooks == (cluster.Webhooks{}) {
		hooks = cluster.Webhooks{Validating: 10, Mutating: 10}
	}
	w.ok(w.InstallGatekeeper(w.t.Context(), plane.at, hooks))
	w.gatekeeper = must(w.StartGatekeeper(w.t.Context(), plane.at, w.settings.gatekeeper))(w.t)
	// Gatekeeper looks at namespaces, and without it there is none.
	w.ok(w.Apply(w.t.Context(), "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+w.namespace+"}\n"))
	w.t.Cleanup(func() {
		// Whatever becomes of clear: another Gatekeeper needs the place.
		defer func() { w.ok(w.gatekeeper.Stop()) }()
		w.clear()
	})
}

// library is where the chart has the objects for Gatekeeper.
const library = "../../charts/gatehouse/policy"

// manifests reads the library's objects of a folder.
func manifests(t *testing.T, folder string) string {
	t.Helper()
	files := must(filepath.Glob(filepath.Join(library, folder, "*.yaml")))(t)
	if len(files) == 0 {
		t.Fatalf("%s/%s is empty", library, folder)
	}
	var all strings.Builder
	for _, file := range files {
		all.WriteString("---\n")
		all.Write(must(os.ReadFile(file))(t))
	}
	return all.String()
}

// providers are those that the library's constraints and Assigns name, by their
// paths.
func (w *world) providers() map[string]string {
	const base = "/ratify/gatekeeper/v1/"
	pods := base + "verify"
	if w.settings.mutation {
		pods += "?unpinned=deny"
	}
	return map[string]string{
		"gatehouse-verify": base + "verify", "gatehouse-verify-pods": pods, "gatehouse-audit": base + "audit", "gatehouse-mutate": base + "mutate",
	}
}

// provider is a Provider object that leads to the process.
func (w *world) provider(name, path string) string {
	return fmt.Sprintf("---\napiVersion: externaldata.gatekeeper.sh/v1beta1\nkind: Provider\nmetadata: {name: %s}\nspec: {url: 'https://%s%s', timeout: %d, caBundle: %s}\n",
		name, w.address, path, w.providerTimeout(), base64.StdEncoding.EncodeToString(w.ca.PEM))
}

// install applies what stands between Gatekeeper and the process, makes the
// namespace, and returns once an unsigned image is denied, of pods and of
// controllers.
func (w *world) install() {
	w.t.Helper()
	var objects strings.Builder
	for _, name := range slices.Sorted(maps.Keys(w.providers())) {
		objects.WriteString(w.provider(name, w.providers()[name]))
	}
	ctx := w.t.Context()
	w.ok(w.Apply(ctx, objects.String()))
	w.ok(w.Apply(ctx, manifests(w.t, "templates")))
	constraints := w.settings.constraints
	if constraints == "" {
		constraints = manifests(w.t, "constraints")
	}
	w.ok(w.ApplyWhenKnown(ctx, constraints))
	if w.settings.mutation {
		w.ok(w.Apply(ctx, manifests(w.t, "assigns")))
	}
	_, desc := w.image(0, "probe/unsigned", "1")
	unsigned := w.pinned(0, "probe/unsigned", desc)
	w.eventually("the gate is closed", func() bool {
		return strings.Contains(w.tryPod("probe", unsigned).Stderr, "denied the request")
	})
	if w.settings.constraints == "" {
		w.eventually("the gate is closed for controllers", func() bool {
			o := w.kubectl("", "create", "deployment", "probe", "--image", unsigned, "--namespace", w.namespace, "--dry-run=server")
			return strings.Contains(o.Stderr, "[gatehouse-controllers]")
		})
	}
	if w.settings.mutation {
		w.eventually("images are pinned", func() bool {
			return strings.Contains(w.kubectl(w.pod("probe", w.signed(0, "probe/signed", "1")), "create", "--dry-run=server", "-o", "yaml", "-f", "-").Stdout, "@sha256:")
		})
	}
}

// clear takes out what install applied, so that the next world begins without,
// and what the test made, so that no later audit finds it.
func (w *world) clear() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.t.Context()), time.Minute)
	defer cancel()
	for _, args := range [][]string{
		// What the templates made would go with them, were there the cluster's
		// collector of garbage.
		{"assign,modifyset,assignmetadata", "--all"},
		{"constrainttemplates", "--all"},
		{"crd", "--selector=gatekeeper.sh/constraint=yes"},
		{"providers", "--all"},
		{"pods,deployments,statefulsets,daemonsets,replicasets,jobs,cronjobs,replicationcontrollers", "--all", "--namespace", w.namespace, "--grace-period=0", "--force", "--wait=false"},
	} {
		o, err := w.Kubectl(ctx, "", append([]string{"delete", "--ignore-not-found"}, args...)...)
		if err != nil || !o.OK() {
			w.t.Errorf("clear: %v: %s", err, o) // and the rest is cleared all the same
		}
	}
}

// part runs a part of the test as a subtest, in this world.
func (w *world) part(name string, play func()) {
	w.t.Helper()
	whole := w.t
	defer func() { w.t = whole }()
	whole.Run(name, func(t *testing.T) {
		w.t = t
		play()
	})
}

// eventually waits up to a minute for what Gatekeeper has to hear of first.
func (w *world) eventually(what string, holds func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !holds() {
		if time.Now().After(deadline) {
			w.t.Fatalf("after a minute it still does not hold: %s", what)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// image pushes an image that nobody signed and gives its name by tag.
func (w *world) image(at int, repository, tag string) (string, ocispec.Descriptor) {
	w.t.Helper()
	r := w.registries[at]
	desc := must(r.PushImage(w.t.Context(), repository, tag, repository+":"+tag))(w.t)
	return r.Host() + "/" + repository + ":" + tag, desc
}

// pinned is an image by its digest alone.
func (w *world) pinned(at int, repository string, desc ocispec.Descriptor) string {
	return w.registries[at].Host() + "/" + repository + "@" + desc.Digest.String()
}

// sign attaches a signature to an image.
func (w *world) sign(at int, repository string, desc ocispec.Descriptor, by *signing.Signer, opts signing.SignOptions) {
	w.t.Helper()
	envelope := must(by.Sign(w.t.Context(), desc, opts))(w.t)
	must(w.registries[at].PushReferrer(w.t.Context(), repository, desc, signing.ArtifactType, envelope.MediaType, envelope.Bytes, nil))(w.t)
}

// signed pushes an image with one good signature and gives its name by tag.
func (w *world) signed(at int, repository, tag string) string {
	w.t.Helper()
	name, desc := w.image(at, repository, tag)
	w.sign(at, repository, desc, w.people.acmeSigner, signing.SignOptions{})
	return name
}

// pod is the manifest of a Pod in the world's namespace with a container for
// each image.
func (w *world) pod(name string, images ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: %s}\nspec:\n  containers:\n", name, w.namespace)
	for i, image := range images {
		fmt.Fprintf(&b, "  - {name: c%d, image: %q}\n", i, image)
	}
	return b.String()
}

// kubectl runs kubectl; an error that is not its own fails the test.
func (w *world) kubectl(stdin string, args ...string) cluster.Output {
	w.t.Helper()
	return must(w.Kubectl(w.t.Context(), stdin, args...))(w.t)
}

// apply is "kubectl apply" of a manifest.
func (w *world) apply(manifest string) cluster.Output {
	w.t.Helper()
	return w.kubectl(manifest, "apply", "-f", "-")
}

// tryPod asks whether a Pod may be, without making it.
func (w *world) tryPod(name string, images ...string) cluster.Output {
	w.t.Helper()
	return w.kubectl(w.pod(name, images...), "create", "--dry-run=server", "-f", "-")
}

// allowed asserts that a command succeeded, and tells it.
func (w *world) allowed(section, about string, o cluster.Output) {
	w.t.Helper()
	table.saw(section, about, o)
	if !o.OK() {
		w.t.Errorf("%s: %s: should be allowed: %s", section, about, o)
	}
}

// denied asserts that Gatekeeper denied a command for a reason, and tells it.
func (w *world) denied(section, about string, o cluster.Output, reason string) {
	w.t.Helper()
	table.saw(section, about, o)
	if o.OK() || !strings.Contains(o.Stderr, "denied the request") || !strings.Contains(o.Stderr, reason) {
		w.t.Errorf("%s: %s: should be denied for %q: %s", section, about, reason, o)
	}
}
