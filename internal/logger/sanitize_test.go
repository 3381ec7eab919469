package logger

import (
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestSanitize(t *testing.T) {
	for _, tc := range []struct{ in, text, line string }{
		{"", "", ""},
		{"plain, ünïcode, 日本, 🔑", "plain, ünïcode, 日本, 🔑", "plain, ünïcode, 日本, 🔑"},
		{"two\nlines\tand a tab", "two\nlines\tand a tab", "two lines and a tab"},
		{"progress 10%\rprogress 20%\r\n", `progress 10%\x0Dprogress 20%\x0D` + "\n", "progress 10% progress 20%  "},
		{"\x1b]0;pwn\a\x1b[2J", `\x1B]0;pwn\x07\x1B[2J`, `\x1B]0;pwn\x07\x1B[2J`},
		{"\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\", `\x1B]8;;http://evil\x1B\click\x1B]8;;\x1B\`, `\x1B]8;;http://evil\x1B\click\x1B]8;;\x1B\`},
		{"\u009b31m", `\u009B31m`, `\u009B31m`},
		{"raw \x9b and \xff\xfe", `raw \x9B and \xFF\xFE`, `raw \x9B and \xFF\xFE`},
		{"cut \xe6\x97", `cut \xE6\x97`, `cut \xE6\x97`},
		{"\u202egnp.exe \u2066x\u2069", `\u202Egnp.exe \u2066x\u2069`, `\u202Egnp.exe \u2066x\u2069`},
		{"zero\u200bwidth\ufeff soft\u00adhyphen", `zero\u200Bwidth\uFEFF soft\u00ADhyphen`, `zero\u200Bwidth\uFEFF soft\u00ADhyphen`},
		{"line\u2028paragraph\u2029", `line\u2028paragraph\u2029`, `line\u2028paragraph\u2029`},
		{"tag \U000E0041 nul \x00 del \x7f", `tag \U000E0041 nul \x00 del \x7F`, `tag \U000E0041 nul \x00 del \x7F`},
		{"a real \ufffd stays", "a real \ufffd stays", "a real \ufffd stays"},
	} {
		if got := Sanitize(tc.in); got != tc.text {
			t.Errorf("Sanitize(%q) = %q, want %q", tc.in, got, tc.text)
		}
		if got := SanitizeLine(tc.in); got != tc.line {
			t.Errorf("SanitizeLine(%q) = %q, want %q", tc.in, got, tc.line)
		}
	}
}

func FuzzSanitize(f *testing.F) {
	for _, seed := range []string{"plain", "\x1b[2J", "\u202e", "\xff\x00", "a\nb\tc\r", "\U000E0041"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, line := range []bool{false, true} {
			clean := sanitize(s, line)
			if !utf8.ValidString(clean) {
				t.Fatalf("%q is not UTF-8", clean)
			}
			for _, r := range clean {
				if !unicode.IsGraphic(r) && (line || r != '\n' && r != '\t') {
					t.Fatalf("%q of %q contains %U", clean, s, r)
				}
			}
			if again := sanitize(clean, line); again != clean {
				t.Fatalf("sanitizing twice: %q, then %q", clean, again)
			}
		}
	})
}
