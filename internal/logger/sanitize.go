package logger

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Sanitize makes s harmless for a terminal and for whoever reads it: control characters (C0 but newline and tab, DEL,
// C1), and with them ANSI and OSC sequences, invisible and bidirectional formatting characters, other line separators
// and bytes that are not UTF-8 appear as escapes, `\x1B` or `\u202E`. Nothing is removed, so that an attempt shows.
func Sanitize(s string) string { return sanitize(s, false) }

// SanitizeLine is Sanitize for text that must stay on one line: newline, tab and carriage return become a space.
func SanitizeLine(s string) string { return sanitize(s, true) }

func sanitize(s string, line bool) string {
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if _, ok := visible(r, size, line); !ok {
			return rewrite(s, i, line)
		}
		i += size
	}
	return s
}

// rewrite is sanitize from byte i on; what is before is known to be harmless.
func rewrite(s string, i int, line bool) string {
	var b strings.Builder
	b.Grow(len(s) + 16)
	b.WriteString(s[:i])
	for i < len(s) {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch instead, ok := visible(r, size, line); {
		case ok:
			b.WriteString(s[i : i+size])
		case instead != 0:
			b.WriteRune(instead)
		case r == utf8.RuneError || r < utf8.RuneSelf:
			fmt.Fprintf(&b, `\x%02X`, s[i])
		case r > 0xFFFF:
			fmt.Fprintf(&b, `\U%08X`, r)
		default:
			fmt.Fprintf(&b, `\u%04X`, r)
		}
		i += size
	}
	return b.String()
}

// visible tells whether r, which took size bytes, may stay; where not, what stands in its place, 0 for an escape.
func visible(r rune, size int, line bool) (instead rune, ok bool) {
	switch {
	case r == utf8.RuneError && size <= 1:
		return 0, false
	case r == '\n' || r == '\t':
		return ' ', !line
	case r == '\r' && line:
		return ' ', false
	case r >= ' ' && r < 0x7f:
		return 0, true
	default:
		return 0, unicode.IsGraphic(r)
	}
}
