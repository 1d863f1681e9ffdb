package governor

import (
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// BenchmarkChoose is what a grant costs while 4,000 wait.
func BenchmarkChoose(b *testing.B) {
	h := &Host{limiter: limiter{limit: 16}}
	for i := range 4000 {
		begun := time.Unix(int64(i%60), 0)
		work := referrerstore.NewWork(begun, referrerstore.Lane(i%2))
		work.SetLeft(i % 7)
		h.waiters = append(h.waiters, &waiter{work: work, begun: begun, seq: uint64(i)})
	}
	for b.Loop() {
		if h.choose() == nil {
			b.Fatal("nobody was chosen")
		}
	}
}
