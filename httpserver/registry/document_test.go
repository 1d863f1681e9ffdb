package registry

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	oneDesc = `{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + sum256 + `","size":2}`
	layer   = `{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"` + sum256 + `","size":3}`
)

// Documents that two readers could read as two things are refused.
func TestConflicts(t *testing.T) {
	t.Parallel()
	const image, index = ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex
	for _, tt := range []struct {
		name, data, served, verified string
		refused                      string // part of why, empty if it is not
	}{
		{"image", `{"schemaVersion":2,"mediaType":"` + image + `","config":` + oneDesc + `,"layers":[]}`, image, image, ""},
		{"image without field", `{"config":` + oneDesc + `,"layers":[` + layer + `]}`, image, "", ""},
		{"docker image", `{"mediaType":"` + typeDockerManifest + `","config":` + oneDesc + `,"layers":[]}`, typeDockerManifest, typeDockerManifest, ""},
		{"index", `{"mediaType":"` + index + `","manifests":[]}`, index, index, ""},
		{"docker index", `{"manifests":[]}`, typeDockerIndex, typeDockerIndex, ""},
		{"artifact", `{"mediaType":"` + typeArtifact + `","blobs":[]}`, typeArtifact, "", ""},
		{"older artifact", `{"mediaType":"` + typeORAS + `","blobs":[` + layer + `]}`, typeORAS, "", ""},
		{"much", `{"layers":[` + strings.Repeat(layer+",", maxListed-2) + layer + `]}`, image, image, ""},
		{"too much", `{"layers":[` + strings.Repeat(layer+",", maxListed-1) + layer + `]}`, image, image, errTooMuch.Error()},
		{"far too much", `{"manifests":[` + strings.Repeat("{},", maxListed) + `{}]}`, index, index, errTooMuch.Error()},
		{"too much together", `{"config":` + oneDesc + `,"layers":[` + strings.Repeat("{},", maxListed/2) + `{}],"blobs":[` + strings.Repeat("{},", maxListed/2) + `{}]}`, image, image, errTooMuch.Error()},
		{"long type", `{"mediaType":"` + strings.Repeat("x", maxMediaType+1) + `","layers":[]}`, image, image, "too long"},
		{"no list", `{"layers":"all"}`, image, image, "not of its kind"},
		{"list of texts", `{"layers":["one"]}`, image, image, "not of its kind"},
		{"both", `{"manifests":[],"layers":[]}`, index, index, "both manifests and layers"},
		{"both, one null", `{"manifests":null,"layers":[],"config":` + oneDesc + `}`, image, image, "both manifests and layers"},
		{"index with config", `{"manifests":[],"config":` + oneDesc + `}`, index, index, "two kinds"},
		{"schema 1", `{"fsLayers":[],"layers":[]}`, image, image, "two kinds"},
		{"blobs and layers", `{"blobs":[],"layers":[]}`, image, image, "two kinds"},
		{"field twice", `{"layers":[],"layers":[` + layer + `]}`, image, image, "twice"},
		{"other spelling", `{"layers":[],"Manifests":[]}`, image, image, "another spelling"},
		{"folded spelling", `{"layerſ":[],"config":` + oneDesc + `}`, image, image, "another spelling"},
		{"escaped twice", `{"layers":[],"l\u0061yers":[]}`, image, image, "twice"},
		{"says another type", `{"mediaType":"` + index + `","layers":[]}`, image, image, "says that it is"},
		{"verified as another", `{"layers":[]}`, image, typeDockerManifest, "was verified as"},
		{"index as image", `{"manifests":[]}`, image, image, "not what its media type says"},
		{"image as index", `{"layers":[]}`, index, index, "not what its media type says"},
		{"artifact as image", `{"blobs":[]}`, image, image, "not what its media type says"},
		{"unknown type", `{"layers":[]}`, "application/x", "application/x", "is not known"},
		{"nothing", `{}`, image, image, "lists nothing"},
		{"no JSON", `hello`, image, image, "no JSON object"},
		{"array", `[]`, image, image, "no JSON object"},
		{"cut", `{"layers":[`, image, image, "no JSON object"},
		{"more behind", `{"layers":[]} {"manifests":[]}`, image, image, "follows"},
		{"field of another kind", `{"layers":{}}`, image, image, "not of its kind"},
		{"type is no text", `{"mediaType":1,"layers":[]}`, image, image, "not of its kind"},
	} {
		why := parseDocument([]byte(tt.data)).conflict(tt.served, tt.verified)
		if (tt.refused == "") != (why == "") || !strings.Contains(why, tt.refused) {
			t.Errorf("%s: %q, want %q", tt.name, why, tt.refused)
		}
	}
}

// What is remembered of a document is small, whatever it says of itself.
func TestNothingLongIsRemembered(t *testing.T) {
	t.Parallel()
	for _, data := range []string{
		`{"mediaType":"` + strings.Repeat("x", 1<<20) + `","layers":[]}`,
		`{"mediaType":"` + strings.Repeat("x", 1<<20) + `","layers":[],"config":1}`,
	} {
		doc := parseDocument([]byte(data)).document
		if len(doc.mediaType) > maxMediaType || len(doc.problem) > maxMediaType || doc.problem == "" {
			t.Errorf("%d and %d bytes", len(doc.mediaType), len(doc.problem))
		}
	}
}

func TestRunnable(t *testing.T) {
	t.Parallel()
	empty := `{"mediaType":"application/vnd.oci.empty.v1+json","digest":"` + sum256 + `","size":2}`
	other := strings.Replace(empty, "44136", "54136", 1)
	for data, want := range map[string]bool{
		`{"config":` + oneDesc + `,"layers":[]}`:                         true,
		`{"config":` + empty + `,"layers":[` + layer + `]}`:              false,
		`{"config":` + other + `,"layers":[` + layer + `]}`:              true, // some runtimes look at layers alone
		`{"config":` + other + `,"layers":[{"mediaType":"text/plain"}]}`: false,
		`{"manifests":[]}`:           false,
		`{"layers":[` + layer + `]}`: true,
		`{"config":` + strings.Replace(other, "oci.empty.v1", "docker.container.image.v1", 1) + `}`: true,
	} {
		if got := parseDocument([]byte(data)).runnable; got != want {
			t.Errorf("%s: %t", data, got)
		}
	}
}

func TestSizeOf(t *testing.T) {
	t.Parallel()
	d := digest.Digest(sum256)
	for data, want := range map[string]int64{
		`{"config":` + oneDesc + `}`:                          2,
		`{"layers":[` + layer + `,` + layer + `]}`:            3,
		`{"config":` + oneDesc + `,"layers":[` + layer + `]}`: -1, // it says two things
		`{"layers":[{"digest":"` + sum256 + `","size":-7}]}`:  -1,
		`{"layers":[]}`: -1,
	} {
		if got := parseDocument([]byte(data)).sizeOf(d); got != want {
			t.Errorf("%s: %d, want %d", data, got, want)
		}
	}
}

func FuzzParseDocument(f *testing.F) {
	f.Add([]byte(`{"config":` + oneDesc + `,"layers":[` + layer + `]}`))
	f.Add([]byte(`{"manifests":[],"Layers":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p := parseDocument(data)
		asImage := p.conflict(ocispec.MediaTypeImageManifest, "")
		asIndex := p.conflict(ocispec.MediaTypeImageIndex, "")
		if asImage == "" && asIndex == "" {
			t.Fatalf("%q is two things", data)
		}
		if !mediaTypePattern.MatchString(p.likelyType()) {
			t.Fatalf("%q is taken for %q", data, p.likelyType())
		}
	})
}
