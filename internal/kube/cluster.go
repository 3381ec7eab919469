package kube

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"sentry/internal/sentry"
)

// ErrNoCluster tells that no cluster is configured, and that the process is not in a pod.
var ErrNoCluster = errors.New("no Kubernetes cluster: neither kubernetes.kubeconfig is configured, nor does this process run in a pod")

// Options of Connect. Nothing in them is required inside a pod.
type Options struct {
	Kubeconfig  string     // a file; "" means the pod's service account
	Pod         *PodAccess // of a pod that was given a token; nil for none. Kubeconfig must be "" then
	Context     string     // of the kubeconfig; "" means its current one
	Namespaces  []string   // the only ones that may be used; the first is the default. Empty: the cluster's rights decide
	Impersonate string     // the user as whom everything is asked; "" means as the credentials say
	UserAgent   string     // of Sentry's own requests
	Log         *slog.Logger
	Register    prometheus.Registerer // nil: no metrics
}

// PodAccess is how a pod reaches the cluster that it is in, where it has no service account's token of its own.
type PodAccess struct {
	Token     sentry.Secret
	Authority string // file with the certificate authority of the API server
}

// Cluster is a Kubernetes cluster with the credentials for it. Nothing is asked of it before there is a reason to. It is
// safe for concurrent use.
type Cluster struct {
	config     *rest.Config // with the credentials and without impersonation; never changed, only copied
	user       string       // to impersonate; "" for nobody
	namespaces []string     // allowed; empty for all
	namespace  string       // the default one
	pod        bool         // it is the one in which the process runs as a pod
	log        *slog.Logger
	register   prometheus.Registerer
	tracking   tracking
	marked     marked
}

// Connect finds the cluster that is configured, or the one in which the process runs as a pod. It reads files and asks
// nobody. The error is ErrNoCluster where there is none, else it names the file and what is wrong with it.
func Connect(o Options) (*Cluster, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	config, namespace, err := credentials(o)
	if err != nil {
		return nil, err
	}
	listenToClientGo(o.Log)
	config.UserAgent = o.UserAgent
	config.WarningHandler = rest.NoWarnings{}
	if config.ExecProvider != nil {
		// Nobody can answer a question of a plugin, not even where Sentry was started at a terminal.
		config.ExecProvider.StdinUnavailable = true
		config.ExecProvider.StdinUnavailableMessage = "Sentry runs unattended"
	}
	c := &Cluster{
		config: config, user: o.Impersonate, namespaces: slices.Clone(o.Namespaces), namespace: namespace, pod: o.Kubeconfig == "",
		log: o.Log, register: o.Register,
	}
	if len(o.Namespaces) > 0 {
		c.namespace = o.Namespaces[0]
	}
	if _, err := rest.TransportFor(c.restConfig()); err != nil {
		return nil, fmt.Errorf("cannot use the credentials of the Kubernetes cluster: %w", err)
	}
	return c, nil
}

// Host is the address of the API server, for people.
func (c *Cluster) Host() string { return c.config.Host }

// Namespace is where a command works that names no namespace: the first of the allowed ones, else that of the
// kubeconfig's context, or of the pod.
func (c *Cluster) Namespace() string { return c.namespace }

// Namespaces are those that may be used; the default one where all may be that the credentials allow.
func (c *Cluster) Namespaces() []string {
	if len(c.namespaces) == 0 {
		return []string{c.namespace}
	}
	return slices.Clone(c.namespaces)
}

// restConfig gives a copy of the configuration for Sentry's own requests.
func (c *Cluster) restConfig() *rest.Config {
	config := rest.CopyConfig(c.config)
	config.Impersonate.UserName = c.user
	return config
}

// serviceAccount is where a pod finds its credentials.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

func credentials(o Options) (*rest.Config, string, error) {
	if o.Pod == nil {
		return load(o.Kubeconfig, o.Context, serviceAccount)
	}
	host, err := podHost()
	if err == nil {
		_, err = os.ReadFile(o.Pod.Authority)
	}
	if err != nil {
		return nil, "", errors.New("cannot reach the cluster of the pod: " + err.Error()) // it has one: not ErrNoCluster
	}
	return &rest.Config{
		Host: host, TLSClientConfig: rest.TLSClientConfig{CAFile: o.Pod.Authority}, BearerToken: o.Pod.Token.Reveal(),
	}, "default", nil
}

// podHost is the address of the API server as every pod is told it.
func podHost() (string, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return "", ErrNoCluster
	}
	return "https://" + net.JoinHostPort(host, port), nil
}

// load reads the credentials, and the namespace that is the default for their holder.
func load(file, context, account string) (*rest.Config, string, error) {
	if file == "" {
		if context != "" {
			return nil, "", fmt.Errorf("kubernetes.context is %q, but there is no kubernetes.kubeconfig to look it up in", context)
		}
		return loadPod(account)
	}
	raw, err := clientcmd.LoadFromFile(file)
	if err == nil {
		err = clientcmd.ResolveLocalPaths(raw)
	}
	if err != nil {
		return nil, "", fmt.Errorf("cannot read the kubeconfig %s: %w", file, err)
	}
	reader := clientcmd.NewNonInteractiveClientConfig(*raw, context, &clientcmd.ConfigOverrides{}, nil)
	config, err := reader.ClientConfig()
	if err != nil {
		return nil, "", fmt.Errorf("cannot use the kubeconfig %s: %w", file, err)
	}
	namespace, _, err := reader.Namespace()
	if err != nil {
		return nil, "", fmt.Errorf("cannot use the kubeconfig %s: %w", file, err)
	}
	return config, namespace, nil
}

// loadPod reads what a pod is given in the folder. The token is read again while the process runs: it is replaced long
// before it ends.
func loadPod(folder string) (*rest.Config, string, error) {
	host, err := podHost()
	if err != nil {
		return nil, "", err
	}
	token := filepath.Join(folder, "token")
	if _, err := os.Stat(token); errors.Is(err, os.ErrNotExist) {
		return nil, "", ErrNoCluster // a pod with automountServiceAccountToken: false
	}
	if _, err := os.ReadFile(token); err != nil {
		return nil, "", fmt.Errorf("cannot read the token of the pod's service account: %w", err)
	}
	authority := filepath.Join(folder, "ca.crt")
	if _, err := os.ReadFile(authority); err != nil {
		return nil, "", fmt.Errorf("cannot read the certificate authority of the cluster: %w", err)
	}
	namespace := "default"
	if raw, err := os.ReadFile(filepath.Join(folder, "namespace")); err == nil && strings.TrimSpace(string(raw)) != "" {
		namespace = strings.TrimSpace(string(raw))
	}
	return &rest.Config{
		Host:            host,
		TLSClientConfig: rest.TLSClientConfig{CAFile: authority},
		BearerTokenFile: token,
	}, namespace, nil
}

var clientGoListens sync.Once

// listenToClientGo turns what client-go tells its own log into records of ours. That log belongs to the process, and must
// not be changed once it is used: the first caller gets it.
func listenToClientGo(log *slog.Logger) {
	clientGoListens.Do(func() { klog.SetSlogLogger(log.With("source", "client-go")) })
}
