package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode"
	"unicode/utf8"
)

// json prints v for a program. Texts in it may end on a terminal all the same, so that whatever could control one is
// written as an escape: it is the same JSON.
func (a *app) json(v any) error {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := a.out.Write(harmless(out.Bytes()))
	return err
}

// harmless escapes what is not graphic. JSON has escaped the characters below U+0020 already.
func harmless(text []byte) []byte {
	var out []byte
	kept := 0
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		if r >= 0x7f && !unicode.IsGraphic(r) && r <= 0xffff {
			out = fmt.Appendf(append(out, text[kept:i]...), `\u%04x`, r)
			kept = i + size
		} else if r > 0xffff && !unicode.IsGraphic(r) {
			high, low := (r-0x10000)>>10+0xd800, (r-0x10000)&0x3ff+0xdc00
			out = fmt.Appendf(append(out, text[kept:i]...), `\u%04x\u%04x`, high, low)
			kept = i + size
		}
		i += size
	}
	return append(out, text[kept:]...)
}
