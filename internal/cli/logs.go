package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"sentry/internal/logger"
)

func newLogs(a *app) *cobra.Command {
	var (
		follow bool
		tail   int
	)
	cmd := &cobra.Command{
		Use:   "logs ID [REPOSITORY]",
		Short: "What the commands of a rollout wrote",
		Long: `What the commands of a rollout wrote, with secrets masked; each step begins with a line "==> repository@branch: step".
With -f it goes on as the output comes, until the rollout ends. On a terminal whatever could control it is shown as an
escape; elsewhere the output is as it was written.`,
		Args:              between(1, argID, argRepository),
		ValidArgsFunction: a.completeLogs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.asJSON() {
				return usage("logs are text: there is no -o json for them; `sentry show -o json` tells about their steps")
			}
			q := url.Values{}
			if len(args) > 1 {
				q.Set("repository", args[1])
			}
			if follow {
				q.Set("follow", "true")
			}
			if tail < 0 || tail > 10000 {
				return usage("--tail is a number from 1 to 10000, not %d", tail)
			}
			if tail > 0 {
				q.Set("tail", strconv.Itoa(tail))
			}
			return a.logs(cmd.Context(), args[0], q)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the rollout ends")
	cmd.Flags().IntVar(&tail, "tail", 0, "only the last lines of each step (0: all)")
	return cmd
}

func (a *app) logs(ctx context.Context, id string, q url.Values) error {
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	body, err := c.stream(ctx, rolloutPath(id, "logs"), q)
	if err != nil {
		return err
	}
	defer body.Close()
	out := io.Writer(a.out.Writer)
	if a.out.terminal() {
		s := &sanitizer{w: a.out.Writer}
		defer s.flush()
		out = s
	}
	_, err = io.Copy(out, body)
	if err != nil && ctx.Err() == nil && errors.Is(err, io.ErrUnexpectedEOF) {
		return c.unreachable(ctx, err)
	}
	return err
}

// sanitizer passes text to a terminal line by line, harmless.
type sanitizer struct {
	w    io.Writer
	line []byte
}

// maxLine is how much of a line without an end is held back.
const maxLine = 64 << 10

func (s *sanitizer) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n') + 1
		if end == 0 {
			s.line = append(s.line, p...)
			if len(s.line) > maxLine {
				return n, s.flush()
			}
			return n, nil
		}
		s.line = append(s.line, p[:end]...)
		p = p[end:]
		if err := s.flush(); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// flush passes on what is held back. A carriage return before the line end is nothing to worry about.
func (s *sanitizer) flush() error {
	if len(s.line) == 0 {
		return nil
	}
	text := bytes.ReplaceAll(s.line, []byte("\r\n"), []byte("\n"))
	_, err := io.WriteString(s.w, logger.Sanitize(string(text)))
	s.line = s.line[:0]
	return err
}
