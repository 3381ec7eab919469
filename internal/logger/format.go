package logger

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"
)

// Format is the format of a logger, which may change while it is in use. The zero Format is FormatAuto.
type Format struct{ name atomic.Pointer[string] }

// Set changes the format, of all loggers that follow it, from the next record on. An unknown one counts as FormatAuto.
func (f *Format) Set(name string) { f.name.Store(&name) }

// json reports whether records are to be JSON, on a terminal or elsewhere.
func (f *Format) json(terminal bool) bool {
	name := f.name.Load()
	if name == nil {
		return !terminal
	}
	return *name == FormatJSON || *name != FormatText && !terminal
}

// NewFollowing makes a logger as New does, whose format is what f is at each record.
func NewFollowing(w io.Writer, level slog.Leveler, f *Format, mask *Masker) *slog.Logger {
	return slog.New(either{
		format: f, terminal: isTerminal(w),
		text: New(w, level, FormatText, mask).Handler(), json: New(w, level, FormatJSON, mask).Handler(),
	})
}

// either hands each record to the handler of the format that is set.
type either struct {
	format     *Format
	terminal   bool
	text, json slog.Handler
}

func (e either) current() slog.Handler {
	if e.format.json(e.terminal) {
		return e.json
	}
	return e.text
}

// Enabled is as the level says.
func (e either) Enabled(ctx context.Context, level slog.Level) bool {
	return e.current().Enabled(ctx, level)
}

// Handle writes a record.
func (e either) Handle(ctx context.Context, r slog.Record) error { return e.current().Handle(ctx, r) }

// WithAttrs adds attributes, in whichever format.
func (e either) WithAttrs(attrs []slog.Attr) slog.Handler {
	e.text, e.json = e.text.WithAttrs(attrs), e.json.WithAttrs(attrs)
	return e
}

// WithGroup begins a group, in whichever format.
func (e either) WithGroup(name string) slog.Handler {
	e.text, e.json = e.text.WithGroup(name), e.json.WithGroup(name)
	return e
}
