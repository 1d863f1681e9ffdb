package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
)

// Times of a watch.
const (
	watchLasts = 5 * time.Minute  // one request; a connection that died unnoticed is left then
	watchRetry = 10 * time.Second // before the next one, with up to as much again by chance
)

// Watch puts something into wake, which needs room for one, whenever the Secret
// or one of the Providers changes, until ctx ends. A watch that fails is begun anew; what it
// missed is for the resync to find.
func (c *Cluster) Watch(ctx context.Context, names []string, wake chan<- struct{}, logger *slog.Logger) {
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { follow(ctx, c.secrets, c.secret, wake, logger.With("secret", c.secret)) })
	for _, name := range names {
		group.Go(func() { follow(ctx, c.providers, name, wake, logger.With("provider", name)) })
	}
}

// follow watches one object until ctx ends.
func follow(ctx context.Context, in dynamic.ResourceInterface, name string, wake chan<- struct{}, logger *slog.Logger) {
	for ctx.Err() == nil {
		if err := followOnce(ctx, in, name, wake); err != nil && ctx.Err() == nil {
			logger.DebugContext(ctx, "a watch broke off; the resync stands in for it", "error", err)
			pause(ctx, watchRetry+rand.N(watchRetry)) //nolint:gosec // spreads requests, no secret
		}
	}
}

func followOnce(ctx context.Context, in dynamic.ResourceInterface, name string, wake chan<- struct{}) error {
	seconds := int64(watchLasts / time.Second)
	ctx, cancel := context.WithTimeout(ctx, watchLasts+callTimeout)
	defer cancel()
	events, err := in.Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name).String(), TimeoutSeconds: &seconds,
	})
	if err != nil {
		return err
	}
	defer events.Stop()
	for event := range events.ResultChan() {
		if event.Type == watch.Error {
			return fmt.Errorf("watch %s: %v", name, event.Object)
		}
		select {
		case wake <- struct{}{}:
		default: // it is going to look anyway
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
