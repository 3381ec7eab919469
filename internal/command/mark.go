package command

import (
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"
)

// Mark is what a process bears that a daemon of some state directory has started, directly or not: its hard limit on
// POSIX message queues, in bytes, is a number that the directory determines. Every process inherits it, whatever else it
// drops, and cannot raise it without privileges; anybody can read it in /proc/PID/limits. Two directories share a number
// once in 400,000 times.
//
// Where the limit could not be set (it was lower already), a process is known by what the commands of deployments find in
// their environment: SENTRY_DEPLOYMENT_ID, and paths in the state directory.
type Mark struct {
	limit    uint64 // 0 where it could not be set
	stateDir string
}

const (
	firstMark = 400_000
	marks     = 400_000 // the last mark is below 819,200, the limit that Linux starts with
)

func (m Mark) String() string {
	if m.limit == 0 {
		return "SENTRY_DEPLOYMENT_ID and " + m.stateDir
	}
	return fmt.Sprintf("a message queue limit of %d", m.limit)
}

// markOf gives the mark of a state directory, however it is spelled.
func markOf(stateDir string) (Mark, error) {
	dir, err := filepath.Abs(stateDir)
	if err != nil {
		return Mark{}, fmt.Errorf("cannot find the state directory: %w", err)
	}
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		dir = resolved
	}
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(dir)) // cannot fail
	return Mark{limit: firstMark + hash.Sum64()%marks, stateDir: dir}, nil
}

// isCookie reports whether a variable of an environment tells for which deployment a process runs.
func isCookie(variable string) bool { return strings.HasPrefix(variable, "SENTRY_DEPLOYMENT_ID=") }

// borneBy reports whether an environment is that of a command of the state directory.
func (m Mark) borneBy(environment []string) bool {
	cookie, inside := false, false
	for _, variable := range environment {
		_, value, _ := strings.Cut(variable, "=")
		cookie = cookie || isCookie(variable)
		inside = inside || strings.HasPrefix(value, m.stateDir+string(os.PathSeparator))
	}
	return cookie && inside
}
