package cli

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
)

// live is a part of a terminal that is redrawn in place, with plain ANSI sequences. What is written to it in between
// appears above it.
type live struct {
	mu    sync.Mutex // owns what follows, and the terminal
	s     screen
	shown []string
	held  []byte // a line written to it that has not ended yet
}

// draw replaces what is shown.
func (l *live) draw(lines []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out strings.Builder
	l.erase(&out)
	for _, line := range lines {
		out.WriteString(line + "\n")
	}
	_, _ = io.WriteString(l.s, out.String())
	l.shown = lines
}

// erase goes back to where what is shown begins and clears all below. A terminal that has become narrower has broken
// lines in two meanwhile, so that rows are counted for the width of now.
func (l *live) erase(out *strings.Builder) {
	if len(l.shown) == 0 {
		return
	}
	width := max(1, l.s.width())
	rows := 0
	for _, line := range l.shown {
		rows += max(1, (textWidth(uncoloured(line))+width-1)/width)
	}
	fmt.Fprintf(out, "\r\x1b[%dA\x1b[J", rows)
	l.shown = nil
}

// Write puts whole lines above what is shown.
func (l *live) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = append(l.held, p...)
	end := bytes.LastIndexByte(l.held, '\n')
	if end < 0 {
		return len(p), nil
	}
	shown := l.shown
	var out strings.Builder
	l.erase(&out)
	out.Write(l.held[:end+1])
	for _, line := range shown {
		out.WriteString(line + "\n")
	}
	l.held = append(l.held[:0], l.held[end+1:]...)
	l.shown = shown
	_, err := io.WriteString(l.s, out.String())
	return len(p), err
}

// leave lets what is shown stay, and goes on below it.
func (l *live) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shown = nil
}

// clear removes what is shown.
func (l *live) clear() { l.draw(nil) }

var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

func uncoloured(s string) string { return colours.ReplaceAllString(s, "") }
