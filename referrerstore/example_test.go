package referrerstore_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/gatehouse-project/gatehouse/referrerstore"
)

func ExampleParseReference() {
	for _, text := range []string{
		"alpine",
		"Registry.Example.COM:443/team/app:v1",
		"myhost:443/app",
		"registry.example.com/team/App",
	} {
		ref, err := referrerstore.ParseReference(text)
		if errors.Is(err, referrerstore.ErrInvalidReference) {
			fmt.Println(text, "can never name an image")
			continue
		}
		fmt.Println(ref)
	}
	// Output:
	// docker.io/library/alpine:latest
	// registry.example.com/team/app:v1
	// myhost:443/app:latest
	// registry.example.com/team/App can never name an image
}

func ExampleParseHostPattern() {
	p, err := referrerstore.ParseHostPattern("*.azurecr.io")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(p.Match("team.azurecr.io"), p.Match("a.team.azurecr.io"), p.Match("team.azurecr.io.evil.example"))
	_, err = referrerstore.ParseHostPattern("*")
	fmt.Println(err)
	// Output:
	// true false false
	// host pattern "*" matches one label only; for every host write "**"
}

func ExampleReadAll() {
	shelf := &shelf{data: []byte("what was pushed")}
	for _, desc := range []struct{ name, content string }{
		{"asked for", "what was pushed"}, {"something else", "what was signed"},
	} {
		data, err := referrerstore.ReadAll(context.Background(), shelf, referrerstore.Subject{}, describe(desc.content), 1<<20)
		fmt.Printf("%s: %q %t\n", desc.name, data, errors.Is(err, referrerstore.ErrDigestMismatch))
	}
	// Output:
	// asked for: "what was pushed" false
	// something else: "" true
}

func ExampleBudget() {
	budget := referrerstore.NewBudget(1 << 20)
	if err := budget.Acquire(context.Background(), 4096); err != nil {
		fmt.Println(err)
		return
	}
	// A holder takes more only if it is free now: it never waits.
	fmt.Println(budget.InUse(), budget.TryAcquire(1<<20))
	budget.Release(4096)
	fmt.Println(budget.InUse())
	// Output:
	// 4096 false
	// 0
}
