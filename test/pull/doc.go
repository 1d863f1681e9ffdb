// Package pull is pulls through a serving gatehouse by the clients that nodes and
// people have: containerd, skopeo, crane and regctl, each as a process of its own.
//
// It has tests only. skopeo and containerd are Debian packages; crane and regctl
// are built from the module test/clients. A test is skipped where its client is
// not there, unless GATEHOUSE_TEST_TOOLS=required is set, as .ci/run does.
package pull
