package logger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lmittmann/tint"
	"sentry/internal/sentry"
)

// hostile is everything that must reach no reader: a secret, an escape sequence, a forged record.
const hostile = "topsecret \x1b[2J\u202e\n2026-11-22 INFO forged"

type pair struct{ A, B string }

type stringer struct{}

func (*stringer) String() string { return "topsecret" }

type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

// attributes hold hostile texts in every way that slog knows.
func attributes() []any {
	return []any{
		"string", hostile,
		"any", any(hostile),
		"error", fmt.Errorf("cannot clone: %w", errors.New(hostile)),
		"nil error", (*nilError)(nil),
		"bytes", []byte(hostile),
		"struct",
		pair{hostile, "b"},
		"pointer", &pair{hostile, "b"},
		"map",
		map[string]string{hostile: hostile},
		"slice",
		[]string{hostile},
		"stringer", &stringer{},
		"secret", sentry.NewSecret("another-secret"),
		"digits", 1123456712345678,
		"digits in a struct",
		struct{ N int }{11234567},
		slog.Group("nested", "string", hostile, slog.Group("deeper", "error", errors.New(hostile))),
		hostile, "the key",
		"channel", make(chan int),
		"source", &slog.Source{Function: "f", File: "a/b.go", Line: 7},
	}
}

func mask() *Masker {
	return NewMasker(secrets("topsecret", "another-secret", "1234567")...)
}

// leaks says what of hostile shows in output.
func leaks(output string) []string {
	var found []string
	for _, bad := range []string{"topsecret", "another-secret", "dG9wc2VjcmV0", "\x1b[2J", "\u202e", "\n2026-11-22 INFO"} {
		if strings.Contains(output, bad) {
			found = append(found, fmt.Sprintf("%q", bad))
		}
	}
	return found
}

func TestJSON(t *testing.T) {
	var out bytes.Buffer
	log := New(&out, slog.LevelDebug, FormatJSON, mask())
	log.With("with", hostile).WithGroup("g").Warn(hostile, attributes()...)
	if bad := leaks(out.String()); bad != nil {
		t.Errorf("%s in %s", bad, out.String())
	}
	if strings.Count(out.String(), "\n") != 1 {
		t.Errorf("not one line: %q", out.String())
	}
	if !strings.HasPrefix(out.String(), `{"time":"`) {
		t.Errorf("time is not the first key: %s", out.String())
	}
	var record struct {
		Time  time.Time
		Level string
		Msg   string
		With  string
		G     map[string]any
	}
	if err := json.Unmarshal(out.Bytes(), &record); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if record.Level != "WARN" || !strings.HasPrefix(record.Msg, `[redacted] \x1B[2J\u202E`+"\n") {
		t.Errorf("level %q, message %q", record.Level, record.Msg)
	}
	if _, offset := record.Time.Zone(); offset != 0 || record.Time.IsZero() {
		t.Errorf("time %v is not in UTC", record.Time)
	}
	if got := record.G["digits"]; fmt.Sprintf("%.0f", got) != "1123456712345678" {
		t.Errorf("a number became %v", got)
	}
	if got := record.G["digits in a struct"]; got != `{"N":1[redacted]}` {
		t.Errorf("a number in a struct became %v", got)
	}
	if got := record.G["secret"]; got != sentry.Redacted {
		t.Errorf("a secret became %v", got)
	}
}

// Without a secret in it a composed value stays structured.
func TestJSONKeepsStructure(t *testing.T) {
	var out bytes.Buffer
	New(&out, slog.LevelInfo, FormatAuto, mask()).Info("m", "pair", pair{"a", "<b>"}, "list", []int{1, 2})
	if want := `"pair":{"A":"a","B":"\u003cb\u003e"},"list":[1,2]}`; !strings.HasSuffix(strings.TrimSpace(out.String()), want) {
		t.Errorf("got %s, want it to end in %s", out.String(), want)
	}
}

func TestText(t *testing.T) {
	for _, color := range []bool{false, true} {
		var out bytes.Buffer
		log := New(&out, slog.LevelDebug, FormatText, mask())
		if color {
			log = colored(&out)
		}
		log.With("with", hostile, "spelled", `\x1b[2J out`).WithGroup("g").Error(`spelled \x1b[2J `+hostile, attributes()...)
		if bad := leaks(out.String()); bad != nil {
			t.Errorf("colour %v: %s in %q", color, bad, out.String())
		}
		if strings.Count(out.String(), "\n") != 1 {
			t.Errorf("colour %v: not one line: %q", color, out.String())
		}
		if !strings.Contains(out.String(), "ERROR") {
			t.Errorf("colour %v: no level in %q", color, out.String())
		}
		if !color && strings.Contains(out.String(), "\x1b") {
			t.Errorf("escape character without colour: %q", out.String())
		}
	}
}

// colored is what New makes for a terminal.
func colored(out io.Writer) *slog.Logger {
	return slog.New(tint.NewTextHandler(out, &tint.Options{Level: slog.LevelDebug, ReplaceAttr: cleaner{mask()}.text}))
}

func TestLevels(t *testing.T) {
	var level slog.LevelVar
	for _, format := range []string{FormatJSON, FormatText} {
		var out bytes.Buffer
		log := New(&out, &level, format, nil)
		for _, l := range levels {
			level.Set(l.level)
			out.Reset()
			log.Log(context.Background(), l.level, "at")
			log.Log(context.Background(), l.level-1, "below")
			if got := out.String(); !strings.Contains(got, l.name) || strings.Contains(got, "below") {
				t.Errorf("%s at level %s: %q", format, l.name, got)
			}
		}
	}
	for l, name := range map[slog.Level]string{-8: "DEBUG", -3: "DEBUG", 0: "INFO", 2: "INFO", 7: "WARN", 12: "FATAL", 40: "FATAL"} {
		if got := levelName(l); got != name {
			t.Errorf("levelName(%d) = %s, want %s", l, got, name)
		}
	}
}

func TestParseLevel(t *testing.T) {
	for name, want := range map[string]Level{"debug": slog.LevelDebug, "Info": slog.LevelInfo, "WARN": slog.LevelWarn, "error": slog.LevelError, "fatal": LevelFatal} {
		if got, err := ParseLevel(name); got != want || err != nil {
			t.Errorf("ParseLevel(%q) = %v, %v", name, got, err)
		}
	}
	for _, name := range []string{"", "warning", "trace", "4", "info "} {
		if got, err := ParseLevel(name); err == nil {
			t.Errorf("ParseLevel(%q) = %v", name, got)
		}
	}
}

// What is no terminal gets JSON, or text without colour.
func TestFormatOfFile(t *testing.T) {
	for format, prefix := range map[string]string{FormatAuto: "{", "": "{", FormatJSON: "{", FormatText: ""} {
		f, err := os.CreateTemp(t.TempDir(), "log")
		if err != nil {
			t.Fatal(err)
		}
		New(f, slog.LevelInfo, format, nil).Info("hello")
		data, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		if got := string(data); !strings.HasPrefix(got, prefix) || format == FormatText && (got[0] == '{' || strings.Contains(got, "\x1b")) {
			t.Errorf("format %q: %q", format, got)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
