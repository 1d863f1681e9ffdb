// Package e2e drives the whole gate as people meet it: kubectl asks a real API
// server, which asks a real Gatekeeper, which asks the real binary over mutual
// TLS, which asks real registries for real signatures. "make e2e" runs it.
//
// Package cluster brings up the control plane. Here, main_test.go has it once for
// all tests, world_test.go has what one test plays on, table_test.go prints what
// the user saw in each case, and after how long. The other files are the cases.
package e2e
