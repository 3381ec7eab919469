package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"

	"sentry/internal/config"
	"sentry/internal/server"
	"sentry/internal/store"
)

// The exit codes. Scripts rely on them.
const (
	exitOK          = 0
	exitFailed      = 1 // the rollout failed, a check failed, or what was asked for could not be done
	exitUsage       = 2 // wrong arguments or a wrong configuration
	exitUnreachable = 3 // a daemon is needed, or is there, and does not answer
	exitDenied      = 4 // not allowed
	exitNotFound    = 5 // no such group, repository or rollout
	exitTimeout     = 6 // timed out waiting
	exitInterrupted = 130
)

// problem is an error for people with the exit code that goes with it.
type problem struct {
	code    int
	message string // one sentence without a full stop; empty where everything has been said already
	details []string
	hint    string // what to do about it
	cause   error
}

func (p *problem) Error() string {
	if p.message == "" && p.cause != nil {
		return p.cause.Error()
	}
	return p.message
}

func (p *problem) Unwrap() error { return p.cause }

func usage(format string, args ...any) error {
	return &problem{code: exitUsage, message: fmt.Sprintf(format, args...)}
}

// silent ends with a code when everything has been said already.
func silent(code int) error { return &problem{code: code} }

// errInterrupted is why the context of a command ends when a signal came.
var errInterrupted = errors.New("interrupted")

// explain puts an error into the form for people and chooses its exit code by what can be done about it.
func explain(ctx context.Context, err error) *problem {
	var (
		p        *problem
		api      *server.Error
		problems config.Problems
		locked   *store.LockedError
	)
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(context.Cause(ctx), errInterrupted):
		return &problem{code: exitInterrupted, message: "interrupted"}
	case errors.As(err, &problems):
		p = &problem{code: exitUsage, message: "the configuration is not valid", hint: "nothing was done; `sentry validate` checks it alone", cause: err}
		for _, one := range problems {
			p.details = append(p.details, one.String())
		}
		return p
	case errors.As(err, &api):
		p = &problem{code: codeOf(api), message: api.Message, hint: api.Hint, cause: err}
		if p.hint == "" && p.code == exitNotFound && strings.HasPrefix(p.message, "rollout ") {
			p.hint = hintRollouts
		}
		for _, one := range api.Problems {
			p.details = append(p.details, one.String())
		}
		return p
	case errors.As(err, &locked):
		return &problem{code: exitUnreachable, message: err.Error()}
	case errors.Is(err, store.ErrNotFound):
		return &problem{code: exitNotFound, message: err.Error(), hint: hintRollouts}
	case errors.Is(err, fs.ErrPermission):
		return &problem{code: exitDenied, message: err.Error(), hint: "run this as the user that runs Sentry"}
	}
	return &problem{code: exitFailed, message: err.Error()}
}

func codeOf(e *server.Error) int {
	switch e.Status {
	case http.StatusNotFound:
		return exitNotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		return exitDenied
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge:
		return exitUsage
	case http.StatusServiceUnavailable:
		return exitUnreachable
	}
	return exitFailed
}
