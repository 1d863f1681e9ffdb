package flight_test

import (
	"context"
	"fmt"
	"time"

	"github.com/gatehouse-project/gatehouse/referrerstore/flight"
)

func ExampleGroup() {
	tokens := flight.New[string, string](context.Background())
	defer tokens.Close()

	arrived := make(chan struct{})
	fetch := func(ctx context.Context) (string, error) {
		select {
		case <-arrived:
			return "token", nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}

	// Whoever cannot wait longer goes; the flight goes on.
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	_, err := tokens.Do(ctx, "registry.example.com/app", fetch)
	fmt.Println("in a hurry:", err)

	// Whoever comes back joins it.
	time.AfterFunc(time.Millisecond, func() { close(arrived) })
	token, err := tokens.Do(context.Background(), "registry.example.com/app", fetch)
	fmt.Println("later:", token, err)
	// Output:
	// in a hurry: context deadline exceeded
	// later: token <nil>
}
