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
)

// network is the cluster's share of the private addresses, 10.N.0.0/16, of which N is free on this machine:
// pods are in 10.N.0.0/22, services in 10.N.8.0/24.
//
// The node's own address is 10.N.0.1, which is also the gateway of every pod. Both it and the first service address, at which
// pods look for the API server, are put on the loopback interface: so they are there before the first pod, need neither a
// bridge nor kube-proxy, and nobody outside of this machine sees them.
type network struct {
	N int `json:"n"`
}

func (n network) host() string     { return fmt.Sprintf("10.%d.0.1", n.N) }
func (n network) pods() string     { return fmt.Sprintf("10.%d.0.0/22", n.N) }
func (n network) api() string      { return fmt.Sprintf("10.%d.8.1", n.N) }
func (n network) services() string { return fmt.Sprintf("10.%d.8.0/24", n.N) }

// isService reports whether an address is one of a service.
func (n network) isService(ip net.IP) bool {
	_, all, err := net.ParseCIDR(n.services())
	return err == nil && all.Contains(ip)
}

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

// prepare puts the addresses on the loopback interface, and tells containerd how a pod is connected: by a pair of interfaces
// with the node, without address translation.
func (n network) prepare(l layout) error {
	for _, address := range []string{n.host(), n.api()} {
		if out, err := exec.Command("ip", "address", "add", address+"/32", "dev", "lo").CombinedOutput(); err != nil {
			return fmt.Errorf("cannot add %s to the loopback interface: %w\n%s", address, err, out)
		}
	}
	conf := fmt.Sprintf(`{"cniVersion": "0.4.0", "name": "sentry-%s", "plugins": [
  {"type": "ptp", "ipMasq": false, "ipam": {
    "type": "host-local", "dataDir": %q, "ranges": [[{"subnet": %q, "gateway": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}}
]}
`, l.id, l.at("addresses"), n.pods(), n.host())
	return os.WriteFile(l.at("cni", "10-sentry.conflist"), []byte(conf), 0o644)
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
			ip, _, err := net.ParseCIDR(a.String())
			if err != nil || ip.String() != n.host() && !n.isService(ip) {
				continue
			}
			args := []string{"link", "delete", i.Name}
			if i.Flags&net.FlagLoopback != 0 {
				args = []string{"address", "delete", a.String(), "dev", i.Name}
			}
			out, err := exec.Command("ip", args...).CombinedOutput()
			if err != nil && !strings.Contains(string(out), "Cannot find device") {
				return fmt.Errorf("ip %s: %w\n%s", strings.Join(args, " "), err, out)
			}
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
