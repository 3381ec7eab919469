package config

import (
	"cmp"
	"fmt"
	"strings"
	"sync"

	"github.com/google/jsonschema-go/jsonschema"
	"go.yaml.in/yaml/v4"
)

// unknownKey reports a key that nothing reads: misspelled, or in the wrong place.
func (d *decoder) unknownKey(at *place, name *yaml.Node, known []string) {
	shown := clip(name.Value, 60)
	hint := "the keys here are " + listed(known, "and")
	sections := sections()[name.Value]
	switch nearest, ok := suggest(name.Value, known); {
	case ok && len(sections) > 0:
		hint = fmt.Sprintf("did you mean %s? %s belongs in %s", nearest, shown, listed(sections, "or"))
	case ok:
		hint = fmt.Sprintf("did you mean %s?", nearest)
	case len(sections) > 0:
		hint = "it belongs in " + listed(sections, "or")
	}
	d.wrong(at, name, fmt.Sprintf("the key %q is not known here", shown), hint)
}

// sections tells, for every key of the file, where it may stand: repositories[].monitor and the like.
var sections = sync.OnceValue(func() map[string][]string {
	found := map[string][]string{}
	var walk func(section string, s *jsonschema.Schema)
	walk = func(section string, s *jsonschema.Schema) {
		if s == nil {
			return
		}
		for _, name := range s.PropertyOrder {
			found[name] = append(found[name], cmp.Or(section, "the top level"))
			walk(strings.TrimPrefix(section+"."+name, "."), s.Properties[name])
		}
		walk(section+"[]", s.Items)
		walk(section+".NAME", s.AdditionalProperties)
		for _, choice := range s.AnyOf {
			walk(section, choice)
		}
	}
	walk("", configKeys().schema())
	return found
})

// suggest finds the word that was probably meant: the one with the fewest slips, where that is at most a third of the
// letters, or else one that begins with all but the last letter (retry, retries).
func suggest(word string, known []string) (nearest string, ok bool) {
	if len(word) > 60 {
		return "", false
	}
	word = strings.ToLower(strings.ReplaceAll(word, "-", "_"))
	best := 1 + max(1, len(word)/3)
	for _, candidate := range known {
		if slips := distance(word, strings.ReplaceAll(candidate, "-", "_"), best); slips < best {
			best, nearest, ok = slips, candidate, true
		}
	}
	for _, candidate := range known {
		if !ok && len(word) >= 5 && strings.HasPrefix(candidate, word[:len(word)-1]) {
			return candidate, true
		}
	}
	return nearest, ok
}

// distance counts the letters that were added, left out, changed, or swapped with their neighbour between a and b
// (Damerau and Levenshtein, in the form without overlaps), or gives limit where that is reached.
func distance(a, b string, limit int) int {
	if diff := len(a) - len(b); diff >= limit || -diff >= limit {
		return limit
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, before
		row[0] = i
		for j := 1; j <= len(b); j++ {
			changed := 1
			if a[i-1] == b[j-1] {
				changed = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+changed)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return min(row[len(b)], limit)
}
