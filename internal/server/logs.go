package server

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"sentry/internal/command"
	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// selection is which part of a rollout's output is asked for.
type selection struct {
	repository, branch string
	step, attempt      int // 0 for all
	tail               int // the last lines of each step; 0 for all
	follow             bool
}

const maxTail = 10_000

func newSelection(r *http.Request) (selection, error) {
	q, err := query(r, "repository", "branch", "step", "attempt", "tail", "follow")
	if err != nil {
		return selection{}, err
	}
	s := selection{repository: first(q["repository"]), branch: first(q["branch"])}
	for name, number := range map[string]*int{"step": &s.step, "attempt": &s.attempt, "tail": &s.tail} {
		if *number, err = limit(first(q[name]), 0, maxTail); err != nil {
			return s, err
		}
	}
	if text, given := q["follow"]; given {
		if s.follow, err = strconv.ParseBool(first(text)); err != nil {
			return s, invalid("follow is true or false, not %q", clean(text[0], 40))
		}
	}
	return s, nil
}

// deployments gives those that are selected; not_found where none of that repository or branch is in the rollout.
func (s selection) deployments(r sentry.Rollout) ([]sentry.Deployment, error) {
	var list []sentry.Deployment
	var have []string
	for _, d := range r.Deployments {
		have = append(have, d.Repository)
		if (s.repository == "" || d.Repository == s.repository) && (s.branch == "" || d.Branch == s.branch) {
			list = append(list, d)
		}
	}
	if len(list) == 0 && len(r.Deployments) > 0 {
		return nil, unknown("deployment in rollout "+r.ID+" of", strings.TrimSuffix(s.repository+"@"+s.branch, "@"), have)
	}
	return list, nil
}

// begun gives the selected steps of a deployment that have begun, in order.
func (s selection) begun(d sentry.Deployment) []sentry.Step {
	var list []sentry.Step
	for _, step := range d.Steps {
		if step.Log != "" && step.Status != sentry.Pending && step.Status != sentry.Skipped &&
			(s.step == 0 || step.Ordinal == s.step) && (s.attempt == 0 || step.Attempt == s.attempt) {
			list = append(list, step)
		}
	}
	slices.SortStableFunc(list, func(a, b sentry.Step) int {
		if a.Attempt != b.Attempt {
			return a.Attempt - b.Attempt
		}
		return a.Ordinal - b.Ordinal
	})
	return list
}

func (h *handler) logs(w http.ResponseWriter, r *http.Request) error {
	sel, err := newSelection(r)
	if err != nil {
		return err
	}
	rollout, err := h.Store.Rollout(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	deployments, err := sel.deployments(rollout)
	if err != nil {
		return err
	}
	out := &lines{w: newStream(w, "text/plain; charset=utf-8")}
	// Without an owner of the state nobody writes: there is nothing to follow.
	if sel.follow && h.Control != nil && !rollout.Status.Terminal() {
		return h.follow(r.Context(), rollout.ID, sel, out)
	}
	one := out.from("")
	for _, d := range deployments {
		for _, step := range sel.begun(d) {
			if err := h.copyStep(one, sel, d, step); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyStep writes what a step has written so far.
func (h *handler) copyStep(out *from, sel selection, d sentry.Deployment, step sentry.Step) error {
	if err := heading(out, sel, d, step); err != nil {
		return err
	}
	log, err := h.open(step)
	if errors.Is(err, fs.ErrNotExist) {
		_, err = io.WriteString(out, "[its log is not kept any more]\n")
		return err
	}
	if err != nil {
		return err
	}
	defer log.Close()
	if sel.tail > 0 {
		err = tail(out, log, sel.tail)
	} else {
		_, err = io.Copy(out, log)
	}
	if err != nil {
		return err
	}
	return ending(out, sel, step)
}

func (h *handler) open(step sentry.Step) (io.ReadCloser, error) {
	path, err := h.path(step)
	if err != nil {
		return nil, err
	}
	return command.OpenLog(path)
}

// path refuses to leave the logs folder, whatever the state says.
func (h *handler) path(step sentry.Step) (string, error) {
	if !filepath.IsLocal(step.Log) {
		return "", fmt.Errorf("the state names a log outside of the logs folder: %q", step.Log)
	}
	return filepath.Join(h.LogsDir, step.Log), nil
}

// heading begins the output of a step, unless exactly one step is asked for.
func heading(out *from, sel selection, d sentry.Deployment, step sentry.Step) error {
	if sel.step != 0 {
		return nil
	}
	out.end()
	attempt := ""
	if step.Attempt > 1 {
		attempt = fmt.Sprintf(" (attempt %d)", step.Attempt)
	}
	whose := d.Watch.String() + ": "
	if out.prefix != "" { // every line says it already
		whose = ""
	}
	_, err := fmt.Fprintf(out, "==> %s%d %s%s\n", whose, step.Ordinal, logger.Sanitize(oneLine(step.Name)), attempt)
	return err
}

// ending says how a step ended where it did not succeed.
func ending(out *from, sel selection, step sentry.Step) error {
	if sel.step != 0 || !step.Status.Terminal() || step.Status == sentry.Succeeded {
		return nil
	}
	out.end()
	_, err := fmt.Fprintf(out, "==> %s: %s\n", strings.ReplaceAll(string(step.Status), "_", " "), logger.Sanitize(oneLine(step.Reason)))
	return err
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// tail writes the last lines of a log.
func tail(out io.Writer, log io.Reader, lines int) error {
	const maxLine = 64 << 10 // of a line that is longer, the end: its beginning has left the window anyway
	ring := make([][]byte, 0, min(lines, 1024))
	next := 0
	in := bufio.NewReaderSize(log, maxLine)
	var line []byte
	keep := func() {
		if len(ring) < lines {
			ring = append(ring, bytes.Clone(line))
		} else {
			ring[next] = append(ring[next][:0], line...)
			next = (next + 1) % lines
		}
		line = line[:0]
	}
	for {
		piece, err := in.ReadSlice('\n')
		if len(line)+len(piece) > maxLine {
			line = line[:0]
		}
		line = append(line, piece...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err == nil || len(line) > 0 {
			keep()
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	for i := range ring {
		if _, err := out.Write(ring[(next+i)%len(ring)]); err != nil {
			return err
		}
	}
	return nil
}
