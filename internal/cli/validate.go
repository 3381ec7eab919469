package cli

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"sentry/internal/config"
)

// validation is what `validate -o json` prints.
type validation struct {
	Items        []config.Problem `json:"items"`
	Valid        bool             `json:"valid"`
	File         string           `json:"file"`
	Groups       int              `json:"groups"`
	Repositories int              `json:"repositories"`
	Branches     int              `json:"branches"`
}

func newValidate(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "validate",
		Short: "Check the configuration alone, offline",
		Long: `Check the configuration alone: nothing is asked, nothing is written. Every mistake is reported at once, each as
file:line:column: path: what is wrong; what would be right. Whether tokens work and branches exist is for "sentry check".`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error { return a.validate() },
	}
}

func (a *app) validate() error {
	cfg, problems, err := config.Load(a.flags.config, a.configOptions(false))
	var wrong config.Problems
	if err != nil && !errors.As(err, &wrong) {
		return a.noConfig(err)
	}
	result := validation{Items: append(append([]config.Problem{}, wrong...), problems...), Valid: err == nil, File: a.flags.config}
	slices.SortStableFunc(result.Items, func(a, b config.Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if cfg != nil {
		result.File, result.Groups, result.Repositories = cfg.File, len(cfg.Groups), len(cfg.Repositories)
		for _, r := range cfg.Repositories {
			result.Branches += len(r.Monitor.Branches)
		}
	}
	if a.asJSON() {
		if err := a.json(result); err != nil {
			return err
		}
	} else {
		for _, p := range result.Items {
			fmt.Fprintln(a.out, tidy(p.String()))
		}
		if result.Valid {
			fmt.Fprintf(a.out, "%s is valid: %s in %s, %s\n", tidy(a.flags.config), counted(result.Repositories, "repository", "repositories"),
				counted(result.Groups, "group", "groups"), counted(result.Branches, "branch or pattern", "branches or patterns"))
		}
	}
	if result.Valid {
		return nil
	}
	a.note("%s in %s", counted(len(wrong), "problem", "problems"), a.flags.config)
	return silent(exitUsage)
}

func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
