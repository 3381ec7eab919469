package config

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"sentry/internal/sentry"

	"github.com/google/jsonschema-go/jsonschema"
	"go.yaml.in/yaml/v4"
)

func commandKeys() *mapping[Command] {
	return &mapping[Command]{
		about:   "A command with options.",
		initial: func() Command { return Command{} },
		keys: []key[Command]{
			{
				name:  "name",
				about: "What the step is called. By default the beginning of the script.",
				value: text(func(c *Command) *string { return &c.Name }, checkStepName),
			}, {
				name:     "run",
				required: true,
				about:    "The script.",
				value:    text(func(c *Command) *string { return &c.Run }, checkScript),
			}, {
				name:  "timeout",
				about: "What ends the command. By default global.timeout.",
				value: duration(func(c *Command) *time.Duration { return &c.Timeout }, time.Second, week),
			}, {
				name:  "retries",
				about: "How often it is begun again after it failed.",
				value: integer(func(c *Command) *int { return &c.Retries }, 0, 100),
			},
		},
		after: func(_ *decoder, _ *place, _ *yaml.Node, given map[string]*yaml.Node, into *Command) {
			into.named, into.limited = given["name"] != nil, given["timeout"] != nil
		},
	}
}

// commandCodec is a script, or a mapping with one and options for it.
func commandCodec() codec[Command] {
	script := text(func(c *Command) *string { return &c.Run }, checkScript)
	options := asItem(commandKeys)
	return codec[Command]{
		schema: func() *jsonschema.Schema {
			return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{script.schema(), options.schema()}}
		},
		read: func(d *decoder, at *place, n *yaml.Node, into *Command) {
			if follow(n).Kind == yaml.MappingNode {
				options.read(d, at, n, into)
				return
			}
			script.read(d, at, n, into)
		},
		show: func(from *Command) *yaml.Node { return options.show(from) },
	}
}

func checkScript(script string) error {
	if strings.TrimSpace(script) == "" {
		return withHint(errors.New("the command is empty"), "write what is to be run, or take the entry out")
	}
	return nil
}

func checkStepName(name string) error {
	switch {
	case strings.TrimSpace(name) == "":
		return errors.New("the name is empty")
	case utf8.RuneCountInString(name) > 100:
		return errors.New("the name has more than 100 characters")
	case strings.ContainsFunc(name, isControl):
		return errors.New("the name holds a control character")
	}
	return nil
}

// envCodec reads the variables for commands: names to texts, numbers, or true and false, taken as they are written.
func envCodec() codec[Deploy] {
	return codec[Deploy]{
		schema: func() *jsonschema.Schema {
			return &jsonschema.Schema{
				Type:                 "object",
				PropertyNames:        &jsonschema.Schema{Pattern: "^[A-Za-z_][A-Za-z0-9_]*$"},
				AdditionalProperties: &jsonschema.Schema{Types: []string{"string", "number", "boolean"}},
			}
		},
		read: func(d *decoder, at *place, n *yaml.Node, into *Deploy) {
			n = follow(n)
			if n.Kind != yaml.MappingNode {
				d.wrongKind(at, n, "a mapping of variables to values")
				return
			}
			for name, value := range d.pairs(at, n) {
				here := at.at(name.Value)
				if err := checkEnvName(name.Value); err != nil {
					d.wrong(here, name, err.Error(), hintOf(err))
				}
				s, ok := d.scalar(here, value, "a text, a number, or true or false")
				if !ok {
					continue
				}
				v := EnvVar{Name: name.Value, Value: sentry.NewSecret(s.text), Sensitive: sensitive(name.Value)}
				for _, source := range s.variables {
					v.Sensitive = v.Sensitive || sensitive(source.name)
				}
				into.Env = append(into.Env, v)
			}
		},
		show: func(from *Deploy) *yaml.Node {
			out := &yaml.Node{Kind: yaml.MappingNode}
			for _, v := range from.Env {
				value := v.Value.String()
				if !v.Sensitive {
					value = escape(v.Value.Reveal())
				}
				out.Content = append(out.Content, plain(v.Name), plain(value))
			}
			if len(out.Content) == 0 {
				return nil
			}
			return out
		},
	}
}

// reservedEnv are variables that would not do what whoever sets them expects. The operator may run anything at all, so
// this is no defence against one: it catches accidents. What a single program needs can be set inside the command, in
// front of that program.
var reservedEnv = map[string]string{
	"BASH_ENV":        "every shell would run that file before the command",
	"ENV":             "every shell would run that file before the command",
	"SHELLOPTS":       "it would change how every shell starts, and with that when a command fails",
	"BASHOPTS":        "it would change how every shell starts",
	"POSIXLY_CORRECT": "it would change how every shell reads the command",
	"LD_PRELOAD":      "the shell itself would load that library",
	"LD_AUDIT":        "the shell itself would load that library",
	"LD_LIBRARY_PATH": "the shell itself would take its libraries from there",
	"HOME":            "every deployment has a private one, so that two at once do not meet",
	"TMPDIR":          "every deployment has a private one, which is removed after it",
}

// checkEnvName wants the name of a variable that neither Sentry nor the start of a shell depends on. GIT_… and
// KUBECONFIG are for the commands alone, as Sentry's own git never sees them, and may be set.
func checkEnvName(name string) error {
	const inside = "set it inside the command that needs it"
	switch {
	case !validVariable(name):
		return withHint(fmt.Errorf("%q is not the name of a variable", clip(name, 60)), `use letters, digits and "_", and no digit first`)
	case strings.HasPrefix(name, "SENTRY_"):
		// Among them those of the error tracker of the same name (SENTRY_DSN, SENTRY_RELEASE, …): a program under test
		// that uses it would report there.
		return withHint(fmt.Errorf("%q is reserved: Sentry sets the variables that begin with SENTRY_", clip(name, 60)), "use another name, or "+inside)
	case reservedEnv[name] != "":
		return withHint(fmt.Errorf("%q cannot be set for all commands: %s", name, reservedEnv[name]), inside)
	}
	return nil
}

// sensitive tells from the name of a variable whether its value is to be masked.
func sensitive(name string) bool {
	name = strings.ToUpper(name)
	for _, word := range []string{"TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "KEY", "CREDENTIAL"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}
