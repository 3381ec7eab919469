package logger

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"sentry/internal/sentry"
)

// A format that changes holds for loggers that are there already, and for what was put into them.
func TestFormatChanges(t *testing.T) {
	var out bytes.Buffer
	var format Format
	mask := NewMasker(sentry.NewSecret("a-secret-word"))
	log := NewFollowing(&out, slog.LevelInfo, &format, mask)
	derived := log.With("group", "web").WithGroup("inner").With("a", 1)
	for _, c := range []struct {
		set  string
		json bool
	}{
		{"", true}, // what is not a terminal gets JSON
		{FormatText, false},
		{FormatJSON, true},
		{FormatAuto, true},
		{FormatText, false},
		{"no such format", true},
	} {
		if c.set != "" {
			format.Set(c.set)
		}
		out.Reset()
		derived.Info("it says a-secret-word", "b", 2)
		derived.Debug("not this")
		got := out.String()
		if strings.HasPrefix(got, "{") != c.json || strings.Count(got, "\n") != 1 || strings.Contains(got, "a-secret-word") {
			t.Errorf("%q: %s", c.set, got)
		}
		for _, want := range []string{"web", "inner", "b"} {
			if !strings.Contains(got, want) {
				t.Errorf("%q: %s lacks %s", c.set, got, want)
			}
		}
	}
}

func TestFormatChangesWhileItIsUsed(t *testing.T) {
	var out bytes.Buffer
	var mu sync.Mutex
	var format Format
	log := NewFollowing(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return out.Write(p)
	}), slog.LevelInfo, &format, nil)
	var all sync.WaitGroup
	for _, name := range []string{FormatText, FormatJSON, FormatAuto, FormatText} {
		all.Go(func() {
			for range 100 {
				format.Set(name)
				log.Info("hello", "from", name)
			}
		})
	}
	all.Wait()
	if n := strings.Count(out.String(), "hello"); n != 400 {
		t.Errorf("%d records", n)
	}
}
