// Command hello is what the tests make an image of: small, with one dependency.
package main

import (
	"fmt"
	"os"

	"golang.org/x/sync/errgroup"
)

var version = "unset"

func main() {
	var group errgroup.Group
	group.Go(func() error {
		_, err := fmt.Println("hello", version)
		return err
	})
	if group.Wait() != nil {
		os.Exit(1)
	}
}
