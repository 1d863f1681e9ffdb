// Package image is the release image as cmd/image makes it, looked at from outside: is
// the layout whole, does what is in it run by itself, do other tools take it, and does
// gatehouse let itself in.
//
// It has tests only. They build the image, or take the layout, with a tag "test", that
// GATEHOUSE_IMAGE_LAYOUT names. skopeo is a Debian package; its test is skipped where it
// is not there, unless GATEHOUSE_TEST_TOOLS=required is set, as .ci/run does.
package image
