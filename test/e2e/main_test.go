package e2e

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-project/gatehouse/test/e2e/cluster"
	"github.com/gatehouse-project/gatehouse/test/process"
)

// enabled says whether end-to-end tests are wanted: they build and run a control
// plane.
func enabled() bool { return os.Getenv("GATEHOUSE_E2E") != "" }

// plane is the one control plane of this test binary. Tests use it one after the
// other: webhooks are the cluster's.
var plane struct {
	sync.Mutex // held by the test that plays
	*cluster.Cluster
	at *cluster.GatekeeperPlace
}

func TestMain(m *testing.M) {
	if !enabled() {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code, err := withPlane(ctx, func() int {
		stop() // from here on, an interrupt ends the process, and the kernel what it has started
		return m.Run()
	})
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	process.Exit(code)
}

// withPlane brings the control plane up around the tests. Its folder, with all
// logs, stays if one failed.
func withPlane(ctx context.Context, run func() int) (code int, err error) {
	begun := time.Now()
	tools, err := cluster.BuildTools(ctx, "tools")
	if err != nil {
		return 1, err
	}
	built := time.Since(begun)
	dir, err := os.MkdirTemp(os.Getenv("GATEHOUSE_E2E_LOGS"), "gatehouse-e2e-")
	if err != nil {
		return 1, err
	}
	fmt.Println("logs go to", dir) // which a test that panics or takes too long leaves there
	defer func() {
		if code == 0 && err == nil {
			err = os.RemoveAll(dir)
			return
		}
		fmt.Println("logs are kept in", dir)
	}()
	if plane.Cluster, err = cluster.Start(ctx, dir, tools); err != nil {
		return 1, err
	}
	defer func() { _ = plane.Stop() }() // how others' programs end is not ours to judge
	if plane.at, err = plane.NewGatekeeperPlace(ctx); err != nil {
		return 1, err
	}
	if err = plane.InstallGatekeeper(ctx, plane.at, cluster.Webhooks{}); err != nil {
		return 1, err
	}
	up := time.Since(begun) - built
	code = run()
	table.print(os.Stdout)
	fmt.Printf("end to end: tools found or built in %.1fs, control plane up in %.1fs, all in %.1fs\n", built.Seconds(), up.Seconds(), time.Since(begun).Seconds())
	return code, nil
}
