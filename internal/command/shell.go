package command

import (
	"errors"
	"fmt"
	"os/exec"
)

// shell finds the shell for scripts: its path, and the words that begin its command line.
func shell() (path string, words []string, err error) {
	if path, err = exec.LookPath("bash"); err == nil {
		return path, []string{"bash", "-eo", "pipefail", "-c"}, nil
	}
	if path, err = exec.LookPath("sh"); err != nil {
		return "", nil, fmt.Errorf("neither bash nor sh is in PATH: %w", err)
	}
	return path, []string{"sh", "-e", "-c"}, nil
}

// program gives the program of s and its command line.
func program(s Spec) (path string, words []string, err error) {
	if len(s.Argv) > 0 {
		path, err = exec.LookPath(s.Argv[0])
		return path, s.Argv, err
	}
	if s.Script == "" {
		return "", nil, errors.New("there is no command to run")
	}
	path, words, err = shell()
	// A script may begin with a dash: "--" keeps the shell from taking it for an option.
	return path, append(words, "--", s.Script), err
}
