package cli

import (
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// screen is a stream of output that may be a terminal.
type screen struct {
	io.Writer
	colour bool
	// size gives columns and rows as they are now; nil where it is no terminal.
	size func() (width, height int)
}

// newScreen looks at a stream once; its size may change later.
func newScreen(w io.Writer, environ []string) screen {
	s := screen{Writer: w}
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return s
	}
	s.size = func() (int, int) {
		width, height, err := term.GetSize(int(f.Fd()))
		if err != nil || width < 1 || height < 1 {
			return 80, 24
		}
		return width, height
	}
	s.colour = understandsANSI(f) && getenv(environ, "NO_COLOR") == "" && getenv(environ, "TERM") != "dumb"
	return s
}

func (s screen) terminal() bool { return s.size != nil }

// width gives the columns of a terminal, and 0 (no limit) for anything else.
func (s screen) width() int {
	if s.size == nil {
		return 0
	}
	w, _ := s.size()
	return w
}

// style is how a text is shown where colours are. The zero value is plain.
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	cyan   style = "36"
)

func (s screen) paint(st style, text string) string {
	if !s.colour || st == plain || text == "" {
		return text
	}
	return "\x1b[" + string(st) + "m" + text + "\x1b[0m"
}

// getenv reads a variable of an environment; the last of several counts, as in exec.
func getenv(environ []string, name string) string {
	value := ""
	for _, entry := range environ {
		if k, v, _ := strings.Cut(entry, "="); k == name {
			value = v
		}
	}
	return value
}
