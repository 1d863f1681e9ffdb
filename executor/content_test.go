package executor

import (
	"testing"

	"github.com/opencontainers/go-digest"
)

// FuzzParseManifest: whatever an artifact's manifest says, it is parsed into
// bounds or refused, and never taken for one of another subject.
func FuzzParseManifest(f *testing.F) {
	subject := digest.FromString("subject")
	f.Add([]byte(`{"subject":{"digest":"` + subject.String() + `"},"layers":[{"digest":"x","size":-1}]}`))
	f.Add([]byte(`{"subject":null,"blobs":[{}]}`))
	f.Add([]byte(`{"layers":{}}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseManifest(data, subject)
		if err == nil && len(m.Layers) > 2*maxLayers {
			t.Fatalf("%d layers", len(m.Layers))
		}
	})
}
