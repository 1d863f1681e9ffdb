package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/test/chart"
	"github.com/gatehouse-project/gatehouse/test/e2e/cluster"
	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/signing"
)

// TestDocs does what the user's pages say, in their order: each command of each
// block, in a cluster that begins with Gatekeeper and an image that runs unsigned.
// What a command cannot be here, the table in docs_table_test.go says, and why.
//
// Comments before a block tell what is expected of it:
//
//	<!-- fails: TEXT -->   the last command fails, and says TEXT
//	<!-- prints: TEXT -->  its commands print TEXT
//	<!-- within 60s -->    the last one does, if not at once, within that time
//	<!-- file: NAME -->    the block is a file of that name
//
// Every command without such a comment succeeds.
func TestDocs(t *testing.T) {
	began := time.Now()
	w := begin(t, settings{bare: true, hooks: cluster.Webhooks{Validating: 5, Mutating: 2}, gatekeeper: cluster.GatekeeperOptions{AuditInterval: 2 * time.Second}})
	r := newReader(w)
	t.Logf("all is laid out after %.1fs", time.Since(began).Seconds())
	install := page(t, "install.md")
	policy := page(t, "policy.md")
	operate := page(t, "operate.md")
	r.reads("install", upTo(install, "## Uninstall"))
	r.reads("configuration", page(t, "configuration.md"))
	r.base = wholeConfiguration(t, policy)
	r.reads("policy", policy)
	r.base = ""
	r.reads("operate", upTo(operate, "## Alerts"))
	r.provoke()
	r.reads("alerts", since(operate, "## Alerts"))
	r.reads("security", page(t, "security.md"))
	r.reads("uninstall", since(install, "## Uninstall"))
	r.checkTable()
	t.Logf("all is read after %.1fs", time.Since(began).Seconds())
}

// reader is somebody who types what the pages say.
type reader struct {
	*world
	home    string // where they are, and their home
	path    string // with the programs that the pages call
	base    string // the configuration that fragments on a page belong to
	nodes   *nodes
	good    ocispec.Descriptor
	denials string // what the last command said that was denied with a trace id
	used    map[string]int
}

// newReader lays out what the pages take for granted: the programs, a checkout,
// images, the root of the signers, and what a cluster has already.
func newReader(w *world) *reader {
	w.t.Helper()
	r := &reader{world: w, home: w.t.TempDir(), used: make(map[string]int)}
	r.nodes = newNodes(w)
	r.path = r.programs()
	w.ok(os.Symlink(must(filepath.Abs("../../charts"))(w.t), filepath.Join(r.home, "charts")))
	r.file("acme-root.crt", w.people.acme.PEM())
	r.file("certs/scanner-root.crt", w.people.stranger.PEM())
	r.file("certs/tsa-root.crt", w.people.stranger.PEM())
	w.signed(0, "app", "v1")
	w.image(0, "app", "v2")
	unsigned, _ := w.image(0, "app", "unsigned")
	_, r.good = w.image(0, "app", "good") // signed by provoke
	w.ok(w.Apply(w.t.Context(), string(must(os.ReadFile(r.source("tools/crds", "github.com/cert-manager/cert-manager", "deploy/crds/cert-manager.io_certificates.yaml")))(w.t))))
	w.ok(w.Apply(w.t.Context(), "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+w.namespace+"}\n---\n"+w.pod("old", unsigned)+"---\n"+
		`apiVersion: externaldata.gatekeeper.sh/v1beta1
kind: Provider
metadata: {name: ratify-provider}
spec: {url: "https://ratify.gatekeeper-system:6001/ratify/gatekeeper/v1/verify", timeout: 5, caBundle: "`+encoded(must(cluster.NewAuthority("ratify-ca"))(w.t).PEM)+"\"}\n"+
		docsSecret("gatekeeper-webhook-server-cert", map[string][]byte{"ca.crt": plane.at.Authority.PEM})))
	w.t.Cleanup(func() {
		for _, args := range [][]string{{"pod", "hotfix", "--namespace=default", "--grace-period=0", "--force"}, {"configmap", "acme-root", "--namespace=" + cluster.GatekeeperNamespace}} {
			w.ok(r.quietly(append([]string{"delete", "--ignore-not-found"}, args...)...))
		}
	})
	return r
}

// programs puts the programs that the pages call into a folder, and gives a PATH
// that finds them there and what else any system has.
func (r *reader) programs() string {
	r.t.Helper()
	bin := filepath.Join(r.home, "bin")
	r.ok(os.MkdirAll(bin, 0o700))
	programs := map[string]string{"helm": must(chart.Helm(r.t.Context()))(r.t), "gatehouse": must(process.Build(r.t.Context()))(r.t).Path()}
	for name, module := range map[string]string{"kubectl": "kubernetes", "notation": "notation"} {
		programs[name] = must(goCommand(r.t, "tools/"+module, "tool", "-n", name))(r.t)
	}
	for name, path := range programs {
		r.ok(os.Symlink(path, filepath.Join(bin, name)))
	}
	r.ok(os.Symlink(r.source("tools/gatekeeper", "github.com/open-policy-agent/gatekeeper/v3", "charts/gatekeeper"), filepath.Join(r.home, "gatekeeper-chart")))
	return bin + ":/usr/local/bin:/usr/bin:/bin"
}

// source is the path of a file in a module's source.
func (r *reader) source(folder, module, file string) string {
	r.t.Helper()
	dir := must(goCommand(r.t, folder, "list", "-m", "-f", "{{.Dir}}", module))(r.t)
	return filepath.Join(dir, filepath.FromSlash(file))
}

// file writes a file of the reader's.
func (r *reader) file(name string, content []byte) {
	r.t.Helper()
	path := filepath.Join(r.home, name)
	r.ok(os.MkdirAll(filepath.Dir(path), 0o700))
	r.ok(os.WriteFile(path, content, 0o600))
}

// reads does what a page says, in its order.
func (r *reader) reads(name, text string) {
	r.t.Helper()
	began, commands := time.Now(), 0
	r.part(name, func() {
		for _, b := range docBlocks(r.t, text) {
			switch {
			case b.file != "" || (b.language == "yaml" && r.base != ""):
				r.writes(b)
			case b.language == "sh":
				said, all := "", b.commands()
				for i, command := range all {
					commands++
					said += r.types(b, command, said, i == len(all)-1)
				}
			}
		}
		table.add("docs", name, fmt.Sprintf("%d commands do what the page says", commands), time.Since(began))
	})
	if r.t.Failed() {
		r.t.FailNow() // what follows builds on it
	}
}

// provoke lets happen what alerts are about, as far as it can here.
func (r *reader) provoke() {
	r.t.Helper()
	r.eventually("the canary has told of an image that must pass", func() bool { return strings.Contains(r.nodes.log(), "canary image") })
	r.sign(0, "app", r.good, r.people.acmeSigner, signing.SignOptions{})
	// Nobody can tell of an image where the configuration does not let Gatehouse go.
	private := "10.1.2.3/app@" + r.good.Digest.String()
	if o := r.kubectl("", "run", "private", "--image="+private, "--dry-run=server"); o.OK() {
		r.t.Errorf("an image without a verdict is admitted: %s", o)
	}
}

// page is one of the user's pages.
func page(t *testing.T, name string) string {
	t.Helper()
	return string(must(os.ReadFile(filepath.Join("../../docs", name)))(t))
}

// upTo and since cut a page at a heading, which it must have.
func upTo(text, heading string) string {
	first, _, found := strings.Cut(text, "\n"+heading+"\n")
	if !found {
		panic("the page has no heading " + heading)
	}
	return first
}

func since(text, heading string) string { return strings.TrimPrefix(text, upTo(text, heading)) }

// wholeConfiguration is the first of a page.
func wholeConfiguration(t *testing.T, text string) string {
	t.Helper()
	for _, b := range docBlocks(t, text) {
		if strings.HasPrefix(b.text, "version: v1alpha1\n") {
			return b.text
		}
	}
	t.Fatal("the page shows no configuration")
	return ""
}
