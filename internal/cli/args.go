package cli

import (
	"slices"
	"strings"
)

// actions are the values of -action.
var actions = []string{"validate", "trigger", "watch"}

// longFlags are the flags that may be written with one dash, as Go's own flag package has them: -config F, -verbose.
var longFlags = []string{"action", "config", "verbose", "state-dir", "log-level", "output", "help", "version"}

// rewrite puts the older form of a command line, `-config F -action=trigger`, into the one with verbs,
// `trigger --config F`. Everything else stays as it is.
func rewrite(args []string) ([]string, error) {
	var out []string
	var action *string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			out = append(out, args[i:]...)
			break
		}
		name, value, assigned := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		dashes := len(arg) - len(strings.TrimLeft(arg, "-"))
		if dashes < 1 || dashes > 2 || !slices.Contains(longFlags, name) {
			out = append(out, arg)
			continue
		}
		switch {
		case name == "version" && !assigned:
			out = append(out, name) // a verb here; everybody tries the flag
			continue
		case name != "action":
			out = append(out, "--"+arg[dashes:])
			continue
		}
		if !assigned {
			if i+1 == len(args) {
				return nil, usage("-action needs a value: one of %s", strings.Join(actions, ", "))
			}
			i++
			value = args[i]
		}
		if !slices.Contains(actions, value) {
			return nil, usage("there is no action %q; use one of %s", value, strings.Join(actions, ", "))
		}
		if action != nil && *action != value {
			return nil, usage("two actions are given, %s and %s; use one", *action, value)
		}
		action = &value
	}
	if action != nil {
		out = append([]string{*action}, out...)
	}
	return out, nil
}
