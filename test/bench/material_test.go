package bench

import (
	"encoding/json"
	"fmt"
	"runtime"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/gatehouse-project/gatehouse/test/registry"
	"github.com/gatehouse-project/gatehouse/test/signing"
)

// style is a way to sign.
type style struct {
	key    signing.KeyKind
	format signing.Format
}

// The styles of signatures: five for images that five people sign, where the
// kinds of envelopes and keys are mixed, and one that is quick to make.
var (
	mixed = []style{
		{signing.RSA2048, signing.JWS},
		{signing.RSA2048, signing.COSE},
		{signing.ECDSA256, signing.JWS},
		{signing.ECDSA256, signing.COSE},
		{signing.ECDSA384, signing.JWS},
	}
	quick = []style{{signing.ECDSA256, signing.JWS}}
)

// material is images with their signatures, made once and pushed into as many
// registries as an experiment needs.
type material struct {
	root   []byte // certificate to trust, PEM
	images []signedImage
}

type signedImage struct {
	desc      ocispec.Descriptor
	manifest  []byte
	envelopes []signing.Envelope
}

// sign makes n images, each signed in every style by a person of its own. The
// same person signs all images in a style.
func sign(tb testing.TB, n int, styles []style) *material {
	tb.Helper()
	root := must(signing.NewAuthority("acme root", signing.ECDSA384, signing.AuthorityOptions{}))(tb)
	signers := make([]*signing.Signer, len(styles))
	for i, s := range styles {
		signers[i] = must(root.Issue(fmt.Sprintf("%s by %s", s.format, s.key), s.key, signing.IssueOptions{}))(tb)
	}
	m := &material{root: root.PEM(), images: make([]signedImage, n)}
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range m.images {
		group.Go(func() error {
			image, err := newImage(i)
			for k, s := range styles {
				var envelope signing.Envelope
				if err == nil {
					envelope, err = signers[k].Sign(tb.Context(), image.desc, signing.SignOptions{Format: s.format})
				}
				image.envelopes = append(image.envelopes, envelope)
			}
			m.images[i] = image
			return err
		})
	}
	if err := group.Wait(); err != nil {
		tb.Fatal(err)
	}
	return m
}

// newImage makes a manifest that differs from others; what it names does not
// exist, because nobody runs it.
func newImage(i int) (signedImage, error) {
	config, layer := ocispec.DescriptorEmptyJSON, ocispec.DescriptorEmptyJSON
	config.MediaType, config.Data = ocispec.MediaTypeImageConfig, nil
	layer.MediaType, layer.Data = ocispec.MediaTypeImageLayerGzip, nil
	data, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: config, Layers: []ocispec.Descriptor{layer},
		Annotations: map[string]string{"number": fmt.Sprint(i)},
	})
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(data), Size: int64(len(data))}
	return signedImage{desc: desc, manifest: data}, err
}

// push stores an image with its signatures; the tag may be empty.
func (m *material) push(tb testing.TB, r *registry.Registry, image int, repo, tag string) {
	tb.Helper()
	i := m.images[image]
	must(r.PushManifest(tb.Context(), repo, tag, i.desc.MediaType, i.manifest))(tb)
	for _, e := range i.envelopes {
		must(r.PushReferrer(tb.Context(), repo, i.desc, signing.ArtifactType, e.MediaType, e.Bytes, nil))(tb)
	}
}

// signatures counts those of all images.
func (m *material) signatures() int {
	n := 0
	for _, i := range m.images {
		n += len(i.envelopes)
	}
	return n
}
