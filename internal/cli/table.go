package cli

import (
	"io"
	"slices"
	"strings"
)

// column describes a column of a table.
type column struct {
	title string
	// rank is how early the column gives way where the terminal is too narrow, highest first; 0 never does.
	rank int
	// least is the width to which it may be cut before it is left out; 0 means that a part of it is worth nothing.
	least int
}

// cell is a text and how it is shown.
type cell struct {
	text  string
	style style
}

func text(s string) cell { return cell{text: s} }

// table is rows under titles. On a terminal it fits the width; anywhere else nothing is cut.
type table struct {
	indent  int // columns before each line
	columns []column
	rows    [][]cell
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

const gap = 2 // columns between two columns

// write draws the table. A table without rows is not drawn.
func (t *table) write(s screen) error {
	_, err := io.WriteString(s, strings.Join(t.lines(s, s.width()), ""))
	return err
}

// lines draws the table for a width, 0 for no limit; each line has its end.
func (t *table) lines(s screen, width int) []string {
	if len(t.rows) == 0 {
		return nil
	}
	rows := make([][]cell, 0, len(t.rows)+1)
	head := make([]cell, len(t.columns))
	for i, c := range t.columns {
		head[i] = cell{c.title, dim}
	}
	rows = append(rows, head)
	for _, row := range t.rows {
		clean := make([]cell, len(t.columns))
		for i := range min(len(row), len(clean)) {
			clean[i] = cell{tidy(row[i].text), row[i].style}
		}
		rows = append(rows, clean)
	}
	if width > 0 {
		width = max(1, width-t.indent)
	}
	widths := t.fit(rows, width)
	lines := make([]string, 0, len(rows))
	for _, row := range rows {
		lines = append(lines, strings.Repeat(" ", t.indent)+line(s, row, widths)+"\n")
	}
	return lines
}

// fit chooses the width of each column, -1 for those left out.
func (t *table) fit(rows [][]cell, width int) []int {
	widths := make([]int, len(t.columns))
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], textWidth(c.text))
		}
	}
	for i := range widths { // a column without anything in it tells nothing
		if !slices.ContainsFunc(rows[1:], func(row []cell) bool { return row[i].text != "" }) {
			widths[i] = -1
		}
	}
	if width <= 0 {
		return widths
	}
	order := make([]int, 0, len(widths)) // of giving way
	natural := slices.Clone(widths)
	for i, c := range t.columns {
		if c.rank > 0 && widths[i] >= 0 {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return t.columns[b].rank - t.columns[a].rank })
	for _, i := range order {
		if excess, least := total(widths)-width, t.columns[i].least; excess > 0 && least > 0 {
			widths[i] = max(min(widths[i], least), widths[i]-excess)
		}
	}
	for _, i := range order {
		if total(widths) > width {
			widths[i] = -1
		}
	}
	for _, i := range slices.Backward(order) { // what was left out may have made room for what was cut
		if spare := width - total(widths); spare > 0 && widths[i] >= 0 {
			widths[i] = min(natural[i], widths[i]+spare)
		}
	}
	last := -1 // what never gives way may still be too wide: then the line ends with the terminal
	for i, w := range widths {
		if w >= 0 {
			last = i
		}
	}
	if excess := total(widths) - width; excess > 0 && last >= 0 {
		widths[last] = max(1, widths[last]-excess)
	}
	return widths
}

func total(widths []int) int {
	sum, n := 0, 0
	for _, w := range widths {
		if w >= 0 {
			sum += w
			n++
		}
	}
	return sum + gap*max(0, n-1)
}

// line draws one row.
func line(s screen, row []cell, widths []int) string {
	var out strings.Builder
	spaces := 0
	for i, c := range row {
		if widths[i] < 0 {
			continue
		}
		shown := cut(c.text, widths[i])
		if shown != "" {
			out.WriteString(strings.Repeat(" ", spaces))
			out.WriteString(s.paint(c.style, shown))
			spaces = 0
		}
		spaces += widths[i] - textWidth(shown) + gap
	}
	return out.String()
}
