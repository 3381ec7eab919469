package config

import "testing"

func TestNamesOfCommands(t *testing.T) {
	for script, want := range map[string]string{
		"./deploy.sh":                      "./deploy.sh",
		"  make   test  \n":                "make test",
		"\n\n\tkubectl apply \\\n  -f x\n": "kubectl apply",
		"#!/bin/bash\nset -eu\n# roll it out to staging\nfor f in *; do\n": "roll it out to staging",
		"#\n##\n\necho hi": "echo hi",
		"set -x":           "set -x",
		"#!/bin/sh":        "#!/bin/sh",
		"#":                "#",
		"kubectl apply --server-side --namespace staging-shop --filename a.yaml": "kubectl apply --server-side --namespace…",
		"echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa":   "echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…",
		"部署部署部署部署部署部署部署部署部署部署部署部署部署部署部署部署部署部署部署部署部署部署":                           "部署部署部署部署部署部署部署部署部署部署部署部署部署部署部署部署部署部署部署部署…",
		"echo 1\x1b[31m2": "echo 1 [31m2",
	} {
		if got := beginning(script); got != want {
			t.Errorf("%q is called %q, want %q", script, got, want)
		}
		if err := checkStepName(beginning(script)); err != nil {
			t.Errorf("%q: %v", script, err)
		}
	}
}
