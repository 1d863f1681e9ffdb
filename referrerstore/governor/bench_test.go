package governor_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore"
	"github.com/gatehouse-project/gatehouse/referrerstore/governor"
)

func BenchmarkUncontended(b *testing.B) {
	g := newGovernor(b, governor.Options{})
	ctx := referrerstore.WithWork(b.Context(), referrerstore.NewWork(time.Now(), referrerstore.LaneAdmission))
	b.ReportAllocs()
	for b.Loop() {
		p, err := g.Host(key).Acquire(ctx)
		if err != nil {
			b.Fatal(err)
		}
		p.Answered(governor.Outcome{Status: http.StatusOK, Latency: time.Millisecond})
		p.Release()
	}
}
