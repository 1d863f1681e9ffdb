package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/validation"

	"github.com/gatehouse-project/gatehouse/cmd/rotator/rotation"
)

// settings are what the command line says.
type settings struct {
	namespace, secret, service string
	providers, names           []string
	leaderElect                bool
	healthAddress, metricsOn   string
	kubeconfig                 string
	level                      slog.Level
	version                    bool
	rotation                   rotation.Options
}

// parse reads the command line. What is wrong with it, and the help, go to out.
func parse(args []string, out io.Writer) (settings, error) {
	var s settings
	set := flag.NewFlagSet("gatehouse-rotator", flag.ContinueOnError)
	set.SetOutput(out)
	set.Usage = func() {
		fmt.Fprintln(out, "gatehouse-rotator keeps Gatehouse's serving certificate, and the trust of Gatekeeper's Providers in it.")
		set.PrintDefaults()
	}
	s.identity(set)
	s.times(set)
	s.process(set)
	if err := set.Parse(args); err != nil {
		return s, err
	}
	if set.NArg() > 0 {
		return s, fmt.Errorf("%q is no flag: there are no other arguments", set.Arg(0))
	}
	if s.version {
		return s, nil
	}
	return s, s.check()
}

// identity has the flags of what is kept.
func (s *settings) identity(set *flag.FlagSet) {
	set.StringVar(&s.namespace, "namespace", "", "namespace of the Secret and the Service (required)")
	set.StringVar(&s.secret, "secret", "", "name of the Secret, which must exist and may be empty (required)")
	set.StringVar(&s.service, "service", "", "name of the Service: the certificate is for SERVICE.NAMESPACE and SERVICE.NAMESPACE.svc (required)")
	set.Func("provider", "name of a Provider that trusts the certificate (required, repeatable)", func(name string) error {
		s.providers = append(s.providers, name)
		return nil
	})
	set.Func("dns-name", "further DNS name in the certificate (repeatable)", func(name string) error {
		s.names = append(s.names, name)
		return nil
	})
	set.StringVar(&s.rotation.CAName, "ca-name", rotation.DefaultCAName, "common name of the authority; another one than before makes a new authority")
	set.StringVar(&s.rotation.CAOrganization, "ca-organization", rotation.DefaultCAOrganization, "organisation of the authority")
}

// times has the flags of lifetimes and of the roll-over.
func (s *settings) times(set *flag.FlagSet) {
	o := &s.rotation
	duration := func(v *time.Duration, name string, fallback time.Duration, usage string) {
		set.DurationVar(v, name, fallback, usage)
	}
	duration(&o.AuthorityLifetime, "ca-lifetime", rotation.DefaultAuthorityLifetime, "how long an authority is good for")
	duration(&o.Lifetime, "certificate-lifetime", rotation.DefaultLifetime, "how long a certificate is good for")
	duration(&o.RenewBefore, "renew-before", rotation.DefaultRenewBefore, "how long before its end either is exchanged")
	duration(&o.Settle, "settle", rotation.DefaultSettle, "how long all Providers have had a new authority before a certificate of it is written")
	duration(&o.Overlap, "overlap", rotation.DefaultOverlap, "how long the former authority stays trusted after that")
	duration(&o.Resync, "resync", rotation.DefaultResync, "longest time between two looks at the Secret and the Providers")
}

// process has the flags of the process itself.
func (s *settings) process(set *flag.FlagSet) {
	set.BoolVar(&s.leaderElect, "leader-elect", false, "work only while holding the Lease of the Secret's name, which must exist: for more than one replica")
	set.StringVar(&s.healthAddress, "health-address", ":8081", "address of /healthz and /readyz; empty is off")
	set.StringVar(&s.metricsOn, "metrics-address", "", "address of /metrics; empty is off")
	set.StringVar(&s.kubeconfig, "kubeconfig", "", "kubeconfig file; empty is KUBECONFIG, then the pod's service account")
	set.TextVar(&s.level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	set.BoolVar(&s.version, "version", false, "print the version and end")
}

// check refuses names that no object or host can have. They become parts of URLs.
func (s *settings) check() error {
	if len(s.providers) == 0 {
		return errors.New("--provider: at least one is required")
	}
	for name, value := range map[string]string{"namespace": s.namespace, "secret": s.secret, "service": s.service} {
		if value == "" {
			return fmt.Errorf("--%s: is required", name)
		}
		if err := checkName("--"+name, value); err != nil {
			return err
		}
	}
	for _, name := range s.providers {
		if err := checkName("--provider", name); err != nil {
			return err
		}
	}
	for _, name := range s.names {
		if err := checkName("--dns-name", name); err != nil {
			return err
		}
	}
	return nil
}

func checkName(what, value string) error {
	if problems := validation.NameIsDNSSubdomain(value, false); len(problems) > 0 {
		return fmt.Errorf("%s: %q is no name: %s", what, value, problems[0])
	}
	return nil
}

// dnsNames are those of the certificate. Gatekeeper compares the host in the
// Provider's URL, so the first two are the ways to write the Service.
func (s *settings) dnsNames() []string {
	host := s.service + "." + s.namespace
	return slices.Concat([]string{host, host + ".svc"}, s.names)
}
