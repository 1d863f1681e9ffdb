package credential

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

// fake knows some hosts, or all, and answers what a test says.
type fake struct {
	knows map[string]bool // nil knows all
	find  func(ctx context.Context, host string) (Credential, error)
}

func (f *fake) Key(host string) (string, bool) { return host, f.knows == nil || f.knows[host] }

func (f *fake) Find(ctx context.Context, host string) (Credential, error) { return f.find(ctx, host) }

// namer is a fake that has names.
type namer struct{ fake }

func (n *namer) Names(host string) bool { return n.knows[host] }

func kindOf(source Source, takes ...string) Kind {
	return Kind{Takes: takes, New: func(Entry, Deps) (Source, error) { return source, nil }}
}

func table(t *testing.T, kinds map[string]Kind, entries ...Entry) *Table {
	t.Helper()
	table, err := NewTable(context.WithoutCancel(t.Context()), entries, kinds, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(table.Close)
	return table
}

func TestFirstLineThatKnows(t *testing.T) {
	t.Parallel()
	kinds := map[string]Kind{
		"all":  kindOf(&fake{}),
		"some": kindOf(&fake{knows: map[string]bool{"a.example": true}}),
		"name": kindOf(&namer{fake{knows: map[string]bool{"n.example": true}}}),
	}
	table := table(t, kinds,
		Entry{Type: "some", Hosts: []string{"*.example"}},
		Entry{Type: "name", Hosts: []string{"*", "a.corp.example"}},
		Entry{Type: "all", Hosts: []string{"b.example", "*.corp.example"}},
		Entry{Type: "all", Hosts: []string{"*.example"}},
	)
	want := map[string]string{
		"a.example": "some[0]", "b.example": "all[2]", "n.example": "name[1]", "c.example": "all[3]", "a.corp.example": "all[2]",
		"x.a.corp.example": "", "example": "", "a.example:5000": "", "a.example.evil": "",
	}
	got := make(map[string]string)
	for host := range want {
		got[host] = ""
		if k := table.For(host); k != nil {
			got[host] = k.Identity()
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestBadEntries(t *testing.T) {
	t.Parallel()
	kinds := map[string]Kind{
		"plain": kindOf(&fake{}, "path"),
		"named": kindOf(&namer{}),
		"cloud": {Takes: []string{"anyHost"}, Domains: []string{"*.cloud.example", "*.r.*.cloud.example"}, New: kindOf(&fake{}).New},
		"fails": {New: func(Entry, Deps) (Source, error) { return nil, errors.New("no way") }},
	}
	for _, tt := range []struct {
		entry Entry
		says  string // empty: it is good
	}{
		{Entry{Type: "plain", Hosts: []string{"a.example"}, Path: "x"}, ""},
		{Entry{Type: "named", Hosts: []string{"*"}}, ""},
		{Entry{Type: "cloud", Hosts: []string{"a.cloud.example", "*.cloud.example", "team-*.cloud.example", "1.r.x.cloud.example", "1.r.*.cloud.example"}}, ""},
		{Entry{Type: "cloud", Hosts: []string{"a.example"}, AnyHost: true}, ""},
		{Entry{Type: "other", Hosts: []string{"a.example"}}, `credentials[1]: type "other" is none of [cloud fails named plain]`},
		{Entry{Type: "plain"}, "hosts is empty"},
		{Entry{Type: "plain", Hosts: []string{"**"}}, "every host"},
		{Entry{Type: "plain", Hosts: []string{"*"}}, "name the hosts"},
		{Entry{Type: "plain", Hosts: []string{"a b"}}, "host pattern"},
		{Entry{Type: "plain", Hosts: []string{"a.example"}, AnyHost: true}, `anyHost is no option of type "plain"`},
		{Entry{Type: "named", Hosts: []string{"*"}, PasswordFile: "x"}, "passwordFile is no option"},
		{Entry{Type: "cloud", Hosts: []string{"a.cloud.example", "*.example"}}, `"*.example" is not within *.cloud.example, *.r.*.cloud.example; if it is to see credentials of the cloud all the same, add "anyHost: true"`},
		{Entry{Type: "cloud", Hosts: []string{"a.cloud.example:5000"}}, "anyHost"},
		{Entry{Type: "cloud", Hosts: []string{"a.b.cloud.example"}}, "anyHost"},
		{Entry{Type: "cloud", Hosts: []string{"a.cloud.example.evil"}}, "anyHost"},
		{Entry{Type: "cloud", Hosts: []string{"**"}, AnyHost: true}, "every host"},
		{Entry{Type: "fails", Hosts: []string{"a.example"}}, "no way"},
	} {
		good := Entry{Type: "plain", Hosts: []string{"good.example"}}
		table, err := NewTable(t.Context(), []Entry{good, tt.entry}, kinds, Deps{})
		if err == nil {
			table.Close()
		}
		if tt.says == "" && err != nil {
			t.Errorf("%+v: %v", tt.entry, err)
		}
		if tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says) || !strings.HasPrefix(err.Error(), "credentials[1]: ")) {
			t.Errorf("%+v: %v, want an error with %q", tt.entry, err, tt.says)
		}
	}
}

// The sentinel of an error is the source's own, if it has one.
func TestErrors(t *testing.T) {
	t.Parallel()
	var answer error
	source := &fake{find: func(context.Context, string) (Credential, error) { return Credential{}, answer }}
	k := table(t, map[string]Kind{"x": kindOf(source)}, Entry{Type: "x", Hosts: []string{"a.example"}}).For("a.example")
	for _, tt := range []struct{ answer, want error }{
		{errors.New("broken"), referrerstore.ErrAuthDenied},
		{referrerstore.ErrUnavailable, referrerstore.ErrUnavailable},
		{&referrerstore.RefusedError{What: "x"}, referrerstore.ErrRefused},
		{referrerstore.ErrRateLimited, referrerstore.ErrRateLimited},
	} {
		answer = tt.answer
		cred, _, err := k.Get(t.Context(), "a.example")
		if cred != nil || !errors.Is(err, tt.want) || !errors.Is(err, tt.answer) || !strings.Contains(err.Error(), "x[0]") {
			t.Errorf("%v, want %v of x[0]", err, tt.want)
		}
		if errors.Is(err, referrerstore.ErrAuthDenied) != errors.Is(tt.want, referrerstore.ErrAuthDenied) {
			t.Errorf("%v has two sentinels", err)
		}
	}
	source.knows = map[string]bool{}
	if _, _, err := k.Get(t.Context(), "a.example"); !errors.Is(err, referrerstore.ErrAuthDenied) {
		t.Errorf("a host that is not known: %v", err)
	}
}
