package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"testing"

	"sentry/internal/config"
	"sentry/internal/server"
	"sentry/internal/store"
)

func TestExitCodes(t *testing.T) {
	interrupted, cancel := context.WithCancelCause(context.Background())
	cancel(errInterrupted)
	api := func(status int) error { return &server.Error{Status: status, Message: "m", Hint: "h"} }
	for _, c := range []struct {
		ctx  context.Context
		err  error
		code int
	}{
		{nil, errors.New("x"), exitFailed},
		{nil, usage("x"), exitUsage},
		{nil, fmt.Errorf("around: %w", silent(exitTimeout)), exitTimeout},
		{nil, fmt.Errorf("around: %w", config.Problems{{File: "f", Message: "m"}}), exitUsage},
		{nil, fmt.Errorf("around: %w", store.ErrNotFound), exitNotFound},
		{nil, &store.LockedError{Dir: "d", Holder: "h"}, exitUnreachable},
		{nil, &fs.PathError{Op: "open", Path: "p", Err: fs.ErrPermission}, exitDenied},
		{nil, api(http.StatusBadRequest), exitUsage},
		{nil, api(http.StatusUnauthorized), exitDenied},
		{nil, api(http.StatusForbidden), exitDenied},
		{nil, api(http.StatusNotFound), exitNotFound},
		{nil, api(http.StatusConflict), exitFailed},
		{nil, api(http.StatusRequestEntityTooLarge), exitUsage},
		{nil, api(http.StatusUnprocessableEntity), exitUsage},
		{nil, api(http.StatusInternalServerError), exitFailed},
		{nil, api(http.StatusServiceUnavailable), exitUnreachable},
		{interrupted, context.Canceled, exitInterrupted},
		{interrupted, silent(exitUnreachable), exitUnreachable},
	} {
		ctx := c.ctx
		if ctx == nil {
			ctx = context.Background()
		}
		if p := explain(ctx, c.err); p.code != c.code {
			t.Errorf("%v: exit code %d, want %d", c.err, p.code, c.code)
		}
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	var out strings.Builder
	a := &app{err: screen{Writer: &out}}
	a.report(&problem{message: "it broke\x1b[2J.\n", details: []string{"first", "second\x1b"}, hint: "mend it\nthen again"})
	want := "first\nsecond\\x1B\nsentry: it broke\\x1B[2J\n        mend it\n        then again\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	out.Reset()
	a.report(&problem{code: exitFailed})
	if out.String() != "" {
		t.Errorf("what has been said is said again: %q", out.String())
	}
}
