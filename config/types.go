package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"go.yaml.in/yaml/v3"
)

// Version is the one version of the file's format that is read.
const Version = "v1alpha1"

// Config is one valid configuration file. It is immutable: a change of the
// file makes a new one.
type Config struct {
	Version   string       `yaml:"version" required:"true" enum:"v1alpha1" doc:"Version of this file's format."`
	Server    Server       `yaml:"server" doc:"The listener that Gatekeeper calls, its times and bounds. Needed, and policy with it, unless there is a registry."`
	Admin     Admin        `yaml:"admin" doc:"The read-only listener for health, readiness and metrics."`
	Stores    []Component  `yaml:"stores" required:"true" min:"1" max:"100" doc:"Where images and what refers to them are found; the first listed that serves an image's host resolves it."`
	Trust     Trust        `yaml:"trust" doc:"Certificates that verifiers refer to by name."`
	Verifiers []Component  `yaml:"verifiers" max:"100" doc:"Who judges signatures and other artifacts."`
	Proofs    Proofs       `yaml:"proofs" doc:"How long what was proven is believed."`
	Tags      Tags         `yaml:"tags" doc:"How long a tag's digest is believed."`
	Governor  Governor     `yaml:"governor" doc:"Bounds on what registries are asked for."`
	Cache     *Cache       `yaml:"cache" doc:"Content and what registries said, kept on disk; off if left out."`
	Registry  *PullThrough `yaml:"registry" doc:"A registry to pull through, on a listener of its own; off if left out. Needs cache."`
	Canary    *Canary      `yaml:"canary" doc:"Images that are proven again and again, for a metric; off if left out. Needs server."`
	Policy    Policy       `yaml:"policy" doc:"What an image must show to be let through. Needed where server is, and by registry.enforce."`

	// Warnings are located remarks on a configuration that is valid, such as
	// a field that has no effect yet.
	Warnings Errors `yaml:"-"`
	// Sum is the SHA-256 of the file's bytes.
	Sum [sha256.Size]byte `yaml:"-"`

	file   string
	places map[string]Position // by path; never written after Parse
}

// Server is the listener that Gatekeeper calls.
type Server struct {
	Address       string        `yaml:"address" default:":6001" doc:"Address to listen on, host:port; port 0 takes a free one."`
	TLS           *TLS          `yaml:"tls" doc:"Certificate of the server, and whom it lets in."`
	InsecureHTTP  bool          `yaml:"insecureHTTP" default:"false" doc:"Serve without TLS. Exactly one of tls and insecureHTTP: true is needed."`
	VerifyTimeout time.Duration `yaml:"verifyTimeout" default:"1900ms" min:"1ms" max:"30s" doc:"When the last byte of an answer to verify has left; keep it below the timeout of Gatekeeper's provider."`
	MutateTimeout time.Duration `yaml:"mutateTimeout" default:"700ms" min:"1ms" max:"30s" doc:"The same for mutate; keep it below the timeout of Gatekeeper's mutating webhook."`
	MutateTo      MutateTo      `yaml:"mutateTo" default:"digest" enum:"digest,tagAndDigest" doc:"What mutate makes of a tag: REPOSITORY@DIGEST, or REPOSITORY:TAG@DIGEST."`
	Unpinned      Unpinned      `yaml:"unpinned" default:"allow" enum:"allow,warn,deny" doc:"What verify says of an image that has only a tag, where a rule requires proof: judge it as others, tell so, or deny it. ?unpinned=deny in a Provider's URL makes it stricter for that Provider."`
	OnFailure     OnFailure     `yaml:"onFailure" default:"systemError" enum:"systemError,value" doc:"How a failure to reach a verdict is told: systemError, which Gatekeeper does not keep, or value, an item that is not a success."`
	NamespaceFrom NamespaceFrom `yaml:"namespaceFrom" default:"none" enum:"none,key,path" doc:"Where a key's namespace comes from: nowhere, a [namespace] prefix of the key, or the request's path."`
	Limits        Limits        `yaml:"limits" doc:"Bounds on one request and on all of them."`
}

// TLS is the server's identity and whom it lets in.
type TLS struct {
	Certificate       string   `yaml:"certificate" required:"true" doc:"File with the server's certificate chain, PEM; read again when it changes."`
	Key               string   `yaml:"key" required:"true" doc:"File with the private key, PEM; read again when it changes."`
	ClientCA          string   `yaml:"clientCA" doc:"File with the certificate authorities of clients, PEM; needs clientNames."`
	ClientNames       []string `yaml:"clientNames" min:"1" max:"100" doc:"DNS names of which a client's certificate must carry one."`
	InsecureAnyClient bool     `yaml:"insecureAnyClient" default:"false" doc:"Let every client in, without a certificate."`
}

// OnFailure says how a failure to reach a verdict is told.
type OnFailure string

// The ways to tell a failure.
const (
	OnFailureSystemError OnFailure = "systemError"
	OnFailureValue       OnFailure = "value"
)

// NamespaceFrom says where the namespace of a key comes from.
type NamespaceFrom string

// The sources of a namespace.
const (
	NamespaceFromNone NamespaceFrom = "none"
	NamespaceFromKey  NamespaceFrom = "key"
	NamespaceFromPath NamespaceFrom = "path"
)

// MutateTo says what a tag is made into.
type MutateTo string

// The forms of a pinned image: its digest alone, as Ratify has it, or its tag
// beside it.
const (
	MutateToDigest       MutateTo = "digest"
	MutateToTagAndDigest MutateTo = "tagAndDigest"
)

// Unpinned says what becomes of an image that has only a tag.
type Unpinned string

// What becomes of it.
const (
	UnpinnedAllow Unpinned = "allow"
	UnpinnedWarn  Unpinned = "warn"
	UnpinnedDeny  Unpinned = "deny"
)

// Limits bounds one request and all of them together.
type Limits struct {
	BodyBytes     int64 `yaml:"bodyBytes" unit:"bytes" default:"1MiB" min:"1KiB" max:"64MiB" doc:"Bytes of a request's body."`
	Keys          int   `yaml:"keys" default:"1000" min:"1" max:"100000" doc:"Keys in a request."`
	KeyBytes      int   `yaml:"keyBytes" default:"1024" min:"1" max:"65536" doc:"Bytes of a key."`
	Connections   int   `yaml:"connections" default:"1024" min:"1" max:"1000000" doc:"Open connections."`
	InFlightBytes int64 `yaml:"inFlightBytes" unit:"bytes" default:"64MiB" min:"8MiB" max:"16GiB" doc:"Memory for all requests together: a quarter for bodies and answers, what caches hold, and the rest for bytes from registries."`
}

// Admin is the read-only listener beside the server.
type Admin struct {
	Address string `yaml:"address" default:":8888" doc:"Address of /healthz, /readyz and /metrics, host:port; port 0 takes a free one."`
}

// Component is a store or a verifier: a name, a type, and options that only
// the type's own package understands.
type Component struct {
	Name string `yaml:"name" required:"true" pattern:"^[A-Za-z0-9_.-]{1,63}$" doc:"Name by which policy, reports and metrics know it; unique."`
	Type string `yaml:"type" required:"true" pattern:"^[A-Za-z0-9_.-]{1,63}$" doc:"Kind of component, which decides what other fields it has."`

	// Options is the component's mapping without name and type. See
	// [Component.Decode].
	Options yaml.Node `yaml:"-"`
	// Pos is where the component stands.
	Pos Position `yaml:"-"`
}

// Fingerprint names what a field of the options says, or that it is not there: the
// same in every file that says the same, whatever else is in it.
func (c Component) Fingerprint(name string) string {
	hash := sha256.New()
	if node := lookup(&c.Options, name); node != nil {
		fingerprint(hash, node)
	}
	return hex.EncodeToString(hash.Sum(nil)[:8])
}

func fingerprint(into io.Writer, node *yaml.Node) {
	fmt.Fprintf(into, "%d %q %d\n", node.Kind, node.Value, len(node.Content))
	for _, child := range node.Content {
		fingerprint(into, child)
	}
}

// Trust holds the trust material that verifiers refer to.
type Trust struct {
	Certificates []Certificates `yaml:"certificates" max:"1000" doc:"Named sets of certificates."`
}

// CertificateType says what a set of certificates is trusted for.
type CertificateType string

// The types of trust store in the Notary specification.
const (
	CertificatesCA               CertificateType = "ca"
	CertificatesSigningAuthority CertificateType = "signingAuthority"
	CertificatesTSA              CertificateType = "tsa"
)

// Certificates is a named set of certificates, what the Notary specification
// calls a trust store: a trust policy refers to it as TYPE:NAME.
type Certificates struct {
	Name   string          `yaml:"name" required:"true" pattern:"^[A-Za-z0-9_.-]{1,63}$" doc:"Name of the set; unique within its type."`
	Type   CertificateType `yaml:"type" required:"true" enum:"ca,signingAuthority,tsa" doc:"What the certificates are trusted for."`
	Files  []string        `yaml:"files" min:"1" max:"1000" doc:"Files with certificates, PEM or DER; read again when they change."`
	Inline string          `yaml:"inline" doc:"Certificates in PEM, in place; may stand beside files."`
	Pos    Position        `yaml:"-"`
}

// Proofs says how long what was found out about an image is believed. Nothing is
// believed beyond the end of what it rests on: a certificate, a signature, a
// revocation response.
type Proofs struct {
	TTL       time.Duration `yaml:"ttl" default:"1h" min:"1s" max:"24h" doc:"How long an artifact that passed is believed; it is proven again before, while admission asks for it."`
	DeniedTTL time.Duration `yaml:"deniedTTL" default:"60s" min:"0s" max:"24h" doc:"How long a denial is believed."`
	AbsentTTL time.Duration `yaml:"absentTTL" default:"5s" min:"0s" max:"24h" doc:"How long it is believed that there is nothing: no such image, no signature."`
	ListTTL   time.Duration `yaml:"listTTL" default:"60s" min:"1s" max:"24h" doc:"Age from which the list of an image's artifacts is asked for again, in the background, while the image is asked for."`
	MaxBytes  int64         `yaml:"maxBytes" unit:"bytes" default:"16MiB" min:"64KiB" max:"16GiB" doc:"Memory for proofs, beside inFlightBytes: half as they are stored, a quarter ready to be read, a quarter as answers."`
}

// Tags says how long a tag's digest is believed.
type Tags struct {
	TTL time.Duration `yaml:"ttl" default:"10s" min:"0s" max:"1h" doc:"How long a tag is believed to mean the same digest."`
}

// Governor bounds what registries are asked for.
type Governor struct {
	PerHost    PerHost    `yaml:"perHost" doc:"Bounds for each registry host and identity."`
	Background Background `yaml:"background" doc:"Bounds on work that outlives its request."`
}

// PerHost bounds what one registry host is asked for.
type PerHost struct {
	MaxInFlight   int           `yaml:"maxInFlight" default:"64" min:"1" max:"10000" doc:"Most requests to a host at once."`
	StartInFlight int           `yaml:"startInFlight" default:"16" min:"1" max:"32" doc:"Requests at once to a host of which nothing is known; it adapts to what the host bears."`
	Rate          int           `yaml:"rate" default:"0" min:"0" max:"100000" doc:"Most requests to a host a second; 0 learns it from the host's 429."`
	MaxRetryAfter time.Duration `yaml:"maxRetryAfter" default:"60s" min:"1s" max:"1h" doc:"Longest wait that a host may ask for."`
}

// Background bounds work that outlives its request.
type Background struct {
	MaxDuration time.Duration `yaml:"maxDuration" default:"15s" min:"0s" max:"10m" doc:"Longest time for work that nobody waits for."`
	MaxFlights  int           `yaml:"maxFlights" default:"1000" min:"0" max:"100000" doc:"Most such works at once."`
}

// Canary names images of which the verdict is known beforehand. They are proven
// again and again, so that a gate that lets everything through, or nothing, is
// noticed before it has to decide on something.
type Canary struct {
	MustPass  []string      `yaml:"mustPass" max:"20" doc:"Images that must be allowed."`
	MustFail  []string      `yaml:"mustFail" max:"20" doc:"Images that must be denied; one that nobody signed, say."`
	Namespace string        `yaml:"namespace" pattern:"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$" doc:"Namespace that they are judged for, if rules name any."`
	Interval  time.Duration `yaml:"interval" default:"30s" min:"1s" max:"1h" doc:"Time from one proof to the next."`
}

// Policy is what an image must show. The first rule that matches decides; an
// image that none matches is denied.
type Policy struct {
	Rules []Rule `yaml:"rules" required:"true" min:"1" max:"1000" doc:"Rules in order; the first that matches decides, no match denies."`
}

// Evaluate says when a rule may decide.
type Evaluate string

// EvaluateAll judges every artifact even if the decision cannot change any
// more. The empty value decides as soon as it can.
const EvaluateAll Evaluate = "all"

// Rule says what images of some names must show. Exactly one of Require and
// Allow is set.
type Rule struct {
	Name       string   `yaml:"name" required:"true" pattern:"^[A-Za-z0-9_.-]{1,63}$" doc:"Name of the rule, for reports and metrics; unique."`
	Images     []string `yaml:"images" required:"true" min:"1" max:"1000" doc:"Globs over HOST/REPOSITORY: * within a label or segment, ** for whole segments."`
	Namespaces []string `yaml:"namespaces" min:"1" max:"1000" doc:"Globs over the namespace; needs server.namespaceFrom."`
	Evaluate   Evaluate `yaml:"evaluate" enum:"all" doc:"all: judge every artifact, for templates that read single reports; otherwise as few as decide."`
	Require    *Require `yaml:"require" doc:"What must have been proven."`
	Allow      *Allow   `yaml:"allow" doc:"Let through without proof, for a stated reason and time."`
	Pos        Position `yaml:"-"`
}

// Require is one node of a requirement: exactly one of Verifier, AllOf and
// AnyOf is set. With a Verifier either AtLeast is positive or Every is true.
type Require struct {
	Verifier string    `yaml:"verifier" doc:"Name of a verifier whose reports count."`
	AtLeast  int       `yaml:"atLeast" min:"1" max:"1000" doc:"How many different statements the verifier must have passed; 1 unless every is true."`
	Every    bool      `yaml:"every" default:"false" doc:"At least one artifact, and all that the verifier matches, must have passed."`
	AllOf    []Require `yaml:"allOf" min:"1" max:"100" doc:"All of these must be met."`
	AnyOf    []Require `yaml:"anyOf" min:"1" max:"100" doc:"One of these must be met."`
	Pos      Position  `yaml:"-"`
}

// Allow lets images through without proof until a time.
type Allow struct {
	Reason string `yaml:"reason" required:"true" doc:"Why, for the log; a ticket, say."`
	Until  Until  `yaml:"until" required:"true" pattern:"^[0-9]{4}-[0-9]{2}-[0-9]{2}(T.+)?$" doc:"Last day (YYYY-MM-DD, through its end in UTC) or the moment (RFC 3339) when this ends."`
}

// Until is when an allowance ends: the time is the first moment at which it
// no longer holds.
type Until struct{ time.Time }
