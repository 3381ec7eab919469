package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"sentry/internal/config"
	"sentry/internal/daemon"
	"sentry/internal/deploy"
	"sentry/internal/kube"
)

// checkCluster asks the configured cluster what it is and what Sentry may do in it. Where none is configured there is
// nothing to tell; in a pod, whose cluster nobody may have meant to use, nothing that it lacks is a failure.
func checkCluster(ctx context.Context, cfg *config.Config) []finding {
	list := askCluster(ctx, cfg)
	for i := range list {
		if cfg.Kubernetes == nil && list[i].Status == checkFail {
			list[i].Status = checkWarn
		}
	}
	return list
}

func askCluster(ctx context.Context, cfg *config.Config) []finding {
	const subject = "kubernetes"
	cluster, err := daemon.Cluster(cfg, slog.New(slog.DiscardHandler))
	switch {
	case errors.Is(err, kube.ErrNoCluster) && cfg.Kubernetes == nil:
		return nil
	case errors.Is(err, kube.ErrNoCluster):
		return []finding{{checkFail, subject, err.Error(), "give kubernetes.kubeconfig, or run Sentry in a pod with a service account"}}
	case err != nil:
		return []finding{{checkFail, subject, err.Error(), "mend the file, or kubernetes.kubeconfig and kubernetes.context"}}
	}
	version, tekton, err := cluster.Version(ctx)
	where := fmt.Sprintf("%s at %s", version, cluster.Host())
	switch {
	case err != nil && version == "":
		return []finding{{checkFail, subject, fmt.Sprintf("%s does not answer: %v", cluster.Host(), err), "see whether `kubectl get --raw /version` answers with the same kubeconfig, from here"}}
	case err != nil:
		return []finding{{checkFail, subject, where + ": " + err.Error(), "install Tekton Pipelines; without it no pipeline run can be created or followed"}}
	}
	namespaces, places := clusterNamespaces(cfg, cluster), jobNamespaces(cfg, cluster)
	absent, lacking := checkNamespaces(ctx, cfg, cluster, slices.Concat(namespaces, places))
	namespaces = slices.DeleteFunc(namespaces, func(name string) bool { return slices.Contains(absent, name) })
	what := where + " with " + tekton
	if len(namespaces) > 0 {
		what += "; namespaces " + strings.Join(namespaces, ", ")
	}
	list := append([]finding{{checkOK, subject, what, ""}}, lacking...)
	rights, err := cluster.Access(ctx, namespaces...)
	if err != nil {
		list = append(list, finding{checkFail, subject, err.Error(), "see whether the credentials are still valid"})
	}
	list = append(list, missingRights(rights)...)
	return append(list, checkJobs(ctx, cfg, cluster, absent)...)
}

// checkNamespaces asks for each namespace once, and tells which do not exist.
func checkNamespaces(ctx context.Context, cfg *config.Config, cluster *kube.Cluster, names []string) (absent []string, list []finding) {
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		switch none, err := cluster.NoNamespace(ctx, name); {
		case err != nil:
			return absent, append(list, finding{checkFail, "kubernetes " + name, err.Error(), "see whether the credentials are still valid"})
		case none:
			absent = append(absent, name)
			list = append(list, finding{checkFail, "kubernetes " + name, fmt.Sprintf("the namespace %s does not exist", name), fmt.Sprintf("create it, or %s", without(cfg, name))})
		}
	}
	return absent, list
}

// without says what to change in the configuration so that a namespace is not used.
func without(cfg *config.Config, name string) string {
	var keys []string
	all := ""
	if cfg.Kubernetes != nil {
		if slices.Contains(cfg.Kubernetes.Namespaces, name) {
			keys = append(keys, "kubernetes.namespaces")
		}
		if cfg.Kubernetes.Jobs != nil {
			all = cfg.Kubernetes.Jobs.Namespace
		}
	}
	if all == name {
		keys = append(keys, "kubernetes.jobs.namespace")
	}
	for i := range cfg.Repositories {
		r := &cfg.Repositories[i]
		if slices.Contains(r.Deploy.Kubernetes.Namespaces, name) {
			keys = append(keys, "deploy.kubernetes.namespaces of "+r.Name)
		}
		if r.Deploy.Job != nil && r.Deploy.Job.Namespace == name && all != name {
			keys = append(keys, "deploy.job.namespace of "+r.Name)
		}
	}
	if len(keys) == 0 {
		return "name others in kubernetes.namespaces: it is that of the kubeconfig's context, or of the pod"
	}
	return "take it out of " + strings.Join(keys, ", ")
}

// jobCluster is what checkJobs asks of Kubernetes. *kube.Cluster is one.
type jobCluster interface {
	Namespace() string
	JobAccess(ctx context.Context, namespace, account string) ([]kube.Right, error)
	TryJob(ctx context.Context, spec kube.JobSpec) (warnings []string, err error)
}

// checkJobs asks whether deployments can run as Jobs: for the rights that it takes, once for each namespace and service
// account, and whether the API server would take the Job, once for each that is different. Of a namespace that is absent
// everything was said.
func checkJobs(ctx context.Context, cfg *config.Config, cluster jobCluster, absent []string) (list []finding) {
	type place struct{ namespace, account string }
	may := map[place]bool{}
	tried := map[string]bool{}
	for i := range cfg.Repositories {
		r := &cfg.Repositories[i]
		if cfg.ExecutorOf(r) != config.ExecutorKubernetes {
			continue
		}
		pod := deploy.Pod(cfg.JobOf(r))
		pod.Namespace = cmp.Or(pod.Namespace, cluster.Namespace())
		at := place{pod.Namespace, pod.ServiceAccount}
		if slices.Contains(absent, at.namespace) {
			continue
		}
		if _, asked := may[at]; !asked {
			rights, err := cluster.JobAccess(ctx, at.namespace, at.account)
			if err != nil {
				return append(list, finding{checkFail, "kubernetes " + at.namespace, err.Error(), "see whether the credentials are still valid"})
			}
			missing := missingRights(rights)
			list = append(list, missing...)
			may[at] = !slices.ContainsFunc(missing, func(f finding) bool { return f.Status == checkFail })
		}
		if key := fmt.Sprint(pod); may[at] && !tried[key] {
			tried[key] = true
			list = append(list, tryJob(ctx, r.Name, cluster, &pod)...)
		}
	}
	return list
}

// tryJob asks whether the Job of a repository would be taken.
func tryJob(ctx context.Context, repository string, cluster jobCluster, pod *deploy.Pod) (list []finding) {
	subject := "kubernetes " + pod.Namespace
	spec := pod.Spec()
	spec.Name = "sentry-check"
	warnings, err := cluster.TryJob(ctx, spec)
	if err != nil {
		return []finding{{checkFail, subject, fmt.Sprintf("a Job for %s would be refused: %v", repository, err), "mend kubernetes.jobs, or deploy.job of the repository, or make what is missing"}}
	}
	for _, w := range warnings {
		list = append(list, finding{checkWarn, subject, fmt.Sprintf("of a Job for %s the API server says: %s", repository, w), ""})
	}
	as := ", without access to the cluster"
	if pod.ServiceAccount != "" {
		as = ", as service account " + pod.ServiceAccount
	}
	return append(list, finding{checkOK, subject, fmt.Sprintf("%s may run in Jobs in namespace %s%s", repository, pod.Namespace, as), ""})
}

// clusterNamespaces gives the namespaces that the configuration speaks of, or the one that is the default.
func clusterNamespaces(cfg *config.Config, cluster *kube.Cluster) []string {
	names := []string{cluster.Namespace()}
	if cfg.Kubernetes != nil {
		names = append(names, cfg.Kubernetes.Namespaces...)
	}
	for i := range cfg.Repositories {
		names = append(names, cfg.Repositories[i].Deploy.Kubernetes.Namespaces...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// jobNamespaces gives the namespaces in which deployments run as Jobs; one may be there more than once.
func jobNamespaces(cfg *config.Config, cluster *kube.Cluster) (names []string) {
	for i := range cfg.Repositories {
		if r := &cfg.Repositories[i]; cfg.ExecutorOf(r) == config.ExecutorKubernetes {
			names = append(names, cmp.Or(cfg.JobOf(r).Namespace, cluster.Namespace()))
		}
	}
	return names
}

// missingRights tells what Sentry may not do, one line for each resource and namespace.
func missingRights(rights []kube.Right) (list []finding) {
	type place struct{ namespace, resource, name, why string }
	var order []place
	verbs := map[place][]string{}
	optional := map[place]bool{}
	for _, r := range rights {
		if r.Allowed {
			continue
		}
		at := place{r.Namespace, r.Resource, r.Name, r.For}
		if verbs[at] == nil {
			order = append(order, at)
		}
		verbs[at] = append(verbs[at], r.Verb)
		optional[at] = r.Optional
	}
	for _, at := range order {
		status := checkFail
		if optional[at] {
			status = checkWarn
		}
		resource, group, _ := strings.Cut(at.resource, ".")
		all := strings.Join(verbs[at], ", ")
		object, names := at.resource, ""
		if at.name != "" {
			object, names = at.resource+" of "+at.name, fmt.Sprintf(", resourceNames: [%q]", at.name)
		}
		list = append(list, finding{
			status, "kubernetes " + at.namespace,
			fmt.Sprintf("may not %s %s in namespace %s, %s", all, object, at.namespace, at.why),
			fmt.Sprintf("add to its Role in %s: {apiGroups: [%q], resources: [%q]%s, verbs: [%s]}", at.namespace, group, resource, names, all),
		})
	}
	return list
}
