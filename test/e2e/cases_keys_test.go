package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatehouse-project/gatehouse/test/e2e/cluster"
	"github.com/gatehouse-project/gatehouse/test/templates"
)

// TestKeys is about what the provider is asked: which keys, by how many
// templates, and what a pod's author can smuggle into them.
func TestKeys(t *testing.T) {
	w := begin(t, settings{})
	signed := w.signed(0, "app", "signed")
	unsigned, _ := w.image(0, "app", "unsigned")
	w.part("twice", func() { w.playTwice(signed, unsigned) })
	w.part("forged", func() {
		w.denied("keys", "image field with a forged [namespace], keys without one", w.apply(w.pod("forged", "[kube-system]"+signed)), "[gatehouse-pods] INVALID_KEY")
	})
	w.part("stock", func() { w.playStock(signed, unsigned) })
	w.part("namespaces", func() { w.playNamespaces(signed, unsigned) })
}

func (w *world) playTwice(signed, unsigned string) {
	w.allowed("keys", "Pod with one image three times, signed", w.apply(w.pod("twice", signed, signed, signed)))
	o := w.apply(w.pod("twice-unsigned", unsigned, signed, unsigned))
	w.denied("keys", "Pod with one image twice, unsigned", o, noSignature)
	if n := strings.Count(o.Stderr, noSignature); n != 1 {
		w.t.Errorf("the reason is told %d times: %s", n, o)
	}
}

// stock are Ratify's templates that a signed image satisfies, by the names of
// their files.
func stock() []string {
	return []string{"ratifyverification", "notationvalidation", "notationissuervalidation", "notationnestedvalidation"}
}

// applyStock applies templates of Ratify's users with their sample constraints,
// of which one names the issuer of the signer's certificate.
func (w *world) applyStock(names ...string) {
	w.t.Helper()
	for _, name := range names {
		text := string(must(os.ReadFile(filepath.Join("..", "templates", "testdata", name+".yaml")))(w.t))
		template, constraint, found := strings.Cut(text, "\n---\n")
		if !found {
			w.t.Fatalf("%s has no sample constraint", name)
		}
		w.ok(w.Apply(w.t.Context(), template))
		constraint = strings.ReplaceAll(constraint, templates.SampleIssuer, w.people.acmeSigner.Certificate().Issuer.String())
		w.ok(w.ApplyWhenKnown(w.t.Context(), constraint))
	}
}

// playStock has several templates ask one provider in one review.
func (w *world) playStock(signed, unsigned string) {
	w.ok(w.Apply(w.t.Context(), w.provider("ratify-provider", "/ratify/gatekeeper/v1/verify")))
	w.applyStock(stock()...)
	about := fmt.Sprintf("Pod, the library's template and %d stock ones, ", len(stock()))
	var o cluster.Output
	w.eventually("each template asks", func() bool {
		before := w.calls()
		o = w.apply(w.pod("stock-unsigned", unsigned))
		return w.calls()-before == len(stock())+1
	})
	w.denied("templates", about+"unsigned", o, noSignature)
	if n := strings.Count(o.Stderr, "[sample]"); n < len(stock()) {
		w.t.Errorf("%d stock templates deny: %s", n, o)
	}
	w.allowed("templates", about+"signed", w.apply(w.pod("stock", signed)))
	w.denied("templates", about+"one image signed and one not", w.apply(w.pod("stock-mixed", signed, unsigned)), noSignature)
	o = w.apply(w.pod("stock-forged", "[kube-system]"+signed))
	w.denied("templates", about+"image field with a forged [namespace]", o, "INVALID_KEY")
	if !strings.Contains(o.Stderr, "[sample]") {
		w.t.Errorf("only the library denies: %s", o)
	}
}

// playNamespaces lets keys lead with the namespace, and has a namespace in which
// all may be, that pods of others would like to be taken for.
func (w *world) playNamespaces(signed, unsigned string) {
	const lenient = "lenient"
	w.ok(w.process.Stop())
	w.config.Server["namespaceFrom"] = "key"
	w.config.Rules = `[{name: lenient, namespaces: [` + lenient + `], images: ["**"], allow: {reason: test, until: 2099-12-31}}, {name: all, images: ["**"], require: {verifier: notation}}]`
	w.serve()
	w.ok(w.Apply(w.t.Context(), "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+lenient+"}\n"+
		strings.ReplaceAll(manifests(w.t, "constraints"), "parameters:\n", "parameters:\n    namespacePrefix: true\n")))
	if o := w.kubectl("", append([]string{"delete", "constrainttemplates"}, stock()[1:]...)...); !o.OK() {
		w.t.Fatal(o)
	}
	w.applyStock("multitenancy") // by the name of the first of the others
	elsewhere := func(name, image string) string {
		return strings.ReplaceAll(w.pod(name, image), "namespace: "+w.namespace, "namespace: "+lenient)
	}
	w.eventually("keys have namespaces", func() bool {
		return w.kubectl(elsewhere("free", unsigned), "create", "--dry-run=server", "-f", "-").OK()
	})
	w.allowed("namespaces", "unsigned Pod where a rule lets all in", w.kubectl(elsewhere("free", unsigned), "create", "--dry-run=server", "-f", "-"))
	w.denied("namespaces", "unsigned Pod where none does", w.apply(w.pod("bound", unsigned)), noSignature)
	w.allowed("namespaces", "signed Pod where none does", w.apply(w.pod("bound", signed)))
	o := w.apply(w.pod("forged", "["+lenient+"]"+unsigned))
	w.denied("namespaces", "image field with the lenient [namespace] in it", o, "[gatehouse-pods] INVALID_KEY")
	if !strings.Contains(o.Stderr, "[sample]") {
		w.t.Errorf("only the library denies: %s", o)
	}
}
