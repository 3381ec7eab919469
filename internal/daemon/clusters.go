package daemon

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"reflect"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"sentry/internal/config"
	"sentry/internal/deploy"
	"sentry/internal/kube"
	"sentry/internal/logger"
)

// clusters has the cluster that is configured, and those that were before for as long as somebody uses them. It is the
// deploy.Clusters of the daemon.
type clusters struct {
	log      *slog.Logger
	register prometheus.Registerer
	agent    string
	// renewed is called when a kubeconfig was read that may name other files than before; nil for nobody. It must not come back.
	renewed func()

	mu      sync.Mutex
	section *config.Kubernetes // as it is configured
	text    []byte             // of its kubeconfig, when that was read last
	now     *holding           // nil for none
	err     error              // why there is none
	open    map[*holding]bool
	closed  bool
}

// holding is a cluster with its gateway, and how many use it. The lock of clusters is for it, too.
type holding struct {
	deploy.Kube
	users int
	past  bool // it is not the one that is configured any more
}

func newClusters(version string, register prometheus.Registerer, log *slog.Logger) *clusters {
	return &clusters{log: log, register: register, agent: "sentry/" + version, err: kube.ErrNoCluster, open: map[*holding]bool{}}
}

// update follows the configuration. A cluster that cannot be used is told of, and stops nothing: whoever needs it learns
// why there is none, and it is tried again for each.
func (c *clusters) update(section *config.Kubernetes) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now != nil && reflect.DeepEqual(c.section, section) {
		return
	}
	c.section = section
	c.drop()
	c.connect()
	switch {
	case c.err == nil:
		c.log.Info("commands have access to Kubernetes", "server", c.now.Host(), "namespace", c.now.Namespace())
	case !errors.Is(c.err, kube.ErrNoCluster) || section != nil:
		c.log.Error("commands have no access to Kubernetes", logger.KeyError, c.err)
	}
}

// drop leaves the present cluster to those who use it. The caller has the lock.
func (c *clusters) drop() {
	if c.now != nil {
		c.now.past = true
		c.letGo(c.now)
		c.now = nil
	}
}

// connect makes the configured cluster the present one. The caller has the lock.
func (c *clusters) connect() {
	c.text = c.kubeconfig()
	cluster, err := connect(c.section, c.agent, c.register, c.log)
	if err == nil {
		var gateway *kube.Gateway
		if gateway, err = cluster.NewGateway(kube.GatewayOptions{}); err == nil {
			c.now = &holding{Kube: deploy.Kube{Cluster: cluster, Gateway: gateway}}
			c.open[c.now] = true
		}
	}
	c.err = err
}

// kubeconfig reads the file with the credentials; nil where there is none. The caller has the lock.
func (c *clusters) kubeconfig() []byte {
	if c.section == nil || c.section.Kubeconfig == "" {
		return nil
	}
	text, _ := os.ReadFile(c.section.Kubeconfig) // what is wrong with it, who connects tells
	return text
}

// renew connects anew where the kubeconfig says something else by now, as it does where credentials are replaced from time to
// time. One that cannot be used is taken for one that is being written: the credentials that were there go on. The caller has
// the lock.
func (c *clusters) renew() {
	if text := c.kubeconfig(); text == nil || bytes.Equal(text, c.text) {
		return
	}
	if _, err := connect(c.section, c.agent, nil, c.log); err != nil {
		c.log.Warn("the kubeconfig has changed, and cannot be used; the one before is used on", logger.KeyError, err)
		return
	}
	c.drop()
	c.reconnect()
}

// reconnect is connect for a kubeconfig that has changed, or was missing. The caller has the lock.
func (c *clusters) reconnect() {
	c.connect()
	if c.err == nil && c.renewed != nil {
		c.renewed()
	}
}

// connect finds the cluster of a configuration.
func connect(section *config.Kubernetes, agent string, register prometheus.Registerer, log *slog.Logger) (*kube.Cluster, error) {
	o := kube.Options{UserAgent: agent, Log: log, Register: register}
	if section != nil {
		o.Kubeconfig, o.Context, o.Namespaces, o.Impersonate = section.Kubeconfig, section.Context, section.Namespaces, section.Impersonate
	}
	return kube.Connect(o)
}

// Hold gives the cluster that is configured now, to be kept until release.
func (c *clusters) Hold() (deploy.Cluster, func(), error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now != nil && !c.closed {
		c.renew()
	}
	if c.now == nil && !c.closed && (c.section != nil || !errors.Is(c.err, kube.ErrNoCluster)) {
		c.reconnect() // what was missing may have been mounted since
	}
	switch {
	case c.now == nil && c.section != nil && errors.Is(c.err, kube.ErrNoCluster):
		return nil, nil, errors.New(c.err.Error()) // who configures a cluster does not want to do without
	case c.now == nil:
		return nil, nil, c.err
	}
	h := c.now
	h.users++
	return h, sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		h.users--
		c.letGo(h)
	}), nil
}

// letGo closes a cluster that nobody uses and nobody will. The caller has the lock.
func (c *clusters) letGo(h *holding) {
	if h.past && h.users == 0 && c.open[h] {
		delete(c.open, h)
		h.Gateway.Close()
	}
}

// close closes all gateways. Nothing runs any more.
func (c *clusters) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for h := range c.open {
		delete(c.open, h)
		h.Gateway.Close()
	}
	c.now, c.err = nil, kube.ErrNoCluster
	return nil
}
