package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"sentry/internal/logger"
)

// Main carries out one command line and gives its exit code. It takes over the signals of the process until then.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer, environ []string) int {
	ctx, stop := interruptible(context.Background())
	defer stop()
	a := &app{
		stdin: stdin, out: newScreen(stdout, environ), err: newScreen(stderr, environ),
		environ: environ, now: time.Now,
	}
	return a.main(ctx, args)
}

// interruptible gives a context that the first interrupt or termination signal ends, because of errInterrupted. The
// second ends the process: whoever sends it has waited long enough.
func interruptible(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		select {
		case <-signals:
			signal.Stop(signals)
			cancel(errInterrupted)
		case <-done:
		}
	}()
	return ctx, func() {
		close(done)
		signal.Stop(signals)
		cancel(nil)
	}
}

// app is one run of the command line.
type app struct {
	stdin    io.Reader
	out, err screen
	environ  []string
	now      func() time.Time

	flags struct {
		config, stateDir, output, logLevel string
		verbose                            bool
	}
	root *cobra.Command
	ran  bool // the arguments were understood

	searched bool // for a daemon elsewhere: once is enough
}

func (a *app) main(ctx context.Context, args []string) int {
	args, err := rewrite(args)
	if err == nil {
		a.root = newRoot(a)
		a.root.SetArgs(args)
		a.root.SetIn(a.stdin)
		a.root.SetOut(a.out.Writer)
		a.root.SetErr(a.err.Writer)
		exact(a.root)
		err = a.root.ExecuteContext(ctx)
		var known *problem
		if err != nil && !a.ran && !errors.As(err, &known) {
			err = &problem{code: exitUsage, message: oneLine(err.Error()), hint: "`sentry help` lists the commands and `sentry COMMAND --help` tells about one"}
		}
	}
	if err == nil {
		return exitOK
	}
	p := explain(ctx, err)
	a.report(p)
	return p.code
}

// report tells a person what went wrong.
func (a *app) report(p *problem) {
	if p.message == "" {
		return
	}
	for _, d := range p.details {
		fmt.Fprintln(a.err, tidy(d))
	}
	message := logger.Sanitize(strings.TrimRight(p.message, ".\n "))
	fmt.Fprintf(a.err, "%s %s\n", a.err.paint(red, "sentry:"), message)
	if p.hint != "" {
		for _, l := range strings.Split(p.hint, "\n") {
			fmt.Fprintf(a.err, "        %s\n", logger.Sanitize(l))
		}
	}
}

// note tells a person how things go on. Nothing in it may be painted already.
func (a *app) note(format string, args ...any) {
	fmt.Fprintln(a.err, logger.Sanitize(fmt.Sprintf(format, args...)))
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// tidy makes a text from outside fit for one line of a terminal.
func tidy(s string) string { return logger.SanitizeLine(s) }
