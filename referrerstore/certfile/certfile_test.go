package certfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/referrerstore/certfile"
	"github.com/gatehouse-project/gatehouse/test/signing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, link, pipe := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	if err := errors.Join(os.WriteFile(file, []byte("12345"), 0o600), os.Symlink(file, link), syscall.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link} {
		if data, err := certfile.Read(path, 5); err != nil || string(data) != "12345" {
			t.Errorf("%s: %q, %v", path, data, err)
		}
	}
	for path, want := range map[string]string{file: "larger than 4 bytes", pipe: "not a regular file", dir: "not a regular file", filepath.Join(dir, "none"): "no such file"} {
		_, err := certfile.Read(path, 4)
		if _, ok := errors.AsType[*os.PathError](err); !ok || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	authority, err := signing.NewAuthority("root", signing.ECDSA256, signing.AuthorityOptions{})
	if err != nil {
		t.Fatal(err)
	}
	good := string(authority.PEM())
	for name, text := range map[string]string{"one": good, "comments around it": "# a root\n\n" + good + "\n# the end"} {
		if found, err := certfile.Parse([]byte(text), 1); err != nil || len(found) != 1 || !found[0].Equal(authority.Certificate()) {
			t.Errorf("%s: %d certificates, %v", name, len(found), err)
		}
	}
	for text, want := range map[string]string{
		"":                 "no certificate",
		"# nothing\n":      "no certificate",
		good + good:        "more than 1 certificates",
		"x\n" + good:       "what follows certificate 0",
		good + "x":         "what follows certificate 1",
		good[:len(good)-9]: "no PEM block",
		strings.ReplaceAll(good, "CERTIFICATE", "PRIVATE KEY"):                               `"PRIVATE KEY"`,
		strings.Replace(good, "CERTIFICATE-----\n", "CERTIFICATE-----\nProc-Type: 4\n\n", 1): "headers",
		"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n":                     "block 1",
		strings.Replace(good, "-----END", "-----AND", 1) + good:                              "no PEM block",
	} {
		if found, err := certfile.Parse([]byte(text), 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %d certificates, %v, want %q", text, len(found), err, want)
		}
	}
}
