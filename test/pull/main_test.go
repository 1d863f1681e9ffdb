package pull_test

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
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

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if dir, err := built(); len(asked) > 0 && err == nil {
			_ = os.RemoveAll(dir) // a folder for temporary files
		}
		process.Exit(code)
	}))
}

// repository is where all images of these tests are.
const repository = "team/app"

// world is an upstream registry with images, and gatehouse in front of it.
type world struct {
	upstream  *registry.Registry
	gatehouse *process.Process
	signed    ocispec.Descriptor // tag "signed"
	index     ocispec.Descriptor // tag "index", signed as a whole
	unsigned  ocispec.Descriptor // tag "unsigned"
}

// newWorld starts both. The sections change or add to what is configured.
func newWorld(t *testing.T, pulls process.Map) *world {
	t.Helper()
	w := &world{}
	var err error
	if w.upstream, err = registry.Start(registry.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.upstream.Close)
	root := w.fill(t)
	section := process.Map{"upstreams": []string{w.upstream.Host()}, "default": w.upstream.Host()}
	maps.Copy(section, pulls)
	w.gatehouse = process.Start(t, process.Config{
		PlainHTTP: []string{w.upstream.Host()}, Roots: map[string][]byte{"root.crt": root},
		Cache: process.Map{}, Registry: section,
	})
	return w
}

func (w *world) fill(t *testing.T) (root []byte) {
	t.Helper()
	ctx := t.Context()
	acme, err := signing.NewAuthority("acme root", signing.ECDSA256, signing.AuthorityOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for tag, into := range map[string]*ocispec.Descriptor{"signed": &w.signed, "unsigned": &w.unsigned} {
		if *into, err = w.upstream.PushImage(ctx, repository, tag, tag); err != nil {
			t.Fatal(err)
		}
	}
	if w.index, err = w.upstream.PushIndex(ctx, repository, "index", "index"); err != nil {
		t.Fatal(err)
	}
	signer, err := acme.Issue("acme release", signing.ECDSA256, signing.IssueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, subject := range []ocispec.Descriptor{w.signed, w.index} {
		envelope, err := signer.Sign(ctx, subject, signing.SignOptions{Format: signing.JWS})
		if err != nil {
			t.Fatal(err)
		}
		prints, err := json.Marshal(envelope.Thumbprints)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.upstream.PushReferrer(ctx, repository, subject, signing.ArtifactType, envelope.MediaType, envelope.Bytes,
			map[string]string{signing.ThumbprintAnnotation: string(prints)}); err != nil {
			t.Fatal(err)
		}
	}
	return acme.PEM()
}

// through is the name of an image by way of gatehouse, for clients that know no
// mirrors. They take no port in a path, so that the default is the upstream.
func (w *world) through(tag string) string {
	return w.gatehouse.PullAddress() + "/" + repository + ":" + tag
}

// outcome of a command.
type outcome struct {
	err error
	out string // both streams
}

// run runs a command to its end.
func run(t *testing.T, env []string, name string, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return outcome{err: err, out: string(out)}
}

func (o outcome) succeeds(t *testing.T, what string) {
	t.Helper()
	if o.err != nil {
		t.Fatalf("%s: %v\n%s", what, o.err, o.out)
	}
}

// failsWith says that a command failed, and that what a person reads has the words.
func (o outcome) failsWith(t *testing.T, what string, words ...string) {
	t.Helper()
	if o.err == nil {
		t.Errorf("%s: it was let through:\n%s", what, o.out)
	}
	for _, word := range words {
		if !strings.Contains(o.out, word) {
			t.Errorf("%s: nothing of %q in\n%s", what, word, o.out)
		}
	}
}

// missing skips a test for want of a client, or fails it where all must be there.
func missing(t *testing.T, what string, err error) {
	t.Helper()
	if os.Getenv("GATEHOUSE_TEST_TOOLS") == "required" {
		t.Fatalf("%s is not there: %v", what, err)
	}
	t.Skipf("%s is not there: %v", what, err)
}

// tool finds a client among the system's programs.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, name, err)
	}
	return path
}

// asked has something in it once a client was built.
var asked = make(chan struct{}, 100)

// built are the clients of the module test/clients, built once.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gatehouse-clients-")
	if err != nil {
		return "", err
	}
	module, err := filepath.Abs("../clients")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", dir, "github.com/google/go-containerregistry/cmd/crane", "github.com/regclient/regclient/cmd/regctl")
	cmd.Dir = module
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", &buildError{err, string(out)}
	}
	return dir, nil
})

type buildError struct {
	err error
	out string
}

func (e *buildError) Error() string { return e.err.Error() + ": " + e.out }

// client is a client of the module test/clients.
func client(t *testing.T, name string) string {
	t.Helper()
	asked <- struct{}{}
	dir, err := built()
	if err != nil {
		missing(t, name, err)
	}
	return filepath.Join(dir, name)
}
