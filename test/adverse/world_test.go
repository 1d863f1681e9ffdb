package adverse

import (
	"strings"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
	"github.com/gatehouse-project/gatehouse/test/signing"
)

// noise is what a busy machine may add to a time that is asserted.
const noise = 1500 * time.Millisecond

// glog, which the Rego library links, starts one goroutine for good.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(process.Exit),
		goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

// people are the two authorities of these tests and a signer of each.
type people struct {
	acme, stranger             *signing.Authority
	acmeSigner, strangerSigner *signing.Signer
}

var everyone = sync.OnceValues(func() (people, error) {
	var p people
	var err error
	if p.acme, err = signing.NewAuthority("acme root", signing.ECDSA256, signing.AuthorityOptions{}); err != nil {
		return p, err
	}
	if p.stranger, err = signing.NewAuthority("stranger root", signing.ECDSA256, signing.AuthorityOptions{}); err != nil {
		return p, err
	}
	if p.acmeSigner, err = p.acme.Issue("release", signing.ECDSA256, signing.IssueOptions{}); err != nil {
		return p, err
	}
	p.strangerSigner, err = p.stranger.Issue("release", signing.ECDSA256, signing.IssueOptions{})
	return p, err
})

// site is a registry that can fill itself.
type site struct {
	*registry.Registry
	people people
}

func newSite(tb testing.TB, opts registry.Options) site {
	tb.Helper()
	r := must(registry.Start(opts))(tb)
	tb.Cleanup(r.Close)
	return site{r, must(everyone())(tb)}
}

// image pushes an image that nobody signed.
func (s site) image(tb testing.TB, tag string) (key string, desc ocispec.Descriptor) {
	tb.Helper()
	desc = must(s.PushImage(tb.Context(), "app", tag, tag))(tb)
	return s.Host() + "/app:" + tag, desc
}

// sign pushes a signature of desc, changed by alter unless that is nil.
func (s site) sign(tb testing.TB, desc ocispec.Descriptor, by *signing.Signer, opts signing.SignOptions, alter func([]byte)) {
	tb.Helper()
	envelope := must(by.Sign(tb.Context(), desc, opts))(tb)
	if alter != nil {
		alter(envelope.Bytes)
	}
	must(s.PushReferrer(tb.Context(), "app", desc, signing.ArtifactType, envelope.MediaType, envelope.Bytes, nil))(tb)
}

// signed pushes an image with one good signature.
func (s site) signed(tb testing.TB, tag string) (key string) {
	tb.Helper()
	key, desc := s.image(tb, tag)
	s.sign(tb, desc, s.people.acmeSigner, signing.SignOptions{}, nil)
	return key
}

// config trusts acme and knows the sites.
func config(tb testing.TB, sites ...site) process.Config {
	tb.Helper()
	c := process.Config{Roots: map[string][]byte{"acme.crt": must(everyone())(tb).acme.PEM()}}
	for _, s := range sites {
		c.PlainHTTP = append(c.PlainHTTP, s.Host())
	}
	return c
}

// ended is how a key was answered.
type ended struct {
	allowed bool
	// verdict says that there is an item; if not, systemError names the key.
	verdict bool
	code    string
	text    string
}

// endOf looks a key up in an answer and fails if it is in neither or both of
// items and systemError.
func endOf(tb testing.TB, answer process.Answer, key string) ended {
	tb.Helper()
	left, named := leftOut(answer.SystemError)[key]
	item, found := answer.Item(key)
	switch {
	case found == named:
		tb.Errorf("%s: in items: %t, in systemError: %t; %.2000s", key, found, named, answer.Body)
		return ended{}
	case named:
		code, _, _ := strings.Cut(left, ":")
		return ended{code: code, text: left}
	default:
		if item.Error != "" {
			tb.Errorf("%s: an item's error, which a template ignores: %s", key, item.Error)
		}
		text := ""
		if len(item.Value.Reports) > 0 {
			text = item.Value.Reports[0].Message
		}
		return ended{allowed: item.Value.IsSuccess, verdict: true, code: item.Value.Code(), text: text}
	}
}

// leftOut reads "LINE [no verdict for: KEY, KEY] | LINE ..." into the line of
// each key.
func leftOut(systemError string) map[string]string {
	lines := make(map[string]string)
	for part := range strings.SplitSeq(systemError, "] | ") {
		line, keys, found := strings.Cut(strings.TrimSuffix(part, "]"), " [no verdict for: ")
		if !found {
			continue
		}
		keys, _, _ = strings.Cut(keys, "]")
		for key := range strings.SplitSeq(keys, ", ") {
			lines[key] = line
		}
	}
	return lines
}

// ask asks a process about images. An answer that a starved machine keeps from
// being written by its deadline is cut off instead, so that is given two more
// chances; a process that never answers in time fails.
func ask(tb testing.TB, p *process.Process, keys ...string) process.Answer {
	tb.Helper()
	for range 2 {
		answer, err := p.Ask(tb.Context(), keys...)
		if err == nil {
			return answer
		}
		tb.Logf("no answer: %v", err)
	}
	return must(p.Ask(tb.Context(), keys...))(tb)
}

// inTime asserts that an answer came before the timeout of its server.
func inTime(tb testing.TB, answer process.Answer, timeout time.Duration) {
	tb.Helper()
	tb.Logf("answered after %s of %s", answer.Elapsed.Round(time.Millisecond), timeout)
	if answer.Elapsed > timeout+noise {
		tb.Errorf("answered after %s, the timeout is %s", answer.Elapsed, timeout)
	}
}

// grown runs do and returns by how much the process's memory grew above what
// it held before, at its peak.
func grown(tb testing.TB, p *process.Process, do func()) int64 {
	tb.Helper()
	if err := p.ResetPeak(); err != nil {
		tb.Skipf("memory cannot be measured here: %v", err)
	}
	before := must(p.Memory())(tb)
	do()
	after := must(p.Memory())(tb)
	tb.Logf("memory: %d MiB before, %d MiB at its peak, %d MiB after", before.Resident>>20, after.Peak>>20, after.Resident>>20)
	return after.Peak - before.Resident
}

// level is what a process holds open.
type level struct{ goroutines, files float64 }

func levelOf(tb testing.TB, p *process.Process) level {
	tb.Helper()
	metrics := must(p.Metrics(tb.Context()))(tb)
	return level{metrics["go_goroutines"], metrics["process_open_fds"]}
}

// returnsTo waits until the process holds no more than it did when idle; a few
// goroutines of the runtime, and the connection that asks, come and go.
func returnsTo(tb testing.TB, p *process.Process, idle level) {
	tb.Helper()
	var now level
	eventually(tb, func() bool {
		now = levelOf(tb, p)
		return now.goroutines <= idle.goroutines+4 && now.files <= idle.files+3
	}, func() string { return "the process does not return to idle" })
	tb.Logf("idle: %+v, afterwards %+v", idle, now)
}

// patience is how long eventually waits.
const patience = 20 * time.Second

// eventually asks again and again until it is so.
func eventually(tb testing.TB, so func() bool, otherwise func() string) {
	tb.Helper()
	deadline := time.Now().Add(patience)
	for !so() {
		if time.Now().After(deadline) {
			tb.Fatalf("after %s: %s", patience, otherwise())
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}
