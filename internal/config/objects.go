package config

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
	"go.yaml.in/yaml/v4"
)

// What a Job has in Kubernetes' own words. The API server has the last word on it; what is plain nonsense is told before.

// shape is what one value in Kubernetes' own words may be: a single value, a list of items, or a mapping with these keys.
type shape struct {
	value *codec[any]
	item  *shape
	keys  map[string]shape
}

// single is the shape of a value that c reads.
func single[V any](c codec[V]) shape {
	return shape{value: &codec[any]{
		schema: c.schema,
		read: func(d *decoder, at *place, n *yaml.Node, into *any) {
			var v V
			before := d.errors
			c.read(d, at, n, &v)
			if d.errors == before {
				*into = v
			}
		},
		show: func(from *any) *yaml.Node {
			v := (*from).(V) // what read has put there
			return c.show(&v)
		},
	}}
}

func self[V any](v *V) *V { return v }

var (
	aFlag = single(boolean(self[bool]))
	anID  = single(integer(self[int64], 0, math.MaxInt32))
	words = single(text(self[string], nil))

	profile = shape{keys: map[string]shape{
		"type": single(oneOf(self[string], "RuntimeDefault", "Localhost", "Unconfined")), "localhostProfile": words,
	}}
	options = shape{keys: map[string]shape{"user": words, "role": words, "type": words, "level": words}}
)

// toleration is an entry of tolerations.
var toleration = shape{keys: map[string]shape{
	"key": words, "value": words, "tolerationSeconds": anID, "operator": single(oneOf(self[string], "Exists", "Equal")),
	"effect": single(oneOf(self[string], "NoSchedule", "PreferNoSchedule", "NoExecute")),
}}

// containerSecurity is the securityContext of a container, and podSecurity that of a pod.
var (
	containerSecurity = shape{keys: map[string]shape{
		"runAsNonRoot": aFlag, "runAsUser": anID, "runAsGroup": anID, "seccompProfile": profile, "appArmorProfile": profile, "seLinuxOptions": options,
		"allowPrivilegeEscalation": aFlag, "privileged": aFlag, "readOnlyRootFilesystem": aFlag, "procMount": single(oneOf(self[string], "Default", "Unmasked")),
		"capabilities": {keys: map[string]shape{"add": {item: &words}, "drop": {item: &words}}},
	}}
	podSecurity = shape{keys: map[string]shape{
		"runAsNonRoot": aFlag, "runAsUser": anID, "runAsGroup": anID, "seccompProfile": profile, "appArmorProfile": profile, "seLinuxOptions": options,
		"fsGroup": anID, "fsGroupChangePolicy": single(oneOf(self[string], "OnRootMismatch", "Always")),
		"supplementalGroups": {item: &anID}, "supplementalGroupsPolicy": single(oneOf(self[string], "Merge", "Strict")),
		"seLinuxChangePolicy": single(oneOf(self[string], "Recursive", "MountOption")),
		"sysctls":             {item: &shape{keys: map[string]shape{"name": words, "value": words}}},
	}}
)

func (s *shape) names() []string { return slices.Sorted(maps.Keys(s.keys)) }

// read gives the value as JSON has it: bool, int64, string, []any or map[string]any; nil where it is null, or was reported.
func (s *shape) read(d *decoder, at *place, n *yaml.Node) any {
	n = follow(n)
	switch {
	case n.Tag == "!!null" && at.index < 0:
		return nil
	case s.value != nil:
		var v any
		s.value.read(d, at, n, &v)
		return v
	case s.item != nil && n.Kind != yaml.SequenceNode:
		d.wrongKind(at, n, "a list")
		return nil
	case s.item != nil:
		list := make([]any, 0, len(n.Content))
		for i, node := range n.Content {
			list = append(list, s.item.read(d, at.item(i), node))
		}
		return list
	case n.Kind != yaml.MappingNode:
		d.wrongKind(at, n, "a mapping")
		return nil
	}
	object := map[string]any{}
	for name, value := range d.pairs(at, n) {
		below, ok := s.keys[name.Value]
		if !ok {
			d.unknownWord(at.at(name.Value), name, s.names())
			continue
		}
		object[name.Value] = below.read(d, at.at(name.Value), value)
	}
	return object
}

// unknownWord reports a key that is none of Kubernetes'.
func (d *decoder) unknownWord(at *place, name *yaml.Node, known []string) {
	hint := "the keys here are " + listed(known, "and")
	if nearest, ok := suggest(name.Value, known); ok {
		hint = fmt.Sprintf("did you mean %s?", nearest)
	}
	d.wrong(at, name, fmt.Sprintf("Kubernetes has no key %q here", clip(name.Value, 60)), hint)
}

func (s *shape) show(v any) *yaml.Node {
	switch v := v.(type) {
	case map[string]any:
		out := &yaml.Node{Kind: yaml.MappingNode}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			below := s.keys[name]
			out.Content = append(out.Content, plain(name), below.show(v[name]))
		}
		return out
	case []any:
		out := &yaml.Node{Kind: yaml.SequenceNode}
		for _, item := range v {
			out.Content = append(out.Content, s.item.show(item))
		}
		return out
	case nil:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
	default:
		if shown := s.value.show(&v); shown != nil {
			return shown
		}
		return plain("") // an empty text says something to Kubernetes
	}
}

// schema describes a mapping by the names of its keys; what they mean is for Kubernetes to explain.
func (s *shape) schema() *jsonschema.Schema {
	names := make([]any, 0, len(s.keys))
	for _, name := range s.names() {
		names = append(names, name)
	}
	return &jsonschema.Schema{Type: "object", PropertyNames: &jsonschema.Schema{Enum: names}}
}

// object is a mapping in Kubernetes' own words. It is laid over what the T has already, key by key; null takes a default away.
func object[T any](field func(*T) *map[string]any, s shape) codec[T] {
	return codec[T]{
		schema: s.schema,
		read: func(d *decoder, at *place, n *yaml.Node, into *T) {
			if follow(n).Tag == "!!null" {
				d.wrongKind(at, follow(n), "a mapping")
			} else if given, ok := s.read(d, at, n).(map[string]any); ok {
				merge(field(into), given)
			}
		},
		show: func(from *T) *yaml.Node {
			if len(*field(from)) == 0 {
				return nil
			}
			return s.show(*field(from))
		},
	}
}

func merge[V any](into *map[string]V, given map[string]V) {
	if *into == nil {
		*into = map[string]V{}
	}
	maps.Copy(*into, given)
}

// entries is a mapping of any keys that check accepts to what item reads. It is laid over what the T has already, key by
// key.
func entries[T any](field func(*T) *map[string]string, check func(string) error, item codec[string], types ...string) codec[T] {
	return codec[T]{
		schema: func() *jsonschema.Schema {
			return &jsonschema.Schema{Type: "object", AdditionalProperties: &jsonschema.Schema{Types: types}}
		},
		read: func(d *decoder, at *place, n *yaml.Node, into *T) {
			n = follow(n)
			if n.Kind != yaml.MappingNode {
				d.wrongKind(at, n, "a mapping")
				return
			}
			given := map[string]string{}
			for name, value := range d.pairs(at, n) {
				here := at.at(name.Value)
				if err := check(name.Value); err != nil {
					d.wrong(here, name, err.Error(), hintOf(err))
					continue
				}
				var v string
				item.read(d, here, value, &v)
				given[name.Value] = v
			}
			merge(field(into), given)
		},
		show: func(from *T) *yaml.Node {
			all := *field(from)
			if len(all) == 0 {
				return nil
			}
			out := &yaml.Node{Kind: yaml.MappingNode}
			for _, name := range slices.Sorted(maps.Keys(all)) {
				out.Content = append(out.Content, plain(name), plain(escape(all[name])))
			}
			return out
		},
	}
}

// quantity is an amount as Kubernetes writes it; a number stands for itself.
func quantity[T any](field func(*T) *string, check func(string) error) codec[T] {
	return codec[T]{
		schema: func() *jsonschema.Schema { return &jsonschema.Schema{Types: []string{"string", "number"}} },
		read: func(d *decoder, at *place, n *yaml.Node, into *T) {
			s, ok := d.scalar(at, n, "an amount such as 500m or 2Gi")
			if !ok {
				return
			}
			if err := check(s.text); err != nil {
				d.refuse(at, &s, err, hintOf(err))
				return
			}
			*field(into) = s.text
		},
		show: func(from *T) *yaml.Node {
			if *field(from) == "" {
				return nil
			}
			return plain(*field(from))
		},
	}
}

var quantityPattern = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]{1,2})?$`)

// amount gives the value of a quantity.
func amount(text string) (float64, error) {
	m := quantityPattern.FindStringSubmatch(text)
	if m == nil {
		return 0, withHint(fmt.Errorf("%q is not an amount", clip(text, 60)), "write a number with a unit of Kubernetes: 500m, 2, 512Mi, 2Gi")
	}
	number, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0, err
	}
	unit := m[2]
	switch {
	case unit == "":
		return number, nil
	case unit == "m":
		return number / 1000, nil
	case strings.ContainsAny(unit[:1], "eE") && len(unit) > 1 && unit != "Ei":
		return strconv.ParseFloat(m[1]+unit, 64)
	case strings.HasSuffix(unit, "i"):
		return number * math.Pow(1024, float64(strings.Index("KMGTPE", unit[:1])+1)), nil
	}
	return number * math.Pow(1000, float64(strings.Index("kMGTPE", unit)+1)), nil
}

func checkAmount(text string) error {
	_, err := amount(text)
	return err
}

// checkSize wants bytes, and enough of them: 512m is half a byte, and 512 is no more than it says.
func checkSize(text string) error {
	size, err := amount(text)
	if err == nil && size < 1<<20 {
		err = withHint(fmt.Errorf("%q is less than a mebibyte", clip(text, 60)), "write a size such as 512Mi or 2Gi")
	}
	return err
}

// checkResource wants what Kubernetes counts under resources.
func checkResource(name string) error {
	switch {
	case name == "cpu", name == "memory", name == "ephemeral-storage", strings.HasPrefix(name, "hugepages-"):
		return nil
	case strings.Contains(name, "/"):
		return checkLabelKey(name)
	}
	return withHint(fmt.Errorf("%q is nothing that Kubernetes counts", clip(name, 60)),
		"use cpu, memory, ephemeral-storage, hugepages-SIZE, or a name with a domain such as nvidia.com/gpu")
}

var (
	subdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	labelName = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)
	imageName = regexp.MustCompile(`^([A-Za-z0-9][-A-Za-z0-9.]*(:[0-9]+)?/|\[[0-9a-fA-F:]+\](:[0-9]+)?/)?` + // the registry
		`[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*` + // the repository in it
		`(:[A-Za-z0-9_][-A-Za-z0-9_.]{0,127})?(@[A-Za-z0-9+._-]+:[0-9a-fA-F]{32,})?$`)
)

// checkObjectName is for the names of Secrets and ServiceAccounts.
func checkObjectName(name string) error {
	if len(name) > 253 || !subdomain.MatchString(name) {
		return withHint(fmt.Errorf("%q is not a name of Kubernetes", clip(name, 60)), `use a-z, 0-9, "-" and ".", with a letter or digit at both ends`)
	}
	return nil
}

func checkImage(name string) error {
	switch {
	case strings.Contains(name, "://"):
		return withHint(errors.New("the name of an image has no scheme"), "write it like registry.example.com/sentry:1.0")
	case len(name) > 512 || !imageName.MatchString(name):
		return withHint(fmt.Errorf("%q is not the name of an image", clip(name, 80)), "write it like registry.example.com/sentry:1.0")
	}
	return nil
}

func checkLabelKey(key string) error {
	domain, name, qualified := strings.Cut(key, "/")
	if !qualified {
		domain, name = "", key
	}
	if qualified && (len(domain) > 253 || !subdomain.MatchString(domain)) || len(name) > 63 || !labelName.MatchString(name) {
		return withHint(fmt.Errorf("%q is not a key of Kubernetes", clip(key, 60)), "write it like team or example.com/team")
	}
	return nil
}

// checkOwnKey is for keys that are put on Jobs beside those that are there already.
func checkOwnKey(key string) error {
	domain, _, _ := strings.Cut(key, "/")
	switch {
	case domain == "sentry.dev":
		return withHint(fmt.Errorf("%q is Sentry's own", clip(key, 60)), "use a domain of yours")
	case domain == "batch.kubernetes.io", key == "job-name", key == "controller-uid":
		return withHint(fmt.Errorf("%q belongs to the controller of Jobs", clip(key, 60)), "use another key")
	}
	return checkLabelKey(key)
}

func checkLabelValue(value string) error {
	if len(value) > 63 || value != "" && !labelName.MatchString(value) {
		return withHint(fmt.Errorf("%q is not a value of a label", clip(value, 80)), `use at most 63 letters, digits, "-", "_" and "."`)
	}
	return nil
}
