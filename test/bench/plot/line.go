package main

import (
	"fmt"
	"html"
	"strings"

	"github.com/gatehouse-project/gatehouse/test/bench/results"
)

// lines plots series over an axis.
type lines struct {
	title, xLabel, yLabel string
	series                []results.Series
	// dots marks every point.
	dots bool
	// bars are what must be met: a point, or a line across where one
	// coordinate is negative.
	bars []bar
	// xLeast and yLeast are what the axes show at least.
	xLeast, yLeast float64
}

type bar struct {
	x, y float64
	text string
}

const yRoom = 72 // left of the plot, for numbers and label

func (l lines) String() string {
	c := newCanvas(l.title)
	xMost, yMost := l.xLeast, l.yLeast
	var names []string
	for _, s := range l.series {
		names = append(names, s.Name)
		for _, p := range s.Points {
			xMost, yMost = max(xMost, p[0]), max(yMost, p[1])
		}
	}
	c.legend(names)
	xTicks, yTicks := ticks(xMost, 10), ticks(yMost, 6)
	x := scale{xTicks[len(xTicks)-1], yRoom, width - right}
	y := scale{yTicks[len(yTicks)-1], height - bottom, top}
	l.axes(c, x, y, xTicks, yTicks)
	for i, s := range l.series {
		l.plot(c, x, y, s, colour(i))
	}
	for _, b := range l.bars {
		b.draw(c, x, y)
	}
	return c.String()
}

func (l lines) axes(c *canvas, x, y scale, xTicks, yTicks []float64) {
	for _, v := range yTicks {
		c.line(x.from, y.at(v), x.to, y.at(v), "grid")
		c.words(x.from-8, y.at(v)+4, end, "small", short(v))
	}
	for _, v := range xTicks {
		c.line(x.at(v), y.from, x.at(v), y.from+4, "axis")
		c.words(x.at(v), y.from+18, middle, "small", short(v))
	}
	c.line(x.from, y.from, x.to, y.from, "axis")
	c.line(x.from, y.from, x.from, y.to, "axis")
	c.words((x.from+x.to)/2, height-10, middle, "", l.xLabel)
	c.add(`<text x="16" y="%f" text-anchor="middle" transform="rotate(-90 16 %f)">%s</text>`, (y.from+y.to)/2, (y.from+y.to)/2, html.EscapeString(l.yLabel))
}

func (l lines) plot(c *canvas, x, y scale, s results.Series, colour string) {
	var points strings.Builder
	for _, p := range s.Points {
		fmt.Fprintf(&points, "%.1f,%.1f ", x.at(p[0]), y.at(p[1]))
	}
	c.add(`<polyline points="%s" fill="none" stroke="%s" stroke-width="2.5" stroke-linejoin="round"/>`, strings.TrimSpace(points.String()), colour)
	if !l.dots {
		return
	}
	for _, p := range s.Points {
		c.add(`<circle cx="%f" cy="%f" r="4" fill="%s"/>`, x.at(p[0]), y.at(p[1]), colour)
	}
}

func (b bar) draw(c *canvas, x, y scale) {
	switch {
	case b.y < 0:
		c.line(x.at(b.x), y.from, x.at(b.x), y.to, "bar")
		c.words(x.at(b.x)-6, y.from-10, end, "barText", b.text)
	case b.x < 0:
		c.line(x.from, y.at(b.y), x.to, y.at(b.y), "bar")
		c.words(x.to, y.at(b.y)-6, end, "barText", b.text)
	default:
		c.line(x.at(b.x)-16, y.at(b.y), x.at(b.x)+16, y.at(b.y), "bar")
		c.words(x.at(b.x)+20, y.at(b.y)+4, left, "barText", b.text)
	}
}
