package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
)

// Whatever the rotator does not need is forbidden to it.
func (p *plane) testRights(t *testing.T) {
	do, err := dynamic.NewForConfig(p.asAccount())
	if err != nil {
		t.Fatal(err)
	}
	p.create(t, secretsAt, object("v1", "Secret", namespace, "another"))
	p.create(t, secretsAt, object("v1", "Secret", "default", secret))
	other := object("externaldata.gatekeeper.sh/v1beta1", "Provider", "", "another")
	p.create(t, providersAt, other)
	ctx := t.Context()
	mine, elsewhere, providers := do.Resource(secretsAt).Namespace(namespace), do.Resource(secretsAt).Namespace("default"), do.Resource(providersAt)
	merge := []byte(`{"metadata":{"labels":{"x":"y"}}}`)
	const patch = "application/merge-patch+json"
	forbidden := map[string]func() error{
		"get another Secret":         func() error { _, err := mine.Get(ctx, "another", metav1.GetOptions{}); return err },
		"get it in other namespaces": func() error { _, err := elsewhere.Get(ctx, secret, metav1.GetOptions{}); return err },
		"list Secrets":               func() error { _, err := mine.List(ctx, metav1.ListOptions{}); return err },
		"list all Secrets":           func() error { _, err := do.Resource(secretsAt).List(ctx, metav1.ListOptions{}); return err },
		"list the one Secret": func() error {
			_, err := mine.List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + secret})
			return err
		},
		"watch Secrets": func() error { _, err := mine.Watch(ctx, metav1.ListOptions{}); return err },
		"watch another Secret": func() error {
			_, err := mine.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=another"})
			return err
		},
		"create a Secret": func() error {
			_, err := mine.Create(ctx, object("v1", "Secret", namespace, "new"), metav1.CreateOptions{})
			return err
		},
		"delete the Secret":    func() error { return mine.Delete(ctx, secret, metav1.DeleteOptions{}) },
		"patch another Secret": func() error { _, err := mine.Patch(ctx, "another", patch, merge, metav1.PatchOptions{}); return err },
		"get another Provider": func() error { _, err := providers.Get(ctx, "another", metav1.GetOptions{}); return err },
		"patch another Provider": func() error {
			_, err := providers.Patch(ctx, "another", patch, merge, metav1.PatchOptions{})
			return err
		},
		"list Providers":    func() error { _, err := providers.List(ctx, metav1.ListOptions{}); return err },
		"watch Providers":   func() error { _, err := providers.Watch(ctx, metav1.ListOptions{}); return err },
		"delete a Provider": func() error { return providers.Delete(ctx, providerNames[0], metav1.DeleteOptions{}) },
		"patch a Provider's status": func() error {
			_, err := providers.Patch(ctx, providerNames[0], patch, []byte(`{"status":{}}`), metav1.PatchOptions{}, "status")
			return err
		},
		"create a token": func() error {
			at := secretsAt
			at.Resource = "serviceaccounts"
			_, err := do.Resource(at).Namespace(namespace).Create(ctx, object("authentication.k8s.io/v1", "TokenRequest", namespace, account), metav1.CreateOptions{}, "token")
			return err
		},
	}
	for name, try := range forbidden {
		if err := try(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want that it is forbidden", name, err)
		}
	}
	for _, name := range providerNames { // what it needs is there: else the above proves nothing
		if _, err := providers.Get(ctx, name, metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d things are forbidden", len(forbidden))
}

// The rules that the chart takes over name an object each, and grant no more than
// these verbs.
func TestRulesNameObjects(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	rules := regexp.MustCompile(`(?m)^  - apiGroups:.*\n((?:    .*\n)+)`).FindAllStringSubmatch(string(text), -1)
	if len(rules) != 3 {
		t.Fatalf("%d rules, want 3", len(rules))
	}
	for _, rule := range rules {
		if !strings.Contains(rule[1], "resourceNames: [gatehouse-") {
			t.Errorf("a rule without names:\n%s", rule[0])
		}
		if regexp.MustCompile(`verbs:.*(\*|list|create|delete)`).MatchString(rule[1]) {
			t.Errorf("a rule with too much:\n%s", rule[0])
		}
	}
}
