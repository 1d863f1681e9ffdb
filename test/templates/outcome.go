package templates

// Decision is what a template makes of a pod. The zero value is Denied.
type Decision int

// The two decisions.
const (
	Denied Decision = iota
	Admitted
)

// String names the decision in lower case.
func (d Decision) String() string {
	if d == Admitted {
		return "admitted"
	}
	return "denied"
}

// Outcome is what a provider came to about the images of one pod. Each fact
// holds of every image; the zero value proves nothing, and no template may
// admit it.
type Outcome struct {
	// Allowed: the policy lets the image through, by proof or by exemption.
	Allowed bool
	// Signed: a notation report passed.
	Signed bool
	// ByIssuer: there are notation reports of the issuer that the constraint
	// names, and all of them passed.
	ByIssuer bool
	// NestedSigned: every list of nested reports has a passing signature.
	NestedSigned bool
	// Described: the first SBOM report passed.
	Described bool
	// Scanned: the newest vulnerability report passed.
	Scanned bool
}

// Verified is the outcome of images that the policy allows for signatures of
// the sample's issuer, with nothing else attached to them.
func Verified() Outcome {
	return Outcome{Allowed: true, Signed: true, ByIssuer: true, NestedSigned: true}
}

// Exempt is the outcome of images that a rule allows without a proof. The
// templates that look at single reports refuse them: there is none to look at.
func Exempt() Outcome { return Outcome{Allowed: true} }

// Want is what a template has to make of the outcome: it admits if the facts
// that it asks for hold, and only then.
//
// Four of the templates ask for reports and not for the policy's verdict. They
// admit an image that the policy denies, if the reports they ask for passed.
func (o Outcome) Want(template string) Decision {
	if o.proves(template) {
		return Admitted
	}
	return Denied
}

func (o Outcome) proves(template string) bool {
	switch template {
	case RatifyVerification, MultiTenancy:
		return o.Allowed
	case Notation:
		return o.Signed
	case NotationIssuer:
		return o.Allowed && o.ByIssuer
	case NotationNested:
		return o.Signed && o.NestedSigned
	case SBOM:
		return o.Described
	case VulnerabilityReport:
		return o.Scanned
	default:
		return false
	}
}
