package templates_test

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain tolerates one goroutine: a logger that the Rego library links
// starts it when the process does, and gives no way to end it.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}
