package cli

import (
	"strings"
	"testing"
)

func TestRewrite(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{"status", "status"},
		{"-action=validate", "validate"},
		{"-action validate", "validate"},
		{"--action watch", "watch"},
		{"--action=trigger", "trigger"},
		{"-config F -action=validate", "validate --config F"},
		{"-config=F -action trigger g1 g2", "trigger --config=F g1 g2"},
		{"-verbose -action=watch", "watch --verbose"},
		{"validate -config F", "validate --config F"},
		{"validate -c F -o json", "validate -c F -o json"},
		{"-state-dir=/x status -log-level debug", "--state-dir=/x status --log-level debug"},
		{"-help", "--help"},
		{"--version", "version"},
		{"-version -o json", "version -o json"},
		{"trigger -- -config", "trigger -- -config"},
		{"-action=trigger -- -action", "trigger -- -action"},
		{"-action watch -action=watch", "watch"},
		{"---config F", "---config F"},
		{"pause g --reason=-x", "pause g --reason=-x"},
	} {
		got, err := rewrite(strings.Fields(c.in))
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("rewrite(%q) = %q, %v; want %q", c.in, strings.Join(got, " "), err, c.want)
		}
	}
	for in, want := range map[string]string{
		"-action":                       "needs a value",
		"-action=":                      `no action ""`,
		"-action=deploy":                `no action "deploy"`,
		"-action watch -action trigger": "two actions",
	} {
		if got, err := rewrite(strings.Fields(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("rewrite(%q) = %q, %v; want an error with %q", in, got, err, want)
		}
	}
}
