package logger

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf16"
)

// MinSecret is the length in bytes from which a secret is masked. Shorter ones would blank out ordinary words, and are
// no secrets: there is nothing to be gained by hiding the letters of "admin".
const MinSecret = 6

// maxEncoded is the length in bytes up to which the encodings of a secret are looked for too. It holds any key or
// token; what is longer is a file, of which the lines are enough.
const maxEncoded = 16 << 10

// forms lists, once each, the texts by which secret can appear in output: itself, its encodings, and both for each of
// its lines where it has several (a private key is mostly printed line by line). None is shorter than MinSecret.
func forms(secret string) []string {
	var all []string
	seen := map[string]bool{}
	add := func(texts ...string) {
		for _, text := range texts {
			if len(text) >= MinSecret && !seen[text] {
				seen[text] = true
				all = append(all, text)
			}
		}
	}
	parts := []string{secret, strings.TrimSpace(secret)}
	if lines := strings.FieldsFunc(secret, func(r rune) bool { return r == '\n' || r == '\r' }); len(lines) > 1 {
		for _, line := range lines {
			parts = append(parts, line, strings.TrimSpace(line))
		}
	}
	for _, part := range parts {
		if len(part) < MinSecret {
			continue
		}
		add(part)
		if len(secret) <= maxEncoded {
			add(encodings(part)...)
		}
	}
	return all
}

func encodings(s string) []string {
	texts := base64Forms(s)
	texts = append(texts, urlForms(s)...)
	texts = append(texts, jsonForms(s)...)
	texts = append(texts, hexForms(s)...)
	// What `set -x` shows of a word with quotes in it.
	return append(texts, strings.ReplaceAll(s, `'`, `'\''`))
}

// base64Forms gives the characters of base64 that s decides by itself, in both alphabets, for each of the three places
// in a group of three bytes where it may begin: what stands before and after it in the encoded text decides the rest.
// Where s begins the text, the encoded lines of 64 (PEM) and 76 characters (MIME, base64(1)) are forms too.
func base64Forms(s string) []string {
	var texts []string
	for _, alphabet := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			encoded := alphabet.EncodeToString(append(make([]byte, before), s...))
			first, end := (before*8+5)/6, (before+len(s))*8/6
			texts = append(texts, encoded[first:end])
			if before == 0 {
				texts = append(texts, wrapped(encoded[:end], 64, MinSecret*8/6)...)
				texts = append(texts, wrapped(encoded[:end], 76, MinSecret*8/6)...)
			}
		}
	}
	return texts
}

// hexForms gives the digits of both cases, and the lines of 60 that xxd -p makes.
func hexForms(s string) []string {
	lower := hex.EncodeToString([]byte(s))
	return append(wrapped(lower, 60, MinSecret*2), lower, strings.ToUpper(lower))
}

// wrapped cuts text into lines of width characters; none where it fits on one. A last line shorter than least, which
// stands for too few bytes to tell anything, is left out.
func wrapped(text string, width, least int) []string {
	if len(text) <= width {
		return nil
	}
	var lines []string
	for ; len(text) > width; text = text[width:] {
		lines = append(lines, text[:width])
	}
	if len(text) < least {
		return lines
	}
	return append(lines, text)
}

// urlForms gives s percent-encoded in the ways that are common: they differ in which punctuation they leave alone.
func urlForms(s string) []string {
	const unreserved = "-_.~"
	var texts []string
	for _, digits := range []string{"0123456789ABCDEF", "0123456789abcdef"} {
		for _, keep := range []string{
			unreserved,                     // RFC 3986, url.QueryEscape but for the space
			unreserved + "/",               // Python's quote
			unreserved + "!*'()",           // encodeURIComponent
			unreserved + "!*'();:@&=+$,/?", // encodeURI
			unreserved + "$&+:=@",          // url.PathEscape
			unreserved + "$&+,/:;=@!*'()",  // a path as url.URL writes it
			unreserved + "$&+,;=!*'()",     // user and password as RFC 3986 allows them
			unreserved + "$&+,;=",          // user and password as url.URL writes them
			"-_.*",                         // an HTML form
		} {
			text := percent(s, keep, digits)
			texts = append(texts, text, strings.ReplaceAll(text, "%20", "+"))
		}
	}
	return texts
}

func percent(s, keep, digits string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte(keep, c) >= 0:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		}
	}
	return b.String()
}

// jsonForms gives s as the inside of a JSON string: as Go writes it, with <, > and & plain, with slashes escaped (PHP),
// and in ASCII only (Python), each of the latter with and without escaped slashes.
func jsonForms(s string) []string {
	escaped, err := json.Marshal(s)
	if err != nil {
		return nil // cannot be: every string has a JSON form
	}
	html := string(escaped[1 : len(escaped)-1])
	plain := strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(html)
	ascii := asciiOnly(plain)
	slashes := func(text string) string { return strings.ReplaceAll(text, "/", `\/`) }
	return []string{html, plain, ascii, slashes(plain), slashes(ascii)}
}

// asciiOnly writes what is beyond ASCII as \uXXXX, in surrogate pairs where needed.
func asciiOnly(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r < 0x80:
			b.WriteRune(r)
		case r > 0xFFFF:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
