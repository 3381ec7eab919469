package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// network is the cluster's share of the private addresses, 10.N.0.0/16, of which N is free on this machine:
// pods are in 10.N.0.0/22, services in 10.N.8.0/24.
//
// The node's own address is 10.N.0.1, which is also the gateway of every pod. It is put on the loopback interface: so it is
// there before the first pod, needs no bridge, and nobody outside of this machine sees it. The services' addresses are in the
// network namespace of the part "addons", where each of their ports is free, and Tekton's controller, which wants port 8080,
// has one, too.
type network struct {
	N int `json:"n"`
}

func (n network) host() string     { return fmt.Sprintf("10.%d.0.1", n.N) }
func (n network) pods() string     { return fmt.Sprintf("10.%d.0.0/22", n.N) }
func (n network) api() string      { return fmt.Sprintf("10.%d.8.1", n.N) }
func (n network) addons() string   { return fmt.Sprintf("10.%d.8.2", n.N) } // Kubernetes gives out the first 16 last
func (n network) tekton() string   { return fmt.Sprintf("10.%d.8.3", n.N) }
func (n network) dns() string      { return fmt.Sprintf("10.%d.8.10", n.N) }
func (n network) services() string { return fmt.Sprintf("10.%d.8.0/24", n.N) }

// freeNetwork finds a share that no interface and no route of this machine touches.
func freeNetwork() (network, error) {
	out, err := exec.Command("ip", "-4", "route", "show", "table", "all").Output()
	if err != nil {
		return network{}, fmt.Errorf("cannot list the routes: %w", err)
	}
	for n := 231; n > 150; n-- {
		if !strings.Contains(string(out), fmt.Sprintf(" 10.%d.", n)) && !strings.Contains(string(out), fmt.Sprintf("\n10.%d.", n)) {
			return network{n}, nil
		}
	}
	return network{}, fmt.Errorf("every 10.N.0.0/16 with N from 151 to 231 has a route already")
}

// prepare puts the node's address on the loopback interface, and tells containerd how a pod is connected: by a pair of interfaces
// with the node, without address translation.
func (n network) prepare(l layout) error {
	if err := ip("address", "add", n.host()+"/32", "dev", "lo"); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return fmt.Errorf("pods cannot reach services: %w", err)
	}
	conf := fmt.Sprintf(`{"cniVersion": "0.4.0", "name": "sentry-%s", "plugins": [
  {"type": "ptp", "ipMasq": false, "ipam": {
    "type": "host-local", "dataDir": %q, "ranges": [[{"subnet": %q, "gateway": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}}
]}
`, l.id, l.at("addresses"), n.pods(), n.host())
	return os.WriteFile(l.at("cni", "10-sentry.conflist"), []byte(conf), 0o644)
}

// apart gives the network namespace of a process an end of a pair of interfaces, of which this machine has the other, and leads
// what goes to the addresses there.
func (n network) apart(link string, pid int, addresses string) error {
	return errors.Join(
		ip("link", "add", link, "type", "veth", "peer", "name", apartLink, "netns", fmt.Sprint(pid)),
		ip("link", "set", link, "up"),
		ip("route", "add", addresses, "dev", link, "src", n.host()),
	)
}

// apartLink is the interface inside of such a namespace.
const apartLink = "cluster"

// runApart is the command `apart`: it waits for the interface that apart makes, gives it an address, and becomes the program.
func runApart(host, address string, args []string) error {
	if !within(10*time.Second, func() bool { return ip("link", "show", apartLink) == nil }) {
		return errors.New("nobody has connected this network namespace")
	}
	err := errors.Join(
		ip("link", "set", "lo", "up"),
		ip("address", "add", address+"/32", "dev", apartLink),
		ip("link", "set", apartLink, "up"),
		ip("route", "add", "default", "via", host, "dev", apartLink, "onlink", "src", address),
	)
	if err != nil {
		return err
	}
	return syscall.Exec(args[0], args, os.Environ())
}

// links are the interfaces that this machine has for the parts that are apart.
func (l layout) links() map[string]string {
	return map[string]string{"addons": "sentry-" + l.id, "tekton": "tekton-" + l.id}
}

// ip runs the command ip.
func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// remove takes the addresses away, with the interfaces of pods that are left.
func (n network) remove(l layout) error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range interfaces {
		addresses, err := i.Addrs()
		if err != nil {
			continue // it has gone meanwhile, with its pod
		}
		for _, a := range addresses {
			at, _, err := net.ParseCIDR(a.String())
			if err != nil || at.String() != n.host() {
				continue
			}
			args := []string{"link", "delete", i.Name}
			if i.Flags&net.FlagLoopback != 0 {
				args = []string{"address", "delete", a.String(), "dev", i.Name}
			}
			if err := ip(args...); err != nil && !strings.Contains(err.Error(), "Cannot find device") {
				return err
			}
		}
	}
	for _, link := range l.links() {
		if _, err := net.InterfaceByName(link); err != nil {
			continue
		}
		// It goes with its namespace, but not at once.
		if err := ip("link", "delete", link); err != nil && !strings.Contains(err.Error(), "Cannot find device") {
			return err
		}
	}
	return removeResults(l)
}

// removeResults removes what the plugins wrote of our pods: of their interface in the cluster's network, and of their loopback.
func removeResults(l layout) error {
	const dir = "/var/lib/cni/results/"
	own := dir + "sentry-" + l.id + "-"
	files, err := filepath.Glob(own + "*")
	if err != nil {
		return err
	}
	var errs []error
	for _, file := range files {
		pod := strings.TrimSuffix(strings.TrimPrefix(file, own), "-eth0")
		for _, name := range []string{file, dir + "cni-loopback-" + pod + "-lo"} {
			if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// freePorts gives ports of loopback for which nobody listens, none of those that the system hands out by itself, so that
// they are still free when the parts get to them, and when a part is started again.
func freePorts(n int) ([]int, error) {
	var ports []int
	for port := 21_000; port < 32_000 && len(ports) < n; port++ {
		if l, err := net.Listen("tcp", fmt.Sprintf(":%d", port)); err == nil {
			l.Close()
			ports = append(ports, port)
		}
	}
	if len(ports) < n {
		return nil, fmt.Errorf("fewer than %d ports from 21000 to 32000 are free", n)
	}
	return ports, nil
}
