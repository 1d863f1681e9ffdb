package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/test/e2e/cluster"
	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/signing"
)

// The bounds, with Gatekeeper's cache at answersKept.
const (
	answersKept   = 15 * time.Second
	mostToRevoke  = 30 * time.Second
	mostToHeal    = 25 * time.Second
	partnerImages = 200
)

// TestTime takes a signer out of the configuration, and has images signed after
// their denial, with Gatekeeper's cache and without.
func TestTime(t *testing.T) {
	var rows [][]string
	for _, test := range []struct {
		name, about string
		ttl         time.Duration
	}{{"cache-15s", "15 s", answersKept}, {"cache-off", "off", 0}} {
		t.Run(test.name, func(t *testing.T) {
			w := begin(t, settings{gatekeeper: cluster.GatekeeperOptions{CacheTTL: test.ttl}, config: func(c *process.Config) {
				c.Roots["partner.crt"] = must(everyone())(t).stranger.PEM()
			}})
			gauges := w.gauges()
			var revoke revocation
			var heal [2]healing
			images := w.partnerImages()
			heal[0] = w.unsigned("ordinary", false)
			heal[1] = w.unsigned("worst", true)
			apis := w.crowd(4)
			var group sync.WaitGroup
			group.Go(func() { revoke = w.revoke(apis[:2], images) })
			for i := range heal {
				group.Go(func() { heal[i].run(apis[2+i]) })
			}
			group.Wait()
			gauges.allAnswered()
			rows = append(rows, revoke.check(test.about), heal[0].check(test.about), heal[1].check(test.about))
			if test.ttl == 0 {
				w.soak()
			}
		})
	}
	if enabled() {
		figures.add(t, "Time to revoke, time to heal", `Two clients ask for pods all the time. A signer is taken out of the configuration file: the time from then to the last pod that was admitted with one of its
images, of which a new one is asked about every 100 ms until they are denied. An image that was denied because nobody had signed it is signed: the time from then to the
first pod with it. In the worst case the process has learned that there is no signature just before, and Gatekeeper hears so four seconds later.`,
			[]string{"What", "Gatekeeper's cache", "Time", "Bound"}, rows...)
	}
}

// partnerImages are of the signer that is taken out.
func (w *world) partnerImages() []string {
	w.t.Helper()
	images := make([]string, partnerImages)
	for i := range images {
		images[i] = w.strange(0, fmt.Sprintf("partner/app%d", i), "1")
	}
	return images
}

// revocation is what came of a signer that was taken out.
type revocation struct {
	w          *world
	edited     time.Time
	firstNo    time.Time // when the first image that was new to all was denied
	last       outcome   // the last that was admitted
	denied     outcome   // one that was denied
	other      []outcome // neither
	asked      int
	introduced int
}

// revoke asks for pods with images of a signer, takes the signer out after a few
// seconds, and asks on until all have been denied for long enough to be sure. One
// client asks about new images, so that some answer is in Gatekeeper's cache that
// is as young as can be, the other about those that were admitted last.
func (w *world) revoke(apis []*cluster.API, images []string) revocation {
	r := revocation{w: w}
	var mu sync.Mutex // guards r
	note := func(o outcome, fresh bool) {
		mu.Lock()
		defer mu.Unlock()
		r.note(o, fresh)
	}
	seen := func() (revocation, []string) {
		mu.Lock()
		defer mu.Unlock()
		return r, images[max(0, r.introduced-15):r.introduced]
	}
	stop := make(chan struct{})
	var group sync.WaitGroup
	for client, api := range apis {
		group.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Millisecond / time.Duration(client*4+1)):
				}
				now, young := seen()
				fresh := client == 0 && now.firstNo.IsZero() && now.introduced < len(images)
				a := ask{about: "of a signer taken out", denial: "SIGNER_UNTRUSTED", either: true}
				switch {
				case fresh:
					a.images = images[now.introduced : now.introduced+1]
				case len(young) > 0:
					a.images = []string{young[i%len(young)]}
				default:
					continue
				}
				note(w.create(w.t.Context(), api, fmt.Sprintf("revoke-%d-%d", client, i), a, true), fresh)
			}
		})
	}
	time.Sleep(2 * time.Second)
	w.config.Roots = map[string][]byte{"acme.crt": w.people.acme.PEM()}
	edited := time.Now()
	_, err := w.config.Write(w.dir)
	mu.Lock()
	r.edited = edited
	mu.Unlock()
	for err == nil {
		time.Sleep(100 * time.Millisecond)
		if now, _ := seen(); time.Since(now.edited) > mostToRevoke+10*time.Second || (!now.firstNo.IsZero() && time.Since(now.last.ended) > 4*time.Second) {
			break
		}
	}
	close(stop)
	group.Wait()
	if err != nil {
		w.t.Error(err)
	}
	return r
}

// note takes an outcome into account.
func (r *revocation) note(o outcome, fresh bool) {
	r.asked++
	switch {
	case !o.right():
		r.other = append(r.other, o)
	case o.admitted:
		if o.ended.After(r.last.ended) {
			r.last = o
		}
		if fresh {
			r.introduced++
		}
	default:
		r.denied = o
		if fresh {
			r.firstNo = o.ended
		}
	}
}

// check asserts the bound, tells, and gives the row of the figures.
func (r revocation) check(cache string) []string {
	w := r.w
	w.t.Helper()
	if len(r.other) > 0 {
		w.t.Errorf("%d pods failed for other reasons: %s", len(r.other), r.other[0])
	}
	if r.introduced == 0 || r.firstNo.IsZero() || !r.last.ended.After(r.edited) {
		w.t.Fatalf("the signer was not taken out under way: %d images admitted, %d pods, last %s", r.introduced, r.asked, r.last)
	}
	took := r.last.ended.Sub(r.edited)
	if took > mostToRevoke {
		w.t.Errorf("the last pod was admitted %s after its signer was taken out, want at most %s", took, mostToRevoke)
	}
	table.add("time to revoke", "signer taken out, Gatekeeper's cache "+cache, fmt.Sprintf("last of %d pods admitted; the process denies after %s; then %s", r.asked, seconds(r.firstNo.Sub(r.edited)), gist(r.denied.message)), took)
	return []string{"signer taken out, last admission", cache, seconds(took), seconds(mostToRevoke)}
}

// healing is an image that is denied and then signed.
type healing struct {
	w          *world
	repository string
	image      string
	desc       ocispec.Descriptor
	signature  signing.Envelope
	worst      bool

	signed         time.Time
	denied, healed outcome
	err            error
}

// unsigned is an image with a signature that is not pushed yet.
func (w *world) unsigned(name string, worst bool) healing {
	w.t.Helper()
	h := healing{w: w, repository: "heal/" + name, worst: worst}
	h.image, h.desc = w.image(0, h.repository, "1")
	h.signature = must(w.people.acmeSigner.Sign(w.t.Context(), h.desc, signing.SignOptions{}))(w.t)
	return h
}

// absent is for how long the process believes that there is no signature, by
// default.
const absent = 5 * time.Second

// run has the image denied, signs it, and asks until it is admitted.
func (h *healing) run(api *cluster.API) {
	ctx, registry := h.w.t.Context(), h.w.registries[0]
	a := ask{about: "signed late", images: []string{h.image}, denial: "SIGNATURE_NOT_FOUND", either: true}
	try := func(i int) outcome {
		return h.w.create(ctx, api, fmt.Sprintf("heal-%s-%d", h.repository[5:], i), a, true)
	}
	if h.worst {
		// Another Provider of Gatekeeper's leads to the same process: Gatekeeper
		// has no answer for pods yet.
		answer, err := api.Do(ctx, http.MethodPost, h.w.deploymentsPath()+"?dryRun=All", deployment("heal", h.image))
		if err == nil && !strings.Contains(answer.Message(), a.denial) {
			err = fmt.Errorf("a Deployment of an image without signature is not denied for that: status %d %s", answer.Code, answer.Message())
		}
		if h.err = err; err != nil {
			return
		}
	} else {
		h.denied = try(0)
	}
	_, h.err = registry.PushReferrer(ctx, h.repository, h.desc, signing.ArtifactType, h.signature.MediaType, h.signature.Bytes, nil)
	h.signed = time.Now()
	if h.worst {
		pause(ctx, absent-1100*time.Millisecond) // it counts in whole seconds
		h.denied = try(0)
	}
	for i := 1; h.err == nil && time.Since(h.signed) < mostToHeal+10*time.Second; i++ {
		if h.healed = try(i); h.healed.admitted || !h.healed.right() {
			return
		}
		pause(ctx, 50*time.Millisecond)
	}
}

// check asserts the bound, tells, and gives the row of the figures.
func (h healing) check(cache string) []string {
	w := h.w
	w.t.Helper()
	w.ok(h.err)
	about := "image signed after its denial"
	if h.worst {
		about += ", worst case"
	}
	took := h.healed.ended.Sub(h.signed)
	if !h.healed.admitted || took > mostToHeal {
		w.t.Errorf("%s: %s after the signature, want at most %s: %s", about, took, mostToHeal, h.healed)
	}
	if h.denied.admitted || !h.denied.right() {
		w.t.Errorf("%s: before: %s", about, h.denied)
	}
	table.add("time to heal", about+", Gatekeeper's cache "+cache, "first: "+gist(h.denied.message)+"; then admitted", took)
	return []string{about, cache, seconds(took), seconds(mostToHeal)}
}
