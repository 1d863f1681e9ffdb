// Package adverse holds Gatehouse, as a process, against all that is not well:
// input that is no request, registries that lie, hang, flood and lead astray,
// clients that are not Gatekeeper, and configurations that break while it runs.
//
// Each test says what is done to the process and asserts what it may cost:
// that the answer comes before verifyTimeout and names each key that has no
// verdict, that nothing is allowed that was not proven, that memory stays
// below a bound, and that nothing is left behind. What was measured is logged;
// see it with `go test -v`.
//
// The registries run in the test's process with the faults of package
// registry. Ratify's ConstraintTemplates ask the real process too: whatever
// the outcome, none of them may admit what was not proven.
package adverse
