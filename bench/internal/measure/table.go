package measure

import (
	"fmt"
	"os"
	"strings"
	"time"
	"unicode/utf8"
)

// Table is what a benchmark prints: a title, a line with the names of the columns, and rows.
type Table struct {
	Title   string
	Columns []string
	rows    [][]string
	notes   []string
}

// Row adds a row: one cell for each column.
func (t *Table) Row(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = cell(c)
	}
	t.rows = append(t.rows, row)
}

// Note adds a line below the table.
func (t *Table) Note(format string, args ...any) {
	t.notes = append(t.notes, fmt.Sprintf(format, args...))
}

func cell(c any) string {
	switch v := c.(type) {
	case time.Duration:
		return Time(v)
	case int:
		return Count(int64(v))
	case int64:
		return Count(v)
	default:
		return fmt.Sprint(v)
	}
}

// Print writes the table to standard output: the first column to the left, all others to the right.
func (t *Table) Print() {
	width := make([]int, len(t.Columns))
	lines := append([][]string{t.Columns}, t.rows...)
	for _, line := range lines {
		for i, c := range line {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\n", t.Title)
	for _, line := range lines {
		for i, c := range line {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
			if i == 0 {
				fmt.Fprintf(&b, "  %s%s", c, pad)
			} else {
				fmt.Fprintf(&b, "  %s%s", pad, c)
			}
		}
		b.WriteByte('\n')
	}
	for _, n := range t.notes {
		fmt.Fprintf(&b, "  %s\n", n)
	}
	_, _ = os.Stdout.WriteString(b.String())
}

// Time is a duration in three digits.
func Time(d time.Duration) string {
	unit := time.Nanosecond
	for _, u := range []time.Duration{time.Second, time.Millisecond, time.Microsecond} {
		if d >= u {
			unit = u
			break
		}
	}
	name := map[time.Duration]string{time.Second: "s", time.Millisecond: "ms", time.Microsecond: "µs", time.Nanosecond: "ns"}[unit]
	return threeDigits(float64(d)/float64(unit)) + " " + name
}

// Megabytes is a number of bytes in units of 2²⁰.
func Megabytes(bytes int64) string { return fmt.Sprintf("%.1f MB", float64(bytes)/(1<<20)) }

// Times is a ratio.
func Times(ratio float64) string { return threeDigits(ratio) + "×" }

// Ratio is how many times b goes into a.
func Ratio(a, b time.Duration) string { return Times(float64(a) / float64(b)) }

// Count is a whole number with its thousands apart.
func Count(n int64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

func threeDigits(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// Verdict says whether a goal is reached.
func Verdict(reached bool) string {
	if reached {
		return "reached"
	}
	return "MISSED"
}
