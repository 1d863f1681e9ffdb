package templates_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/gatehouse-project/gatehouse/test/process"
)

// TestMain tolerates one goroutine: a logger that the Rego library links
// starts it when the process does, and gives no way to end it.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(
		m,
		goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
		goleak.Cleanup(func(code int) {
			if err := removeMutation(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
			process.Exit(code)
		}),
	)
}
