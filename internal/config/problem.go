package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxProblems bounds a report: a file of another kind altogether has a mistake on every line.
const maxProblems = 100

// Problem is one thing that is wrong with a configuration, or suspicious where Warning is set.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`   // from 1; 0 where the problem is the file as a whole
	Column  int    `json:"column,omitempty"` // from 1, in characters
	Path    string `json:"path,omitempty"`   // like repositories[0].deploy.commands[1]
	Message string `json:"message"`          // what is wrong
	Hint    string `json:"hint,omitempty"`   // what would be right
	Warning bool   `json:"warning,omitempty"`

	cause error // of a file that cannot be read, for errors.Is
}

// String is file:line:column: path: message; hint — in the form that editors jump to.
func (p Problem) String() string {
	var out strings.Builder
	out.WriteString(p.File)
	if p.Line > 0 {
		out.WriteString(":" + strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Column))
	}
	out.WriteString(": ")
	if p.Warning {
		out.WriteString("warning: ")
	}
	if p.Path != "" {
		out.WriteString(p.Path + ": ")
	}
	out.WriteString(p.Message)
	if p.Hint != "" {
		out.WriteString("; " + p.Hint)
	}
	return out.String()
}

// Problems are all that was found in one reading, in the order of the file. As an error it has one line for each.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the causes outside the file's text, such as fs.ErrNotExist.
func (ps Problems) Unwrap() []error {
	var causes []error
	for _, p := range ps {
		if p.cause != nil {
			causes = append(causes, p.cause)
		}
	}
	return causes
}

// MarshalJSON gives {"items": […]}, as every list of the command line.
func (ps Problems) MarshalJSON() ([]byte, error) {
	items := []Problem(ps)
	if items == nil {
		items = []Problem{}
	}
	return json.Marshal(struct {
		Items []Problem `json:"items"`
	}{items})
}

// split sorts what was found into errors and warnings, each in the order of the file and without repetition: an
// aliased value is read once for every place that refers to it.
func (ps Problems) split() (warnings, wrong Problems) {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	for i, p := range ps {
		if i > 0 && p.String() == ps[i-1].String() {
			continue
		}
		if p.Warning {
			warnings = append(warnings, p)
		} else {
			wrong = append(wrong, p)
		}
	}
	return warnings.bounded("warnings"), wrong.bounded("problems")
}

// bounded cuts a long report, and says so.
func (ps Problems) bounded(what string) Problems {
	if len(ps) <= maxProblems {
		return ps
	}
	last := Problem{File: ps[0].File, Message: fmt.Sprintf("there are more than %d %s", maxProblems, what), Warning: ps[0].Warning}
	if !last.Warning {
		last.Hint = "is it the right file?"
	}
	return append(ps[:maxProblems:maxProblems], last)
}
