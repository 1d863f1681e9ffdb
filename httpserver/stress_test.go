package httpserver_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/policy"
	"github.com/gatehouse-project/gatehouse/executor/proofs"
	"github.com/gatehouse-project/gatehouse/httpserver"
	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/storetest"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// presence passes every artifact.
type presence struct{}

func (presence) Name() string                    { return "v" }
func (presence) Type() string                    { return "presence" }
func (presence) Matches(ocispec.Descriptor) bool { return true }
func (presence) Verify(_ context.Context, in verifier.Input) (verifier.Report, error) {
	return verifier.Report{Outcome: verifier.Passed, Statement: digest.FromString(in.Artifact.Digest.String()), Reason: verifier.Reason{Code: verifier.CodeVerified}}, nil
}

// Everything at once, over executors that come and go: no answer is another's, no
// mutation fails as a whole, and nothing is left behind.
func TestAllAtOnce(t *testing.T) {
	t.Parallel()
	const images = 8 // every other one is signed
	store := storetest.New("memory")
	digests := make(map[string]digest.Digest)
	for i := range images {
		name := fmt.Sprintf("r.example/app%d:v1", i)
		subject := store.AddImage(name, []byte(name))
		digests[name] = subject.Descriptor.Digest
		if i%2 == 0 {
			store.AddReferrer(subject, "application/vnd.test.signature", storetest.Blob{MediaType: "text/plain", Data: []byte(name)})
		}
	}
	store.ResolveFault = func(context.Context, referrerstore.Reference) error {
		time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
		return nil
	}
	p, err := policy.New([]policy.Rule{
		{Name: "spaced", Images: []string{"r.example/**"}, Namespaces: []string{"prod"}, Require: &policy.Node{Verifier: "v"}},
		{Name: "all", Images: []string{"r.example/**"}, Require: &policy.Node{Verifier: "v"}},
	}, []string{"v"})
	if err != nil {
		t.Fatal(err)
	}
	kept := proofs.NewMemory(1 << 20)
	begin := func() *executor.Executor {
		return executor.New(t.Context(), []referrerstore.Store{store}, []verifier.Verifier{presence{}}, p, executor.Options{
			Generation: "1", Proofs: executor.ProofTerms{TTL: 20 * time.Millisecond, DeniedTTL: 5 * time.Millisecond, AbsentTTL: 5 * time.Millisecond, ListTTL: 5 * time.Millisecond},
			ProofStore: kept, ReplicaBytes: 1 << 20, TagTTL: 3 * time.Millisecond, Background: executor.Background{MaxDuration: time.Second, MaxFlights: 10},
			Down: func(string) executor.DownTerms { return executor.DownTerms{UseHeld: time.Hour, Tags: true} },
		})
	}
	s := httpserver.New(httpserver.Options{Logger: slog.New(slog.DiscardHandler)})
	swap := func(generation uint64) *executor.Executor {
		e := begin()
		s.Swap(&httpserver.Snapshot{
			Decider: e, Generation: generation, VerifyTimeout: 5 * time.Second, MutateTimeout: 5 * time.Second, AnswerBytes: 1 << 20, NamespaceFrom: httpserver.NamespaceFromPath,
			Limits: httpserver.Limits{BodyBytes: 1 << 20, Keys: 100, KeyBytes: 1024},
		})
		return e
	}
	live := swap(1)
	h := s.Handler()
	over, stop := context.WithCancel(t.Context())
	var askers, keeper sync.WaitGroup
	keeper.Go(func() {
		for generation := uint64(2); over.Err() == nil; generation++ {
			time.Sleep(20 * time.Millisecond)
			former := live
			live = swap(generation)
			keeper.Go(func() { time.Sleep(10 * time.Millisecond); former.Close() })
		}
	})
	for i := range 12 {
		path := []string{httpserver.MutatePath, httpserver.VerifyPath, httpserver.AuditPath}[i%3]
		namespace := []string{"prod", "dev"}[i/3%2]
		askers.Go(func() {
			for range 60 {
				name := fmt.Sprintf("r.example/app%d:v1", rand.IntN(images))
				signed := strings.Contains("0246", name[len("r.example/app"):][:1])
				pinned := strings.TrimSuffix(name, ":v1") + "@" + digests[name].String()
				if path == httpserver.MutatePath {
					status, response, text := post(t, h, path+"/namespaces/"+namespace, name, pinned, "s.example/other", "", "no key")
					got := values(t, response)
					late := strings.HasPrefix(got[name], "!INCONCLUSIVE") // its configuration was closed
					if status != http.StatusOK || (got[name] != pinned && !late) || got[pinned] != pinned || got["s.example/other"] != "s.example/other" || got[""] != "" {
						t.Errorf("%d: %s", status, text)
					}
					continue
				}
				deny := rand.IntN(2) == 0
				query := map[bool]string{true: "?unpinned=deny"}[deny]
				_, response, text := post(t, h, path+"/namespaces/"+namespace+query, name, pinned)
				if path == httpserver.VerifyPath && strings.Contains(text, "NOT_ASKED") {
					t.Errorf("an audit's answer to an admission: %s", text)
				}
				for _, item := range response.Response.Items {
					success := item.Value.(map[string]any)["isSuccess"] == true
					if want := signed && (item.Key == pinned || !deny); success != want {
						t.Errorf("%s%s: %t, want %t: %s", path, query, success, want, text)
					}
				}
			}
		})
	}
	askers.Wait()
	stop()
	keeper.Wait()
	live.Close()
}
