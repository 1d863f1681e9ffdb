package pull_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/test/process"
)

// node is a containerd of its own, in folders of the test.
type node struct {
	socket, hosts string
}

// newNode starts containerd, and ends it with the test.
func newNode(t *testing.T) *node {
	t.Helper()
	path := tool(t, "containerd")
	tool(t, "ctr")
	if os.Geteuid() != 0 {
		t.Skip("containerd needs root")
	}
	// The path of a socket is short.
	dir, err := os.MkdirTemp("", "ctrd-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	n := &node{socket: filepath.Join(dir, "c.sock"), hosts: filepath.Join(dir, "hosts")}
	config := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n  address = %q\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "state"), n.socket)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(path, "--config", config, "--log-level", "warn")
	cmd.Stderr = &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("log of containerd:\n%s", log.String())
		}
		_ = os.RemoveAll(dir)
	})
	for range 100 {
		if n.ctr(t, "version").err == nil {
			return n
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("containerd does not answer:\n%s", log.String())
	return nil
}

func (n *node) ctr(t *testing.T, args ...string) outcome {
	return run(t, nil, "ctr", append([]string{"--address", n.socket}, args...)...)
}

// mirror writes the hosts.toml that is shipped, with the address of gatehouse in
// place of the example's.
func (n *node) mirror(t *testing.T, host, address string, edit func(string) string) {
	t.Helper()
	shipped, err := os.ReadFile("../../docs/containerd/hosts.toml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(shipped), "https://gatehouse.example.com:5080", "http://"+address)
	text = regexp.MustCompile(`(?m)^ *ca = .*\n`).ReplaceAllString(text, "")
	if edit != nil {
		text = edit(text)
	}
	dir := filepath.Join(n.hosts, host)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (n *node) pull(t *testing.T, image string) outcome {
	return n.ctr(t, "images", "pull", "--snapshotter", "native", "--hosts-dir", n.hosts, image)
}

// What containerd pulls through gatehouse is what the upstream has; the upstream
// sees each request once, and none for what is held.
func TestContainerd(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := newWorld(t, nil)
	n.mirror(t, w.upstream.Host(), w.gatehouse.PullAddress(), nil)
	image := w.upstream.Host() + "/" + repository
	for tag, want := range map[string]string{"signed": w.signed.Digest.String(), "index": w.index.Digest.String(), "unsigned": w.unsigned.Digest.String()} {
		n.pull(t, image+":"+tag).succeeds(t, tag)
		listed := n.ctr(t, "images", "list", "name=="+image+":"+tag)
		if !strings.Contains(listed.out, want) {
			t.Errorf("%s is not %s:\n%s", tag, want, listed.out)
		}
	}
	w.upstream.ResetStats()
	second := newNode(t)
	second.mirror(t, w.upstream.Host(), w.gatehouse.PullAddress(), nil)
	second.pull(t, image+"@"+w.index.Digest.String()).succeeds(t, "what is held")
	if got := w.upstream.Stats().Total; got != 0 {
		t.Errorf("%d requests upstream for what is held", got)
	}
}

// With enforcement containerd gets what the policy allows, and nothing else, with
// the verdict as its error. It has nowhere else to go.
func TestContainerdEnforced(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := newWorld(t, process.Map{"enforce": true})
	n.mirror(t, w.upstream.Host(), w.gatehouse.PullAddress(), nil)
	image := w.upstream.Host() + "/" + repository
	for _, tag := range []string{"signed", "index"} {
		n.pull(t, image+":"+tag).succeeds(t, tag)
	}
	for _, ref := range []string{image + ":unsigned", image + "@" + w.unsigned.Digest.String()} {
		n.pull(t, ref).failsWith(t, ref, "403")
	}
	if listed := n.ctr(t, "content", "list"); strings.Contains(listed.out, w.unsigned.Digest.String()) {
		t.Errorf("the unsigned manifest is on the node:\n%s", listed.out)
	}
}

// A registry that has credentials is served to nodes that show their token.
func TestContainerdToken(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	token := filepath.Join(t.TempDir(), "nodes.token")
	if err := os.WriteFile(token, []byte("a-long-random-token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, process.Map{"clients": process.Map{"tokenFiles": []string{token}}})
	image := w.upstream.Host() + "/" + repository + ":signed"
	show := func(token string) func(string) string { // as the comments of the file say
		return func(text string) string {
			before, after, _ := strings.Cut(text, "# [header]")
			return before + strings.ReplaceAll(strings.ReplaceAll("# [header]"+after, "# ", ""), "TOKEN", token)
		}
	}
	n.mirror(t, w.upstream.Host(), w.gatehouse.PullAddress(), show("another"))
	n.pull(t, image).failsWith(t, "a wrong token")
	n.mirror(t, w.upstream.Host(), w.gatehouse.PullAddress(), show("a-long-random-token"))
	n.pull(t, image).succeeds(t, "the token")
	if bytes.Contains(w.gatehouse.Log(), []byte("a-long-random-token")) {
		t.Error("the token is in the log")
	}
}
