package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// nodeName is the one node's.
const nodeName = "node1"

// cluster is one that is being started, or that runs: what its parts have in common. run/state.json holds it.
type cluster struct {
	layout  `json:"-"`
	Network network        `json:"network"`
	Server  string         `json:"server"` // address and port of the API server
	Ports   map[string]int `json:"ports"`
	Node    bool           `json:"node"`  // there is a containerd and a kubelet
	Lacks   string         `json:"lacks"` // why there is none
	client  *http.Client
}

// save writes what loadCluster reads.
func (c *cluster) save() error {
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(c.at("state.json"), data, 0o600)
}

// loadCluster gives the cluster that runs.
func loadCluster(l layout) (*cluster, error) {
	data, err := os.ReadFile(l.at("state.json"))
	if err != nil {
		return nil, fmt.Errorf("no cluster runs: %w", err)
	}
	c := &cluster{layout: l}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, err
	}
	c.connect()
	return c, nil
}

// connect prepares the client that asks the parts whether they are ready. Some of them make certificates of their own, and who
// answers at an address that was given to a part is not in doubt.
func (c *cluster) connect() {
	c.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
}

// port is the port that a part was given.
func (c *cluster) port(of string) string { return fmt.Sprint(c.Ports[of]) }

// answers asks a part at an address; nil means that it says 200.
func (c *cluster) answers(url string) error {
	answer, err := c.client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s says %s: %s", url, answer.Status, body)
	}
	return nil
}

// kubectl runs kubectl as the administrator and gives what it wrote.
func (c *cluster) kubectl(in string, args ...string) (string, error) {
	cmd := exec.Command(c.built("kubernetes", "kubectl"), append([]string{"--kubeconfig", c.kubeconfig(), "--cache-dir", c.at("kubectl")}, args...)...)
	cmd.Stdin = strings.NewReader(in)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// waitFor waits until a part says that it is ready, and gives up when it has ended, or after two minutes.
func (c *cluster) waitFor(p process) error {
	var last error
	if !within(2*time.Minute, func() bool {
		last = c.ready(p.Name)
		return last == nil || !p.alive()
	}) {
		return fmt.Errorf("%s does not get ready: %w\nthe end of its log (%s):\n%s", p.Name, last, c.logFile(p.Name), c.tail(p.Name))
	}
	if last != nil {
		return c.died(p)
	}
	return nil
}

// askDNS asks for the API server by its name in the cluster.
func (c *cluster) askDNS() error {
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", net.JoinHostPort(c.Network.dns(), "53"))
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	found, err := resolver.LookupHost(ctx, "kubernetes.default.svc.cluster.local.")
	if err != nil {
		return err
	}
	if !slices.Contains(found, c.Network.api()) {
		return fmt.Errorf("the API server's name leads to %s, not to %s", found, c.Network.api())
	}
	return nil
}

// ready asks a part whether it is ready.
func (c *cluster) ready(name string) error {
	switch name {
	case "etcd":
		return c.answers("http://127.0.0.1:" + c.port("etcd") + "/health")
	case "kube-apiserver":
		return c.answers("https://" + c.Server + "/readyz")
	case "kube-controller-manager", "kube-scheduler":
		return c.answers("https://127.0.0.1:" + c.port(name) + "/healthz")
	case "containerd":
		if out, err := exec.Command("ctr", "--address", c.containerd(), "--connect-timeout", "2s", "version").CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	case "paper":
		return nil // it has nothing to get ready for
	case "addons":
		return c.askDNS()
	case "kubelet":
		return c.answers("http://127.0.0.1:" + c.port("kubelet-health") + "/healthz")
	case "tekton":
		if c.Node { // this port answers when it has read what there is
			return c.answers("http://" + c.Network.tekton() + ":8080/readiness")
		}
		return c.answers("http://127.0.0.1:" + c.port("tekton") + "/readiness")
	}
	return nil
}
