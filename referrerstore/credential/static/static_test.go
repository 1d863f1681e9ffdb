package static

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSource(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"p": "s3cret\n", "crlf": "s3cret\r\n", "spaces": " s3 cret ", "empty": "\n", "lines": "s3cret\nmore\n", "nul": "s3cret\x00", "long": strings.Repeat("s3cret", 3000),
	}
	deps := credential.Deps{ReadFile: func(path string) ([]byte, error) {
		if text, ok := files[path]; ok {
			return []byte(text), nil
		}
		return nil, errors.New("no such file")
	}}
	for _, tt := range []struct {
		entry credential.Entry
		want  credential.Credential
		says  string // of an error
	}{
		{entry: credential.Entry{Username: "u", PasswordFile: "p"}, want: credential.Credential{User: "u", Password: "s3cret"}},
		{entry: credential.Entry{Username: "u", PasswordFile: "crlf"}, want: credential.Credential{User: "u", Password: "s3cret"}},
		{entry: credential.Entry{Username: "u", PasswordFile: "spaces"}, want: credential.Credential{User: "u", Password: " s3 cret "}},
		{entry: credential.Entry{IdentityTokenFile: "p"}, want: credential.Credential{IdentityToken: "s3cret"}},
		{entry: credential.Entry{}, says: "is needed"},
		{entry: credential.Entry{Username: "u"}, says: "go together"},
		{entry: credential.Entry{PasswordFile: "p"}, says: "go together"},
		{entry: credential.Entry{Username: "u", PasswordFile: "p", IdentityTokenFile: "p"}, says: "in place of"},
		{entry: credential.Entry{Username: "u", PasswordFile: "missing"}, says: "passwordFile: no such file"},
		{entry: credential.Entry{Username: "u", PasswordFile: "empty"}, says: "is empty"},
		{entry: credential.Entry{Username: "u", PasswordFile: "lines"}, says: "more than one line"},
		{entry: credential.Entry{IdentityTokenFile: "nul"}, says: "control characters"},
		{entry: credential.Entry{IdentityTokenFile: "long"}, says: "identityTokenFile: long has more than"},
	} {
		source, err := Kind().New(tt.entry, deps)
		if tt.says != "" {
			if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%+v: %v, want an error with %q that quotes nothing", tt.entry, err, tt.says)
			}
			continue
		}
		if err != nil {
			t.Errorf("%+v: %v", tt.entry, err)
			continue
		}
		key, known := source.Key("a.example")
		other, _ := source.Key("b.example")
		got, err := source.Find(t.Context(), "a.example")
		if err != nil || got != tt.want || !known || key != other {
			t.Errorf("%+v: wrong credential, %v", tt.entry, err)
		}
		if strings.Contains(fmt.Sprintf("%v %+v %#v", source, source, source), "s3cret") {
			t.Errorf("%+v: it shows its secret", tt.entry)
		}
	}
}
