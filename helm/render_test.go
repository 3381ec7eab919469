package helm_test

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sentry/internal/config"
	"sentry/internal/kube"
)

// shipped are the files of values that belong to the chart, as the documentation installs them.
var shipped = []struct{ release, namespace, file string }{
	{"sentry-dev", "sentry-dev", "sentry/values-dev.yaml"},
	{"sentry-prod", "sentry-prod", "sentry/values-production.yaml"},
	{"sentry", "sentry-system", manifestValues},
}

func TestLint(t *testing.T) {
	for _, s := range shipped {
		if out, err := helm(t, "lint", "--strict", "sentry", "--values", s.file); err != nil {
			t.Errorf("%s: %v\n%s", s.file, err, out)
		}
	}
}

// TestShipped holds what the shipped values make to the rules of Pod Security's restricted profile and our own, and has
// Sentry judge the configuration in them.
func TestShipped(t *testing.T) {
	for _, s := range shipped {
		t.Run(filepath.Base(s.file), func(t *testing.T) {
			text, err := helm(t, "template", s.release, "sentry", "--namespace", s.namespace, "--values", s.file)
			if err != nil {
				t.Fatal(err)
			}
			r := objects(t, text)
			for _, o := range r {
				if o.kind() != "Namespace" && o.namespace() != s.namespace {
					t.Errorf("%s %s is in the namespace %s", o.kind(), o.name(), o.namespace())
				}
			}
			if got := r.only(t, "Deployment").name(); got != s.release {
				t.Errorf("the Deployment is called %s, want %s", got, s.release)
			}
			validate(t, r.configuration(t))
			restricted(t, r)
			confined(t, r)
		})
	}
}

// restricted checks what https://kubernetes.io/docs/concepts/security/pod-security-standards/ asks of a restricted pod,
// and beyond it a read-only root and no token that is not asked for.
func restricted(t *testing.T, r release) {
	t.Helper()
	pods := map[string]map[string]any{}
	for _, o := range r {
		switch o.kind() {
		case "Deployment":
			pods[o.name()], _ = o.at("spec", "template", "spec").(map[string]any)
		case "Pod":
			pods[o.name()], _ = o.at("spec").(map[string]any)
		}
	}
	if len(pods) != 2 {
		t.Errorf("%d pods, want the daemon and the test", len(pods))
	}
	for name, pod := range pods {
		for _, key := range []string{"hostNetwork", "hostPID", "hostIPC"} {
			if pod[key] != nil {
				t.Errorf("%s: %s is %v", name, key, pod[key])
			}
		}
		want(t, name, pod, false, "automountServiceAccountToken")
		want(t, name, pod, false, "enableServiceLinks")
		want(t, name, pod, true, "securityContext", "runAsNonRoot")
		want(t, name, pod, 65532, "securityContext", "runAsUser")
		want(t, name, pod, "RuntimeDefault", "securityContext", "seccompProfile", "type")
		containers, _ := pod["containers"].([]any)
		if len(containers) != 1 {
			t.Errorf("%s has %d containers", name, len(containers))
		}
		for _, c := range containers {
			want(t, name, c, false, "securityContext", "allowPrivilegeEscalation")
			want(t, name, c, true, "securityContext", "readOnlyRootFilesystem")
			want(t, name, c, []any{"ALL"}, "securityContext", "capabilities", "drop")
			want(t, name, c, nil, "securityContext", "capabilities", "add")
			want(t, name, c, nil, "securityContext", "privileged")
		}
		volumes, _ := pod["volumes"].([]any)
		for _, v := range volumes {
			of, _ := v.(map[string]any)
			for kind := range of {
				if !slices.Contains([]string{"name", "configMap", "emptyDir", "projected", "secret", "persistentVolumeClaim"}, kind) {
					t.Errorf("%s: a volume is a %s", name, kind)
				}
			}
		}
	}
}

func want(t *testing.T, name string, in, wanted any, path ...any) {
	t.Helper()
	if got := at(in, path...); !reflect.DeepEqual(got, wanted) {
		t.Errorf("%s: %v is %v, want %v", name, path, got, wanted)
	}
}

// rights are all that Sentry may do in a namespace. Whatever is added here, every command may do.
var rights = []string{
	"/events list",
	"/namespaces get",
	"/pods get", "/pods list",
	"/pods/log get",
	"tekton.dev/pipelineruns create", "tekton.dev/pipelineruns get", "tekton.dev/pipelineruns list", "tekton.dev/pipelineruns patch", "tekton.dev/pipelineruns watch",
	"tekton.dev/taskruns get", "tekton.dev/taskruns list",
}

// jobRights are all that Sentry may do where Jobs are. No command has them.
var jobRights = []string{
	"/events list",
	"/pods get", "/pods list", "/pods watch",
	"/pods/attach create", "/pods/attach get",
	"/pods/log get",
	"/serviceaccounts/token create",
	"batch/jobs create", "batch/jobs delete", "batch/jobs get", "batch/jobs list", "batch/jobs watch",
}

// confined checks that there are these rights and no others, in namespaces only.
func confined(t *testing.T, r release) {
	t.Helper()
	if r.all("ClusterRole") != nil || r.all("ClusterRoleBinding") != nil {
		t.Error("there are rights in the whole cluster")
	}
	for _, role := range r.all("Role") {
		allowed := rights
		if strings.HasSuffix(role.name(), "-jobs") {
			allowed = jobRights
		}
		if diff := cmp.Diff(allowed, granted(role)); diff != "" {
			t.Errorf("the rights in %s (-want +got):\n%s", role.namespace(), diff)
		}
	}
}

// granted lists the rights of a role, one for each group, resource and verb.
func granted(role object) []string {
	var list []string
	rules, _ := role["rules"].([]any)
	for _, rule := range rules {
		for _, group := range texts(at(rule, "apiGroups")) {
			for _, resource := range texts(at(rule, "resources")) {
				for _, verb := range texts(at(rule, "verbs")) {
					list = append(list, fmt.Sprintf("%s/%s %s", group, resource, verb))
				}
			}
		}
	}
	slices.Sort(list)
	return list
}

func texts(list any) []string {
	var out []string
	all, _ := list.([]any)
	for _, one := range all {
		out = append(out, fmt.Sprint(one))
	}
	return out
}

// TestRender tries values, one after the other, and looks for what they are to do.
func TestRender(t *testing.T) {
	cluster := map[string]any{"config": map[string]any{"kubernetes": map[string]any{"namespaces": []any{"one", "two"}}}}
	for name, c := range map[string]struct {
		values values
		look   func(t *testing.T, r release)
	}{
		"rights where commands may create": {cluster, func(t *testing.T, r release) {
			var in []string
			for _, b := range r.all("RoleBinding") {
				in = append(in, b.namespace())
				want(t, "the binding", map[string]any(b), "ci", "subjects", 0, "namespace")
			}
			if diff := cmp.Diff([]string{"one", "two"}, in); diff != "" {
				t.Error(diff)
			}
			confined(t, r)
		}},
		"rights in namespaces of their own": {values{"rbac": map[string]any{"namespaces": []any{"three"}}}.with(cluster), func(t *testing.T, r release) {
			if in := r.only(t, "Role").namespace(); in != "three" {
				t.Error(in)
			}
		}},
		"more rights": {values{"rbac": map[string]any{"extraRules": []any{map[string]any{"apiGroups": []any{"apps"}, "resources": []any{"deployments"}, "verbs": []any{"get"}}}}}, func(t *testing.T, r release) {
			if !slices.Contains(granted(r.only(t, "Role")), "apps/deployments get") {
				t.Error(granted(r.only(t, "Role")))
			}
		}},
		"no commands: the cluster of the pod": {silent, func(t *testing.T, r release) {
			if diff := cmp.Diff(&config.Kubernetes{}, section(t, r)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			confined(t, r)
		}},
		"no commands: the cluster as given": {silent.with(cluster), func(t *testing.T, r release) {
			if diff := cmp.Diff(&config.Kubernetes{Namespaces: []string{"one", "two"}}, section(t, r)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		}},
		"commands: nothing is said of a cluster": {nil, func(t *testing.T, r release) {
			if got := section(t, r); got != nil {
				t.Errorf("the configuration says %+v", got)
			}
		}},
		"no cluster, no token":      {values{"kubernetes": map[string]any{"enabled": false}}, noToken},
		"another cluster, no token": {values{"config": map[string]any{"kubernetes": map[string]any{"kubeconfig": "/run/secrets/sentry/kubeconfig"}}}, noToken},
		"deployments as Jobs": {jobs.with(cluster).with(values{
			"image": map[string]any{"repository": "registry.example.com/sentry", "tag": "7"}, "imagePullSecrets": []any{map[string]any{"name": "pull"}},
		}), func(t *testing.T, r release) {
			confined(t, r)
			restrictedNamespace(t, r.only(t, "Namespace"), "ci-jobs")
			want(t, "the account", map[string]any(find(t, r, "ServiceAccount", "sentry-runner")), "ci-jobs", "metadata", "namespace")
			want(t, "the binding", map[string]any(find(t, r, "RoleBinding", "sentry-jobs")), []any{
				map[string]any{"kind": "ServiceAccount", "name": "sentry", "namespace": "ci"},
			}, "subjects")
			for _, b := range r.all("RoleBinding") {
				if b.name() == "sentry" {
					want(t, "the binding", map[string]any(b), "ci-jobs", "subjects", 1, "namespace")
					want(t, "the binding", map[string]any(b), "sentry-runner", "subjects", 1, "name")
				}
			}
			policy := map[string]any(find(t, r, "NetworkPolicy", "sentry-jobs"))
			want(t, "the policy", policy, []any{}, "spec", "ingress")
			want(t, "the policy", policy, []any{"Ingress"}, "spec", "policyTypes")
			want(t, "the policy", policy, kube.LabelJob, "spec", "podSelector", "matchExpressions", 0, "key")
			job := jobOf(t, r)
			job.StartTimeout, job.Keep = 0, 0
			if diff := cmp.Diff(config.JobSettings{
				Namespace: "ci-jobs", Image: "registry.example.com/sentry:7", PullPolicy: "IfNotPresent", PullSecrets: []string{"pull"}, ServiceAccount: "sentry-runner",
			}, job); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		}},
		"commands beside Sentry keep out of Jobs": {jobs.with(values{"rbac": map[string]any{"namespaces": []any{"three"}}}), func(t *testing.T, r release) {
			c, _, err := config.Parse("sentry.yaml", []byte(r.configuration(t)), config.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Kubernetes.Namespaces; !slices.Equal(got, []string{"three"}) {
				t.Errorf("commands may reach %v", got)
			}
		}},
		"Jobs as they say": {jobs.with(values{
			"jobs": map[string]any{
				"namespace": map[string]any{"create": false, "name": "not-this"}, "serviceAccount": map[string]any{"create": false},
				"egress": []any{map[string]any{"ports": []any{map[string]any{"port": 443}}}},
			},
			"config": map[string]any{
				"kubernetes": map[string]any{"jobs": map[string]any{"namespace": "theirs", "service_account": "robot", "image": "team/sentry:1", "labels": map[string]any{"a": "b"}}},
				"repositories": []any{map[string]any{
					"name":    "shop",
					"monitor": map[string]any{"repo_url": "https://git.example.com/shop", "branches": []any{"main"}},
					"deploy": map[string]any{
						"qa_repo_url": "https://git.example.com/qa", "qa_repo_branch": "main", "commands": []any{"true"},
						"executor": "kubernetes", "job": map[string]any{"service_account": "robot-of-shop"},
					},
				}},
			},
		}), func(t *testing.T, r release) {
			if r.all("Namespace") != nil || len(r.all("ServiceAccount")) != 1 {
				t.Error("there is a namespace, or an account, that nobody wants")
			}
			role := find(t, r, "Role", "sentry-jobs")
			if role.namespace() != "theirs" {
				t.Error(role.namespace())
			}
			want(t, "the Role", map[string]any(role), []any{"robot", "robot-of-shop"}, "rules", 4, "resourceNames")
			want(t, "the policy", map[string]any(find(t, r, "NetworkPolicy", "sentry-jobs")), 443, "spec", "egress", 0, "ports", 0, "port")
			if job := jobOf(t, r); job.Namespace != "theirs" || job.ServiceAccount != "robot-of-shop" || job.Image != "team/sentry:1" || job.Labels["a"] != "b" {
				t.Errorf("%+v", job)
			}
		}},
		"a token that ends": {nil, func(t *testing.T, r release) {
			volume := named(t, r.pod(t), "volumes", "api")
			want(t, "the token", volume, 3600, "projected", "sources", 0, "serviceAccountToken", "expirationSeconds")
			mount := named(t, r.container(t), "volumeMounts", "api")
			want(t, "the mount", mount, "/var/run/secrets/kubernetes.io/serviceaccount", "mountPath")
		}},
		"whole numbers stay whole": {values{"config": map[string]any{
			"global": map[string]any{"history": map[string]any{"ledger_entries": 1000000}},
		}}, func(t *testing.T, r release) {
			if !strings.Contains(r.configuration(t), "ledger_entries: 1000000\n") {
				t.Error(r.configuration(t))
			}
		}},
		"a script stays as it is": {values{"config": map[string]any{"repositories": []any{map[string]any{
			"name":    "shop",
			"monitor": map[string]any{"repo_url": "https://git.example.com/shop", "branches": []any{"main"}, "repo_type": "github", "auth": map[string]any{"app": map[string]any{"id": 123456789012, "installation": 7000000, "private_key_file": "/k"}}},
			"deploy":  map[string]any{"qa_repo_url": "https://git.example.com/qa", "qa_repo_branch": "main", "commands": []any{script}},
		}}}}, func(t *testing.T, r release) {
			c, _, err := config.Parse("sentry.yaml", []byte(r.configuration(t)), config.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Repositories[0].Deploy.Commands[0].Run; got != script {
				t.Errorf("%q", got)
			}
			if app := c.Repositories[0].Monitor.Auth.App; app.ID != 123456789012 || app.Installation != 7000000 {
				t.Errorf("%+v", app)
			}
		}},
		"a ConfigMap of theirs": {values{"existingConfigMap": "theirs", "config": map[string]any{"repositories": nil}}, func(t *testing.T, r release) {
			if r.all("ConfigMap") != nil || r.all("Service") != nil {
				t.Error("there is a ConfigMap or a Service")
			}
			want(t, "the volume", named(t, r.pod(t), "volumes", "config"), "theirs", "configMap", "name")
			want(t, "the probe", r.container(t), "curl", "livenessProbe", "exec", "command", 0)
		}},
		"nobody listens": {values{"config": map[string]any{"global": map[string]any{"listen": "127.0.0.1:8080"}}}, func(t *testing.T, r release) {
			want(t, "the probe", r.container(t), "/var/lib/sentry/sentry/sentry.sock", "readinessProbe", "exec", "command", 6)
			want(t, "the policy", map[string]any(r.only(t, "NetworkPolicy")), []any{}, "spec", "ingress")
			if r.all("Service") != nil {
				t.Error("there is a Service")
			}
		}},
		"another port": {values{"config": map[string]any{"global": map[string]any{"listen": ":9999"}}, "service": map[string]any{"port": 80}}, func(t *testing.T, r release) {
			want(t, "the container", r.container(t), 9999, "ports", 0, "containerPort")
			want(t, "the Service", map[string]any(r.only(t, "Service")), 80, "spec", "ports", 0, "port")
			want(t, "the policy", map[string]any(r.only(t, "NetworkPolicy")), 9999, "spec", "ingress", 0, "ports", 0, "port")
		}},
		"time to end": {values{"config": map[string]any{"global": map[string]any{"grace": "1m30s"}}}, func(t *testing.T, r release) {
			want(t, "the pod", r.pod(t), 2*90+25, "terminationGracePeriodSeconds")
		}},
		"time to end, in seconds": {values{"config": map[string]any{"global": map[string]any{"grace": 12.5}}}, func(t *testing.T, r release) {
			want(t, "the pod", r.pod(t), 2*13+25, "terminationGracePeriodSeconds")
		}},
		"time to end, as given": {values{"terminationGracePeriodSeconds": 600}, func(t *testing.T, r release) {
			want(t, "the pod", r.pod(t), 600, "terminationGracePeriodSeconds")
		}},
		"a Secret of theirs": {values{"secret": map[string]any{"existingSecret": "theirs"}}, func(t *testing.T, r release) {
			if r.all("Secret") != nil {
				t.Error("there is a Secret")
			}
			want(t, "the volume", named(t, r.pod(t), "volumes", "secrets"), "theirs", "secret", "secretName")
			want(t, "the volume", named(t, r.pod(t), "volumes", "secrets"), 0o440, "secret", "defaultMode")
			want(t, "the mount", named(t, r.container(t), "volumeMounts", "secrets"), "/run/secrets/sentry", "mountPath")
			want(t, "the variables", r.container(t), nil, "envFrom")
		}},
		"a Secret of ours, as variables too": {values{"secret": map[string]any{"data": map[string]any{"TOKEN": "canary"}, "env": true}}, func(t *testing.T, r release) {
			want(t, "the Secret", map[string]any(r.only(t, "Secret")), "canary", "stringData", "TOKEN")
			want(t, "the variables", r.container(t), "sentry", "envFrom", 0, "secretRef", "name")
			if sum, _ := r.only(t, "Deployment").at("spec", "template", "metadata", "annotations", "checksum/secret").(string); len(sum) != 64 {
				t.Errorf("the checksum is %q: a variable that changes would not restart the pod", sum)
			}
		}},
		"an image by its digest": {values{"image": map[string]any{"repository": "registry.example.com/sentry", "digest": "sha256:" + strings.Repeat("a", 64)}}, func(t *testing.T, r release) {
			want(t, "the container", r.container(t), "registry.example.com/sentry@sha256:"+strings.Repeat("a", 64), "image")
		}},
		"state that goes with the pod": {values{"persistence": map[string]any{"enabled": false}}, func(t *testing.T, r release) {
			want(t, "the volume", named(t, r.pod(t), "volumes", "state"), map[string]any{}, "emptyDir")
			if r.all("PersistentVolumeClaim") != nil {
				t.Error("there is a claim")
			}
		}},
		"state that stays": {values{"persistence": map[string]any{"size": "3Gi", "storageClassName": "fast", "annotations": map[string]any{"a": "b"}}}, func(t *testing.T, r release) {
			claim := map[string]any(r.only(t, "PersistentVolumeClaim"))
			want(t, "the claim", claim, "3Gi", "spec", "resources", "requests", "storage")
			want(t, "the claim", claim, "fast", "spec", "storageClassName")
			want(t, "the claim", claim, "keep", "metadata", "annotations", "helm.sh/resource-policy")
			want(t, "the Deployment", map[string]any(r.only(t, "Deployment")), "Recreate", "spec", "strategy", "type")
			want(t, "the Deployment", map[string]any(r.only(t, "Deployment")), 1, "spec", "replicas")
		}},
		"a claim of theirs": {values{"persistence": map[string]any{"existingClaim": "theirs"}}, func(t *testing.T, r release) {
			want(t, "the volume", named(t, r.pod(t), "volumes", "state"), "theirs", "persistentVolumeClaim", "claimName")
			if r.all("PersistentVolumeClaim") != nil {
				t.Error("there is a claim")
			}
		}},
		"webhooks from outside": {values{
			"ingress": map[string]any{"enabled": true, "host": "sentry.example.com", "tlsSecret": "tls", "className": "nginx"},
		}, func(t *testing.T, r release) {
			ingress := map[string]any(r.only(t, "Ingress"))
			want(t, "the Ingress", ingress, "/hooks", "spec", "rules", 0, "http", "paths", 0, "path")
			want(t, "the Ingress", ingress, "/rollouts", "spec", "rules", 0, "http", "paths", 1, "path")
			want(t, "the Ingress", ingress, "sentry.example.com", "spec", "tls", 0, "hosts", 0)
		}},
		"metrics for Prometheus": {values{
			"config":         map[string]any{"global": map[string]any{"metrics": "open"}},
			"serviceMonitor": map[string]any{"enabled": true, "labels": map[string]any{"release": "prometheus"}},
		}, func(t *testing.T, r release) {
			monitor := map[string]any(r.only(t, "ServiceMonitor"))
			want(t, "the monitor", monitor, "prometheus", "metadata", "labels", "release")
			want(t, "the monitor", monitor, "/metrics", "spec", "endpoints", 0, "path")
			service := r.only(t, "Service")
			want(t, "the monitor", monitor, service.at("spec", "ports", 0, "name"), "spec", "endpoints", 0, "port")
			if labels := service.at("metadata", "labels"); !holds(labels, at(monitor, "spec", "selector", "matchLabels")) {
				t.Errorf("the monitor does not find the Service: %v", labels)
			}
		}},
		"a budget for disruptions": {values{"podDisruptionBudget": map[string]any{"enabled": true}}, func(t *testing.T, r release) {
			want(t, "the budget", map[string]any(r.only(t, "PodDisruptionBudget")), 1, "spec", "maxUnavailable")
		}},
		"what may be reached": {values{"networkPolicy": map[string]any{
			"ingressFrom": []any{map[string]any{"podSelector": map[string]any{}}},
			"egress":      []any{map[string]any{"ports": []any{map[string]any{"port": 443}}}},
		}}, func(t *testing.T, r release) {
			policy := map[string]any(r.only(t, "NetworkPolicy"))
			want(t, "the policy", policy, []any{"Ingress", "Egress"}, "spec", "policyTypes")
			want(t, "the policy", policy, 443, "spec", "egress", 0, "ports", 0, "port")
			want(t, "the policy", policy, map[string]any{}, "spec", "ingress", 0, "from", 0, "podSelector")
		}},
		"objects of theirs": {values{"extraObjects": []any{map[string]any{
			"apiVersion": "v1", "kind": "LimitRange", "metadata": map[string]any{"name": "{{ .Release.Name }}-limits", "namespace": "ci"},
		}}}, func(t *testing.T, r release) {
			if got := r.only(t, "LimitRange").name(); got != "sentry-limits" {
				t.Error(got)
			}
		}},
		"names of theirs": {values{"fullnameOverride": "watcher", "serviceAccount": map[string]any{"create": false, "name": "robot"}}, func(t *testing.T, r release) {
			if got := r.only(t, "Deployment").name(); got != "watcher" {
				t.Error(got)
			}
			want(t, "the pod", r.pod(t), "robot", "serviceAccountName")
			want(t, "the binding", map[string]any(r.only(t, "RoleBinding")), "robot", "subjects", 0, "name")
			if r.all("ServiceAccount") != nil {
				t.Error("there is a ServiceAccount")
			}
		}},
		"labels": {values{"commonLabels": map[string]any{"team": "qa"}, "podLabels": map[string]any{"tier": "one"}}, func(t *testing.T, r release) {
			for _, o := range r {
				want(t, o.kind(), map[string]any(o), "qa", "metadata", "labels", "team")
			}
			labels := r.only(t, "Deployment").at("spec", "template", "metadata", "labels")
			want(t, "the pod", labels, "one", "tier")
			selector, _ := r.only(t, "Deployment").at("spec", "selector", "matchLabels").(map[string]any)
			for key, value := range selector {
				want(t, "the pod", labels, value, key)
			}
			if len(selector) != 3 {
				t.Errorf("the selector is %v: it could not be changed later", selector)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			v := least(c.values)
			r := render(t, v)
			if r.all("ConfigMap") != nil {
				validate(t, r.configuration(t))
			}
			c.look(t, r)
		})
	}
}

// jobs are values with which deployments run as Jobs.
var jobs = values{
	"jobs":   map[string]any{"enabled": true},
	"config": map[string]any{"groups": map[string]any{"all": map[string]any{"executor": "kubernetes"}}},
}

// silent are values with a repository that has no commands.
var silent = values{"config": map[string]any{"repositories": []any{map[string]any{
	"name":    "shop",
	"monitor": map[string]any{"repo_url": "https://git.example.com/shop", "branches": []any{"main"}},
	"deploy":  map[string]any{"qa_repo_url": "https://git.example.com/qa", "qa_repo_branch": "main"},
}}}}

// section gives what the configuration says of the cluster; nil where it says nothing.
func section(t *testing.T, r release) *config.Kubernetes {
	t.Helper()
	c, _, err := config.Parse("sentry.yaml", []byte(r.configuration(t)), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c.Kubernetes
}

// jobOf gives what the configuration says of the Jobs of its repository.
func jobOf(t *testing.T, r release) config.JobSettings {
	t.Helper()
	c, _, err := config.Parse("sentry.yaml", []byte(r.configuration(t)), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c.JobOf(&c.Repositories[0])
}

// find gives the object of a name.
func find(t *testing.T, r release, kind, name string) object {
	t.Helper()
	for _, o := range r.all(kind) {
		if o.name() == name {
			return o
		}
	}
	t.Fatalf("there is no %s %s", kind, name)
	return nil
}

func restrictedNamespace(t *testing.T, o object, name string) {
	t.Helper()
	if o.name() != name {
		t.Errorf("the namespace is called %s, want %s", o.name(), name)
	}
	want(t, "the namespace", map[string]any(o), "restricted", "metadata", "labels", "pod-security.kubernetes.io/enforce")
}

const script = "set -e\nfor f in *.yaml; do echo \"$f <&> ${HOME:-none} {{ .Values }}\"; done # a 'quote'\n\n\tkubectl create -f x\n"

func noToken(t *testing.T, r release) {
	if r.all("Role") != nil || r.all("RoleBinding") != nil {
		t.Error("there are rights")
	}
	volumes, _ := r.pod(t)["volumes"].([]any)
	for _, v := range volumes {
		if at(v, "projected") != nil {
			t.Errorf("there is a token: %v", v)
		}
	}
}

// named gives the entry of a list that has a name.
func named(t *testing.T, in map[string]any, list, name string) any {
	t.Helper()
	all, _ := in[list].([]any)
	for _, one := range all {
		if at(one, "name") == name {
			return one
		}
	}
	t.Fatalf("%s has no %s: %v", list, name, all)
	return nil
}

// TestPassedOn: what charts let people say of the pod arrives where it belongs.
func TestPassedOn(t *testing.T) {
	entry := map[string]any{"name": "extra", "value": "canary"}
	for key, c := range map[string]struct {
		value any
		in    string // pod or container
		under string // the key there; a list may hold others, too
	}{
		"nodeSelector":              {map[string]any{"disk": "ssd"}, "pod", "nodeSelector"},
		"tolerations":               {[]any{map[string]any{"key": "gpu", "operator": "Exists"}}, "pod", "tolerations"},
		"affinity":                  {map[string]any{"nodeAffinity": map[string]any{}}, "pod", "affinity"},
		"topologySpreadConstraints": {[]any{map[string]any{"maxSkew": 1}}, "pod", "topologySpreadConstraints"},
		"priorityClassName":         {"high", "pod", "priorityClassName"},
		"runtimeClassName":          {"gvisor", "pod", "runtimeClassName"},
		"hostAliases":               {[]any{map[string]any{"ip": "10.0.0.1", "hostnames": []any{"git"}}}, "pod", "hostAliases"},
		"dnsPolicy":                 {"None", "pod", "dnsPolicy"},
		"dnsConfig":                 {map[string]any{"nameservers": []any{"10.0.0.2"}}, "pod", "dnsConfig"},
		"imagePullSecrets":          {[]any{map[string]any{"name": "pull"}}, "pod", "imagePullSecrets"},
		"initContainers":            {[]any{entry}, "pod", "initContainers"},
		"sidecars":                  {[]any{entry}, "pod", "containers"},
		"extraVolumes":              {[]any{entry}, "pod", "volumes"},
		"podSecurityContext":        {map[string]any{"fsGroup": 7}, "pod", "securityContext"},
		"extraEnv":                  {[]any{entry}, "container", "env"},
		"extraEnvFrom":              {[]any{map[string]any{"configMapRef": map[string]any{"name": "x"}}}, "container", "envFrom"},
		"extraVolumeMounts":         {[]any{map[string]any{"name": "extra", "mountPath": "/x"}}, "container", "volumeMounts"},
		"extraArgs":                 {[]any{"--verbose"}, "container", "args"},
		"lifecycle":                 {map[string]any{"preStop": map[string]any{"sleep": map[string]any{"seconds": 1}}}, "container", "lifecycle"},
		"resources":                 {map[string]any{"limits": map[string]any{"cpu": 3}}, "container", "resources"},
		"securityContext":           {map[string]any{"runAsUser": 7}, "container", "securityContext"},
		"startupProbe":              {map[string]any{"periodSeconds": 77}, "container", "startupProbe"},
		"livenessProbe":             {map[string]any{"periodSeconds": 77}, "container", "livenessProbe"},
		"readinessProbe":            {map[string]any{"periodSeconds": 77}, "container", "readinessProbe"},
	} {
		t.Run(key, func(t *testing.T) {
			r := render(t, least(values{key: c.value}))
			in := r.pod(t)
			if c.in == "container" {
				in = r.container(t)
			}
			if !holds(in[c.under], c.value) {
				t.Errorf("%s of the %s is %v, without %v", c.under, c.in, in[c.under], c.value)
			}
		})
	}
}

// holds reports whether a value has everything that part of it is to have.
func holds(whole, part any) bool {
	switch part := part.(type) {
	case map[string]any:
		in, ok := whole.(map[string]any)
		for key, value := range part {
			ok = ok && holds(in[key], value)
		}
		return ok
	case []any:
		in, _ := whole.([]any)
		for _, value := range part {
			if !slices.ContainsFunc(in, func(one any) bool { return holds(one, value) }) {
				return false
			}
		}
		return true
	default:
		return reflect.DeepEqual(whole, part)
	}
}

// TestRefused: what cannot work is refused before anything is installed, with what would work.
func TestRefused(t *testing.T) {
	global := func(key string, value any) values {
		return values{"config": map[string]any{"global": map[string]any{key: value}}}
	}
	for name, c := range map[string]struct {
		values values
		want   []string
	}{
		"nothing to watch":         {values{"config": map[string]any{"repositories": nil}}, []string{"config", "repositories"}},
		"two Sentrys":              {values{"replicas": 2}, []string{"only 1 is possible", "roll every change out twice"}},
		"an autoscaler":            {values{"autoscaling": map[string]any{"enabled": true}}, []string{"autoscaling.enabled", "roll every change out twice"}},
		"an unknown value":         {values{"replicaCount": 2}, []string{"replicaCount"}},
		"an unknown value below":   {values{"persistence": map[string]any{"sise": "1Gi"}}, []string{"persistence", "sise"}},
		"an unknown configuration": {global("log_levl", "info"), []string{"config/global", "log_levl"}},
		"a wrong configuration":    {global("log_level", "loud"), []string{"config/global/log_level"}},
		"a wrong time":             {values{"config": map[string]any{"polling_interval": "soon"}}, []string{"config/polling_interval"}},
		"shared storage":           {values{"persistence": map[string]any{"accessModes": []any{"ReadWriteMany"}}}, []string{"accessModes"}},
		"two Secrets":              {values{"secret": map[string]any{"existingSecret": "a", "data": map[string]any{"b": "c"}}}, []string{"Choose one of them"}},
		"variables of no Secret":   {values{"secret": map[string]any{"env": true}}, []string{"secret.env needs a Secret"}},
		"an Ingress for nobody":    {values{"ingress": map[string]any{"enabled": true}}, []string{"ingress.host is missing"}},
		"an Ingress to nothing":    {global("listen", "127.0.0.1:1").with(values{"ingress": map[string]any{"enabled": true, "host": "a.example.com"}}), []string{"config.global.listen: 0.0.0.0:8080"}},
		"no metrics to read":       {values{"serviceMonitor": map[string]any{"enabled": true}}, []string{"config.global.metrics: open"}},
		"every right":              {values{"rbac": map[string]any{"extraRules": []any{map[string]any{"apiGroups": []any{""}, "resources": []any{"*"}, "verbs": []any{"get"}}}}}, []string{`contains "*"`}},
		"no time to end":           {global("grace", "60s").with(values{"terminationGracePeriodSeconds": 60}), []string{"choose more than 120"}},
		"Jobs without a token":     {jobs.with(values{"kubernetes": map[string]any{"enabled": false}}), []string{"jobs.enabled makes Jobs in the cluster", "config.kubernetes.jobs"}},
		"Jobs beside Sentry":       {jobs.with(values{"jobs": map[string]any{"namespace": map[string]any{"name": "ci"}}}), []string{"a namespace of their own"}},
		"Jobs among pipeline runs": {jobs.with(values{
			"rbac": map[string]any{"namespaces": []any{"qa"}}, "jobs": map[string]any{"namespace": map[string]any{"name": "qa"}},
		}), []string{"jobs.namespace.name is qa", "a namespace of their own"}},
		"no commands, no cluster": {silent.with(values{"kubernetes": map[string]any{"enabled": false}}), []string{
			"a repository without commands", "set kubernetes.enabled", "config.kubernetes.kubeconfig",
		}},
		"Jobs without rights":   {values{"config": jobs["config"]}, []string{"Set jobs.enabled", "config.kubernetes.jobs.image"}},
		"a digest that is none": {values{"image": map[string]any{"digest": "latest"}}, []string{"image/digest"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := template(t, "--values", least(c.values).write(t))
			if err == nil {
				t.Fatal("it is rendered")
			}
			for _, part := range c.want {
				if !strings.Contains(strings.ReplaceAll(err.Error(), "' ", "'"), part) {
					t.Errorf("the message does not say %q:\n%v", part, err)
				}
			}
		})
	}
}
