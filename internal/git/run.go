package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"sentry/internal/sentry"
)

const (
	// maxOutput bounds what one run of git may print where its output is kept, in bytes.
	maxOutput = 64 << 20
	// keptErrors is how much of the end of what git complains is kept for a message, in bytes.
	keptErrors = 8 << 10
	// dying is how long git may take to end when it is told to, before it is killed.
	dying = 2 * time.Second
)

// call is one run of git. Only this package makes one, and nothing in args that comes from outside stands before
// --end-of-options.
type call struct {
	args []string
	dir  string // where it runs; "" is the empty home
	// scheme is the only transport that it may use: "https", "http", "ssh" or "file". "" is none: it stays on this machine.
	scheme string
	// env is added to the environment: credentials, for instance.
	env []string
	// hide are texts that must not be in an error.
	hide []string
	// stdout gets the output; nil keeps it for the caller, up to maxOutput bytes.
	stdout io.Writer
	// stderr gets what git complains, besides the end of it that an error shows.
	stderr io.Writer
}

// runError is a git that failed.
type runError struct {
	command string // "fetch"
	stderr  string // the end of what it said, clean
	cause   error
}

func (e *runError) Error() string {
	said := summary(e.stderr)
	if said == "" || errors.Is(e.cause, context.Canceled) || errors.Is(e.cause, context.DeadlineExceeded) {
		return fmt.Sprintf("git %s: %v", e.command, e.cause)
	}
	return fmt.Sprintf("git %s: %s", e.command, said)
}

func (e *runError) Unwrap() error { return e.cause }

// run runs git to its end and gives its output. When ctx ends, or git ends and leaves children behind, the whole process
// group is killed. The error is a *runError.
func (g *Git) run(ctx context.Context, c call) (string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd := exec.CommandContext(ctx, g.binary, append(g.options(c.scheme), c.args...)...)
	cmd.Dir = c.dir
	if cmd.Dir == "" {
		cmd.Dir = g.home
	}
	cmd.Env = append(g.environment(c.scheme), c.env...)
	var out bytes.Buffer
	cmd.Stdout = c.stdout
	if cmd.Stdout == nil {
		cmd.Stdout = &capped{to: &out, left: maxOutput, full: func() { cancel(errTooMuch) }}
	}
	said := &tail{most: keptErrors}
	cmd.Stderr = said
	if c.stderr != nil {
		cmd.Stderr = io.MultiWriter(said, c.stderr)
	}
	cmd.WaitDelay = dying
	ownGroup(cmd)
	err := cmd.Run()
	killGroup(cmd)
	if err == nil {
		return out.String(), nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return "", &runError{command: c.command(), stderr: said.clean(c.hide), cause: err}
}

// command is the name of what git does: the first argument that is no option.
func (c call) command() string {
	for _, arg := range c.args {
		if !strings.HasPrefix(arg, "-") {
			return arg
		}
	}
	return ""
}

var errTooMuch = fmt.Errorf("it prints more than %d bytes", maxOutput)

// capped lets a number of bytes pass, then refuses more.
type capped struct {
	to   io.Writer
	left int64
	full func()
}

func (w *capped) Write(p []byte) (int, error) {
	if int64(len(p)) > w.left {
		w.full()
		return 0, errTooMuch
	}
	w.left -= int64(len(p))
	return w.to.Write(p)
}

// tail keeps the end of what is written to it.
type tail struct {
	most int
	buf  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if extra := len(t.buf) - t.most; extra > 0 {
		t.buf = append(t.buf[:0], t.buf[extra:]...)
	}
	return len(p), nil
}

// clean gives what was kept without control characters and secrets.
func (t *tail) clean(secrets []string) string {
	text := string(t.buf)
	for _, secret := range secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, sentry.Redacted)
		}
	}
	return printable(strings.ReplaceAll(text, "\r", "\n"), true)
}

// cutOff is what git says, whatever it was, when ssh has ended too early; the reason is the line before.
const cutOff = "fatal: Could not read from remote repository."

// summary finds the lines that say why git failed: its last "fatal:" or "error:" ones, or else the last line.
func summary(stderr string) string {
	var lines, reasons []string
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "hint:") {
			continue
		}
		if line == cutOff && len(lines) > 0 {
			if last := lines[len(lines)-1]; len(reasons) == 0 || !strings.HasSuffix(last, reasons[len(reasons)-1]) {
				reasons = append(reasons, last)
			}
			continue
		}
		lines = append(lines, line)
		for _, mark := range []string{"fatal: ", "error: ", "remote: "} {
			if why, ok := strings.CutPrefix(line, mark); ok && why != "" {
				reasons = append(reasons, why)
			}
		}
	}
	if len(reasons) > 0 {
		return clip(strings.Join(reasons[max(0, len(reasons)-3):], "; "), 500)
	}
	if len(lines) > 0 {
		return clip(lines[len(lines)-1], 500)
	}
	return ""
}

// printable replaces what a terminal or a log could take for more than text. Line feeds stay where they are wanted.
func printable(text string, lines bool) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' && lines:
			return r
		case r == '\t', r == '\n', r == '\r':
			return ' '
		case !visible(r):
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
}

func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// options are what stands between "git" and the command. They hold in every repository and over whatever is written in
// its own configuration.
func (g *Git) options(scheme string) []string {
	options := []string{"--no-replace-objects", "--no-optional-locks"}
	config := []string{
		"protocol.allow=never",
		// Programs that a repository, or a server, could make git run.
		"core.hooksPath=" + os.DevNull, "core.fsmonitor=false", "core.askPass=", "credential.helper=",
		"filter.lfs.smudge=", "filter.lfs.clean=", "filter.lfs.process=", "filter.lfs.required=false",
		"core.attributesFile=" + os.DevNull, "core.excludesFile=" + os.DevNull,
		"core.protectHFS=true", "core.protectNTFS=true",
		// Places that a repository, or a server, could make git go to.
		"submodule.recurse=false", "fetch.recurseSubmodules=false", "transfer.bundleURI=false",
		"http.followRedirects=false",
		// What would go on after git has ended, or without an end.
		"gc.auto=0", "gc.autoDetach=false", "maintenance.auto=false",
		"http.lowSpeedLimit=1", "http.lowSpeedTime=60",
		// The folders are Sentry's own, whoever owns the volume that they are on.
		"safe.directory=*",
		"core.autocrlf=false", "advice.detachedHead=false", "advice.fetchShowForcedUpdates=false", "fetch.writeCommitGraph=false",
		// What arrives is kept as it comes: one file for each fetch, as big as what was sent.
		"fetch.unpackLimit=1",
	}
	if scheme != "" {
		config = append(config, "protocol."+scheme+".allow=always")
	}
	for _, c := range config {
		options = append(options, "-c", c)
	}
	return options
}
