package main

// stacks plots rows of horizontal bars, each of parts one after the other.
type stacks struct {
	title, label string
	// parts are the names of the colours.
	parts []string
	rows  []stack
	// guide, if positive, is a line that all rows are measured by.
	guide     float64
	guideText string
}

// stack is one row.
type stack struct {
	name   string
	values []float64 // by part
	// note stands behind the bar.
	note string
	// bar, if not negative, is what must be met.
	bar float64
}

const nameRoom = 210 // left of the plot, for names

func (s stacks) String() string {
	c := newCanvas(s.title)
	c.legend(s.parts)
	most := s.guide
	for _, r := range s.rows {
		sum := 0.0
		for _, v := range r.values {
			sum += v
		}
		most = max(most, sum, r.bar)
	}
	marks := ticks(most, 8)
	x := scale{marks[len(marks)-1], nameRoom, width - right - 76}
	for _, v := range marks {
		c.line(x.at(v), top, x.at(v), height-bottom, "grid")
		c.words(x.at(v), height-bottom+18, middle, "small", short(v))
	}
	c.line(x.from, top, x.from, height-bottom, "axis")
	c.words((x.from+x.to)/2, height-10, middle, "", s.label)
	if s.guide > 0 {
		c.line(x.at(s.guide), top-4, x.at(s.guide), height-bottom, "axis")
		c.words(x.at(s.guide)+4, height-bottom-4, left, "small", s.guideText)
	}
	room := float64(height-top-bottom) / float64(len(s.rows))
	for i, r := range s.rows {
		r.draw(c, x, top+room*float64(i), room)
	}
	return c.String()
}

func (r stack) draw(c *canvas, x scale, at, room float64) {
	thick := min(room*0.62, 34)
	at += (room - thick) / 2
	c.words(x.from-10, at+thick/2+4, end, "", r.name)
	sum := 0.0
	for i, v := range r.values {
		c.box(x.at(sum), at, x.at(sum+v)-x.at(sum), thick, colour(i))
		sum += v
	}
	behind := x.at(max(sum, r.bar))
	if r.bar >= 0 {
		c.line(x.at(r.bar), at-4, x.at(r.bar), at+thick+4, "bar")
	}
	c.words(behind+8, at+thick/2+4, left, "small", r.note)
}
