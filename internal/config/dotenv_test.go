package config

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseDotenv(t *testing.T) {
	got, problem := parseDotenv(".env", []byte("# comment\nA=1\n\nexport B=\"two words\"\nC='a # b $X'\nD=\r\nE=x # comment\n"))
	want := map[string]string{"A": "1", "B": "two words", "C": "a # b $X", "D": "", "E": "x"}
	if problem != nil || !maps.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, problem, want)
	}
}

func TestParseDotenvRefuses(t *testing.T) {
	tests := []struct {
		name, text string
		line       int
	}{
		{"open quote", "A=1\nB='hunter2\nC=3\n", 2},
		{"no name", "A=1\n\n=hunter2\n", 3},
		{"no equals sign", "A=1\nhunter2!\nB=2\n", 2},
		{"space in name", "A B=hunter2\n", 1},
		{"digit first", "A=1\nB=2\n1C=hunter2\n", 3},
		{"many lines", strings.Repeat("A=1\n", 500) + "!\n", 501},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, problem := parseDotenv("folder/.env", []byte(tt.text))
			if problem == nil {
				t.Fatalf("got %q", got)
			}
			if problem.Line != tt.line || problem.File != "folder/.env" {
				t.Errorf("%v, want line %d", problem, tt.line)
			}
			if strings.Contains(problem.String(), "hunter2") {
				t.Errorf("%v repeats a value", problem)
			}
		})
	}
}

func TestWithDotenv(t *testing.T) {
	file := filepath.Join(t.TempDir(), ".env")
	environ := []string{"A=environment", "EMPTY="}
	if got, problem := withDotenv(environ, file); problem != nil || !slices.Equal(got, environ) {
		t.Errorf("without a file: %q, %v", got, problem)
	}
	if err := os.WriteFile(file, []byte("A=file\nB=file\nEMPTY=file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, problem := withDotenv(environ, file)
	slices.Sort(got)
	if want := []string{"A=environment", "B=file", "EMPTY="}; problem != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, problem, want)
	}
	if !slices.Equal(environ, []string{"A=environment", "EMPTY="}) {
		t.Errorf("the caller's slice became %q", environ)
	}
	// A folder of that name is a mistake worth telling.
	if _, problem := withDotenv(nil, filepath.Dir(file)); problem == nil {
		t.Error("a folder passes")
	}
}
