package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// fixedPaths are where programs of a node write whatever they are told. Those that were not there before are removed, when
// what is ours in them has gone.
var fixedPaths = []string{
	"/run/containerd", "/var/lib/containerd", "/opt/containerd", "/var/lib/kubelet", "/var/lib/cni", "/etc/cni", "/opt/cni",
	"/var/log/containers", "/var/log/pods", "/usr/libexec/kubernetes", "/run/runc", "/run/netns", "/var/run/kubernetes",
}

// settings are what the kubelet and the network plugins set in the kernel.
var settings = []string{
	"kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
	"vm/overcommit_memory", "vm/panic_on_oom", "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding",
	"net/netfilter/nf_conntrack_max",
}

// past is what the machine was before the cluster: run/before.json.
type past struct {
	Paths    []string          `json:"paths"`    // those of fixedPaths that were there
	Settings map[string]string `json:"settings"` // the values of settings
}

// noteBefore writes down what the machine is before anything of the cluster runs.
func noteBefore(l layout) error {
	b := past{Settings: map[string]string{}}
	for _, path := range fixedPaths {
		if _, err := os.Lstat(path); err == nil {
			b.Paths = append(b.Paths, path)
		}
	}
	for _, name := range settings {
		if value, err := os.ReadFile("/proc/sys/" + name); err == nil {
			b.Settings[name] = string(value)
		}
	}
	data, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(l.at("before.json"), data, 0o644)
}

// down ends the cluster and removes its traces; of what cannot be removed everything is told, and the state is kept, so that
// it can be tried again.
func down(l layout) error {
	ours, err := l.processes()
	if err != nil {
		return err
	}
	_, err = os.Stat(l.run)
	was := err == nil
	os.Remove(l.infoFile()) // nobody is to begin with it now
	os.Remove(l.kubeconfig())
	var errs []error
	// The kubelet first, that nothing is started again; the store last, so that the others do not complain.
	slices.SortStableFunc(ours, func(a, b process) int { return down0(a) - down0(b) })
	for _, p := range ours {
		if p.Name == "containerd" { // it is still wanted, to see the shims end
			continue
		}
		errs = append(errs, p.end(stopSignal(p.Name)))
	}
	sockets := shimSockets(l)
	errs = append(errs, endPods(l))
	for _, p := range ours {
		errs = append(errs, p.end(syscall.SIGTERM))
	}
	errs = append(errs, endStrays(l), unmountAll(l))
	for _, socket := range sockets {
		os.Remove(socket) // most have done so themselves
	}
	if c, err := loadCluster(l); err == nil && c.Node {
		errs = append(errs, c.Network.remove(l), restore(l))
	}
	errs = append(errs, removeCgroup(l))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(l.short), os.RemoveAll(l.run)); err != nil {
		return err
	}
	if was {
		fmt.Println("The cluster is down.")
	}
	return nil
}

// down0 is when a part ends: the smaller, the earlier.
func down0(p process) int {
	switch p.Name {
	case "kubelet":
		return 0
	case "kube-apiserver":
		return 2
	case "etcd":
		return 3
	}
	return 1
}

// stopSignal is how a part is asked to end. The API server waits for watches that others hold; there is nothing to save.
func stopSignal(name string) syscall.Signal {
	if name == "etcd" || name == "containerd" {
		return syscall.SIGTERM
	}
	return syscall.SIGKILL
}

// shimSockets are the sockets of the pods' shims, which are in a folder that every containerd of this machine shares.
func shimSockets(l layout) []string {
	files, _ := filepath.Glob(filepath.Join(l.short, "containerd", "io.containerd.runtime.v2.task", "*", "*", "address"))
	var sockets []string
	for _, file := range files {
		address, err := os.ReadFile(file)
		if path, ok := strings.CutPrefix(string(address), "unix://"); ok && err == nil {
			sockets = append(sockets, path)
		}
	}
	return sockets
}

// endPods ends every process in the pods' control groups, and the shims above them.
func endPods(l layout) error {
	for _, dir := range cgroupDirs(l) {
		kill := func() bool {
			left := false
			filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.Name() != "cgroup.procs" {
					return nil // a group may go meanwhile
				}
				pids, _ := os.ReadFile(path)
				for pid := range strings.FieldsSeq(string(pids)) {
					if n, err := strconv.Atoi(pid); err == nil && n > 1 {
						left = true
						syscall.Kill(n, syscall.SIGKILL)
					}
				}
				return nil
			})
			return !left
		}
		if !within(20*time.Second, kill) {
			return fmt.Errorf("processes of pods do not end: see cgroup.procs below %s", dir)
		}
	}
	return nil
}

// endStrays ends what names this cluster's folders in its command line: shims, and parts whose record was lost.
func endStrays(l layout) error {
	var left []string
	kill := func() bool {
		left = nil
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, file := range files {
			line, _ := os.ReadFile(file)
			pid, _ := strconv.Atoi(strings.Split(file, "/")[2])
			if !l.isPart(string(line)) {
				continue
			}
			left = append(left, strings.ReplaceAll(fmt.Sprintf("%d %s", pid, line), "\x00", " "))
			syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(left) == 0
	}
	if !within(20*time.Second, kill) {
		return fmt.Errorf("these processes do not end: %s", strings.Join(left, ", "))
	}
	return nil
}

// isPart reports whether a command line, of which a zero ends each argument, is that of a part of this cluster, or of a shim.
func (l layout) isPart(line string) bool {
	program, args, _ := strings.Cut(line, "\x00")
	if program == filepath.Join(l.dir, "cluster") {
		first, _, _ := strings.Cut(args, "\x00")
		return first == "addons" || first == "paper" || first == "apart" // and not who waits to begin with another
	}
	// Who looks at a log names the folder, too.
	return slices.Contains(partPrograms, filepath.Base(program)) && (strings.Contains(args, l.short+"/") || strings.Contains(args, l.run+"/"))
}

// partPrograms are the programs that the parts run, besides this one.
var partPrograms = []string{
	"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "containerd", "containerd-shim-runc-v2",
	"containerd-shim", "runc", "controller",
}

// unmountAll takes away the mounts below the cluster's folders, the deepest first.
func unmountAll(l layout) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	var below []string
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		at := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`).Replace(fields[1])
		if strings.HasPrefix(at, l.run+"/") || strings.HasPrefix(at, l.short+"/") {
			below = append(below, at)
		}
	}
	for _, at := range slices.Backward(below) { // in the order in which they were mounted
		if err := syscall.Unmount(at, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
			return fmt.Errorf("cannot unmount %s: %w", at, err)
		}
	}
	return nil
}

// restore puts back the kernel's settings, and removes what was written outside of the cluster's folders.
func restore(l layout) error {
	data, err := os.ReadFile(l.at("before.json"))
	if err != nil {
		return err
	}
	var b past
	if err := json.Unmarshal(data, &b); err != nil {
		return err
	}
	var errs []error
	for name, value := range b.Settings {
		if now, err := os.ReadFile("/proc/sys/" + name); err == nil && string(now) != value {
			errs = append(errs, os.WriteFile("/proc/sys/"+name, []byte(value), 0o644))
		}
	}
	logs, _ := filepath.Glob("/var/log/containers/*.log") // the kubelet's links to logs that are gone
	for _, link := range logs {
		if to, err := os.Readlink(link); err == nil && strings.HasPrefix(to, l.run+"/") {
			errs = append(errs, os.Remove(link))
		}
	}
	if !slices.Contains(b.Paths, "/var/lib/kubelet") {
		errs = append(errs, os.RemoveAll("/var/lib/kubelet/device-plugins")) // with a socket that nobody else can use
	}
	for _, path := range fixedPaths {
		if !slices.Contains(b.Paths, path) {
			removeEmpty(path)
		}
	}
	return errors.Join(errs...)
}

// removeEmpty removes the empty folders at a path and below: what is in another is somebody else's, of another cluster perhaps.
func removeEmpty(path string) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			removeEmpty(filepath.Join(path, e.Name()))
		}
	}
	os.Remove(path) // fails where something is in it
}

// cgroupDirs are the folders of the pods' control group, one in each hierarchy that is mounted.
func cgroupDirs(l layout) []string {
	var dirs []string
	for _, root := range cgroupRoots() {
		if dir := filepath.Join(root, l.cgroup()); isDir(dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// cgroupRoots are where control groups are mounted.
func cgroupRoots() []string {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil
	}
	var roots []string
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && (f[2] == "cgroup" || f[2] == "cgroup2") {
			roots = append(roots, f[1])
		}
	}
	return roots
}

func isDir(path string) bool {
	at, err := os.Stat(path)
	return err == nil && at.IsDir()
}

// makeCgroup makes the pods' control group in each hierarchy.
func makeCgroup(l layout) error {
	for _, root := range cgroupRoots() {
		dir := filepath.Join(root, l.cgroup())
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cannot make the control group of the pods: %w", err)
		}
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} { // a new group has none, and cannot hold a process
			if all, err := os.ReadFile(filepath.Join(root, name)); err == nil {
				if err := os.WriteFile(filepath.Join(dir, name), all, 0o644); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// removeCgroup removes the pods' control group, which the kernel lets go when its last process is gone.
func removeCgroup(l layout) error {
	for _, dir := range cgroupDirs(l) {
		var groups []string
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				groups = append(groups, path)
			}
			return nil
		})
		for _, group := range slices.Backward(groups) {
			var err error
			if !within(10*time.Second, func() bool {
				err = syscall.Rmdir(group)
				return err == nil || errors.Is(err, syscall.ENOENT)
			}) {
				return fmt.Errorf("cannot remove the control group %s: %w", group, err)
			}
		}
	}
	return nil
}
