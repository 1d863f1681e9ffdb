package registry_test

import (
	"context"
	"fmt"
	"net/http"

	"github.com/gatehouse-project/gatehouse/test/registry"
)

func Example() {
	r, err := registry.Start(registry.Options{
		// The first request for a referrers list fails, the others do not.
		Intercept: registry.First(1, registry.On(registry.Status(503, nil, 1, 0), registry.Referrers)),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Close()

	image, err := r.PushImage(context.Background(), "team/app", "v1", "any seed")
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 2 {
		res, err := http.Get(r.URL() + "/v2/team/app/referrers/" + image.Digest.String())
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(res.StatusCode)
		_ = res.Body.Close()
	}
	fmt.Println(r.Stats().Referrers, "requests for referrers")
	// Output:
	// 503
	// 200
	// 2 requests for referrers
}
