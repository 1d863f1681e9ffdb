package canary_test

import (
	"context"
	"fmt"
	"time"

	"github.com/gatehouse-project/gatehouse/executor"
	"github.com/gatehouse-project/gatehouse/executor/canary"
)

// A canary asks its prover, here one that knows nobody, until its context ends.
func ExampleCanary_Run() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	prover := proverFunc(func(_ context.Context, req executor.Request) (executor.Result, error) {
		fmt.Println("prove", req.Reference)
		cancel() // once is enough here
		return executor.Result{Decision: executor.Denied, Denial: executor.ErrNoArtifacts}, nil
	})
	c, err := canary.New(prover, canary.Options{MustFail: []string{"registry.example/unsigned:v1"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	c.Run(ctx)
	// Output: prove registry.example/unsigned:v1
}
