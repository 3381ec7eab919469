package cli

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"sentry/internal/sentry"
)

// hintRollouts is for whoever names a rollout that there is not.
const hintRollouts = "`sentry history` lists the rollouts"

// What the arguments of verbs are called in their usage.
const (
	argID         = "ID"
	argGroup      = "GROUP"
	argRepository = "REPOSITORY"
	argName       = "GROUP|REPOSITORY|ID"
)

// verbOf is how a message calls a command: without the program, whose name stands before the message.
func verbOf(cmd *cobra.Command) string {
	return strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
}

// exactly asks for these arguments, in this order.
func exactly(names ...string) cobra.PositionalArgs { return between(len(names), names...) }

// between asks for the first least of these arguments, and takes the others.
func between(least int, names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least {
			return &problem{code: exitUsage, message: fmt.Sprintf("%s needs %s", verbOf(cmd), strings.Join(names[len(args):least], " and ")), hint: "usage: " + cmd.UseLine()}
		}
		if len(args) > len(names) {
			return &problem{code: exitUsage, message: fmt.Sprintf("%s takes no argument %q", verbOf(cmd), args[len(names)]), hint: "usage: " + cmd.UseLine()}
		}
		for i, arg := range args {
			if err := checkArgument(names[i], arg); err != nil {
				return err
			}
		}
		return nil
	}
}

var idForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,63}$`)

// checkArgument says what cannot be the name of anything, so that it never becomes part of a path.
func checkArgument(name, arg string) error {
	what := map[string]string{argID: "rollout", argGroup: "group", argRepository: "repository", argName: "group, repository or rollout"}[name]
	if name == argID && idForm.MatchString(arg) || name != argID && sentry.CheckName(arg) == nil {
		return nil
	}
	p := &problem{code: exitNotFound, message: fmt.Sprintf("there is no %s %q", what, arg)}
	if name == argID {
		p.hint = hintRollouts
	}
	return p
}
