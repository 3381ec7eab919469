package logger

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"

	"github.com/lmittmann/tint"
)

// cleaner rewrites the attributes of records: its methods have the form of slog's ReplaceAttr, which handlers call
// for everything that is not a group, the message and the level included.
type cleaner struct{ mask *Masker }

// json cleans an attribute of a JSON record.
func (c cleaner) json(groups []string, a slog.Attr) slog.Attr {
	a.Key = c.string(a.Key)
	switch a.Value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(c.string(a.Value.String()))
	case slog.KindTime:
		a.Value = slog.TimeValue(a.Value.Time().UTC())
	case slog.KindAny:
		switch v := a.Value.Any().(type) {
		case slog.Level:
			a.Value = slog.StringValue(levelName(v))
		case *slog.Source:
		case error:
			a.Value = slog.StringValue(c.string(errorText(v)))
		default:
			a.Value = c.encoded(v)
		}
	}
	return a
}

// encoded gives v as the JSON that it would be written as, or, where a secret was in it, as a string that holds that
// JSON masked: the mask may have cut a number or a key in two.
func (c cleaner) encoded(v any) slog.Value {
	data, err := json.Marshal(v)
	if err != nil {
		return slog.StringValue(c.string(fmt.Sprintf("!ERROR: %v", err)))
	}
	text := string(data)
	if clean := c.string(text); clean != text {
		return slog.StringValue(clean)
	}
	return slog.AnyValue(json.RawMessage(data))
}

// text cleans an attribute of a record for people: on one line, whatever it says.
func (c cleaner) text(groups []string, a slog.Attr) slog.Attr {
	a.Key = c.line(a.Key)
	switch a.Value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(c.line(a.Value.String()))
	case slog.KindAny:
		switch v := a.Value.Any().(type) {
		case slog.Level:
			return tint.Attr(levelColor(v), slog.String(a.Key, fmt.Sprintf("%-5s", levelName(v))))
		case *slog.Source:
		case error:
			return tint.Attr(red, slog.String(a.Key, c.line(errorText(v))))
		case []byte:
			a.Value = slog.StringValue(c.line(string(v)))
		default:
			a.Value = slog.StringValue(c.line(fmt.Sprintf("%+v", v)))
		}
	}
	return a
}

// string masks first: what Sanitize makes visible is no longer the text of the secret.
func (c cleaner) string(s string) string { return Sanitize(c.mask.String(s)) }

// line is for tint, which quotes a value and then turns every `\x1b` of the quoted text back into an escape
// character, also one that the value spelled out. In capitals it leaves it alone.
func (c cleaner) line(s string) string {
	return strings.ReplaceAll(SanitizeLine(c.mask.String(s)), `\x1b`, `\x1B`)
}

// errorText is err.Error() where that does not panic, as it does for a nil pointer of many error types.
func errorText(err error) (text string) {
	defer func() {
		if p := recover(); p != nil {
			text = fmt.Sprintf("!PANIC: %v", p)
		}
	}()
	return err.Error()
}

// Colours of the 256-colour palette.
const (
	magenta = 13
	red     = 9
	yellow  = 11
	green   = 10
	grey    = 8
)

func levelColor(l slog.Level) uint8 {
	switch {
	case l >= LevelFatal:
		return magenta
	case l >= slog.LevelError:
		return red
	case l >= slog.LevelWarn:
		return yellow
	case l >= slog.LevelInfo:
		return green
	default:
		return grey
	}
}
