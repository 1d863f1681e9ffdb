package registry

import (
	"context"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"
)

type metrics struct {
	requests *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	first    *prometheus.HistogramVec
	cut      prometheus.Counter
	verdicts *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_registry_requests_total",
			Help: "Requests to the pull-through registry, by what was asked for, HTTP status, source of the answer, and upstream host of the allow-list.",
		}, []string{"kind", "status", "source", "upstream"}),
		bytes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_registry_sent_bytes_total",
			Help: "Bytes of answers of the pull-through registry, by what was asked for, source and upstream host.",
		}, []string{"kind", "source", "upstream"}),
		first: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gatehouse_registry_header_seconds", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 17),
			Help: "Time from a request to the pull-through registry to the header of its answer, by what was asked for and source.",
		}, []string{"kind", "source"}),
		cut: f.NewCounter(prometheus.CounterOpts{
			Name: "gatehouse_registry_cut_off_total",
			Help: "Answers of the pull-through registry that were cut off: the upstream failed or the client took nothing.",
		}),
		verdicts: f.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_registry_enforced_total",
			Help: "Content that was checked against the policy before it was served, by outcome: allowed, refused, unsure.",
		}, []string{"outcome"}),
	}
}

func (m *metrics) answered(q *request, upstream string) {
	status := q.w.status
	if status == 0 {
		status = statusGone
	}
	k := q.path.kind.String()
	m.requests.WithLabelValues(k, strconv.Itoa(status), q.source, upstream).Inc()
	if q.w.bytes > 0 {
		m.bytes.WithLabelValues(k, q.source, upstream).Add(float64(q.w.bytes))
	}
	if !q.w.first.IsZero() {
		m.first.WithLabelValues(k, q.source).Observe(q.w.first.Sub(q.begun).Seconds())
	}
	if q.cut != nil {
		m.cut.Inc()
	}
}

// Warnings of refusals: clients that are refused try again, all of them.
const (
	warningsEvery = time.Second
	warningsBurst = 20
)

// warner writes warnings of refusals at a bounded rate, and how many it left out.
type warner struct {
	logger  *slog.Logger
	limiter *rate.Limiter
	left    atomic.Int64
}

func newWarner(logger *slog.Logger) *warner {
	return &warner{logger: logger, limiter: rate.NewLimiter(rate.Every(warningsEvery), warningsBurst)}
}

// log writes one; served says that what should be refused went out nevertheless.
func (w *warner) log(ctx context.Context, served bool, attrs []slog.Attr) {
	if !w.limiter.Allow() {
		w.left.Add(1)
		return
	}
	if left := w.left.Swap(0); left > 0 {
		attrs = append(attrs, slog.Int64("left_out_before", left))
	}
	if served {
		w.logger.LogAttrs(ctx, slog.LevelWarn, "a pull would be refused", attrs...)
		return
	}
	w.logger.LogAttrs(ctx, slog.LevelWarn, "a pull is refused", attrs...)
}
