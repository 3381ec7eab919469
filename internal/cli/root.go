package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"sentry/internal/logger"
)

// The groups of verbs in the help.
const (
	groupSetUp = "setup"
	groupRun   = "run"
	groupSee   = "see"
	groupAct   = "act"
)

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "sentry",
		Short: "Watch branches of Git repositories and roll out groups of them",
		Long: `Sentry watches branches of Git repositories and rolls out groups of them: when a branch moves, it clones the QA
repository of each member, runs the commands that deploy and test it, and says truthfully how that ended.

The older form, sentry [-config F] -action=validate|trigger|watch, does the same as the verbs.

Exit codes: 0 ok, 1 the rollout or a check failed, 2 wrong usage or configuration, 3 the daemon cannot be reached,
4 not allowed, 5 not found, 6 timed out waiting, 130 interrupted.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkFlags(); err != nil {
				return err
			}
			a.ran = true
			return nil
		},
	}
	root.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return noCommand(cmd, args[0])
	}
	root.SuggestionsMinimumDistance = 2
	root.RunE = func(cmd *cobra.Command, _ []string) error {
		// Somebody forgot to say what to do: that is a mistake, so the help is no data.
		cmd.SetOut(a.err.Writer)
		_ = cmd.Help()
		return silent(exitUsage)
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &problem{code: exitUsage, message: err.Error(), hint: "`" + cmd.CommandPath() + " --help` lists the flags"}
	})

	f := root.PersistentFlags()
	f.StringVarP(&a.flags.config, "config", "c", a.usualConfig(), "configuration file; SENTRY_CONFIG names another default")
	f.StringVar(&a.flags.stateDir, "state-dir", "", "state directory (default: global.state_dir of the configuration)")
	f.StringVarP(&a.flags.output, "output", "o", "table", "form of the output: table or json")
	f.StringVar(&a.flags.logLevel, "log-level", "", "least level of log lines: debug, info, warn, error or fatal")
	f.BoolVarP(&a.flags.verbose, "verbose", "v", false, "the same as --log-level debug")
	fixed(root, "output", "table", "json")
	fixed(root, "log-level", logLevels...)

	root.AddGroup(
		&cobra.Group{ID: groupSetUp, Title: "Set up:"},
		&cobra.Group{ID: groupRun, Title: "Run:"},
		&cobra.Group{ID: groupSee, Title: "See:"},
		&cobra.Group{ID: groupAct, Title: "Act:"},
	)
	for _, g := range []struct {
		id    string
		verbs []*cobra.Command
	}{
		{groupSetUp, []*cobra.Command{newValidate(a), newCheck(a), newBudget(a), newConfig(a), newState(a)}},
		{groupRun, []*cobra.Command{newWatch(a), newTrigger(a), newDemo(a)}},
		{groupSee, []*cobra.Command{newStatus(a), newHistory(a), newShow(a), newLogs(a), newWhy(a)}},
		{groupAct, []*cobra.Command{newCancel(a), newRetry(a), newPause(a), newResume(a)}},
	} {
		for _, verb := range g.verbs {
			verb.GroupID = g.id
			root.AddCommand(verb)
		}
	}
	root.AddCommand(newVersion(a), newRunner(a))
	return root
}

// exact makes help and completion, which come with cobra, refuse what they do not know, as the other verbs do. The streams
// of root are set.
func exact(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, verb := range root.Commands() {
		switch verb.Name() {
		case "completion":
			verb.Args = func(cmd *cobra.Command, args []string) error {
				if len(args) == 0 {
					return nil
				}
				var shells []string
				for _, shell := range cmd.Commands() {
					shells = append(shells, shell.Name())
				}
				return usage("there are no completions for %q; use one of %s", args[0], strings.Join(shells, ", "))
			}
			verb.RunE = needsVerb
		case "help":
			verb.PreRunE = func(_ *cobra.Command, args []string) error {
				at := root
				for _, name := range args {
					i := slices.IndexFunc(at.Commands(), func(c *cobra.Command) bool { return c.Name() == name || c.HasAlias(name) })
					if i < 0 {
						return noCommand(at, strings.Join(args, " "))
					}
					at = at.Commands()[i]
				}
				return nil
			}
		}
	}
}

// noCommand is the problem of a command that there is not below another.
func noCommand(below *cobra.Command, name string) error {
	p := &problem{code: exitUsage, message: "there is no command \"" + name + "\"", hint: "`sentry help` lists the commands"}
	if near := below.SuggestionsFor(name); len(near) > 0 {
		p.hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return p
}

var logLevels = []string{"debug", "info", "warn", "error", "fatal"}

// checkFlags says what is wrong with the flags that every verb has.
func (a *app) checkFlags() error {
	if !slices.Contains([]string{"table", "json"}, a.flags.output) {
		return usage("-o is table or json, not %q", a.flags.output)
	}
	if a.flags.logLevel == "" {
		return nil
	}
	if _, err := logger.ParseLevel(a.flags.logLevel); err != nil {
		return usage("--log-level: %v", err)
	}
	return nil
}

// asJSON reports whether the output is for a program.
func (a *app) asJSON() bool { return a.flags.output == "json" }

// fixed completes a flag from a fixed list.
func fixed(cmd *cobra.Command, flag string, values ...string) {
	// It fails only for a flag that does not exist, and every command is built by the tests.
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err)
	}
}
