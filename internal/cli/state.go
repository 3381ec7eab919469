package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"sentry/internal/server"
	"sentry/internal/store"
)

func newState(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "state", Short: "Look after the state directory", Args: cobra.NoArgs, RunE: needsVerb}
	cmd.AddCommand(&cobra.Command{
		Use:   "check",
		Short: "Check that the state on disk is whole and keeps its promises",
		Long:  "Check that the state on disk is whole and keeps its promises. It only reads, and may run beside a daemon.",
		Args:  exactly(),
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.checkState(cmd.Context()) },
	})
	return cmd
}

// broken is a promise that a state does not keep.
type broken struct {
	Message string `json:"message"`
}

func (a *app) checkState(ctx context.Context) error {
	p, err := a.locate()
	if err != nil {
		return err
	}
	var findings []string
	s, err := store.Open(ctx, store.Options{Dir: p.stateDir, ReadOnly: true})
	switch {
	case errors.Is(err, store.ErrNoState):
		return &problem{code: exitNotFound, message: fmt.Sprintf("there is no state in %s", p.stateDir), hint: "--state-dir names another directory", cause: err}
	case err == nil:
		findings, err = s.Check(ctx)
		err = errors.Join(err, s.Close())
	}
	if damage(err) {
		findings, err = append(findings, err.Error()), nil
	}
	if err != nil {
		return fmt.Errorf("cannot check the state: %w", err)
	}
	if a.asJSON() {
		list := server.List[broken]{Items: []broken{}}
		for _, f := range findings {
			list.Items = append(list.Items, broken{f})
		}
		err = a.json(list)
	} else if len(findings) == 0 {
		_, err = fmt.Fprintf(a.out, "the state in %s is whole\n", tidy(p.stateDir))
	}
	if err != nil || len(findings) == 0 {
		return err
	}
	if !a.asJSON() {
		for _, f := range findings {
			fmt.Fprintln(a.out, tidy(f))
		}
	}
	return &problem{code: exitFailed, message: fmt.Sprintf("the state in %s has %s", p.stateDir, counted(len(findings), "defect", "defects")), hint: "stop the daemon, keep a copy of the directory, and restore the last good one"}
}

// damage reports whether err says something about the state itself, not about looking at it.
func damage(err error) bool {
	for _, kind := range []error{store.ErrCorrupt, store.ErrLost, store.ErrOlderCopy, store.ErrForeign} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}
