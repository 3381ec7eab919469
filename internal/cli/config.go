package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"sentry/internal/config"
)

func newConfig(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Show the configuration, or its schema", Args: cobra.NoArgs, RunE: needsVerb}
	cmd.AddCommand(
		&cobra.Command{
			Use:   "schema",
			Short: "Print the JSON Schema of the configuration file, for editors",
			Args:  exactly(),
			RunE: func(*cobra.Command, []string) error {
				schema, err := config.Schema()
				if err != nil {
					return err
				}
				return a.print(schema)
			},
		},
		&cobra.Command{
			Use:   "view",
			Short: "Print the configuration as it takes effect: expanded, with defaults, without secrets",
			Args:  exactly(),
			RunE: func(*cobra.Command, []string) error {
				cfg, err := a.load()
				if err != nil {
					return err
				}
				view, err := config.View(cfg)
				if err != nil {
					return err
				}
				return a.print(view)
			},
		},
	)
	return cmd
}

// print writes a text that ends with one line end.
func (a *app) print(text []byte) error {
	for len(text) > 0 && text[len(text)-1] == '\n' {
		text = text[:len(text)-1]
	}
	_, err := fmt.Fprintf(a.out, "%s\n", text)
	return err
}

// needsVerb is for commands that only hold others.
func needsVerb(cmd *cobra.Command, _ []string) error {
	cmd.SetOut(cmd.ErrOrStderr())
	_ = cmd.Help()
	return silent(exitUsage)
}
