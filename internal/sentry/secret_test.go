package sentry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestSecretIsNeverPrinted(t *testing.T) {
	const text = "hunter2-hunter2"
	type inside struct {
		Number int
		Flag   bool
		Secret Secret
		hidden Secret
		List   []Secret
		Map    map[string]Secret
		Any    any
	}
	secret := NewSecret(text)
	value := inside{1, true, secret, secret, []Secret{secret}, map[string]Secret{"a": secret}, secret}
	verbs := []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%c", "%e", "%U", "%b", "%o", "%p", "%T", "%w", "%!"}
	for _, verb := range verbs {
		for _, out := range []string{
			fmt.Sprintf(verb, secret), fmt.Sprintf(verb, &secret), fmt.Sprintf(verb, value), fmt.Sprintf(verb, &value), fmt.Sprintf(verb, []any{value, 1}),
			fmt.Errorf("%w "+verb, fmt.Errorf("x"), value).Error(),
		} {
			if strings.Contains(out, text) || strings.Contains(out, fmt.Sprintf("%x", text)) {
				t.Errorf("%s prints it: %s", verb, out)
			}
		}
	}
	data, err := json.Marshal(value)
	if err != nil || strings.Contains(string(data), text) || !strings.Contains(string(data), `"Secret":"[redacted]"`) {
		t.Errorf("JSON: %s, %v", data, err)
	}
	var log bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(handler).Info("x", "secret", secret, "inside", value, slog.Group("g", "s", secret))
	}
	if strings.Contains(log.String(), text) || !strings.Contains(log.String(), Redacted) {
		t.Errorf("slog: %s", log.String())
	}
}

func TestSecretReveals(t *testing.T) {
	if got := NewSecret("x").Reveal(); got != "x" {
		t.Errorf("Reveal() = %q", got)
	}
	one, same, other := NewSecret("x"), NewSecret("x"), NewSecret("y")
	if one != same || one == other {
		t.Error("secrets are not compared by their text")
	}
	for _, empty := range []Secret{{}, NewSecret("")} {
		if !empty.Empty() || empty.Reveal() != "" || empty.String() != "" || empty != (Secret{}) {
			t.Errorf("the empty secret is %q and shows %q", empty.Reveal(), empty)
		}
	}
}
