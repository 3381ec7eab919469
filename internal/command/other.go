//go:build !linux

package command

import (
	"context"
	"log/slog"
	"os/exec"
	"runtime"
)

// sandbox does nothing here, see Limits.
type sandbox struct{}

type ruleset struct{}

func newSandbox([]string, *slog.Logger) *sandbox { return &sandbox{} }

func (*sandbox) rules(_, _ []string) (*ruleset, error) { return &ruleset{}, nil }

func (*ruleset) close() {}

func (*sandbox) expect() {}

func adoptOrphans() {}

// Prepare gives the mark of a state directory. On this system no process can be made to bear it.
func Prepare(stateDir string) (Mark, error) {
	mark, err := markOf(stateDir)
	mark.limit = 0
	return mark, err
}

// Sweep finds nothing on this system, see Limits.
func Sweep(Mark) (killed int, err error) { return 0, nil }

// Owns reports false: it cannot be told on this system.
func Owns(int) bool { return false }

// Limits says in words what of the safety that this package gives is lacking here.
func Limits() []string {
	lacks := []string{
		"commands are not kept from Sentry's state, configuration and credentials on " + runtime.GOOS + ": they can read and change all that Sentry can, and signal it",
		"a process that leaves the process group of its command outlives it on " + runtime.GOOS + ", and after a crash of Sentry its commands run on",
	}
	if runtime.GOOS == "windows" {
		lacks[1] = "only the first process of a command is ended on Windows, without a grace, and after a crash of Sentry its commands run on"
	}
	if _, err := exec.LookPath("bash"); err != nil {
		lacks = append(lacks, "there is no bash: commands run with sh -e, and a failure within a pipeline goes unnoticed")
	}
	return lacks
}

// ReapStrangers has nothing to do on this system.
func ReapStrangers(context.Context) {}
