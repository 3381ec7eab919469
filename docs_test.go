package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"go.yaml.in/yaml/v4"

	"sentry/internal/cli"
	"sentry/internal/config"
)

// The pages for people are checked against the program: a page that lies is worse than none.

// page is one Markdown file.
type page struct {
	path  string // from the root of the source
	text  string
	lines []string
	prose string // without fenced blocks
	fence []fence
}

// fence is a fenced block.
type fence struct {
	info string // what stands behind the three marks
	text string
	line int // of its first line
}

// pages reads README.md and everything below docs.
func pages(t *testing.T) []page {
	t.Helper()
	names := []string{"README.md"}
	err := filepath.WalkDir("docs", func(name string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(name, ".md") {
			names = append(names, filepath.ToSlash(name))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var list []page
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, readPage(t, name, string(raw)))
	}
	if len(list) != 17 {
		t.Fatalf("%d pages, want README.md and eight in each language", len(list))
	}
	return list
}

func readPage(t *testing.T, name, text string) page {
	t.Helper()
	p := page{path: name, text: text, lines: strings.Split(text, "\n")}
	var prose strings.Builder
	open := -1
	for i, line := range p.lines {
		switch info, mark := strings.CutPrefix(line, "```"); {
		case mark && open < 0:
			p.fence = append(p.fence, fence{info: info, line: i + 2})
			open = i
		case mark && info == "":
			p.fence[len(p.fence)-1].text = strings.Join(p.lines[open+1:i], "\n") + "\n"
			open = -1
		case open < 0:
			prose.WriteString(line + "\n")
		}
	}
	if open >= 0 {
		t.Fatalf("%s:%d: the block has no end", name, open+1)
	}
	p.prose = prose.String()
	return p
}

// TestDocsConfigurations loads every YAML block. One marked "sentry" is a whole configuration; one marked "part" is
// completed with the least that is missing. Neither may have a problem, nor draw a warning.
func TestDocsConfigurations(t *testing.T) {
	var blocks int
	for _, p := range pages(t) {
		for _, f := range p.fence {
			kind, yes := strings.CutPrefix(f.info, "yaml")
			if !yes {
				continue
			}
			blocks++
			text := []byte(f.text)
			switch strings.TrimSpace(kind) {
			case "sentry":
			case "part":
				text = completed(t, f.text)
			default:
				t.Errorf("%s:%d: a YAML block is marked ```yaml sentry (a whole configuration) or ```yaml part", p.path, f.line)
				continue
			}
			environ := []string{"HOME=/home/me"}
			for _, v := range variable.FindAllStringSubmatch(f.text, -1) {
				environ = append(environ, v[1]+"=/some-value")
			}
			_, warnings, err := config.Parse(fmt.Sprintf("%s:%d", p.path, f.line), text, config.Options{Environ: environ})
			if err != nil || len(warnings) > 0 {
				t.Errorf("%v\n%v", err, warnings)
			}
		}
	}
	if blocks < 20 {
		t.Errorf("only %d YAML blocks were found: this test is looking at the wrong place", blocks)
	}
}

var variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)`)

// completed adds to a part of a configuration what a whole one must have.
func completed(t *testing.T, text string) []byte {
	t.Helper()
	var part map[string]any
	if err := yaml.Unmarshal([]byte(text), &part); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	repository := map[string]any{
		"name":    "a",
		"monitor": map[string]any{"repo_url": "https://git.example.com/a", "branches": []string{"main"}},
		"deploy":  map[string]any{"qa_repo_url": "https://git.example.com/qa", "qa_repo_branch": "main", "commands": []string{"true"}},
	}
	whole := map[string]any{}
	for key, value := range part {
		if _, of := repository[key]; of {
			repository[key] = value
		} else {
			whole[key] = value
		}
	}
	if groups, ok := whole["groups"].(map[string]any); ok {
		for name := range groups { // an empty group draws a warning
			repository["group"] = name
		}
	}
	whole["repositories"] = []any{repository}
	out, err := yaml.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestDocsKeys compares the tables of configuration.md with the schema: each key, its default and its bounds, in both
// directions. A table tells which mapping it is about in a comment before it.
func TestDocsKeys(t *testing.T) {
	raw, err := config.Schema()
	if err != nil {
		t.Fatal(err)
	}
	var root schema
	if err := json.Unmarshal(raw, &root); err != nil {
		t.Fatal(err)
	}
	mappings := map[string]*schema{}
	root.mappings("", mappings)
	if len(mappings) < 9 {
		t.Fatalf("the schema has only %d mappings: %v", len(mappings), mappings)
	}
	for _, p := range pages(t) {
		if path.Base(p.path) != "configuration.md" {
			continue
		}
		documented := map[string]bool{}
		for i, line := range p.lines {
			comment, yes := strings.CutPrefix(line, "<!-- keys:")
			if !yes {
				continue
			}
			names := strings.Fields(strings.TrimSuffix(comment, "-->"))
			if len(names) == 0 {
				names = []string{""}
			}
			for _, name := range names {
				documented[name] = true
				m := mappings[name]
				if m == nil {
					t.Errorf("%s:%d: the schema has no mapping %q", p.path, i+1, name)
					continue
				}
				m.compare(t, p, i+2)
			}
		}
		for name := range mappings {
			if !documented[name] {
				t.Errorf("%s: there is no table for the keys of %q (<!-- keys: %s -->)", p.path, name, name)
			}
		}
	}
}

// schema is what the test needs of a JSON Schema.
type schema struct {
	Types                any                `json:"type"`
	Properties           map[string]*schema `json:"properties"`
	AdditionalProperties json.RawMessage    `json:"additionalProperties"` // a schema, or false
	Items                *schema            `json:"items"`
	AnyOf                []*schema          `json:"anyOf"`
	Required             []string           `json:"required"`
	Default              any                `json:"default"`
	Enum                 []string           `json:"enum"`
	Minimum, Maximum     *float64
	MinItems, MaxItems   *int
}

// mappings finds every mapping with a fixed set of keys, by the path that leads to it.
func (s *schema) mappings(at string, into map[string]*schema) {
	if len(s.Properties) > 0 {
		into[at] = s
	}
	for name, p := range s.Properties {
		p.mappings(strings.TrimPrefix(at+"."+name, "."), into)
	}
	if at == "groups" {
		var group schema
		if json.Unmarshal(s.AdditionalProperties, &group) == nil {
			group.mappings(at+".NAME", into)
		}
	}
	if s.Items != nil {
		s.Items.mappings(at+"[]", into)
	}
	for _, one := range s.AnyOf {
		one.mappings(at, into)
	}
}

// allowed gives what the third column of a table has to name, in code spans; nil where that is up to the writer.
func (s *schema) allowed() []string {
	if len(s.Enum) > 0 {
		return s.Enum
	}
	if s.Types == "boolean" {
		return []string{"true", "false"}
	}
	if s.MinItems != nil && s.MaxItems != nil {
		return []string{strconv.Itoa(*s.MinItems), strconv.Itoa(*s.MaxItems)}
	}
	if s.Minimum != nil && s.Maximum != nil {
		bounds := []string{}
		for _, b := range []float64{*s.Minimum, *s.Maximum} {
			if s.Types == "integer" {
				bounds = append(bounds, strconv.Itoa(int(b)))
			} else {
				bounds = append(bounds, span(time.Duration(b*float64(time.Second))))
			}
		}
		return bounds
	}
	for _, one := range s.AnyOf {
		if found := one.allowed(); found != nil {
			return found
		}
	}
	return nil
}

// span writes a time as the configuration does: 5m, not 5m0s.
func span(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// compare reads the table that begins at or after a line, from 0, and compares it with the mapping.
func (s *schema) compare(t *testing.T, p page, from int) {
	t.Helper()
	for from < len(p.lines) && !strings.HasPrefix(p.lines[from], "|") {
		from++
	}
	rows := map[string][]string{}
	for i := from + 2; i < len(p.lines) && strings.HasPrefix(p.lines[i], "|"); i++ {
		cells := strings.Split(strings.Trim(p.lines[i], "|"), " | ")
		key := spans(cells[0])
		if len(cells) != 4 || len(key) != 1 {
			t.Errorf("%s:%d: want | `key` | default | allowed | meaning |", p.path, i+1)
			continue
		}
		rows[key[0]] = cells
		if s.Properties[key[0]] == nil {
			t.Errorf("%s:%d: there is no key %q", p.path, i+1, key[0])
		}
	}
	for name, property := range s.Properties {
		cells, ok := rows[name]
		if !ok {
			t.Errorf("%s:%d: the key %q is missing in this table", p.path, from+1, name)
			continue
		}
		want := []string{}
		if property.Default != nil {
			want = append(want, fmt.Sprint(property.Default))
		}
		if got := spans(cells[1]); !slices.Equal(got, want) && !(len(got) == 0 && len(want) == 0) {
			t.Errorf("%s: %s: the default is %q, the page says %q", p.path, name, want, got)
		}
		required := strings.Contains(cells[1], "required") || strings.Contains(cells[1], "必填")
		if required != slices.Contains(s.Required, name) {
			t.Errorf("%s: %s: required is %v, the page says otherwise", p.path, name, !required)
		}
		if want := property.allowed(); want != nil && !slices.Equal(spans(cells[2]), want) {
			t.Errorf("%s: %s: allowed is %q, the page says %q", p.path, name, want, spans(cells[2]))
		}
	}
}

var codeSpan = regexp.MustCompile("`([^`]+)`")

// spans gives what stands in `code` in a text.
func spans(text string) []string {
	var list []string
	for _, m := range codeSpan.FindAllStringSubmatch(text, -1) {
		list = append(list, m[1])
	}
	return list
}

// TestDocsCommands looks up every command line in the pages: its verb and its flags must be there. And operations.md, in
// both languages, must name every verb and every flag that there is.
func TestDocsCommands(t *testing.T) {
	verbs := commandTree(t)
	seen := 0
	for _, p := range pages(t) {
		named := map[string]bool{}
		for _, line := range commandLines(p) {
			seen++
			verb, flags, err := lookUp(verbs, line)
			if err != nil {
				t.Errorf("%s: `%s`: %v", p.path, line, err)
			}
			named[verb] = true
			for _, f := range flags {
				named[verb+" "+f] = true
			}
		}
		if path.Base(p.path) != "operations.md" {
			continue
		}
		all := strings.Join(spans(p.prose), " ")
		for verb, flags := range verbs {
			if !named[verb] && verb != "" && !holds(verbs, verb) && !strings.HasPrefix(verb, "completion ") {
				t.Errorf("%s does not name `sentry %s`", p.path, verb)
			}
			for _, f := range flags {
				if !regexp.MustCompile(`(^|[\s` + "`" + `])` + regexp.QuoteMeta(f) + `([\s=` + "`" + `]|$)`).MatchString(all) {
					t.Errorf("%s does not name the flag %s of `sentry %s`", p.path, f, verb)
				}
			}
		}
	}
	if seen < 100 {
		t.Errorf("only %d command lines were found: this test is looking at the wrong place", seen)
	}
}

// commandTree asks the program for its verbs and the flags of each, as a shell does to complete them. The verb "" has
// those that every verb has.
func commandTree(t *testing.T) map[string][]string {
	t.Helper()
	ask := func(args ...string) []string {
		var out, errs bytes.Buffer
		if code := cli.Main(append([]string{"__complete"}, args...), strings.NewReader(""), &out, &errs, nil); code != 0 {
			t.Fatalf("__complete %v ends with %d: %s", args, code, &errs)
		}
		var words []string
		for line := range strings.Lines(out.String()) {
			if word, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); word != "" && word[0] != ':' {
				words = append(words, strings.TrimSuffix(word, "="))
			}
		}
		return words
	}
	verbs := map[string][]string{"": ask("-")}
	for _, verb := range ask("") {
		verbs[verb] = ask(verb, "-")
	}
	for _, holder := range []string{"config", "state", "completion"} {
		for _, verb := range ask(holder, "") {
			verbs[holder+" "+verb] = ask(holder, verb, "-")
		}
	}
	if len(verbs) < 20 {
		t.Fatalf("only %d verbs: %v", len(verbs), verbs)
	}
	return verbs
}

// holds reports whether a verb only holds others.
func holds(verbs map[string][]string, verb string) bool {
	for v := range verbs {
		if strings.HasPrefix(v, verb+" ") {
			return true
		}
	}
	return false
}

var sentryLine = regexp.MustCompile(`^(?:\$ )?(?:sudo )?(?:-u \S+ )?(?:sentry|go run \.|ExecStart=\S*/sentry) (.*)$`)

// commandLines finds `sentry …` in code spans, in blocks for a shell, and behind the prompt in blocks that show a session.
func commandLines(p page) []string {
	var list []string
	add := func(text string) {
		if m := sentryLine.FindStringSubmatch(strings.TrimSpace(text)); m != nil {
			list = append(list, "sentry "+m[1])
		}
	}
	for _, span := range spans(p.prose) {
		add(span)
	}
	for _, f := range p.fence {
		for line := range strings.Lines(f.text) {
			if f.info == "sh" || f.info == "ini" || f.info == "console" && strings.HasPrefix(line, "$ ") {
				add(line)
			}
		}
	}
	for _, line := range p.lines { // blocks that are indented
		if indented, yes := strings.CutPrefix(line, "    "); yes {
			add(indented)
		}
	}
	return list
}

var placeholder = regexp.MustCompile(`^\[?[A-Z]{2,}|^…|^\[`)

// lookUp finds the verb of a command line and checks its flags.
func lookUp(verbs map[string][]string, text string) (verb string, flags []string, err error) {
	text, _, _ = strings.Cut(text, " #")
	for _, stop := range []string{" |", " >", " &", ";"} {
		text, _, _ = strings.Cut(text, stop)
	}
	words := strings.Fields(text)[1:]
	if len(words) > 0 && !strings.HasPrefix(words[0], "-") && placeholder.MatchString(words[0]) {
		words = words[1:] // sentry [-config FILE] -action=…
		if len(words) > 0 && strings.HasSuffix(words[0], "]") {
			words = words[1:]
		}
	}
	for i, word := range words {
		switch {
		case strings.HasPrefix(word, "-"):
			name, _, _ := strings.Cut(strings.Trim(word, "[]"), "=")
			if slices.Contains([]string{"-action", "-config", "-verbose"}, name) { // the older form
				continue
			}
			flags = append(flags, name)
		case verb == "" && (i == 0 || len(flags) > 0) && verbs[word] != nil:
			verb = word
			if i+1 < len(words) && verbs[word+" "+words[i+1]] != nil {
				verb += " " + words[i+1]
			}
		case verb == "" && i == 0:
			return "", nil, fmt.Errorf("there is no verb %q", word)
		}
	}
	if verb != "" && holds(verbs, verb) && verb != "completion" && verb != "help" {
		return verb, flags, fmt.Errorf("%q needs one more word", verb)
	}
	for _, f := range flags {
		if !slices.Contains(verbs[verb], f) {
			return verb, flags, fmt.Errorf("%q has no flag %s", "sentry "+verb, f)
		}
	}
	return verb, flags, nil
}

// TestDocsLinks follows every relative link, to the heading where it names one.
func TestDocsLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	list := pages(t)
	anchors := map[string]map[string]bool{}
	for _, p := range list {
		anchors[p.path] = headings(p)
	}
	for _, p := range list {
		for _, m := range link.FindAllStringSubmatch(p.prose, -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				t.Errorf("%s: %s: the pages link to each other only", p.path, m[1])
				continue
			}
			file := p.path
			if target != "" {
				file = path.Join(path.Dir(p.path), target)
			}
			if _, err := os.Stat(filepath.FromSlash(file)); err != nil {
				t.Errorf("%s: the link %s leads nowhere: %v", p.path, m[1], err)
			} else if anchor != "" && !anchors[file][anchor] {
				t.Errorf("%s: %s: %s has no such heading", p.path, m[1], file)
			}
		}
	}
}

// headings gives the anchors of a page, as forges make them.
func headings(p page) map[string]bool {
	list := map[string]bool{}
	for line := range strings.Lines(p.prose) {
		title := strings.TrimLeft(line, "#")
		if title == line {
			continue
		}
		anchor := strings.Map(func(r rune) rune {
			switch {
			case r == ' ', r == '-':
				return '-'
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, strings.TrimSpace(title))
		for n, base := 1, anchor; list[anchor]; n++ {
			anchor = fmt.Sprintf("%s-%d", base, n)
		}
		list[anchor] = true
	}
	return list
}

// TestDocsLanguages holds the Chinese pages to the shape of the English ones: the same headings, tables and blocks, and
// the same text in blocks that a program reads or wrote.
func TestDocsLanguages(t *testing.T) {
	shapes := map[string]page{}
	for _, p := range pages(t) {
		shapes[p.path] = p
	}
	for name, en := range shapes {
		if path.Dir(name) != "docs/en" {
			continue
		}
		zh, ok := shapes["docs/zh/"+path.Base(name)]
		if !ok {
			t.Errorf("%s has no Chinese page", name)
			continue
		}
		if a, b := outline(en), outline(zh); !slices.Equal(a, b) {
			t.Errorf("%s and %s differ in shape (levels of headings, rows of tables):\n%v\n%v", en.path, zh.path, a, b)
		}
		if len(en.fence) != len(zh.fence) {
			t.Errorf("%s has %d blocks, %s has %d", en.path, len(en.fence), zh.path, len(zh.fence))
			continue
		}
		for i, f := range en.fence {
			other := zh.fence[i]
			exact := slices.Contains([]string{"console", "json", "yaml sentry", "yaml part"}, f.info)
			if f.info != other.info || exact && withoutComments(f.text) != withoutComments(other.text) {
				t.Errorf("%s:%d and %s:%d: the blocks differ", en.path, f.line, zh.path, other.line)
			}
		}
	}
}

// outline lists the levels of the headings and the sizes of the tables between them.
func outline(p page) []string {
	var list []string
	rows := 0
	for line := range strings.Lines(p.prose + "\n# end\n") {
		switch {
		case strings.HasPrefix(line, "|"):
			rows++
		case rows > 0:
			list = append(list, fmt.Sprintf("%d rows", rows))
			rows = 0
		}
		if strings.HasPrefix(line, "#") {
			list = append(list, line[:strings.IndexByte(line, ' ')])
		}
	}
	return list
}

func withoutComments(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, " #")
		out.WriteString(strings.TrimSpace(line) + "\n")
	}
	return out.String()
}

// TestDocsNames looks up what else the pages name: the targets of make, and the variables that commands find.
func TestDocsNames(t *testing.T) {
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	target := regexp.MustCompile("`make ([a-z-]+)|(?m:^make ([a-z-]+))")
	environment, err := os.ReadFile("internal/deploy/environment.go")
	if err != nil {
		t.Fatal(err)
	}
	ours := regexp.MustCompile(`"(SENTRY_[A-Z_]+)=`).FindAllStringSubmatch(string(environment), -1)
	if len(ours) < 10 {
		t.Fatalf("only %d variables were found: this test is looking at the wrong place", len(ours))
	}
	for _, p := range pages(t) {
		for _, m := range target.FindAllStringSubmatch(p.text, -1) {
			if name := m[1] + m[2]; !bytes.Contains(makefile, []byte("\n"+name+":")) {
				t.Errorf("%s: there is no `make %s`", p.path, name)
			}
		}
		if path.Base(p.path) != "configuration.md" {
			continue
		}
		for _, v := range ours {
			if !strings.Contains(p.text, "`"+v[1]+"`") {
				t.Errorf("%s does not name %s", p.path, v[1])
			}
		}
	}
}

// TestDocsRights compares the rights in a cluster that deployment.md tells of with those of the manifests.
func TestDocsRights(t *testing.T) {
	raw, err := os.ReadFile("k8s/04-rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for document := range strings.SplitSeq(string(raw), "\n---\n") {
		var role struct {
			Rules []struct {
				Groups    []string `yaml:"apiGroups"`
				Resources []string
				Verbs     []string
			}
		}
		if err := yaml.Unmarshal([]byte(document), &role); err != nil {
			t.Fatal(err)
		}
		for _, r := range role.Rules {
			for _, resource := range r.Resources {
				want[strings.TrimSuffix(resource+"."+r.Groups[0], ".")] = strings.Join(r.Verbs, " ")
			}
		}
	}
	if len(want) < 5 {
		t.Fatalf("only %v: this test is looking at the wrong place", want)
	}
	row := regexp.MustCompile("(?m)^\\| `([a-z./]+)` \\| ([a-z, 、]+) \\|$")
	for _, name := range []string{"docs/en/deployment.md", "docs/zh/deployment.md"} {
		page, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, m := range row.FindAllStringSubmatch(string(page), -1) {
			got[m[1]] = strings.NewReplacer(", ", " ", "、", " ").Replace(m[2])
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: the rights are %v, the manifests give %v", name, got, want)
		}
	}
}

// TestDocsCosts computes the table of what repositories cost with the program itself.
func TestDocsCosts(t *testing.T) {
	forges := []string{"github.com github", "gitlab.com gitlab", "codeberg.org gitea", "git.example.com git"}
	tables := 0
	computed := map[string]int{}
	for _, p := range pages(t) {
		for i, line := range p.lines {
			if line != "<!-- costs -->" {
				continue
			}
			tables++
			for _, row := range p.lines[i+4:] {
				if !strings.HasPrefix(row, "|") {
					break
				}
				cells := strings.Split(strings.Trim(strings.ReplaceAll(row, ",", ""), "| "), " | ")
				if len(cells) != 1+len(forges) {
					t.Errorf("%s: %s: want %d columns", p.path, row, 1+len(forges))
					continue
				}
				n, err := strconv.Atoi(cells[0])
				if err != nil {
					t.Errorf("%s: %s: %v", p.path, row, err)
				}
				for j, of := range forges {
					host, kind, _ := strings.Cut(of, " ")
					which := fmt.Sprint(of, n)
					got, known := computed[which]
					if !known {
						got = costOf(t, host, kind, n)
						computed[which] = got
					}
					if strconv.Itoa(got) != cells[1+j] {
						t.Errorf("%s: %d repositories on %s cost %d requests an hour, the page says %s", p.path, n, host, got, cells[1+j])
					}
				}
			}
		}
	}
	if tables != 2 {
		t.Errorf("%d tables of costs, want one in each language", tables)
	}
}

// costOf is what n repositories with two branches each cost on a forge.
func costOf(t *testing.T, host, kind string, n int) int {
	t.Helper()
	var text strings.Builder
	text.WriteString("repositories:\n")
	for i := range n {
		fmt.Fprintf(&text, "  - {name: r%d, monitor: {repo_type: %s, repo_url: \"https://%s/acme/r%d.git\", branches: [main, dev], auth: {token: \"${TOKEN}\"}}, "+
			"deploy: {qa_repo_url: \"https://git.example.com/qa.git\", qa_repo_branch: main, commands: [\"true\"]}}\n", i, kind, host, i)
	}
	file := filepath.Join(t.TempDir(), "sentry.yaml")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cli.Main([]string{"budget", "-o", "json", "--config", file}, strings.NewReader(""), &out, &errs, []string{"HOME=/home/me", "TOKEN=t"})
	var told struct {
		Items []struct {
			RequestsPerHour int `json:"requests_per_hour"`
		} `json:"items"`
	}
	if err := json.Unmarshal(out.Bytes(), &told); err != nil || len(told.Items) != 1 {
		t.Fatalf("%v: %s%s", err, &out, &errs)
	}
	return told.Items[0].RequestsPerHour
}

// TestDocsWords looks up what the pages name that is a word of the program: metrics, the paths of webhooks, and in
// operations.md every word of the ledger. Each language explains every metric somewhere.
func TestDocsWords(t *testing.T) {
	source := func(name string) string {
		t.Helper()
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	find := func(expression string, texts ...string) []string {
		t.Helper()
		var list []string
		for _, m := range regexp.MustCompile(expression).FindAllStringSubmatch(strings.Join(texts, "\n"), -1) {
			list = append(list, m[1])
		}
		if len(list) < 4 {
			t.Fatalf("%s finds only %q: this test is looking at the wrong place", expression, list)
		}
		return list
	}
	hooks := source("internal/server/hooks.go")
	metrics := find(`"(sentry_[a-z_]+)"`, source("internal/forge/metrics.go"), source("internal/report/service.go"), source("internal/daemon/metrics.go"), source("internal/kube/metrics.go"))
	for _, name := range find(`counter\("([a-z]+)"`, hooks) {
		metrics = append(metrics, "sentry_webhooks_"+name+"_total")
	}
	paths := find(`name: "([a-z]+)"`, source("internal/server/hookforge.go"))
	verbs := find(`Verb = "([a-z]+)"`, source("internal/sentry/decision.go"))
	explained := map[string]string{} // the text of all pages of a folder
	for _, p := range pages(t) {
		explained[path.Dir(p.path)] += p.text
	}
	for folder, text := range explained {
		for _, name := range metrics {
			if strings.HasPrefix(folder, "docs/") && !strings.Contains(text, "`"+name+"`") {
				t.Errorf("%s: no page tells of the metric %s", folder, name)
			}
		}
	}
	for _, p := range pages(t) {
		for _, name := range regexp.MustCompile(`\bsentry_[a-z_]+\b`).FindAllString(p.text, -1) {
			if !slices.Contains(metrics, name) {
				t.Errorf("%s: there is no metric %s", p.path, name)
			}
		}
		for _, m := range regexp.MustCompile(`/hooks/([a-z]+)`).FindAllStringSubmatch(p.text, -1) {
			if !slices.Contains(paths, m[1]) {
				t.Errorf("%s: there is no /hooks/%s", p.path, m[1])
			}
		}
		if path.Base(p.path) != "operations.md" {
			continue
		}
		for _, verb := range verbs {
			if !strings.Contains(p.prose, "| `"+verb+"`") && !strings.Contains(p.prose, ", `"+verb+"` |") {
				t.Errorf("%s does not explain the word %s of the ledger", p.path, verb)
			}
		}
	}
}
