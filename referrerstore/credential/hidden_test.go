package credential

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestHidden(t *testing.T) {
	t.Parallel()
	const secret = "s3cret"
	cred := Credential{User: "robot", Password: secret, IdentityToken: secret, RegistryToken: secret}
	held := &Held{Credential: cred}
	var out strings.Builder
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", slog.Any("a", cred), slog.Any("b", held))
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", slog.Any("a", cred), slog.Any("b", held), slog.Any("c", []Credential{cred}))
	for _, v := range []any{cred, &cred, held, *held, []Credential{cred}, map[string]*Held{"a": held}, DockerConfig{Auths: map[string]Credential{"a": cred}}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb, v)
		}
		text, err := json.Marshal(v)
		out.Write(text)
		if err != nil {
			t.Error(err)
		}
	}
	if text := out.String(); strings.Contains(text, secret) || strings.Contains(text, fmt.Sprintf("%x", secret)) || !strings.Contains(text, hidden) {
		t.Errorf("%s", text)
	}
}

func TestEmpty(t *testing.T) {
	t.Parallel()
	if !(Credential{Until: time.Now()}).Empty() || (Credential{RegistryToken: "x"}).Empty() {
		t.Error("what is empty")
	}
}
