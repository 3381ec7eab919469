package logger

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"sentry/internal/sentry"
)

const (
	token    = "ghp_R4nd0m+T0ken/with=all'the<&>quotes\"\\ünd🔑"
	password = "hunter22"
	key      = "-----BEGIN KEY-----\nMIIEpAIBAAKCAQEA7bq3u0x\nqV9v0v1zGx2h1yL0c3Nl\n-----END KEY-----\n"
)

func secrets(texts ...string) []sentry.Secret {
	var list []sentry.Secret
	for _, text := range texts {
		list = append(list, sentry.NewSecret(text))
	}
	return list
}

// oracle masks text the slow and obvious way: it marks every byte of every occurrence, then replaces each run.
func oracle(text string, needles []string) string {
	covered := make([]bool, len(text))
	for _, needle := range needles {
		for i := 0; i+len(needle) <= len(text); i++ {
			if text[i:i+len(needle)] == needle {
				for j := range len(needle) {
					covered[i+j] = true
				}
			}
		}
	}
	var b strings.Builder
	for i := range len(text) {
		switch {
		case !covered[i]:
			b.WriteByte(text[i])
		case i == 0 || !covered[i-1]:
			b.WriteString(sentry.Redacted)
		}
	}
	return b.String()
}

// appearances are ways in which programs print a secret, made without the code under test. What is not due to the
// secret stands before the first "|".
func appearances(secret string) map[string]string {
	all := map[string]string{
		"raw":           "|" + secret,
		"url query":     "|" + url.QueryEscape(secret),
		"url path":      "|" + url.PathEscape(secret),
		"url user":      "https://u:|" + strings.TrimPrefix(url.UserPassword("u", secret).String(), "u:"),
		"url lower":     "|" + lowerHex(url.QueryEscape(secret)),
		"json":          `{"a":"|` + strings.TrimPrefix(mustJSON(map[string]string{"a": secret}), `{"a":"`),
		"hex":           "|" + hex.EncodeToString([]byte(secret)),
		"hex upper":     "|" + strings.ToUpper(hex.EncodeToString([]byte(secret))),
		"basic auth":    "dXNlcj|" + strings.TrimPrefix(base64.StdEncoding.EncodeToString([]byte("user:"+secret)), "dXNlcj"),
		"shell tracing": "+ echo '|" + strings.ReplaceAll(secret, "'", `'\''`) + "'",
	}
	for before := range 4 {
		for after := range 3 {
			text := strings.Repeat("x", before) + secret + strings.Repeat("y", after)
			all[fmt.Sprintf("base64 %d %d", before, after)] = "|" + base64.StdEncoding.EncodeToString([]byte(text))
			all[fmt.Sprintf("base64url %d %d", before, after)] = "|" + base64.RawURLEncoding.EncodeToString([]byte(text))
		}
	}
	return all
}

func lowerHex(escaped string) string {
	b := []byte(escaped)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:i+3], bytes.ToLower(b[i+1:i+3]))
		}
	}
	return string(b)
}

func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// longestCommon is the length of the longest text that both contain.
func longestCommon(a, b string) int {
	longest := 0
	row := make([]int, len(b)+1)
	for i := range len(a) {
		previous := 0
		for j := range len(b) {
			current := row[j+1]
			row[j+1] = 0
			if a[i] == b[j] {
				row[j+1] = previous + 1
				longest = max(longest, row[j+1])
			}
			previous = current
		}
	}
	return longest
}

// Every appearance of every secret is masked, wherever two writes, or single bytes, cut it.
func TestMaskEverySplit(t *testing.T) {
	for _, secret := range []string{token, password, key} {
		m := NewMasker(secrets(token, password, key)...)
		for name, appearance := range appearances(secret) {
			before, appearance, _ := strings.Cut(appearance, "|")
			text := "before " + before + appearance + " after"
			want := m.String(text)
			if !strings.Contains(want, sentry.Redacted) {
				t.Errorf("%s of %q: nothing is masked in %q", name, secret, text)
				continue
			}
			// In base64 stay the padding and, on each side, what neighbours decide in part or altogether.
			if n := longestCommon(want, appearance); n > 6 {
				t.Errorf("%s of %q: %d characters of it show in %q", name, secret, n, want)
			}
			for cut := range len(text) + 1 {
				if got := writeAll(t, m, text[:cut], text[cut:]); got != want {
					t.Fatalf("%s cut at %d: got %q, want %q", name, cut, got, want)
				}
			}
			if got := writeAll(t, m, strings.Split(text, "")...); got != want {
				t.Errorf("%s in single characters: got %q, want %q", name, got, want)
			}
		}
	}
}

func writeAll(t *testing.T, m *Masker, parts ...string) string {
	t.Helper()
	var out bytes.Buffer
	w := m.Writer(&out)
	for _, part := range parts {
		if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("Write(%q) = %d, %v", part, n, err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// base64(1), openssl and xxd break their lines.
func TestMaskWrappedLines(t *testing.T) {
	long := strings.Repeat("0123456789abcdefghijklmnopqrstuvwxyz", 5)
	m := NewMasker(secrets(long)...)
	for _, tc := range []struct {
		name, encoded string
		width         int
	}{
		{"base64", base64.StdEncoding.EncodeToString([]byte(long + "\n")), 76},
		{"openssl base64", base64.StdEncoding.EncodeToString([]byte(long)), 64},
		{"xxd -p", hex.EncodeToString([]byte(long)), 60},
	} {
		text := strings.Join(wrapped(tc.encoded, tc.width, 1), "\n")
		for _, line := range strings.Split(m.String(text), "\n") {
			if rest := strings.ReplaceAll(line, sentry.Redacted, ""); len(rest) > 4 {
				t.Errorf("%s: the line %q shows %q", tc.name, line, rest)
			}
		}
	}
}

func TestMaskLinesOfSecret(t *testing.T) {
	m := NewMasker(secrets(key)...)
	for _, line := range strings.Split(strings.TrimSpace(key), "\n") {
		if got, want := m.String("| "+line+" |"), "| [redacted] |"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	windows := strings.ReplaceAll(key, "\n", "\r\n")
	if got := m.String(windows); longestCommon(got, key) >= MinSecret {
		t.Errorf("lines with carriage returns show: %q", got)
	}
}

func TestMaskOverlaps(t *testing.T) {
	m := NewMasker(secrets("abcdefgh", "efghijkl", "ghijkl-whatever", "zzzzzz")...)
	for text, want := range map[string]string{
		"abcdefghijkl.":          "[redacted].",
		"abcdefgijkl":            "abcdefgijkl",
		"abcdefghabcdefgh":       "[redacted]",
		"abcdefgh abcdefgh":      "[redacted] [redacted]",
		"ghijkl-whatevef":        "ghijkl-whatevef",
		"efghijkl-whateve":       "[redacted]-whateve",
		"efghijkl-whatever":      "[redacted]",
		"zzzzzzzzzzzzz":          "[redacted]",
		"zzzzz":                  "zzzzz",
		"abcdefabcdefghabcdefg!": "abcdef[redacted]abcdefg!",
	} {
		if got := m.String(text); got != want {
			t.Errorf("String(%q) = %q, want %q", text, got, want)
		}
		if got := writeAll(t, m, strings.Split(text, "")...); got != want {
			t.Errorf("%q in single bytes = %q, want %q", text, got, want)
		}
	}
}

func TestMaskIgnoresShortSecrets(t *testing.T) {
	m := NewMasker(secrets("", "a", "admin", "sixsix")...)
	if got := m.String("a admin sixsix"); got != "a admin [redacted]" {
		t.Errorf("got %q", got)
	}
	if got := (*Masker)(nil).String("anything"); got != "anything" {
		t.Errorf("a nil Masker: %q", got)
	}
	if got := writeAll(t, nil, "any", "thing"); got != "anything" {
		t.Errorf("a nil Masker's writer: %q", got)
	}
}

// Only what may become a secret waits, and only until it cannot any more.
func TestMaskWriterHoldsNoMoreThanItMust(t *testing.T) {
	m := NewMasker(secrets("abcdefghij")...)
	var out bytes.Buffer
	w := m.Writer(&out)
	for _, step := range []struct {
		write, out string
		held       int
	}{
		{"no secret here\n", "no secret here\n", 0},
		{"xa", "no secret here\nx", 1},
		{"bcdefghi", "no secret here\nx", 9},
		{"a", "no secret here\nxabcdefghi", 1},
		{"bcdefghij", "no secret here\nxabcdefghi[redacted]", 0},
		{"ok", "no secret here\nxabcdefghi[redacted]ok", 0},
	} {
		if _, err := w.Write([]byte(step.write)); err != nil {
			t.Fatal(err)
		}
		if out.String() != step.out || w.Held() != step.held {
			t.Errorf("after %q: passed on %q and held %d, want %q and %d", step.write, out.String(), w.Held(), step.out, step.held)
		}
	}
}

func TestFlushIdle(t *testing.T) {
	m := NewMasker(secrets("Password: abcdefghij")...)
	for _, tc := range []struct{ before, idle, after, end string }{
		{"Pas", "Pas", "s", "Pass"},                                                                  // a prompt shows
		{"Pas", "Pas", "sword: abcdefghij!", "Pas[redacted]!"},                                       // the rest does not
		{"x Password: abcde", "x ", "fghij!", "x [redacted]!"},                                       // too long to show
		{"x Password: abcde", "x ", "f", "x Password: abcdef"},                                       // until the end
		{"Password: abcdefghijPas", "[redacted]Pas", "ture", "[redacted]Pasture"},                    // after a mark
		{"Password: abcdefghij", "[redacted]", "Password: abcdefghij", "[redacted]"},                 // adjacent
		{"Pas", "Pas", "Password: abcdefghij", "Pas[redacted]"},                                      // begins anew
		{"Password: abcdefghijPas", "[redacted]Pas", "sword: abcdefghij", "[redacted]Pas[redacted]"}, // both
	} {
		var out bytes.Buffer
		w := m.Writer(&out)
		for _, do := range []func() error{
			func() error { _, err := w.Write([]byte(tc.before)); return err },
			w.FlushIdle,
		} {
			if err := do(); err != nil {
				t.Fatal(err)
			}
		}
		if out.String() != tc.idle {
			t.Errorf("%q: idle shows %q, want %q", tc.before, out.String(), tc.idle)
		}
		if _, err := w.Write([]byte(tc.after)); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if out.String() != tc.end {
			t.Errorf("%q, %q: the end is %q, want %q", tc.before, tc.after, out.String(), tc.end)
		}
	}
}

// A secret that is learnt while output streams (a rotated token) is masked from then on, what is held included.
func TestMaskWriterLearns(t *testing.T) {
	m := NewMasker(secrets("abcdefghij")...)
	var out bytes.Buffer
	w := m.Writer(&out)
	write := func(text string) {
		t.Helper()
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	write("abcdef rotated-token abcdef")
	m.Add(secrets("rotated-token", "def-and-more")...)
	write("-and-more rotated-token")
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "abcdef rotated-token abc[redacted] [redacted]"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

type failing struct{ after int }

var errFull = errors.New("disk is full")

func (f *failing) Write(p []byte) (int, error) {
	if f.after -= len(p); f.after < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestMaskWriterReportsErrors(t *testing.T) {
	m := NewMasker(secrets("abcdefghij")...)
	w := m.Writer(&failing{after: 10})
	if _, err := w.Write([]byte("12345678")); err != nil {
		t.Errorf("before the disk is full: %v", err)
	}
	if _, err := w.Write([]byte("12345678")); !errors.Is(err, errFull) {
		t.Errorf("a full disk gives %v", err)
	}
	w = m.Writer(&failing{after: 0})
	if _, err := w.Write([]byte("abc")); err != nil {
		t.Errorf("what is held is not written: %v", err)
	}
	if err := w.Flush(); !errors.Is(err, errFull) {
		t.Errorf("flushing to a full disk gives %v", err)
	}
}

// A writer that fails for a while, as a disk that is full, does not see the end of a secret whose beginning it missed.
func TestMaskWriterAfterErrors(t *testing.T) {
	m := NewMasker(secrets("abcdefghij")...)
	var out bytes.Buffer
	failing := false
	w := m.Writer(writerFunc(func(p []byte) (int, error) {
		if failing {
			return 0, errFull
		}
		return out.Write(p)
	}))
	for _, step := range []struct {
		text    string
		failing bool
	}{
		{"one abcde", false},
		{"fgh", true},
		{"ij two abc", true},
		{"defghij three abcdefghij ab", true},
		{"cdefghij four", false},
		{strings.Repeat("-", 2*writeChunk) + " abcd", true},
		{"efghij five", false},
	} {
		failing = step.failing
		if _, err := w.Write([]byte(step.text)); err != nil && !failing {
			t.Errorf("%q: %v", step.text, err)
		}
	}
	failing = false
	if err := w.Flush(); err != nil {
		t.Error(err)
	}
	if got, want := out.String(), "one [redacted] four[redacted] five"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestMaskerConcurrently(t *testing.T) {
	m := NewMasker()
	done := make(chan struct{})
	for i := range 4 {
		go func() {
			defer func() { done <- struct{}{} }()
			for j := range 20 {
				secret := fmt.Sprintf("secret-%d-%d-end", i, j)
				m.Add(sentry.NewSecret(secret))
				if got := m.String("a " + secret); got != "a [redacted]" {
					t.Errorf("got %q", got)
				}
			}
		}()
	}
	for range 4 {
		<-done
	}
}

// FuzzMask compares masking, whole and split in two ways, with the oracle.
func FuzzMask(f *testing.F) {
	f.Add("abcdef", "cdefgh", "xabcdefghabcdef", uint16(3))
	f.Add("aaaaaaa", "aaaaaab", "aaaaaaaaaaaaaabaaaaaab", uint16(9))
	f.Add("line one\nline two", "other-secret", "line one line two bGluZSBvbmUKbGluZSB0d28=", uint16(20))
	f.Add("p@ss w/rd", "\xff\xfe\xfd\xfc\xfb\xfa", "p%40ss%20w%2Frd \xff\xfe\xfd\xfc\xfb\xfa", uint16(5))
	f.Add("abcabcabd", "bcabca", "abcabcabcabdabcabca", uint16(7))
	f.Fuzz(func(t *testing.T, first, second, text string, cut uint16) {
		if len(first)+len(second) > 4096 || len(text) > 1<<14 {
			return
		}
		m := NewMasker(secrets(first, second)...)
		want := oracle(text, m.texts)
		if got := m.String(text); got != want {
			t.Fatalf("String(%q) with %q, %q = %q, want %q", text, first, second, got, want)
		}
		at := min(int(cut), len(text))
		if got := writeAll(t, m, text[:at], text[at:]); got != want {
			t.Fatalf("%q cut at %d = %q, want %q", text, at, got, want)
		}
		step := 1 + int(cut)%7
		var parts []string
		for i := 0; i < len(text); i += step {
			parts = append(parts, text[i:min(i+step, len(text))])
		}
		if got := writeAll(t, m, parts...); got != want {
			t.Fatalf("%q in parts of %d = %q, want %q", text, step, got, want)
		}
	})
}

func TestMaskAgainstOracle(t *testing.T) {
	m := NewMasker(secrets("abcabcabd", "bcabca", "cabdab", "aabbaabb", "bbbbbb")...)
	state := uint32(1)
	text := make([]byte, 300)
	for round := range 2000 {
		for i := range text {
			state = state*1664525 + 1013904223
			text[i] = "abcd"[state>>24&3*(1+uint32(round&1))>>(round&1)]
		}
		want := oracle(string(text), m.texts)
		var parts []string
		for rest := string(text); rest != ""; {
			state = state*1664525 + 1013904223
			n := min(len(rest), int(state>>24%13))
			parts = append(parts, rest[:n])
			rest = rest[n:]
		}
		if got := writeAll(t, m, parts...); got != want {
			t.Fatalf("round %d: %q in %q\n got %q\nwant %q", round, text, parts, got, want)
		}
	}
}
