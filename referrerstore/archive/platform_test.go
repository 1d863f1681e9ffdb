package archive

import (
	"errors"
	"fmt"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestParsePlatform(t *testing.T) {
	t.Parallel()
	for text, valid := range map[string]bool{
		"linux/amd64": true, "linux/arm64/v8": true, "windows/amd64": true,
		"": false, "linux": false, "linux/": false, "/amd64": false, "linux/arm/v7/x": false, "Linux/amd64": false,
		"linux/am d64": false, "linux/../x": false, "*/amd64": false,
	} {
		var p Platform
		err := p.UnmarshalText([]byte(text))
		if valid != (err == nil) || (err != nil && !errors.Is(err, ErrPlatform)) {
			t.Errorf("%q: %v", text, err)
		}
		if valid && p.String() != text {
			t.Errorf("%q is read as %q", text, p)
		}
		if !valid && p != (Platform{}) {
			t.Errorf("%q is not valid and yet %q", text, p)
		}
	}
}

func TestPlatformMatch(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		chosen string
		of     ocispec.Platform
		want   bool
	}{
		{"linux/amd64", ocispec.Platform{OS: "linux", Architecture: "amd64"}, true},
		{"linux/amd64", ocispec.Platform{OS: "linux", Architecture: "amd64", Variant: "v3"}, true},
		{"linux/amd64", ocispec.Platform{OS: "linux", Architecture: "arm64"}, false},
		{"linux/amd64", ocispec.Platform{OS: "windows", Architecture: "amd64"}, false},
		{"linux/arm64/v8", ocispec.Platform{OS: "linux", Architecture: "arm64"}, true},
		{"linux/arm/v7", ocispec.Platform{OS: "linux", Architecture: "arm"}, true},
		{"linux/arm/v6", ocispec.Platform{OS: "linux", Architecture: "arm"}, false},
		{"linux/arm/v6", ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}, true},
		{"linux/amd64/v2", ocispec.Platform{OS: "linux", Architecture: "amd64"}, false},
	} {
		p, err := ParsePlatform(tt.chosen)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Match(tt.of); got != tt.want {
			t.Errorf("%s and %+v: %t", tt.chosen, tt.of, got)
		}
	}
	if (Platform{}).Match(ocispec.Platform{}) {
		t.Error("nothing matches nothing")
	}
}

func ExampleParsePlatform() {
	p, err := ParsePlatform("linux/arm64")
	fmt.Println(p.Match(ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}), err)
	_, err = ParsePlatform("arm64")
	fmt.Println(err)
	// Output:
	// true <nil>
	// "arm64": archive: a platform is OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, in lower case
}
