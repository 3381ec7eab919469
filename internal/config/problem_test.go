package config

import (
	"encoding/json"
	"errors"
	"io/fs"
	"testing"
)

func TestProblemString(t *testing.T) {
	tests := []struct {
		problem Problem
		want    string
	}{
		{
			Problem{File: "a.yaml", Line: 3, Column: 5, Path: "groups.ai.max_parallel", Message: "it is 0", Hint: "write 1"},
			"a.yaml:3:5: groups.ai.max_parallel: it is 0; write 1",
		},
		{Problem{File: "a.yaml", Message: "cannot be read"}, "a.yaml: cannot be read"},
		{Problem{File: "a.yaml", Line: 1, Column: 1, Message: "odd", Warning: true}, "a.yaml:1:1: warning: odd"},
	}
	for _, tt := range tests {
		if got := tt.problem.String(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

func TestProblemsAsError(t *testing.T) {
	var err error = Problems{{File: "a", Message: "x", cause: fs.ErrNotExist}, {File: "b", Message: "y"}}
	if got := err.Error(); got != "a: x\nb: y" {
		t.Errorf("Error() = %q", got)
	}
	if !errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		t.Error("the causes are not found")
	}
}

func TestProblemsJSON(t *testing.T) {
	for want, ps := range map[string]Problems{
		`{"items":[]}`: nil,
		`{"items":[{"file":"a","line":1,"column":2,"path":"p","message":"m","hint":"h","warning":true}]}`: {
			{File: "a", Line: 1, Column: 2, Path: "p", Message: "m", Hint: "h", Warning: true},
		},
	} {
		got, err := json.Marshal(ps)
		if err != nil || string(got) != want {
			t.Errorf("got %s, %v; want %s", got, err, want)
		}
	}
}

func TestSplit(t *testing.T) {
	found := Problems{
		{File: "a", Line: 3, Message: "last"},
		{File: "a", Line: 1, Column: 9, Message: "second"},
		{File: "a", Line: 1, Column: 2, Message: "first"},
		{File: "a", Line: 3, Message: "last"},
		{File: "a", Line: 2, Message: "odd", Warning: true},
	}
	warnings, wrong := found.split()
	if warnings.Error() != "a:2:0: warning: odd" || wrong.Error() != "a:1:2: first\na:1:9: second\na:3:0: last" {
		t.Errorf("warnings:\n%v\nwrong:\n%v", warnings, wrong)
	}
}
