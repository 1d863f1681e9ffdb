package templates_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"

	"github.com/gatehouse-project/gatehouse/test/templates"
)

const (
	mutatePath = "/ratify/gatekeeper/v1/mutate"
	// The Providers that the Assigns name.
	shippedMutator = "gatehouse-mutate"
	stockMutator   = "ratify-mutation-provider"
)

// mutating is the program of the module mutation: Gatekeeper's mutation system
// as a process. It is built once, into a folder that TestMain removes.
var mutating = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gatehouse-mutation-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "mutation")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Dir = "mutation"
	build.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off") // what is set for ours is not for this
	if out, err := build.CombinedOutput(); err != nil {
		return path, fmt.Errorf("build the mutation system: %w: %s", err, out)
	}
	return path, nil
})

// started says that mutating was called.
var started = make(chan struct{}, 1)

func mutationProgram() (string, error) {
	select {
	case started <- struct{}{}:
	default:
	}
	return mutating()
}

// removeMutation ends what mutationProgram began.
func removeMutation() error {
	select {
	case <-started:
		path, err := mutating()
		return errors.Join(err, os.RemoveAll(filepath.Dir(path)))
	default:
		return nil
	}
}

// mutationTask is what the program reads.
type mutationTask struct {
	Assigns           []string
	Providers         []mutationProvider
	CertFile, KeyFile string
	Requests          []mutationRequest
}

type mutationProvider struct {
	Name, URL string
	CA        []byte
	Timeout   int
}

type mutationRequest struct {
	Operation string
	Object    json.RawMessage
}

// mutationResult is what it writes.
type mutationResult struct {
	Mutated bool
	Object  json.RawMessage
	Error   string
}

// mutation is one run: Assigns, a provider of that name, and objects.
type mutation struct {
	assigns  []string
	name     string
	provider http.Handler
	down     bool
	requests []mutationRequest
}

// run returns what became of the requests, and the keys of each call.
func (m mutation) run(t *testing.T) ([]mutationResult, [][]string) {
	t.Helper()
	path, err := mutationProgram()
	if err != nil {
		t.Fatal(err)
	}
	server := templates.Serve(t, m.provider, mutatePath)
	if m.down {
		server.Stop()
	}
	task := mutationTask{
		Assigns:   m.assigns,
		Providers: []mutationProvider{{m.name, server.URL, server.CA, 30}},
		Requests:  m.requests,
	}
	task.CertFile, task.KeyFile = clientFiles(t)
	cmd := exec.CommandContext(t.Context(), path)
	cmd.Stdin = bytes.NewReader(rawOf(t, task))
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the mutation system: %v", err)
	}
	var results []mutationResult
	if err := json.Unmarshal(out, &results); err != nil || len(results) != len(m.requests) {
		t.Fatalf("%d results of %d: %v", len(results), len(m.requests), err)
	}
	var asked [][]string
	for _, call := range server.Stop() {
		asked = append(asked, keysOf(t, call))
	}
	return results, asked
}

// created is the creation of an object.
func created(t *testing.T, object any) mutationRequest {
	t.Helper()
	return mutationRequest{"CREATE", rawOf(t, object)}
}

// pinning answers as Gatehouse does at mutate: a text for each key, "" for "",
// what is pinned or carries an address of this host as it came.
func pinning(errs ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var request externaldata.ProviderRequest
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		response := externaldata.Response{Idempotent: true}
		for _, key := range request.Request.Keys {
			item := externaldata.Item{Key: key, Value: pinned(key)}
			if slices.Contains(errs, key) {
				item = externaldata.Item{Key: key, Error: "REGISTRY_UNAVAILABLE: it is down; try again"}
			}
			response.Items = append(response.Items, item)
		}
		_ = json.NewEncoder(w).Encode(externaldata.ProviderResponse{
			APIVersion: "externaldata.gatekeeper.sh/v1beta1", Kind: externaldata.ProviderResponseKind, Response: response,
		})
	})
}

// pinned is what pinning makes of a key.
func pinned(key string) string {
	name, tag, found := strings.Cut(key, ":v")
	if !found || strings.Contains(tag, "@") {
		return key
	}
	return name + "@sha256:" + strings.Repeat("0", 60) + fmt.Sprintf("%04s", tag)
}

// clientFiles are the certificate and the key of a client.
func clientFiles(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// assignsIn reads the Assigns of a folder.
func assignsIn(t *testing.T, dir string) (texts []string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no Assigns in %s: %v", dir, err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	return texts
}

func shippedAssigns(t *testing.T) []string {
	t.Helper()
	dir, err := templates.PolicyDir()
	if err != nil {
		t.Fatal(err)
	}
	return assignsIn(t, filepath.Join(dir, "assigns"))
}
