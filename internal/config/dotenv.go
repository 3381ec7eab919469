package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/joho/godotenv"
)

// dotenvName is the file of variables that is read beside the configuration.
const dotenvName = ".env"

// maxDotenv is the most that it may hold, in bytes.
const maxDotenv = 1 << 20

// withDotenv adds the variables of a .env file to those that are set already, which it never overrides. A file that is
// not there is no error.
func withDotenv(environ []string, file string) ([]string, *Problem) {
	data, err := readFile(file, maxDotenv)
	if errors.Is(err, fs.ErrNotExist) {
		return environ, nil
	}
	if err != nil {
		return environ, &Problem{File: file, Message: err.Error(), cause: err}
	}
	variables, problem := parseDotenv(file, data)
	if problem != nil {
		return environ, problem
	}
	set := finder(environ)
	out := environ[:len(environ):len(environ)]
	for name, value := range variables {
		if _, ok := set(name); !ok {
			out = append(out, name+"="+value)
		}
	}
	return out, nil
}

// parseDotenv reads NAME=value lines. The library's errors quote the rest of the file, secrets and all, so only the line
// is told.
func parseDotenv(file string, data []byte) (map[string]string, *Problem) {
	variables, err := godotenv.UnmarshalBytes(data)
	if err != nil {
		return nil, &Problem{
			File: file, Line: dotenvLine(data), Column: 1, Message: "the line is not NAME=value",
			Hint: "a value with spaces, # or $ stands in single quotes, and quotes are closed",
		}
	}
	for name := range variables {
		if !validVariable(name) {
			return nil, &Problem{
				File: file, Line: lineOfName(data, name), Column: 1, Message: fmt.Sprintf("%q is not the name of a variable", clip(name, 40)),
				Hint: `use letters, digits and "_", and no digit first`,
			}
		}
	}
	return variables, nil
}

// dotenvLine finds the line that the library stumbles over: the one after the longest beginning of the file that it
// can read. Beyond a thousand lines it does not look.
func dotenvLine(data []byte) int {
	lines := bytes.SplitAfterN(data, []byte("\n"), 1000)
	end := len(data)
	for n := len(lines); n > 0; n-- {
		end -= len(lines[n-1])
		if _, err := godotenv.UnmarshalBytes(data[:end]); err == nil {
			return n
		}
	}
	return 1
}

func lineOfName(data []byte, name string) int {
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "export "))
		if line == "" || line[0] == '#' {
			continue
		}
		// Without a name the line begins with what follows one, or has only one.
		if name == "" && (strings.IndexAny(line, "=:") <= 0) || name != "" && strings.HasPrefix(line, name) {
			return i + 1
		}
	}
	return 1
}
