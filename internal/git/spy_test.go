//go:build unix

package git

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// spyGit writes a program that notes the arguments and the environment of each run, one file a run, and then is git.
func spyGit(t *testing.T) (binary, notes string) {
	t.Helper()
	real, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	notes = t.TempDir()
	return script(t, fmt.Sprintf(`f=$(mktemp %s/XXXXXX)
printf '%%s\n' "$@" > $f.args
env > $f.env
exec %s "$@"`, notes, real)), notes
}

// script writes a program for sh.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// notesOf gives all notes of one kind, "args" or "env", by what the arguments begin with.
func notesOf(t *testing.T, dir, kind string) (all []string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*."+kind))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(text))
	}
	return all
}

// grep lists the files below a folder that contain one of the texts.
func grep(t *testing.T, dir string, texts ...string) (hits []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		for _, text := range texts {
			if strings.Contains(string(content), text) {
				hits = append(hits, path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return hits
}
