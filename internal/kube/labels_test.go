package kube

import (
	"encoding/json"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
)

func TestLabelValue(t *testing.T) {
	for text, want := range map[string]string{
		"":                      "",
		"a":                     "a",
		"rag-project":           "rag-project",
		"v1.2_3":                "v1.2_3",
		strings.Repeat("x", 63): strings.Repeat("x", 63),
		"release/1.2":           "release-1.2-bacdc8a6",
		"-x":                    "x-a4209624",
		"x-":                    "x--c8b60efc",
		"日本":                    "cf2abf0c",
	} {
		got := LabelValue(text)
		if problems := validation.IsValidLabelValue(got); len(problems) > 0 {
			t.Errorf("LabelValue(%q) = %q: %v", text, got, problems)
		}
		if got != want {
			t.Errorf("LabelValue(%q) = %q, want %q", text, got, want)
		}
	}
	long := strings.Repeat("ä/x", 60)
	if a, b := LabelValue(long), LabelValue(long+"x"); a == b {
		t.Errorf("two long texts have the same value %q", a)
	}
}

func FuzzLabelValue(f *testing.F) {
	for _, seed := range []string{"", "a", "-", "...", "a/b", strings.Repeat("_", 70), "a\xffb", strings.Repeat("é", 40)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := LabelValue(text)
		if problems := validation.IsValidLabelValue(got); len(problems) > 0 {
			t.Errorf("LabelValue(%q) = %q: %v", text, got, problems)
		}
		if valid := len(validation.IsValidLabelValue(text)) == 0; valid && got != text {
			t.Errorf("LabelValue(%q) = %q: it was valid", text, got)
		}
	})
}

func TestIdentity(t *testing.T) {
	id := Identity{
		Instance: "i1", Rollout: "12", Deployment: "12-a-1", Group: "g", Repository: strings.Repeat("r", 90), Commit: "c0ffee", Attempt: 2,
	}
	for key, value := range id.Labels(NewNonce()) {
		if problems := append(validation.IsValidLabelValue(value), validation.IsQualifiedName(key)...); len(problems) > 0 || value == "" {
			t.Errorf("%s: %q: %v", key, value, problems)
		}
	}
	if _, ok := id.Labels("")[LabelRequest]; ok {
		t.Error("a label for a request without a nonce")
	}
	var told origin
	if err := json.Unmarshal([]byte(id.Annotations()[AnnotationOrigin]), &told); err != nil {
		t.Fatal(err)
	}
	if want := (origin{"12", "12-a-1", "g", id.Repository, "c0ffee", 2}); told != want {
		t.Errorf("the origin is %+v, want %+v", told, want)
	}
	if a, b := NewNonce(), NewNonce(); a == b {
		t.Error("two nonces are the same")
	}
}
