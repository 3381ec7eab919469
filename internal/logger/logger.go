// Package logger makes the loggers of Sentry and keeps secrets and terminal control sequences out of what is written:
// in log records, and in the output of commands as it streams.
package logger

import (
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/lmittmann/tint"
	"golang.org/x/term"
)

// The keys that log records share, so that one query finds everything about a rollout.
const (
	KeyGroup      = "group"
	KeyRepository = "repository"
	KeyBranch     = "branch"
	KeyRollout    = "rollout"
	KeyDeployment = "deployment"
	KeyAttempt    = "attempt"
	KeyStep       = "step"
	KeyCommit     = "commit"
	KeyError      = "error"
)

// The formats of New.
const (
	FormatAuto = "auto" // text on a terminal, JSON everywhere else
	FormatText = "text"
	FormatJSON = "json"
)

// New makes a logger that writes records of level and above to w, each in one call of Write. An unknown format counts
// as FormatAuto. Text is coloured where w is a terminal that wants it (NO_COLOR and TERM=dumb are obeyed). In both
// forms every string, error and composed value is masked (mask may be nil) and free of control characters; numbers,
// booleans and times stay what they are, so that JSON remains JSON even where a secret is made of digits.
//
// A JSON record begins with time (UTC), level and msg. Changes of level take effect at once.
func New(w io.Writer, level slog.Leveler, format string, mask *Masker) *slog.Logger {
	terminal := isTerminal(w)
	if format == FormatText || format != FormatJSON && terminal {
		return slog.New(tint.NewTextHandler(w, &tint.Options{
			Level:       level,
			TimeFormat:  time.TimeOnly,
			NoColor:     !terminal || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb",
			ReplaceAttr: cleaner{mask}.text,
		}))
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: cleaner{mask}.json}))
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(f.Fd()))
}
