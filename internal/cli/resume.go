package cli

import (
	"github.com/spf13/cobra"

	"sentry/internal/server"
)

func newResume(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "resume GROUP",
		Short:             "Begin rollouts of a paused group again",
		Args:              exactly(argGroup),
		ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.setPause(cmd.Context(), args[0], "resume", server.ResumeRequest{By: a.person()})
		},
	}
}
