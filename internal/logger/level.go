package logger

import (
	"fmt"
	"log/slog"
	"strings"
)

// Level is how much a record matters.
type Level = slog.Level

// LevelFatal is for what ends the process. Logging at it ends nothing by itself.
const LevelFatal = slog.Level(12)

// levels pairs each name with its level, mildest first.
var levels = []struct {
	name  string
	level slog.Level
}{
	{"DEBUG", slog.LevelDebug},
	{"INFO", slog.LevelInfo},
	{"WARN", slog.LevelWarn},
	{"ERROR", slog.LevelError},
	{"FATAL", LevelFatal},
}

// ParseLevel reads debug, info, warn, error or fatal, in any case.
func ParseLevel(name string) (Level, error) {
	for _, l := range levels {
		if strings.EqualFold(name, l.name) {
			return l.level, nil
		}
	}
	return 0, fmt.Errorf("%q is not a log level; use debug, info, warn, error or fatal", name)
}

// levelName is the name of the highest named level that l reaches.
func levelName(l slog.Level) string {
	name := levels[0].name
	for _, known := range levels {
		if l >= known.level {
			name = known.name
		}
	}
	return name
}
