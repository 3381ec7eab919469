package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sentry/internal/sentry"
)

func TestSecretFollowsItsFile(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "token")
	file := &secretFile{path: path}
	auth := Auth{TokenFile: path, file: file}
	want := func(text string) {
		t.Helper()
		got, err := auth.Secret()
		if err != nil || got.Reveal() != text {
			t.Fatalf("got %q, %v; want %q", got.Reveal(), err, text)
		}
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	want("first")
	write("again\n") // of the same size, within the grain of the clock
	want("again")
	write("windows\r\n")
	want("windows")

	// Renamed over, as a careful writer does.
	if err := errors.Join(os.WriteFile(path+".new", []byte("renamed"), 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
	want("renamed")

	// What it held before is still a secret.
	known := file.known()
	if known[0].Reveal() != "renamed" || known[1].Reveal() != "windows" {
		t.Errorf("known are %q and %q", known[0].Reveal(), known[1].Reveal())
	}

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := auth.Secret(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the file: %v", err)
	}
	write("back")
	want("back")
}

// A file that has not changed for a while is not read again: its contents come from memory.
func TestSecretIsNotReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	old := time.Now().Add(-time.Hour)
	if err := errors.Join(os.WriteFile(path, []byte("token"), 0o600), os.Chtimes(path, old, old)); err != nil {
		t.Fatal(err)
	}
	f := &secretFile{path: path}
	if _, err := f.read(); err != nil {
		t.Fatal(err)
	}
	f.secret = sentry.NewSecret("from memory")
	if got, err := f.read(); err != nil || got.Reveal() != "from memory" {
		t.Errorf("got %q, %v", got.Reveal(), err)
	}
}

func TestSecretFileIsShared(t *testing.T) {
	text := strings.Replace(minimal, "branches", "auth: {token_file: t}\n      branches", 1)
	text += strings.ReplaceAll(strings.TrimPrefix(text, "repositories:\n"), "name: app", "name: other")
	c, _, err := Parse("/nowhere/x.yaml", []byte(text), Options{})
	if err != nil {
		t.Fatal(err)
	}
	a, b := c.Repositories[0].Monitor.Auth, c.Repositories[1].Monitor.Auth
	if a.TokenFile != "/nowhere/t" || a.file == nil || a.file != b.file {
		t.Errorf("%p and %p read %s", a.file, b.file, a.TokenFile)
	}
}

func TestSecretOfBadFile(t *testing.T) {
	folder := t.TempDir()
	for text, want := range map[string]string{
		"": "is empty", "\n": "is empty", "hunter2 hunter2": "white space", "hunter2\nhunter2\n": "white space", "hunter2\x00": "control",
		strings.Repeat("x", maxSecret+1): "more than 65536 bytes",
	} {
		path := filepath.Join(folder, "token")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		secret, err := Auth{TokenFile: path}.Secret()
		if err == nil || !strings.Contains(err.Error(), want) || !secret.Empty() {
			t.Errorf("%.20q: %v, want an error with %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error repeats it: %v", err)
		}
	}
	if _, err := (Auth{TokenFile: folder}).Secret(); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a folder: %v", err)
	}
}

func TestSecretWithoutFile(t *testing.T) {
	if got, err := (Auth{Token: sentry.NewSecret("x")}).Secret(); err != nil || got.Reveal() != "x" {
		t.Errorf("got %q, %v", got.Reveal(), err)
	}
	if got, err := (Auth{}).Secret(); err != nil || !got.Empty() {
		t.Errorf("got %q, %v", got.Reveal(), err)
	}
}

func TestSecretFromManyGoroutines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("token"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := &secretFile{path: path}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 50 {
				if got, err := f.read(); err != nil || got.Reveal() != "token" {
					t.Errorf("got %q, %v", got.Reveal(), err)
				}
				f.known()
			}
		})
	}
	group.Wait()
}

// No way of printing a configuration shows a secret.
func TestPrintingHidesSecrets(t *testing.T) {
	c, _, err := parseFile(t, "testdata/good/every-key.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		out := fmt.Sprintf(verb, *c) + fmt.Sprintf(verb, c.Repositories[0])
		for _, secret := range []string{"gitea_token", "hook_secret", "a default"} {
			if strings.Contains(out, secret) {
				t.Errorf("%s shows %s", verb, secret)
			}
		}
	}
}
