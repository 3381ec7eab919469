package sentry

import (
	"errors"
	"fmt"
	"strings"
)

// MaxName is the longest name of a repository or group, in bytes.
const MaxName = 100

// CheckName says what is wrong with the name of a repository or group. Names become folders of the state directory,
// parts of the API's paths and arguments of the command line, so they are letters, digits, ".", "_" and "-", begin with
// a letter or digit, and do not look like what git or a file system keeps for itself.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("a name must not be empty")
	case len(name) > MaxName:
		return fmt.Errorf("a name has at most %d characters, not %d", MaxName, len(name))
	case !alphanumeric(rune(name[0])):
		return fmt.Errorf("the name %q must begin with a letter or digit", clip(name, MaxName))
	}
	for _, r := range name {
		if !alphanumeric(r) && r != '.' && r != '_' && r != '-' {
			return fmt.Errorf(`the name %q contains %q; use letters, digits, ".", "_" and "-"`, name, r)
		}
	}
	for _, suffix := range []string{".", ".git", ".lock"} {
		if strings.HasSuffix(strings.ToLower(name), suffix) {
			return fmt.Errorf("the name %q must not end with %q", name, suffix)
		}
	}
	return nil
}

// CheckProjectName says what is wrong with a project name, which must be a Kubernetes DNS label (RFC 1123): at most 63
// of a-z, 0-9 and "-", with a letter or digit at both ends. It names pipelines and the folder .tekton/NAME.
func CheckProjectName(name string) error {
	const rule = `use at most 63 of a-z, 0-9 and "-", with a letter or digit at both ends`
	if name == "" {
		return errors.New("a project name must not be empty; " + rule)
	}
	for i := range len(name) {
		c := name[i]
		inner := c == '-' && i > 0 && i < len(name)-1
		if !inner && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return fmt.Errorf("%q is not a Kubernetes name; %s", clip(name, 80), rule)
		}
	}
	if len(name) > 63 {
		return fmt.Errorf("%q has %d characters; %s", clip(name, 80), len(name), rule)
	}
	return nil
}
