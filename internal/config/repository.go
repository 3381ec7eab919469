package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sentry/internal/sentry"

	"github.com/google/jsonschema-go/jsonschema"
	"go.yaml.in/yaml/v4"
)

// groupsCodec reads the mapping of names to groups.
func groupsCodec() codec[Config] {
	m := groupKeys()
	return codec[Config]{
		schema: func() *jsonschema.Schema {
			return &jsonschema.Schema{Type: "object", AdditionalProperties: m.schema()}
		},
		read: func(d *decoder, at *place, n *yaml.Node, into *Config) {
			n = follow(n)
			if n.Kind != yaml.MappingNode {
				d.wrongKind(at, n, "a mapping of names to groups")
				return
			}
			for name, value := range d.pairs(at, n) {
				here := at.at(name.Value)
				if err := sentry.CheckName(name.Value); err != nil {
					d.wrong(here, name, err.Error(), "")
				}
				g := initialGroup(name.Value)
				m.read(d, here, value, &g)
				d.groups[g.Name], d.inJobs[g.Name] = name, g.Executor == ExecutorKubernetes
				into.Groups = append(into.Groups, g)
			}
		},
		show: func(from *Config) *yaml.Node {
			out := &yaml.Node{Kind: yaml.MappingNode}
			for i := range from.Groups {
				if g := &from.Groups[i]; !g.Implicit {
					out.Content = append(out.Content, plain(g.Name), m.show(g))
				}
			}
			if len(out.Content) == 0 {
				return nil
			}
			return out
		},
	}
}

// groupName is the group of a repository; an implicit one is not shown, as no group of the file has its name.
func groupName() codec[Repository] {
	c := text(func(r *Repository) *string { return &r.Group }, sentry.CheckName)
	show := c.show
	c.show = func(from *Repository) *yaml.Node {
		if from.implicit {
			return nil
		}
		return show(from)
	}
	return c
}

// pattern is one entry of branches. Ten thousand repositories watch few different names, so equal ones share memory.
func pattern() codec[sentry.Pattern] {
	return parsed(
		func(d *decoder, s *scalar, into *sentry.Pattern) error {
			if known, ok := d.patterns[s.text]; ok {
				*into = known
				return nil
			}
			if err := checkNotRef(s.text); err != nil {
				return err
			}
			p, err := sentry.ParsePattern(s.text)
			if err != nil {
				return err
			}
			d.patterns[s.text], *into = p, p
			return nil
		},
		func(from *sentry.Pattern) string { return from.String() },
	)
}

func checkBranch(name string) error {
	if err := checkNotRef(name); err != nil {
		return err
	}
	if strings.ContainsAny(name, "*?") {
		return errors.New("a pattern cannot stand here, only the name of one branch")
	}
	return sentry.CheckBranch(name)
}

// checkNotRef catches refs/heads/main, which git takes for a branch of that whole name.
func checkNotRef(name string) error {
	if rest, ok := strings.CutPrefix(name, "refs/heads/"); ok {
		return withHint(errors.New("it is a ref, not the name of a branch"), "write "+clip(rest, 80))
	}
	return nil
}

// checkConfig looks at what only the whole file tells, and makes the implicit groups.
func checkConfig(d *decoder, at *place, n *yaml.Node, given map[string]*yaml.Node, c *Config) {
	if top := given["webhook_url"]; top != nil && given["global"] != nil {
		for i, name := range follow(given["global"]).Content {
			if i%2 == 0 && name.Value == "webhook_url" {
				d.wrong(at.at("webhook_url"), top, fmt.Sprintf("it is given twice, also under global on line %d", name.Line), "keep one of them")
			}
		}
	}
	checkHosts(d, at.at("hosts"), given["hosts"], c)
	checkWebhooks(d, at, given, c)
	checkJobs(d, at, n, given, c)
	used := make(map[string]bool, len(c.Repositories))
	for i := range c.Repositories {
		r := &c.Repositories[i]
		if used[r.Group] || r.Group == "" {
			continue
		}
		used[r.Group] = true
		if d.groups[r.Group] == nil {
			g := initialGroup(r.Group)
			g.Implicit = true
			c.Groups = append(c.Groups, g)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.groups)) {
		if !used[name] && !d.full() {
			d.warn(at.at("groups").at(name), d.groups[name], "no repository belongs to the group", "")
		}
	}
}

// checkRepository looks at one repository among the others, and completes what it leaves open.
func checkRepository(d *decoder, at *place, n *yaml.Node, given map[string]*yaml.Node, r *Repository) {
	checkUnique(d, at, given["name"], r.Name)
	switch group := given["group"]; {
	case group != nil && r.Group != "" && d.groups[r.Group] == nil:
		known := slices.Sorted(maps.Keys(d.groups))
		hint := "add it to groups, or leave the key out for a group of its own"
		if nearest, ok := suggest(r.Group, known); ok {
			hint = fmt.Sprintf("did you mean %s?", nearest)
		}
		d.wrong(at.at("group"), follow(group), fmt.Sprintf("there is no group %q", clip(follow(group).Value, sentry.MaxName)), hint)
	case group == nil && r.Name != "":
		r.Group, r.implicit = r.Name, true
		if d.groups[r.Group] != nil {
			d.wrong(at.at("group"), n, fmt.Sprintf("it is missing, but a group has the repository's name, %q", r.Name), "add group: "+r.Name+", or rename the group")
		}
	}
	r.Monitor.Branches = d.share(r.Monitor.Branches)
	if r.Monitor.Interval == 0 {
		r.Monitor.Interval = d.config.PollingInterval
	}
	checkPlace(d, at.at("deploy"), given["deploy"], r)
	if deploy := given["deploy"]; deploy != nil && r.Deploy.ProjectName == "" && r.Name != "" && !has(deploy, "project_name") {
		r.Deploy.ProjectName = r.Name
		if sentry.CheckProjectName(r.Name) != nil {
			d.wrong(at.at("deploy").at("project_name"), follow(deploy),
				fmt.Sprintf("it is missing, and the repository's name %q is not a Kubernetes name that could stand in", r.Name),
				`add one of at most 63 of a-z, 0-9 and "-"`)
		}
	}
}

// checkUnique reports a name that another repository has, or has but for upper and lower case: they would share a
// folder where the file system does not tell these apart.
func checkUnique(d *decoder, at *place, n *yaml.Node, name string) {
	if n == nil || name == "" {
		return
	}
	folded := strings.ToLower(name)
	first, taken := d.names[folded]
	if !taken {
		d.names[folded] = named{name, follow(n).Line}
		return
	}
	message := fmt.Sprintf("the repository on line %d has this name, too", first.line)
	if first.name != name {
		message = fmt.Sprintf("the repository on line %d is called %q, which differs only in upper and lower case", first.line, first.name)
	}
	d.wrong(at.at("name"), follow(n), message, "give each a name of its own")
}

// checkMonitor looks for branches that are there twice, and at the address together with the credentials for it.
func checkMonitor(d *decoder, at *place, n *yaml.Node, given map[string]*yaml.Node, m *Monitor) {
	if branches := given["branches"]; branches != nil {
		seen := make(map[string]bool, len(m.Branches))
		for i, p := range m.Branches {
			if text := p.String(); text != "" && seen[text] {
				item := follow(follow(branches).Content[i])
				d.wrong(at.at("branches").item(i), item, fmt.Sprintf("the branch %q is there twice", clip(item.Value, 60)), "keep one of them")
			} else {
				seen[text] = true
			}
		}
	}
	if given["repo_type"] == nil {
		m.Type = typeOf(m.Remote)
	}
	checkAPI(d, at.at("api_url"), given["api_url"], m)
	checkAccess(d, at.at("auth"), given["auth"], m.Remote, m.Type, m.Auth)
}

// checkDeploy completes the commands, and looks at the address together with the credentials for it.
func checkDeploy(d *decoder, at *place, n *yaml.Node, given map[string]*yaml.Node, p *Deploy) {
	for i := range p.Commands {
		c := &p.Commands[i]
		if !c.named {
			c.Name = beginning(c.Run)
		}
		if !c.limited {
			c.Timeout = d.config.Global.Timeout
		}
	}
	if given["repo_type"] == nil {
		p.Type = typeOf(p.Remote)
	}
	checkAccess(d, at.at("auth"), given["auth"], p.Remote, p.Type, p.Auth)
	checkWork(d, at, n, given, p)
}

// beginning is a name for a script: its first line that says something, cut to some 40 characters after a word. A comment
// says what the script is for; the line that chooses an interpreter, or options of the shell, says nothing.
func beginning(script string) string {
	const most = 40
	first := ""
	for line := range strings.Lines(script) {
		line = strings.Join(strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || isControl(r) }), " ")
		line = strings.TrimSuffix(line, " \\")
		if first == "" {
			first = line
		}
		if strings.HasPrefix(line, "#!") || strings.HasPrefix(line, "set ") {
			continue
		}
		if line = strings.TrimSpace(strings.TrimLeft(line, "#")); line != "" {
			first = line
			break
		}
	}
	runes := []rune(first)
	if len(runes) <= most {
		return first
	}
	cut := most
	for i := most; i > most/2; i-- {
		if runes[i] == ' ' {
			cut = i
			break
		}
	}
	return string(runes[:cut]) + "…"
}

// has reports whether a mapping has a key, whatever its value is.
func has(n *yaml.Node, name string) bool { return valueOf(n, name) != nil }

// valueOf gives the value of a key of a mapping; nil where it has none.
func valueOf(n *yaml.Node, name string) *yaml.Node {
	n = follow(n)
	for i := 0; n.Kind == yaml.MappingNode && i < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}
