package cli

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"sentry/internal/command"
	"sentry/internal/deploy"
	"sentry/internal/kube"
)

// newRunner is the verb that Sentry itself calls, in the pod of a Job. People have no use for it.
func newRunner(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "runner",
		Short:  "Carry out one deployment, told on standard input, in the pod of a Job",
		Hidden: true,
		Args:   exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.flags.stateDir == "" {
				return usage("runner needs --state-dir, a folder of its own")
			}
			dir, err := filepath.Abs(a.flags.stateDir)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(filepath.Join(dir, "workspaces"), 0o700); err != nil {
				return fmt.Errorf("cannot use the folder of the runner: %w", err)
			}
			if _, err := command.Prepare(dir); err != nil {
				return fmt.Errorf("cannot prepare for running commands: %w", err)
			}
			ctx := cmd.Context()
			go command.ReapStrangers(ctx)
			runner := &deploy.Runner{
				Dir: dir, Authority: kube.JobAuthority, Agent: "sentry/" + version(), Lacks: command.Limits(),
				Log: slog.New(slog.NewJSONHandler(a.err.Writer, &slog.HandlerOptions{Level: slog.LevelWarn})),
			}
			if err := runner.Run(ctx, a.stdin, a.out.Writer); err != nil {
				return errors.New("the runner: " + err.Error())
			}
			return nil
		},
	}
}
