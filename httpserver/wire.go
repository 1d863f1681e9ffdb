package httpserver

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/verifier"
)

const (
	apiVersion = "externaldata.gatekeeper.sh/v1beta1"
	// reportVersion is the shape of Ratify's reports that its templates read.
	reportVersion = "0.2.0"
	// maxSystemError bounds the text that names what was left out.
	maxSystemError = 16 << 10
	// maxAnswerBytes bounds the values of one answer; each key has an equal
	// share. Gatekeeper keeps values for minutes in caches without a bound.
	maxAnswerBytes = 4 << 20
	// maxReports is how many artifacts' reports a value tells of.
	maxReports = 16
	// maxFactBytes bounds one extension, warning or type in a report.
	maxFactBytes = 256
	maxWarnings  = 4
)

// report is one judgement within a value. name and type are what verifierName
// and verifierType were called before; shipped templates select by them.
//
// Some templates look at single reports and not at the value's isSuccess, and
// would admit an image of which one signature is good where the policy demands
// two. In a value that is no success, therefore, no report is one either; what
// came of the artifact itself is in the extension "outcome".
//
// There is no nestedResults: the shipped template that reads it takes an empty
// list for one in which a signature is missing.
type report struct {
	Subject         string            `json:"subject"`
	IsSuccess       bool              `json:"isSuccess"`
	Name            string            `json:"name"`
	VerifierName    string            `json:"verifierName"`
	Type            string            `json:"type"`
	VerifierType    string            `json:"verifierType"`
	ReferenceDigest string            `json:"referenceDigest"`
	ArtifactType    string            `json:"artifactType"`
	Message         string            `json:"message"`
	ErrorReason     string            `json:"errorReason"`
	Remediation     string            `json:"remediation"`
	Extensions      map[string]string `json:"extensions"`
}

// policyType marks the report that speaks for the whole decision rather than
// for one artifact.
const policyType = "policy"

// encodedValue is a value in JSON: of a verdict its reports, and what differs
// between two requests is not there; of a mutation all of it.
type encodedValue []byte

// appendResponse makes the answer to a well-formed request: an item for each
// key in its order, and what was left out in systemError. It writes the JSON of
// externaldata.ProviderResponse itself, because the values are encoded already:
// encoding/json would go through every byte of them again.
func appendResponse(body []byte, keys []keyed, answers []*answer, trace string, now time.Time) []byte {
	body = append(body, responseHead...)
	stamp := now.UTC().AppendFormat(nil, time.RFC3339Nano)
	left := &leftOut{}
	separator := `"items":[`
	for _, k := range keys {
		a := answers[k.slot]
		if a.encoded == nil {
			left.add(a.explanation, k.key)
			continue
		}
		body = append(body, separator...)
		body = a.appendItem(body, k.json, trace, stamp)
		separator = ","
	}
	if separator == "," {
		body = append(body, ']')
	}
	if text := left.String(); text != "" {
		text = traced(text, trace)
		if separator == "," {
			body = append(body, ',')
		}
		body = append(body, `"systemError":`...)
		body = appendString(body, text)
	}
	return append(body, "}}\n"...)
}

// responseSize is about what appendResponse writes.
func responseSize(keys []keyed, answers []*answer) int {
	size := len(responseHead) + 64
	for _, k := range keys {
		size += len(k.key) + len(answers[k.slot].encoded) + itemOverhead
	}
	return size
}

const (
	responseHead = `{"apiVersion":"` + apiVersion + `","kind":"ProviderResponse","response":{`
	// itemOverhead is about what an item has beside its key and its reports.
	itemOverhead = 256
)

// appendItem writes an item, and in it the verdict on its key in the report shape
// 0.2.0 of Ratify. The fields of a value are always present and never null: a
// template that meets a missing field is undefined, and what is undefined
// admits.
//
// succeeded repeats isSuccess under the name that templates of Ratify's next
// major version read, which would be undefined over the older shape alone.
//
// held is there only where the registry did not answer and what it said before
// stood in for it, or where an audit did not ask it, with the age of that and the
// code of why; unpinned where the image has only a tag and that is to be said.
func (a *answer) appendItem(body, key []byte, trace string, stamp []byte) []byte {
	body = append(body, `{"key":`...)
	body = append(body, key...)
	body = append(body, `,"value":{"version":"`+reportVersion+`","isSuccess":`...)
	body = strconv.AppendBool(body, a.success())
	body = append(body, `,"succeeded":`...)
	body = strconv.AppendBool(body, a.success())
	body = appendHeld(body, a.result.Held)
	if a.result.Unpinned() {
		body = append(body, `,"unpinned":true`...)
	}
	body = append(body, `,"traceID":"`...)
	body = append(body, trace...)
	body = append(body, `","timestamp":"`...)
	body = append(body, stamp...)
	body = append(body, `","verifierReports":`...)
	body = append(body, a.encoded...)
	return append(body, "}}"...)
}

func appendHeld(body []byte, held *executor.Held) []byte {
	if held == nil {
		return body
	}
	body = append(body, `,"held":{"since":"`...)
	body = held.Since.UTC().AppendFormat(body, time.RFC3339)
	body = append(body, `","ageSeconds":`...)
	body = strconv.AppendInt(body, int64(held.Age/time.Second), 10)
	body = append(body, `,"reason":"`...)
	body = append(body, held.Code()...)
	return append(body, `"}`...)
}

// appendString writes text as JSON does.
func appendString(body []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || strings.IndexByte(`"\<>&`, c) >= 0 {
			encoded, _ := json.Marshal(text) // a string always encodes
			return append(body, encoded...)
		}
	}
	body = append(body, '"')
	body = append(body, text...)
	return append(body, '"')
}

func encode(response externaldata.Response) ([]byte, error) {
	body, err := json.Marshal(externaldata.ProviderResponse{APIVersion: apiVersion, Kind: "ProviderResponse", Response: response})
	if err != nil {
		return nil, fmt.Errorf("encode the response: %w", err)
	}
	return append(body, '\n'), nil
}

func encodeSystemError(text string) []byte {
	body, err := encode(externaldata.Response{SystemError: executor.OneLine(text)})
	if err != nil {
		// A string in a struct always encodes; the zero answer still denies.
		return []byte(`{"kind":"ProviderResponse","response":{"systemError":"internal error"}}`)
	}
	return body
}

// encodeValue encodes the reports of the verdict on one key. Where they have
// more bytes than they may, fewer of them are told; nil says that they could
// not be encoded, and stands for no verdict. Whole says that none was left out
// for want of room.
func encodeValue(a *answer, key string, most int) (encoded encodedValue, whole bool) {
	for _, n := range []int{maxReports, 0} {
		raw, err := json.Marshal(reportsOf(a, key, n))
		if err != nil {
			return nil, false
		}
		if len(raw) <= most || n == 0 {
			return raw, n > 0
		}
	}
	return nil, false
}

func (a *answer) success() bool {
	return a.err == nil && !a.invalid && a.result.Decision == executor.Allowed
}

func reportsOf(a *answer, key string, most int) []report {
	success := a.success()
	reports := []report{}
	// What no single artifact's report says is said by one for the policy. An
	// allowance by reports needs none.
	if !success || a.result.Exemption != nil {
		reports = append(reports, policyReport(a, key, success))
	}
	for _, r := range telling(a.result.Reports, most) {
		reports = append(reports, artifactReport(a, r, success))
	}
	return reports
}

// telling picks the reports that a value has room for: the first of each
// verifier and outcome, so that no template misses a kind of judgement that
// there was, and then the others in their order up to a number of n.
func telling(reports []verifier.Report, n int) []verifier.Report {
	if len(reports) <= n {
		return reports
	}
	type kind struct {
		verifier string
		outcome  verifier.Outcome
	}
	seen := make(map[kind]bool)
	first := make([]bool, len(reports))
	for i, r := range reports {
		k := kind{r.Verifier, r.Outcome}
		first[i] = !seen[k]
		seen[k] = true
	}
	room := n - len(seen)
	var told []verifier.Report
	for i, r := range reports {
		if !first[i] && room <= 0 {
			continue
		}
		if !first[i] {
			room--
		}
		told = append(told, r)
	}
	return told
}

func policyReport(a *answer, key string, success bool) report {
	r := report{
		Subject:    subjectOf(a, key),
		IsSuccess:  success,
		Name:       a.result.Rule,
		Type:       policyType,
		Message:    a.explanation.Line(),
		Extensions: map[string]string{},
	}
	if !success {
		r.ErrorReason, r.Remediation = string(a.explanation.Code), executor.Clip(a.explanation.Do, maxFactBytes)
	}
	r.VerifierName, r.VerifierType = r.Name, r.Type
	return r
}

func artifactReport(a *answer, of verifier.Report, success bool) report {
	x := executor.ExplainReport(of)
	r := report{
		Subject:         a.result.Subject.String(),
		IsSuccess:       success && of.Outcome == verifier.Passed,
		Name:            of.Verifier,
		VerifierName:    of.Verifier,
		Type:            of.Type,
		VerifierType:    of.Type,
		ReferenceDigest: of.Artifact.Digest.String(),
		ArtifactType:    fact(of.Artifact.ArtifactType),
		Message:         x.Line(),
		Extensions:      make(map[string]string, len(of.Extensions)+1),
	}
	for name, text := range of.Extensions {
		r.Extensions[name] = fact(text)
	}
	for i, warning := range of.Warnings[:min(len(of.Warnings), maxWarnings)] {
		r.Extensions[fmt.Sprintf("warning%d", i+1)] = fact(warning)
	}
	r.Extensions["outcome"] = of.Outcome.String()
	if of.Outcome != verifier.Passed {
		r.ErrorReason, r.Remediation = string(x.Code), executor.Clip(x.Do, maxFactBytes)
	}
	return r
}

func fact(text string) string { return executor.Clip(executor.OneLine(text), maxFactBytes) }

func subjectOf(a *answer, key string) string {
	switch {
	case a.result.Subject.Descriptor.Digest != "":
		return a.result.Subject.String()
	case !a.result.Request.Reference.IsZero():
		return a.result.Request.Reference.String()
	default:
		return clipped(key)
	}
}

// leftOut gathers the keys without a verdict by their reason, in order.
type leftOut struct {
	lines []string
	keys  map[string][]string
}

func (l *leftOut) add(x executor.Explanation, key string) {
	line := x.Line()
	if l.keys == nil {
		l.keys = make(map[string][]string)
	}
	if _, known := l.keys[line]; !known {
		l.lines = append(l.lines, line)
	}
	l.keys[line] = append(l.keys[line], executor.OneLine(key))
}

// String names reasons first: Gatekeeper cuts what a person sees of it.
func (l *leftOut) String() string {
	var b strings.Builder
	omitted := 0
	for _, line := range l.lines {
		if b.Len()+len(line) > maxSystemError {
			omitted += len(l.keys[line])
			continue
		}
		if b.Len() > 0 {
			b.WriteString(" | ")
		}
		b.WriteString(line)
		separator := " [no verdict for: "
		for _, key := range l.keys[line] {
			if b.Len()+len(key) > maxSystemError {
				omitted++
				continue
			}
			b.WriteString(separator)
			b.WriteString(key)
			separator = ", "
		}
		if separator == ", " {
			b.WriteByte(']')
		}
	}
	if omitted > 0 {
		fmt.Fprintf(&b, " and %d more keys", omitted)
	}
	return b.String()
}
