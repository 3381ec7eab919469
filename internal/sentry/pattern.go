package sentry

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of branch names and patterns.
const (
	MaxBranch  = 255  // bytes of a branch name: what a file name may have, as loose refs are files
	MaxPattern = 1024 // bytes of a pattern

	// maxProgram bounds what a short expression may grow to: "x{1000}" is 7 bytes and a thousand instructions.
	maxProgram = 10_000
)

// Pattern tells which branches of a repository are watched: one name, a glob, or a regular expression. The zero
// Pattern matches nothing.
type Pattern struct {
	text string
	kind patternKind
	// expression is the compiled form of a regular expression only: ten thousand compiled globs would be 50 MB.
	expression *regexp.Regexp
	prefix     string
}

type patternKind uint8

const (
	exactPattern patternKind = iota
	globPattern
	regexpPattern
)

// ParsePattern reads a pattern.
//
//   - A name without "*" and "?" is that branch alone; CheckBranch says what a name may be.
//   - In a glob, "?" is one character and "*" any number of them, within one part of the name; "**" crosses slashes, and
//     "**/" is any number of whole parts, none included.
//   - Between slashes, "/^…$/", stands a regular expression (RE2). It must match the whole name, whether or not "^" and
//     "$" are written: what was meant for main never watches not-main-x.
func ParsePattern(text string) (Pattern, error) {
	if len(text) > MaxPattern {
		return Pattern{}, fmt.Errorf("the pattern has %d bytes; at most %d are accepted", len(text), MaxPattern)
	}
	switch {
	case strings.HasPrefix(text, "/"):
		return parseExpression(text)
	case strings.ContainsAny(text, "*?"):
		return parseGlob(text)
	}
	if err := CheckBranch(text); err != nil {
		return Pattern{}, err
	}
	return Pattern{text: text, kind: exactPattern, prefix: text}, nil
}

func parseGlob(text string) (Pattern, error) {
	if strings.Contains(text, "***") {
		return Pattern{}, fmt.Errorf(`the pattern %q has three "*" in a row; use "*" or "**"`, text)
	}
	// With a letter in place of each wildcard it must be a name that a branch can have, else it never matches.
	sample := strings.NewReplacer("**", "x", "*", "x", "?", "x").Replace(text)
	if err := CheckBranch(sample); err != nil {
		return Pattern{}, fmt.Errorf("the pattern %q matches no branch: %w", clip(text, MaxBranch), err)
	}
	return Pattern{text: text, kind: globPattern, prefix: text[:strings.IndexAny(text, "*?")]}, nil
}

func parseExpression(text string) (Pattern, error) {
	if len(text) < 3 || !strings.HasSuffix(text, "/") {
		return Pattern{}, fmt.Errorf("%q begins with a slash as a regular expression does; write /^…$/, or a branch name without it", text)
	}
	if !utf8.ValidString(text) {
		return Pattern{}, errors.New("the pattern is not valid UTF-8")
	}
	body := text[1 : len(text)-1]
	// The body is read alone first: "a)|(b" is wrong by itself, but would undo the anchors put around it.
	tree, err := syntax.Parse(body, syntax.Perl)
	var mistake *syntax.Error
	if errors.As(err, &mistake) {
		return Pattern{}, fmt.Errorf("%s is not a regular expression: %s: %s", text, mistake.Code, mistake.Expr)
	}
	if err != nil {
		return Pattern{}, fmt.Errorf("%s is not a regular expression: %w", text, err)
	}
	tree = tree.Simplify()
	program, err := syntax.Compile(tree)
	if err != nil {
		return Pattern{}, fmt.Errorf("%s is not a regular expression: %w", text, err)
	}
	if len(program.Inst) > maxProgram {
		return Pattern{}, fmt.Errorf("the regular expression grows to %d instructions; at most %d are accepted", len(program.Inst), maxProgram)
	}
	expression, err := regexp.Compile(`\A(?:` + body + `)\z`)
	if err != nil {
		return Pattern{}, fmt.Errorf("%s is not a regular expression: %w", text, err)
	}
	prefix, _ := literalPrefix(tree)
	return Pattern{text: text, kind: regexpPattern, expression: expression, prefix: prefix}, nil
}

// literalPrefix gives a text with which everything that e matches at its start begins; whole tells that e matches
// nothing but that text. regexp's own LiteralPrefix gives up at "^".
func literalPrefix(e *syntax.Regexp) (prefix string, whole bool) {
	switch e.Op {
	case syntax.OpEmptyMatch, syntax.OpBeginText, syntax.OpBeginLine, syntax.OpEndText, syntax.OpEndLine:
		return "", true
	case syntax.OpLiteral:
		literal := string(e.Rune)
		// U+FFFD also matches a byte that is no UTF-8, so the text would not be a prefix of the bytes.
		if e.Flags&syntax.FoldCase != 0 || strings.ContainsRune(literal, utf8.RuneError) {
			return "", false
		}
		return literal, true
	case syntax.OpCapture:
		return literalPrefix(e.Sub[0])
	case syntax.OpPlus:
		prefix, _ = literalPrefix(e.Sub[0])
		return prefix, false
	case syntax.OpConcat:
		for _, sub := range e.Sub {
			part, whole := literalPrefix(sub)
			prefix += part
			if !whole {
				return prefix, false
			}
		}
		return prefix, true
	default:
		return "", false
	}
}

// Exact reports whether the pattern is the name of one branch.
func (p Pattern) Exact() bool { return p.kind == exactPattern && p.text != "" }

// String is the pattern as it was written.
func (p Pattern) String() string { return p.text }

// MarshalText gives the form of String.
func (p Pattern) MarshalText() ([]byte, error) { return []byte(p.text), nil }

// Prefix is a text with which every branch that can match begins: "release/" for release/*, the name itself for an
// exact one, "" where nothing is known. Servers are asked for refs by it.
func (p Pattern) Prefix() string { return p.prefix }

// Match reports whether a branch is meant. It takes time in proportion to the lengths, not to their powers, for an
// expression, and at most their product squared for a glob of at most MaxPattern bytes.
func (p Pattern) Match(branch string) bool {
	if branch == "" || !strings.HasPrefix(branch, p.prefix) {
		return false
	}
	switch p.kind {
	case globPattern:
		return matchGlob(p.text, branch)
	case regexpPattern:
		return p.expression.MatchString(branch)
	default:
		return p.text == branch
	}
}

// matchGlob walks pattern and name side by side. At a mismatch it lets the last "*" take one character more, and when
// that meets a slash, the last "**". Earlier wildcards need no second try: within a part whatever an earlier "*" could
// still take the later one can, a "*" before a slash had no choice, and behind a "**" everything is open again.
func matchGlob(pattern, name string) bool {
	const none = -1
	p, n := 0, 0
	starP, starN := none, 0 // where the pattern goes on after the last "*", and what of the name it has taken
	deepP, deepN := none, 0 // the same for "**"
	wholeParts := false     // the last "**" is a "**/": it takes whole parts only
	for {
		switch {
		case strings.HasPrefix(pattern[p:], "**"):
			wholeParts = strings.HasPrefix(pattern[p:], "**/") && (p == 0 || pattern[p-1] == '/')
			p += 2
			if wholeParts {
				p++
			}
			starP, deepP, deepN = none, p, n
			continue
		case strings.HasPrefix(pattern[p:], "*"):
			p++
			starP, starN = p, n
			continue
		case p == len(pattern) && n == len(name):
			return true
		case p < len(pattern) && n < len(name):
			if pattern[p] == '?' && name[n] != '/' {
				_, size := utf8.DecodeRuneInString(name[n:])
				p, n = p+1, n+size
				continue
			}
			if pattern[p] != '?' && pattern[p] == name[n] {
				p, n = p+1, n+1
				continue
			}
		}
		switch {
		case starP != none && starN < len(name) && name[starN] != '/':
			_, size := utf8.DecodeRuneInString(name[starN:])
			starN += size
			p, n = starP, starN
		case deepP != none && deepN < len(name):
			taken := 1
			if wholeParts {
				slash := strings.IndexByte(name[deepN:], '/')
				if slash < 0 {
					return false
				}
				taken = slash + 1
			} else {
				_, taken = utf8.DecodeRuneInString(name[deepN:])
			}
			deepN += taken
			p, n, starP = deepP, deepN, none
		default:
			return false
		}
	}
}

// CheckBranch says what is wrong with the name of a branch. The rules are those of git check-ref-format --branch, and
// besides: valid UTF-8 without control characters, because names reach JSON, logs and environments, and at most
// MaxBranch bytes.
func CheckBranch(name string) error {
	switch {
	case name == "":
		return errors.New("a branch name must not be empty")
	case len(name) > MaxBranch:
		return fmt.Errorf("a branch name has at most %d bytes, not %d", MaxBranch, len(name))
	case !utf8.ValidString(name):
		return errors.New("a branch name must be valid UTF-8")
	case name[0] == '-':
		return fmt.Errorf(`the branch name %q begins with "-", which git would take for an option`, name)
	case name == "@" || name == "HEAD":
		return fmt.Errorf("%q is not a branch; name the branch that is meant", name)
	case strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/") || strings.Contains(name, "//"):
		return fmt.Errorf("the branch name %q has a slash at an end, or two in a row", name)
	case strings.HasSuffix(name, "."):
		return fmt.Errorf("the branch name %q ends with a dot", name)
	}
	for _, r := range name {
		if unicode.IsControl(r) || strings.ContainsRune(` ~^:?*[\`, r) {
			return fmt.Errorf("the branch name %q contains %q, which git does not allow", name, r)
		}
	}
	for _, forbidden := range []string{"..", "@{"} {
		if strings.Contains(name, forbidden) {
			return fmt.Errorf("the branch name %q contains %q, which git does not allow", name, forbidden)
		}
	}
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".lock") {
			return fmt.Errorf(`the branch name %q has a part that begins with "." or ends with ".lock"`, name)
		}
	}
	return nil
}

// CheckCommit says what is wrong with the identifier of a commit: 40 lower-case hexadecimal digits, or 64 where the
// repository uses SHA-256.
func CheckCommit(id string) error {
	if len(id) != 40 && len(id) != 64 {
		return fmt.Errorf("%q is not a commit: it has %d characters, not 40 or 64", clip(id, 80), len(id))
	}
	for i := range len(id) {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("%q is not a commit: it contains %q", id, c)
		}
	}
	return nil
}
