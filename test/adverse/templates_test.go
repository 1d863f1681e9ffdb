package adverse

import (
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
	"github.com/gatehouse-project/gatehouse/test/signing"
	"github.com/gatehouse-project/gatehouse/test/templates"
)

// gateway is how a template reaches processes: behind the TLS of package
// templates, keys with a namespace go to a process that reads it.
type gateway struct {
	plain, tenants http.Handler
}

func (g gateway) to(template string) http.Handler {
	if template == templates.MultiTenancy {
		return g.tenants
	}
	return g.plain
}

func newGateway(t *testing.T, c process.Config) gateway {
	t.Helper()
	c.Server = with(c.Server, process.Map{"namespaceFrom": "none"})
	plain := process.Start(t, c)
	c.Server = with(c.Server, process.Map{"namespaceFrom": "key"})
	return gateway{plain: forward(t, plain), tenants: forward(t, process.Start(t, c))}
}

func with(base, more process.Map) process.Map {
	all := maps.Clone(base)
	if all == nil {
		all = process.Map{}
	}
	maps.Copy(all, more)
	return all
}

// forward hands requests on to a process as they are.
func forward(t *testing.T, p *process.Process) http.Handler {
	t.Helper()
	to := must(url.Parse(p.VerifyURL()))(t)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &httputil.ReverseProxy{
		Transport: transport,
		ErrorLog:  log.New(io.Discard, "", 0), // a process that is gone is what some tests are about
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = to.Scheme, to.Host
		},
	}
}

// outcome is a pod, and what each template has to make of it.
type outcome struct {
	name string
	pod  templates.Pod
	want templates.Outcome
}

// stage is what the templates ask about.
type stage struct {
	healthy, down site
	outcomes      []outcome
}

func newStage(t *testing.T) stage {
	t.Helper()
	s := stage{healthy: newSite(t, registry.Options{}), down: newSite(t, registry.Options{})}
	h, signed := s.healthy, templates.Verified()
	good := h.signed(t, "signed")
	add := func(name string, want templates.Outcome, images ...string) {
		s.outcomes = append(s.outcomes, outcome{name, templates.PodOf(images...), want})
	}
	with := func(tag string, by *signing.Signer, opts signing.SignOptions, alter func([]byte)) string {
		key, desc := h.image(t, tag)
		h.sign(t, desc, by, opts, alter)
		return key
	}
	unsigned, _ := h.image(t, "unsigned")
	stranger := with("stranger", h.people.strangerSigner, signing.SignOptions{}, nil)
	altered := with("altered", h.people.acmeSigner, signing.SignOptions{Format: signing.COSE}, flipLast)
	expired := with("expired", h.people.acmeSigner, signing.SignOptions{SigningTime: time.Now().Add(-time.Hour), Expiry: time.Minute}, nil)
	missing := h.Host() + "/app:missing"
	gone := s.down.signed(t, "gone")
	s.down.Close()
	invalid := h.Host() + "/APP:v1"

	add("signed", signed, good)
	add("signed, twice in a pod", signed, good, good)
	for name, key := range map[string]string{
		"unsigned": unsigned, "stranger": stranger, "altered": altered, "expired": expired,
		"missing": missing, "registry down": gone, "invalid key": invalid, "no rule": "192.0.2.1/app",
	} {
		add(name, templates.Outcome{}, key)
		add(name+", beside a signed one", templates.Outcome{}, good, key)
		add(name+", before a signed one", templates.Outcome{}, key, good)
	}
	// The signature is good, and the policy asks for two.
	add("two of two", signed, s.strict(t, "two", 2))
	add("one of two", templates.Outcome{}, s.strict(t, "one", 1))
	add("exempt", templates.Exempt(), h.Host()+"/exempt/app:v1")
	add("exemption that has ended", templates.Outcome{}, h.Host()+"/ended/app:v1")
	return s
}

// strict pushes an image with signatures of n people to the repository of
// which the rules demand two.
func (s stage) strict(t *testing.T, tag string, n int) string {
	t.Helper()
	const repo = "strict/app"
	h := s.healthy
	desc := must(h.PushImage(t.Context(), repo, tag, tag))(t)
	for i := range n {
		signer := must(h.people.acme.Issue(fmt.Sprint("person ", i), signing.ECDSA256, signing.IssueOptions{}))(t)
		envelope := must(signer.Sign(t.Context(), desc, signing.SignOptions{}))(t)
		must(h.PushReferrer(t.Context(), repo, desc, signing.ArtifactType, envelope.MediaType, envelope.Bytes, nil))(t)
	}
	return h.Host() + "/" + repo + ":" + tag
}

func (s stage) config(t *testing.T) process.Config {
	t.Helper()
	c := config(t, s.healthy, s.down)
	c.Rules = strings.ReplaceAll(`
- {name: strict, images: ["HOST/strict/**"], require: {verifier: notation, atLeast: 2}}
- {name: exempt, images: ["HOST/exempt/**"], allow: {reason: "TICKET-1", until: 2999-12-31}}
- {name: ended, images: ["HOST/ended/**"], allow: {reason: "TICKET-2", until: 2020-01-31}}
- {name: ours, images: ["HOST/**", "DOWN/**"], require: {verifier: notation}}`, "HOST", s.healthy.Host())
	c.Rules = strings.ReplaceAll(c.Rules, "DOWN", s.down.Host())
	return c
}

// flipLast changes a COSE envelope's signature, which stands at its end.
func flipLast(envelope []byte) { envelope[len(envelope)-1] ^= 1 }

// TestTemplates lets all of Ratify's templates ask the process, by
// Gatekeeper's own client, about pods of all outcomes.
func TestTemplates(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	issuer := s.healthy.people.acme.Certificate().Subject.String()
	for _, onFailure := range []string{"systemError", "value"} {
		t.Run(onFailure, func(t *testing.T) {
			t.Parallel()
			c := s.config(t)
			c.Server = process.Map{"onFailure": onFailure}
			gate := newGateway(t, c)
			admitted := make(map[string]int)
			for _, o := range s.outcomes {
				for _, name := range templates.Names() {
					want := o.want.Want(name)
					if want == templates.Admitted {
						admitted[name]++
					}
					t.Run(o.name+"/"+name, func(t *testing.T) {
						optionsOf(name, issuer).Check(t, name, gate.to(name), o.pod, want)
					})
				}
			}
			// A template that denies everything would pass for the wrong reason.
			t.Logf("pods that each template admits: %v of %d", admitted, len(s.outcomes))
			for _, name := range templates.Names() {
				needless := []string{templates.SBOM, templates.VulnerabilityReport}
				if admitted[name] == 0 && !slices.Contains(needless, name) {
					t.Errorf("%s admits nothing", name)
				}
			}
		})
	}
}

// optionsOf gives the one template that has parameters its own.
func optionsOf(template, issuer string) templates.Options {
	if template != templates.NotationIssuer {
		return templates.Options{}
	}
	return templates.Options{Parameters: map[string]any{"issuer": issuer}}
}

// TestTemplatesWithoutAnswer lets the templates ask a process that is gone, and
// one that has no time.
func TestTemplatesWithoutAnswer(t *testing.T) {
	t.Parallel()
	s := newSite(t, registry.Options{Latency: 200 * time.Millisecond})
	key := s.signed(t, "app")
	c := config(t, s)
	c.Timeout = 100 * time.Millisecond
	gate := newGateway(t, c)
	for _, name := range templates.Names() {
		templates.Check(t, name, gate.to(name), templates.PodOf(key), templates.Denied)
	}
	gone := process.Start(t, c)
	handler := forward(t, gone)
	if err := gone.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, name := range templates.Names() {
		if violations, _ := (templates.Options{}).Ask(t, name, handler, templates.PodOf(key)); len(violations) == 0 {
			t.Errorf("%s admits what nobody answered for", name)
		}
	}
}
