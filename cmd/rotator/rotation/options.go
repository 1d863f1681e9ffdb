package rotation

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Defaults of Options.
const (
	DefaultCAName            = "gatehouse-ca"
	DefaultCAOrganization    = "gatehouse"
	DefaultAuthorityLifetime = 10 * 365 * 24 * time.Hour
	DefaultLifetime          = 365 * 24 * time.Hour
	DefaultRenewBefore       = 90 * 24 * time.Hour
	DefaultSettle            = 5 * time.Minute
	DefaultOverlap           = 24 * time.Hour
	DefaultResync            = time.Minute
)

// settleLost is how long Providers have a new authority before the certificate is written
// if the Secret has none: pods cannot start meanwhile, while those that run may
// still present the one that was lost.
const settleLost = 10 * time.Second

// Options of New. Zero values take the defaults.
type Options struct {
	// CAName and CAOrganization name the authority. Another name than that of the
	// present one makes a new authority.
	CAName, CAOrganization string

	// AuthorityLifetime and Lifetime are how long an authority and a certificate
	// are good for. A certificate never outlives its authority.
	AuthorityLifetime, Lifetime time.Duration

	// RenewBefore is how long before its end either is exchanged.
	RenewBefore time.Duration

	// Settle is how long all Providers have had a new authority before a certificate
	// of it is written. It covers what Gatekeeper needs to notice.
	Settle time.Duration

	// Overlap is how long the old authority stays trusted after that. It covers what
	// servers need to take up the certificate.
	Overlap time.Duration

	// Resync is the longest time between two looks at the cluster.
	Resync time.Duration

	// Logger gets a line for each step. The default says nothing.
	Logger *slog.Logger

	// Registerer takes the metrics; nil is none.
	Registerer prometheus.Registerer
}

func (o Options) withDefaults() Options {
	orDefault(&o.CAName, DefaultCAName)
	orDefault(&o.CAOrganization, DefaultCAOrganization)
	orDefault(&o.AuthorityLifetime, DefaultAuthorityLifetime)
	orDefault(&o.Lifetime, DefaultLifetime)
	orDefault(&o.RenewBefore, DefaultRenewBefore)
	orDefault(&o.Settle, DefaultSettle)
	orDefault(&o.Overlap, DefaultOverlap)
	orDefault(&o.Resync, DefaultResync)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

func orDefault[T comparable](v *T, fallback T) {
	var zero T
	if *v == zero {
		*v = fallback
	}
}

// check refuses times with which a roll-over would not end before what it replaces
// does, or would never end.
func (o Options) check() error {
	for name, d := range map[string]time.Duration{
		"authority lifetime": o.AuthorityLifetime, "certificate lifetime": o.Lifetime, "renew before": o.RenewBefore,
		"settle": o.Settle, "overlap": o.Overlap, "resync": o.Resync,
	} {
		if d < time.Second {
			return fmt.Errorf("%s: %s is below a second", name, d)
		}
	}
	rollOver := o.Settle + o.Overlap
	switch {
	case o.AuthorityLifetime < o.Lifetime:
		return errors.New("authority lifetime: must not be shorter than the certificate's")
	case rollOver > o.RenewBefore:
		return fmt.Errorf("renew before: %s is shorter than a roll-over, settle and overlap of %s", o.RenewBefore, rollOver)
	case o.Lifetime-o.RenewBefore <= rollOver:
		return fmt.Errorf("certificate lifetime: %s less renew before must exceed settle and overlap of %s", o.Lifetime, rollOver)
	}
	return nil
}
