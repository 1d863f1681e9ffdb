package templates

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"
)

// ReportVersion is the version of the report shape that the templates read.
const ReportVersion = "0.2.0"

// NotationArtifactType is the type of artifact that counts as a signature for
// [NotationNested].
const NotationArtifactType = "application/vnd.cncf.notary.signature"

// ErrNotConforming is in the chain of every error of [Conforms].
var ErrNotConforming = errors.New("a template could misread the answer")

// Conforms checks a provider's answer to a well-formed request for the asked
// keys against what the templates rest on, whatever they happen to decide:
// HTTP 200; an item for each key, byte for byte and in order, or else a system
// error that stands for those left out; no item's error; each value complete
// and of the right types; no empty nestedResults, which [NotationNested] takes
// for a report that ought to have signatures and has none.
func Conforms(asked []string, status int, body []byte) error {
	if status != http.StatusOK {
		return fmt.Errorf("%w: HTTP status %d", ErrNotConforming, status)
	}
	var answer externaldata.ProviderResponse
	if err := decodeStrictly(body, &answer); err != nil {
		return fmt.Errorf("%w: %w", ErrNotConforming, err)
	}
	if answer.Kind != externaldata.ProviderResponseKind {
		return fmt.Errorf("%w: kind %q", ErrNotConforming, answer.Kind)
	}
	if err := conformItems(asked, answer.Response); err != nil {
		return fmt.Errorf("%w: %w", ErrNotConforming, err)
	}
	return nil
}

func conformItems(asked []string, response externaldata.Response) error {
	items := response.Items
	for _, key := range asked {
		if len(items) == 0 || items[0].Key != key {
			if response.SystemError == "" {
				return fmt.Errorf("key %q has no item in its place, and there is no system error", key)
			}
			continue
		}
		if err := conformItem(items[0]); err != nil {
			return fmt.Errorf("item %q: %w", key, err)
		}
		items = items[1:]
	}
	if len(items) > 0 {
		return fmt.Errorf("item %q is not for a key that was asked there", items[0].Key)
	}
	return nil
}

func conformItem(item externaldata.Item) error {
	if item.Error != "" {
		return fmt.Errorf("it has an error, %q, which one template ignores", item.Error)
	}
	text, err := json.Marshal(item.Value)
	if err != nil {
		return fmt.Errorf("encode its value: %w", err)
	}
	var v value
	if err := json.Unmarshal(text, &v); err != nil {
		return fmt.Errorf("decode its value: %w", err)
	}
	return v.conforms()
}

// value is an item's value; pointers tell a field that is missing or null.
type value struct {
	Version         *string   `json:"version"`
	IsSuccess       *bool     `json:"isSuccess"`
	TraceID         *string   `json:"traceID"`
	Timestamp       *string   `json:"timestamp"`
	VerifierReports *[]report `json:"verifierReports"`
}

func (v value) conforms() error {
	switch {
	case v.Version == nil || *v.Version != ReportVersion:
		return errors.New("version is not " + ReportVersion)
	case v.IsSuccess == nil:
		return errors.New("isSuccess is missing")
	case v.TraceID == nil || *v.TraceID == "":
		return errors.New("traceID is missing")
	case v.Timestamp == nil:
		return errors.New("timestamp is missing")
	case v.VerifierReports == nil:
		return errors.New("verifierReports is missing or null")
	}
	if _, err := time.Parse(time.RFC3339Nano, *v.Timestamp); err != nil {
		return fmt.Errorf("timestamp: %w", err)
	}
	return conformReports("verifierReports", *v.VerifierReports)
}

// report is one of verifierReports, or of nestedResults at any depth.
type report struct {
	Subject      *string        `json:"subject"`
	IsSuccess    *bool          `json:"isSuccess"`
	Name         *string        `json:"name"`
	VerifierName *string        `json:"verifierName"`
	Type         *string        `json:"type"`
	VerifierType *string        `json:"verifierType"`
	ArtifactType *string        `json:"artifactType"`
	Message      *string        `json:"message"`
	Extensions   map[string]any `json:"extensions"`
	// Raw, so that null, which is a list to a template, is told from absence.
	NestedResults json.RawMessage `json:"nestedResults"`
}

func conformReports(field string, reports []report) error {
	for i, r := range reports {
		if err := r.conforms(); err != nil {
			return fmt.Errorf("%s[%d]: %w", field, i, err)
		}
	}
	return nil
}

func (r report) conforms() error {
	if r.IsSuccess == nil {
		return errors.New("isSuccess is missing")
	}
	for name, text := range map[string]*string{
		"subject": r.Subject, "name": r.Name, "verifierName": r.VerifierName, "type": r.Type,
		"verifierType": r.VerifierType, "artifactType": r.ArtifactType, "message": r.Message,
	} {
		if text == nil {
			return fmt.Errorf("%s is missing", name)
		}
	}
	if *r.Name != *r.VerifierName || *r.Type != *r.VerifierType {
		return errors.New("the old and the new name or type of its verifier differ")
	}
	if *r.Subject == "" || *r.Message == "" {
		return errors.New("subject or message is empty")
	}
	if issuer, found := r.Extensions["Issuer"]; found {
		if _, ok := issuer.(string); !ok {
			return errors.New("extensions.Issuer is not a text")
		}
	}
	return r.conformNested()
}

func (r report) conformNested() error {
	if r.NestedResults == nil {
		return nil
	}
	var nested []report
	if err := json.Unmarshal(r.NestedResults, &nested); err != nil {
		return fmt.Errorf("nestedResults: %w", err)
	}
	if len(nested) == 0 {
		return errors.New("nestedResults is there and empty; without nested reports it must be left out")
	}
	return conformReports("nestedResults", nested)
}
