package main

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gatehouse-project/gatehouse/referrerstore/credential"
)

// The types that the configuration may name are those of the table, and each
// takes options that there are.
func TestCredentialKinds(t *testing.T) {
	t.Parallel()
	kinds := credentialKinds(credential.Environment{Getenv: func(string) string { return "" }})
	entry := reflect.TypeFor[credential.Entry]()
	options := map[string]bool{}
	for field := range entry.Fields() {
		options[field.Tag.Get("yaml")] = false
	}
	field, _ := entry.FieldByName("Type")
	listed := strings.Split(field.Tag.Get("enum"), ",")
	slices.Sort(listed)
	if !slices.Equal(listed, names(kinds)) {
		t.Errorf("the enum has %v, the table %v", listed, names(kinds))
	}
	options["hosts"], options["type"] = true, true
	for name, kind := range kinds {
		for _, option := range kind.Takes {
			if _, ok := options[option]; !ok {
				t.Errorf("%s takes %s, which is no option", name, option)
			}
			options[option] = true
		}
	}
	for option, taken := range options {
		if !taken {
			t.Errorf("no type takes %s", option)
		}
	}
}
