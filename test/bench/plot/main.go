// Command plot draws what benchmarks found as SVG pictures for the page about
// performance.
//
//	plot -in results.json -out docs/performance
//
// pictures.go says which pictures there are and what of the results is in each;
// line.go and bar.go are the two kinds, svg.go what both are made of. A picture
// whose results are not in the file is left as it was.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/gatehouse-project/gatehouse/test/bench/results"
)

func main() {
	in := flag.String("in", "results.json", "file of results that benchmarks wrote")
	out := flag.String("out", "docs/performance", "folder for the pictures; it is made if need be")
	flag.Parse()
	if err := draw(*in, *out, os.Stderr); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
}

// draw writes all pictures of which there are results.
func draw(in, out string, log io.Writer) error {
	all, err := results.Load(in)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for _, p := range pictures() {
		text, ok := p.draw(all)
		if !ok {
			_, _ = fmt.Fprintf(log, "%s: no results\n", p.file)
			continue
		}
		if err := os.WriteFile(filepath.Join(out, p.file), []byte(text), 0o644); err != nil {
			return fmt.Errorf("%s: %w", p.file, err)
		}
	}
	return nil
}
