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
	namespaces := clusterNamespaces(cfg, cluster)
	where := fmt.Sprintf("%s at %s", version, cluster.Host())
	switch {
	case err != nil && version == "":
		return []finding{{checkFail, subject, fmt.Sprintf("%s does not answer: %v", cluster.Host(), err), "see whether `kubectl get --raw /version` answers with the same kubeconfig, from here"}}
	case err != nil:
		return []finding{{checkFail, subject, where + ": " + err.Error(), "install Tekton Pipelines; without it no pipeline run can be created or followed"}}
	}
	list := []finding{{checkOK, subject, fmt.Sprintf("%s with %s; namespaces %s", where, tekton, strings.Join(namespaces, ", ")), ""}}
	rights, err := cluster.Access(ctx, namespaces...)
	if err != nil {
		list = append(list, finding{checkFail, subject, err.Error(), "see whether the credentials are still valid"})
	}
	list = append(list, missingRights(rights)...)
	return append(list, checkJobs(ctx, cfg, cluster)...)
}

// checkJobs asks for the rights that Jobs take, once for each namespace and service account that a repository is deployed in
// and with.
func checkJobs(ctx context.Context, cfg *config.Config, cluster *kube.Cluster) (list []finding) {
	type place struct{ namespace, account string }
	asked := map[place]bool{}
	for i := range cfg.Repositories {
		r := &cfg.Repositories[i]
		if cfg.ExecutorOf(r) != config.ExecutorKubernetes {
			continue
		}
		job := cfg.JobOf(r)
		at := place{cmp.Or(job.Namespace, cluster.Namespace()), job.ServiceAccount}
		if asked[at] {
			continue
		}
		asked[at] = true
		rights, err := cluster.JobAccess(ctx, at.namespace, at.account)
		switch missing := missingRights(rights); {
		case err != nil:
			list = append(list, finding{checkFail, "kubernetes " + at.namespace, err.Error(), "see whether the credentials are still valid"})
		case len(missing) > 0:
			list = append(list, missing...)
		default:
			list = append(list, finding{checkOK, "kubernetes " + at.namespace, "deployments may run as Jobs in namespace " + at.namespace, ""})
		}
	}
	return list
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
