package main

import (
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
)

// The size of every picture, and the room around what is plotted.
const (
	width, height = 800, 400
	top, bottom   = 56, 52
	right         = 28
)

// The anchors of texts.
const (
	left   = "start"
	middle = "middle"
	end    = "end"
)

// style keeps pictures readable on light and dark pages: nothing is behind
// them, greys follow the page, and the colours stand out on either.
const style = `<style>
text{font-family:system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;font-size:13px;fill:#24292f}
.title{font-size:16px;font-weight:600}
.small{font-size:12px;fill:#57606a}
.axis{stroke:#8c959f;stroke-width:1}
.grid{stroke:#8c959f;stroke-width:1;stroke-opacity:.25}
.bar{stroke:#cf222e;stroke-width:2;stroke-dasharray:6 4;fill:none}
.barText{font-size:12px;fill:#cf222e}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}.bar{stroke:#ff7b72}.barText{fill:#ff7b72}}
</style>`

// colour is the colour of a series or of a part of a bar.
func colour(i int) string {
	return []string{"#2f81f7", "#bc7a00", "#2da44e", "#a371f7", "#8c959f"}[i%5]
}

// canvas collects the elements of a picture.
type canvas struct{ text strings.Builder }

func newCanvas(title string) *canvas {
	c := &canvas{}
	c.add(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img">`, width, height, width, height)
	c.add(`<title>%s</title>`, html.EscapeString(title))
	c.text.WriteString(style + "\n")
	c.words(width/2, 22, middle, "title", title)
	return c
}

// add appends an element; numbers are written with one decimal at most.
func (c *canvas) add(format string, args ...any) {
	for i, arg := range args {
		if v, ok := arg.(float64); ok {
			args[i] = strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64)
		}
	}
	fmt.Fprintf(&c.text, strings.ReplaceAll(format, "%f", "%s")+"\n", args...)
}

func (c *canvas) words(x, y float64, anchor, class, text string) {
	c.add(`<text x="%f" y="%f" text-anchor="%s" class="%s">%s</text>`, x, y, anchor, class, html.EscapeString(text))
}

func (c *canvas) line(x1, y1, x2, y2 float64, class string) {
	c.add(`<line x1="%f" y1="%f" x2="%f" y2="%f" class="%s"/>`, x1, y1, x2, y2, class)
}

func (c *canvas) box(x, y, w, h float64, fill string) {
	c.add(`<rect x="%f" y="%f" width="%f" height="%f" fill="%s"/>`, x, y, w, h, fill)
}

// legend writes the names of colours in a row below the title.
func (c *canvas) legend(names []string) {
	x := 0.0
	for _, name := range names {
		x += legendWidth(name)
	}
	x = (width - x) / 2
	for i, name := range names {
		c.box(x, 33, 11, 11, colour(i))
		c.words(x+17, 43, left, "small", name)
		x += legendWidth(name)
	}
}

// legendWidth estimates what a name takes in the legend.
func legendWidth(name string) float64 { return 40 + 6.6*float64(len([]rune(name))) }

func (c *canvas) String() string { return c.text.String() + "</svg>\n" }

// scale maps values from 0 to most onto pixels.
type scale struct{ most, from, to float64 }

func (s scale) at(v float64) float64 { return s.from + (s.to-s.from)*v/s.most }

// ticks are round numbers from 0 to beyond the highest value, about n of them.
func ticks(highest float64, n int) []float64 {
	if highest <= 0 {
		highest = 1
	}
	step := math.Pow(10, math.Floor(math.Log10(highest/float64(n))))
	for _, factor := range []float64{1, 2, 2.5, 5, 10} {
		if highest/(step*factor) <= float64(n) {
			step *= factor
			break
		}
	}
	var all []float64
	for i := 0; ; i++ {
		all = append(all, float64(i)*step)
		if all[i] >= highest*(1-1e-9) {
			return all
		}
	}
}

// short writes a number as a tick or a label has it: thousands are set apart.
func short(v float64) string {
	text := strconv.FormatFloat(v, 'f', -1, 64)
	switch {
	case math.Abs(v) >= 100:
		text = strconv.FormatFloat(v, 'f', 0, 64)
	case v != math.Trunc(v):
		text = strings.TrimRight(strconv.FormatFloat(v, 'f', 2, 64), "0")
	}
	if len(text) > 4 && math.Abs(v) >= 1000 {
		text = text[:len(text)-3] + "," + text[len(text)-3:]
	}
	return text
}
