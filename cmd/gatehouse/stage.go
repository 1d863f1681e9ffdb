package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/test/registry"
	"github.com/gatehouse-project/gatehouse/test/signing"
	"github.com/gatehouse-project/gatehouse/verifier"
)

// stage is what the demonstration plays on: a registry in this process, images
// in it, and a configuration that trusts one of two authorities.
type stage struct {
	registry     *registry.Registry
	host, config string
	scenes       []scene
}

// scene is one image and what should become of it: allowed if code is empty,
// else denied for that reason.
type scene struct {
	image, what string
	code        string
}

const stageConfig = `version: v1alpha1
server:
  address: 127.0.0.1:6001
  insecureHTTP: true
  verifyTimeout: 1900ms
admin: {address: 127.0.0.1:0}
stores:
  - name: registry
    type: oras
    plainHTTP: ["%s"]
trust:
  certificates:
    - {name: acme, type: ca, files: [acme-root.crt]}
verifiers:
  - name: notation
    type: notation
    trustPolicy:
      version: "1.0"
      trustPolicies:
        - name: default
          registryScopes: ["*"]
          signatureVerification: {level: strict}
          trustStores: ["ca:acme"]
          trustedIdentities: ["*"]
policy:
  rules:
    - {name: all, images: ["**"], require: {verifier: notation}}
`

func newStage(ctx context.Context, dir string) (s *stage, err error) {
	s = &stage{config: filepath.Join(dir, "gatehouse.yaml")}
	if s.registry, err = registry.Start(registry.Options{}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	s.host = s.registry.Host()
	if err := os.WriteFile(s.config, fmt.Appendf(nil, stageConfig, s.host), 0o600); err != nil {
		return nil, err
	}
	return s, s.fill(ctx, dir)
}

func (s *stage) close() { s.registry.Close() }

// fill signs everything for real: keys, chains and envelopes are what the
// notation tool chain makes.
func (s *stage) fill(ctx context.Context, dir string) error {
	acme, err := signing.NewAuthority("acme root", signing.ECDSA384, signing.AuthorityOptions{})
	if err != nil {
		return err
	}
	stranger, err := signing.NewAuthority("stranger root", signing.ECDSA256, signing.AuthorityOptions{})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "acme-root.crt"), acme.PEM(), 0o600); err != nil {
		return err
	}
	for _, a := range []struct {
		tag, what string
		by        *signing.Authority
		key       signing.KeyKind
		opts      signing.SignOptions
		alter     bool
		code      verifier.Code
	}{
		{tag: "rsa-jws", what: "signed, RSA, JWS", by: acme, key: signing.RSA2048, opts: signing.SignOptions{Format: signing.JWS}},
		{tag: "rsa-cose", what: "signed, RSA, COSE", by: acme, key: signing.RSA2048, opts: signing.SignOptions{Format: signing.COSE}},
		{tag: "ecdsa-jws", what: "signed, ECDSA, JWS", by: acme, key: signing.ECDSA256, opts: signing.SignOptions{Format: signing.JWS}},
		{tag: "ecdsa-cose", what: "signed, ECDSA, COSE", by: acme, key: signing.ECDSA384, opts: signing.SignOptions{Format: signing.COSE}},
		{tag: "unsigned", what: "nobody signed it", code: executor.CodeNoSignature},
		{tag: "stranger", what: "a stranger signed it", by: stranger, key: signing.ECDSA256, code: verifier.CodeSignerUntrusted},
		{tag: "altered", what: "the signature was altered", by: acme, key: signing.ECDSA256, alter: true, code: verifier.CodeSignatureInvalid},
		{tag: "expired", what: "the signature has expired", by: acme, key: signing.ECDSA256, opts: signing.SignOptions{SigningTime: time.Now().Add(-time.Hour), Expiry: time.Minute}, code: verifier.CodeSignatureExpired},
	} {
		desc, err := s.registry.PushImage(ctx, "demo/app", a.tag, a.tag)
		if err != nil {
			return err
		}
		if a.by != nil {
			err = s.sign(ctx, desc, a.by, a.key, a.opts, a.alter)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", a.tag, err)
		}
		s.scenes = append(s.scenes, scene{image: s.host + "/demo/app:" + a.tag, what: a.what, code: string(a.code)})
	}
	return nil
}

func (s *stage) sign(ctx context.Context, desc ocispec.Descriptor, by *signing.Authority, key signing.KeyKind, opts signing.SignOptions, alter bool) error {
	signer, err := by.Issue("release of "+by.Certificate().Subject.CommonName, key, signing.IssueOptions{NotBefore: time.Now().Add(-2 * time.Hour)})
	if err != nil {
		return err
	}
	envelope, err := signer.Sign(ctx, desc, opts)
	if err != nil {
		return err
	}
	data := envelope.Bytes
	if alter {
		if data, err = alterJWS(data); err != nil {
			return err
		}
	}
	prints, err := json.Marshal(envelope.Thumbprints)
	if err != nil {
		return err
	}
	_, err = s.registry.PushReferrer(ctx, "demo/app", desc, signing.ArtifactType, envelope.MediaType, data,
		map[string]string{signing.ThumbprintAnnotation: string(prints)})
	return err
}

// alterJWS flips one bit of the signature value within a JWS envelope.
func alterJWS(envelope []byte) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(envelope, &fields); err != nil {
		return nil, err
	}
	var text string
	if err := json.Unmarshal(fields["signature"], &text); err != nil {
		return nil, err
	}
	value, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil, err
	}
	value[len(value)/2] ^= 1
	if fields["signature"], err = json.Marshal(base64.RawURLEncoding.EncodeToString(value)); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}
