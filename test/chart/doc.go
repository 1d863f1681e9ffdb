// Package chart renders the Helm chart in charts/gatehouse with the real helm, which is
// a tool of the module test/e2e/tools/helm and is built once for a test process.
//
//   - [Render] gives the objects that a set of values makes, or the message that refuses
//     it.
//   - [Objects] finds among them, and gives the files that a pod sees as a kubelet would
//     write them.
//
// What needs no cluster is tested here: every shape in testdata/values is linted, rendered
// and decoded strictly, and every mistake in testdata/bad is refused with its message.
// Whether an API server takes the objects is for test/e2e.
package chart
