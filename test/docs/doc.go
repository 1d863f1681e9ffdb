// Package docs holds the tests that keep the project's documents true.
//
//   - fields_test.go writes the tables of configuration fields from the tags
//     that the decoder obeys, and fails where a document has older ones.
//   - codes_test.go compares docs/codes.md with the codes in the source.
//   - bounds_test.go compares the README's table of bounds with the constants
//     and defaults that it names.
//   - imports_test.go holds the packages to the direction of dependencies that
//     ARCHITECTURE.md describes, and its package map to the packages.
//   - links_test.go follows the documents' links.
//   - patterns_test.go tries the patterns that docs/configuration.md explains.
//   - metrics_test.go runs a process that does all that it measures, writes the
//     table of docs/metrics.md, and holds labels to bounded sets.
//   - blocks_test.go tries what the documents show: configurations, answers,
//     and command lines.
//
// `go test ./test/docs -update` writes the generated tables.
package docs
