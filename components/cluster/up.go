package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// up starts the cluster, or says that it runs. What is left of one that runs no more, or only in parts, is removed first.
func up(l layout) error {
	began := time.Now()
	if c, err := loadCluster(l); err == nil {
		if err := c.runs(); err == nil {
			fmt.Println("The cluster is up already.")
			return c.tell()
		} else if err := down(l); err != nil {
			return fmt.Errorf("what is left of the last cluster cannot be removed: %w", err)
		}
	} else if err := down(l); err != nil {
		return fmt.Errorf("what is left of the last cluster cannot be removed: %w", err)
	}
	lacks := nodeLacks(l)
	c := &cluster{layout: l, Node: lacks == nil}
	if lacks != nil {
		c.Lacks = lacks.Error()
		fmt.Printf("  no node: %s\n", c.Lacks)
	}
	if err := c.build(); err != nil {
		return errors.Join(err, down(l))
	}
	fmt.Printf("The cluster is up after %.1fs.\n", time.Since(began).Seconds())
	return c.tell()
}

// runs reports what of the cluster does not run, or does not answer. A part that somebody stopped is started.
func (c *cluster) runs() error {
	if _, err := c.readInfo(); err != nil {
		return err // it did not get so far
	}
	all, err := c.processes()
	if err != nil {
		return err
	}
	for _, p := range all {
		if p.PID == 0 {
			if err := startPart(c.layout, p.Name); err != nil {
				return err
			}
			continue
		}
		if !p.alive() {
			return fmt.Errorf("%s does not run", p.Name)
		}
		if err := c.waitFor(p); err != nil { // a busy machine is no reason to end what somebody works with
			return err
		}
	}
	return nil
}

// build starts everything.
func (c *cluster) build() error {
	if err := c.programs(); err != nil {
		return err
	}
	if err := c.prepare(); err != nil {
		return err
	}
	for _, p := range c.parts() {
		if err := c.before(p.Name); err != nil {
			return err
		}
		p, err := c.start(p)
		if err != nil {
			return err
		}
		if err := c.waitFor(p); err != nil {
			return err
		}
		if err := c.after(p.Name); err != nil {
			return fmt.Errorf("%w\nthe end of the log of %s (%s):\n%s", err, p.Name, c.logFile(p.Name), c.tail(p.Name))
		}
		fmt.Printf("  %s is ready\n", p.Name)
	}
	return c.describe()
}

// prepare makes the folders, the addresses, the certificates and the configurations.
func (c *cluster) prepare() error {
	for _, dir := range []string{"parts", "log", "certs", "cni", "pods", "volume-plugins", "opt", "kubectl"} {
		if err := os.MkdirAll(c.at(dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(c.kubeletDir(), 0o755); err != nil {
		return err
	}
	names := []string{
		"etcd", "etcd-peer", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubelet-health",
		"tekton", "tekton-metrics", "tekton-profiling",
	}
	ports, err := freePorts(len(names))
	if err != nil {
		return err
	}
	c.Ports = map[string]int{}
	for i, name := range names {
		c.Ports[name] = ports[i]
	}
	if !c.Node {
		c.Server = "127.0.0.1:" + c.port("kube-apiserver")
		if err := makeCerts(c.layout, c.Server, "127.0.0.1", c.Network.api()); err != nil {
			return err
		}
		c.connect()
		return c.save()
	}
	if err := noteBefore(c.layout); err != nil {
		return err
	}
	if err := c.tryOverlay(); err != nil {
		return err
	}
	if c.Network, err = freeNetwork(); err != nil {
		return err
	}
	c.Server = net.JoinHostPort(c.Network.host(), c.port("kube-apiserver"))
	if err := c.save(); err != nil { // before the first trace outside of the folder, so that down finds it
		return err
	}
	if err := c.Network.prepare(c.layout); err != nil {
		return err
	}
	if err := makeCerts(c.layout, c.Server, c.Network.host(), c.Network.api()); err != nil {
		return err
	}
	c.connect()
	return c.configureNode()
}

// storageClass is the class of volumes that claims get when they name none.
const storageClass = `apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: ` + class + `, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: ` + provisioner + `
`

// before does what a part wants to find.
func (c *cluster) before(part string) error {
	switch part {
	case "kubelet":
		if err := makeCgroup(c.layout); err != nil {
			return err
		}
		return loadOwnImages(c.layout)
	case "addons":
		_, err := c.kubectl(storageClass, "create", "-f", "-")
		return err
	case "tekton":
		return c.installTekton()
	}
	return nil
}

// after waits for what a part does when it is ready, and the next wants to find.
func (c *cluster) after(part string) error {
	switch part {
	case "kube-controller-manager":
		_, err := c.kubectl("", "wait", "--for=create", "serviceaccount/default", "--timeout=60s")
		return err
	case "kubelet":
		if _, err := c.kubectl("", "wait", "--for=create", "node/"+nodeName, "--timeout=60s"); err != nil {
			return err
		}
		_, err := c.kubectl("", "wait", "--for=condition=Ready", "node/"+nodeName, "--timeout=120s")
		return err
	}
	return nil
}

// installTekton creates Tekton's definitions and settings. Its admission webhook is left out, and so nothing converts between
// versions of its objects: v1beta1 is v1 by another name.
func (c *cluster) installTekton() error {
	config := c.built("tekton", "config")
	var all []string
	for _, pattern := range []string{
		"100-namespace/*.yaml", "300-crds/*.yaml", "200-clusterrole.yaml", "clusterrole-aggregate-*.yaml", "config-*.yaml",
		"resolvers/100-namespace.yaml", "resolvers/*config*.yaml",
	} {
		files, err := filepath.Glob(filepath.Join(config, pattern))
		if err != nil {
			return err
		}
		if len(files) == 0 {
			return fmt.Errorf("the folder with Tekton's settings, %s, has no %s", config, pattern)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			all = append(all, withoutConversion(string(text)))
		}
	}
	if _, err := c.kubectl(strings.Join(all, "\n---\n"), "apply", "--server-side", "-f", "-"); err != nil {
		return err
	}
	// Nobody puts containers beside a step's here: a step need not wait for word, in a file, that all of them run.
	settings := `{"data": {"running-in-environment-with-injected-sidecars": "false"}}`
	if _, err := c.kubectl("", "patch", "configmap", "feature-flags", "--namespace", "tekton-pipelines", "--patch", settings); err != nil {
		return err
	}
	_, err := c.kubectl("", "wait", "--for=condition=Established", "--timeout=60s",
		"crd/pipelineruns.tekton.dev", "crd/pipelines.tekton.dev", "crd/taskruns.tekton.dev", "crd/tasks.tekton.dev",
		"crd/customruns.tekton.dev", "crd/resolutionrequests.resolution.tekton.dev", "crd/stepactions.tekton.dev",
		"crd/verificationpolicies.tekton.dev")
	return err
}

// withoutConversion removes the block "conversion" from definitions in YAML.
func withoutConversion(text string) string {
	var kept []string
	inside := false
	for line := range strings.Lines(text) {
		if line == "  conversion:\n" {
			inside = true
			continue
		}
		if inside && strings.HasPrefix(line, "   ") {
			continue
		}
		inside = false
		kept = append(kept, line)
	}
	return strings.Join(kept, "")
}

// describe writes what the tests want to know.
func (c *cluster) describe() error {
	version := func(component string) string {
		dir, _ := os.Readlink(filepath.Join(c.cache, component, "current"))
		version, _, _ := strings.Cut(dir, "-")
		return version
	}
	i := info{
		Node: c.Node, Host: c.Network.host(), Kubeconfig: c.kubeconfig(), Kubectl: c.built("kubernetes", "kubectl"),
		Helm: c.built("helm", "helm"), Busybox: imageBusybox, Kubernetes: version("kubernetes"), Tekton: version("tekton"),
		LeftOut: "Tekton's admission webhook and resolvers; services are TCP only, network policies have no effect, and nothing goes out",
	}
	if !c.Node {
		i.Host = "127.0.0.1"
		i.LeftOut = fmt.Sprintf("the node (%s): pods are completed on paper, without logs, exec, services and volumes; Tekton's admission webhook and resolvers", c.Lacks)
	}
	var err error
	if i.Program, err = os.Executable(); err != nil {
		return err
	}
	return c.writeInfo(i)
}

// tell prints how to use the cluster.
func (c *cluster) tell() error {
	i, err := c.readInfo()
	if err != nil {
		return err
	}
	fmt.Printf(`Kubernetes %s with Tekton %s; left out: %s.

  export KUBECONFIG=%q
  %q get pods -A

"make cluster-down" ends it.
`, i.Kubernetes, i.Tekton, i.LeftOut, i.Kubeconfig, i.Kubectl)
	if i.Node {
		fmt.Printf("Pods reach this machine at %s.\n", i.Host)
	}
	return nil
}
