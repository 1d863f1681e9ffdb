package image_test

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/gatehouse-project/gatehouse/test/process"
	"github.com/gatehouse-project/gatehouse/test/registry"
	"github.com/gatehouse-project/gatehouse/test/signing"
)

const (
	sbomType       = "application/spdx+json"
	provenanceType = "application/vnd.in-toto+json"
	// repository is where the image is released, unsigned is another one's copy.
	repository = "gatehouse-project/gatehouse"
	unsigned   = "somebody/gatehouse"
)

// Gatehouse lets itself in: the index and each platform's image are allowed once they
// are signed, by any tag and by digest, and a copy without signatures is not.
func TestOwnImage(t *testing.T) {
	t.Parallel()
	l, w := open(t), newWorld(t)
	allowed := []string{
		w.host + "/" + repository + ":" + tag,
		w.host + "/" + repository + ":latest",
		w.host + "/" + repository + "@" + l.image.Digest.String(),
	}
	denied := []string{
		w.host + "/" + unsigned + ":" + tag,
		w.host + "/" + unsigned + "@" + l.image.Digest.String(),
	}
	for _, desc := range l.index.Manifests {
		allowed = append(allowed, w.host+"/"+repository+"@"+desc.Digest.String())
		denied = append(denied, w.host+"/"+unsigned+"@"+desc.Digest.String())
	}
	gatehouse := w.binary.Start(t, w.config)
	answer, err := gatehouse.Ask(t.Context(), append(allowed, denied...)...)
	if err != nil || answer.SystemError != "" {
		t.Fatalf("%v, %s", err, answer.SystemError)
	}
	for _, key := range allowed {
		if item, found := answer.Item(key); !found || !item.Value.IsSuccess {
			t.Errorf("%s is not allowed: %+v", key, item)
		}
	}
	for _, key := range denied {
		if item, found := answer.Item(key); !found || item.Value.IsSuccess || item.Value.Code() != "SIGNATURE_NOT_FOUND" {
			t.Errorf("%s is not denied for want of a signature: %+v", key, item)
		}
	}
	t.Logf("%d verdicts in %s", len(answer.Items), answer.Elapsed)
}

// The documents come along to a registry, and discover shows them, of the index and of
// each image.
func TestDiscover(t *testing.T) {
	t.Parallel()
	l, w := open(t), newWorld(t)
	for _, desc := range append([]ocispec.Descriptor{l.image}, l.index.Manifests...) {
		outcome, err := w.binary.Run(t.Context(), process.RunOptions{}, "discover", "--config", w.config, w.host+"/"+repository+"@"+desc.Digest.String())
		if err != nil || outcome.Code != 0 {
			t.Fatalf("%v, %+v", err, outcome)
		}
		for _, artifactType := range []string{sbomType, provenanceType, signing.ArtifactType} {
			if strings.Count(outcome.Stdout, artifactType) != 1 {
				t.Errorf("%s: not one %s in\n%s", desc.Digest, artifactType, outcome.Stdout)
			}
		}
	}
}

// The content cache takes the layout as it is, with its name.
func TestCacheLoad(t *testing.T) {
	t.Parallel()
	l := open(t)
	binary, err := process.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	outcome, err := binary.Run(t.Context(), process.RunOptions{}, "cache", "--directory", folder, "load", archiveOf(t, l))
	if err != nil || outcome.Code != 0 || !strings.Contains(outcome.Stdout, "ghcr.io/gatehouse-project/gatehouse:"+tag) {
		t.Errorf("%v, %+v", err, outcome)
	}
}

// archiveOf is the layout as a tar file.
func archiveOf(t *testing.T, l layout) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	out, err := exec.CommandContext(t.Context(), "tar", "-C", l.path, "-cf", path, ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// Another tool reads the layout for each platform and copies all of the image, byte for
// byte.
func TestSkopeo(t *testing.T) {
	t.Parallel()
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		missing(t, "skopeo", err)
	}
	l := open(t)
	for _, architecture := range []string{"amd64", "arm64"} {
		out, err := exec.CommandContext(t.Context(), skopeo, "--override-arch", architecture, "inspect", "oci:"+l.path+":"+tag).CombinedOutput()
		var got struct{ Architecture string }
		if err != nil || json.Unmarshal(out, &got) != nil || got.Architecture != architecture {
			t.Errorf("%s: %v\n%s", architecture, err, out)
		}
	}
	r, err := registry.Start(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	digestFile := filepath.Join(t.TempDir(), "digest")
	out, err := exec.CommandContext(t.Context(), skopeo, "copy", "--all", "--insecure-policy", "--dest-tls-verify=false",
		"--digestfile", digestFile, "oci:"+l.path+":"+tag, "docker://"+r.Host()+"/"+repository+":"+tag).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got, err := os.ReadFile(digestFile); err != nil || digest.Digest(strings.TrimSpace(string(got))) != l.image.Digest {
		t.Errorf("it pushed %s, not %s, %v", got, l.image.Digest, err)
	}
}

// world is a registry with the signed image and an unsigned copy, and a configuration
// that trusts the signer.
type world struct {
	host, config string
	binary       process.Binary
}

func newWorld(t *testing.T) world {
	t.Helper()
	l := open(t)
	r, err := registry.Start(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	l.push(t, r.Host()+"/"+repository)
	l.push(t, r.Host()+"/"+unsigned)
	authority, err := signing.NewAuthority("gatehouse root", signing.ECDSA256, signing.AuthorityOptions{})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := authority.Issue("gatehouse release", signing.ECDSA256, signing.IssueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, desc := range append([]ocispec.Descriptor{l.image}, l.index.Manifests...) {
		sign(t, r, signer, desc)
	}
	w := world{host: r.Host()}
	if w.binary, err = process.Build(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.config, err = process.Config{PlainHTTP: []string{r.Host()}, Roots: map[string][]byte{"root.crt": authority.PEM()}}.Write(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// push copies the image to a repository with all that refers to it and to its parts,
// under two tags.
func (l layout) push(t *testing.T, to string) {
	t.Helper()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	target, err := remote.NewRepository(to)
	if err != nil {
		t.Fatal(err)
	}
	target.PlainHTTP, target.Client = true, &auth.Client{Client: &http.Client{Transport: transport}}
	source, err := oci.NewFromFS(t.Context(), os.DirFS(l.path))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := oras.ExtendedCopy(t.Context(), source, tag, target, tag, oras.DefaultExtendedCopyOptions); err != nil {
		t.Fatal(err)
	}
	for _, desc := range l.index.Manifests {
		if err := oras.ExtendedCopyGraph(t.Context(), source, target, desc, oras.DefaultExtendedCopyGraphOptions); err != nil {
			t.Fatal(err)
		}
	}
	if err := target.Tag(t.Context(), l.image, "latest"); err != nil {
		t.Fatal(err)
	}
}

// sign attaches a signature as notation does.
func sign(t *testing.T, r *registry.Registry, signer *signing.Signer, subject ocispec.Descriptor) {
	t.Helper()
	subject = ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	envelope, err := signer.Sign(t.Context(), subject, signing.SignOptions{})
	if err != nil {
		t.Fatal(err)
	}
	artifact, err := envelope.Attach(subject)
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range artifact.Blobs {
		if _, err := r.PushBlob(t.Context(), repository, "application/octet-stream", data); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.PushManifest(t.Context(), repository, "", artifact.Manifest.MediaType, artifact.Bytes); err != nil {
		t.Fatal(err)
	}
}
