package cli

import (
	"strings"
	"unicode"
)

// The width of text on a terminal, in columns.

// runeWidth is 0 for what is drawn over the rune before it, 2 for what East Asian scripts and emoji take, else 1.
func runeWidth(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case r >= 0x1100 && r <= 0x115f, // Hangul
		r >= 0x2e80 && r <= 0x303e, r >= 0x3041 && r <= 0xa4cf, // CJK, kana, Yi
		r >= 0xac00 && r <= 0xd7a3, r >= 0xf900 && r <= 0xfaff,
		r >= 0xfe30 && r <= 0xfe6f, r >= 0xff00 && r <= 0xff60, r >= 0xffe0 && r <= 0xffe6, // full-width forms
		r >= 0x1f300 && r <= 0x1f64f, r >= 0x1f680 && r <= 0x1f6ff, r >= 0x1f900 && r <= 0x1faff, // emoji
		r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}

func textWidth(s string) int {
	w := 0
	for _, r := range s {
		w += runeWidth(r)
	}
	return w
}

// cut shortens s to at most width columns, the last of which tells with … that something is missing.
func cut(s string, width int) string {
	if textWidth(s) <= width {
		return s
	}
	if width < 1 {
		return ""
	}
	return prefix(s, width-1) + "…"
}

// prefix gives as much of s as fits into width columns.
func prefix(s string, width int) string {
	w := 0
	for i, r := range s {
		if w += runeWidth(r); w > width {
			return s[:i]
		}
	}
	return s
}

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-textWidth(s)))
}

// wrap breaks s at spaces into lines of at most width columns; a word that is longer is broken itself. 0 means no limit.
func wrap(s string, width int) []string {
	if width <= 0 || textWidth(s) <= width {
		return []string{s}
	}
	var lines []string
	line, w := "", 0
	for word := range strings.FieldsSeq(s) {
		for textWidth(word) > width { // break it: fill the line that is begun only when it is empty
			if w > 0 {
				lines = append(lines, line)
				line, w = "", 0
			}
			head := prefix(word, width)
			if head == "" { // not even one rune fits
				break
			}
			lines = append(lines, head)
			word = word[len(head):]
		}
		switch n := textWidth(word); {
		case w == 0:
			line, w = word, n
		case w+1+n <= width:
			line, w = line+" "+word, w+1+n
		default:
			lines = append(lines, line)
			line, w = word, n
		}
	}
	if line != "" || lines == nil {
		lines = append(lines, line)
	}
	return lines
}
