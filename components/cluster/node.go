package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// nodeLacks tells what is missing for a node that really runs pods; nil where nothing is. It tries what a node does, and takes
// back what it did. SENTRY_PAPER in the environment says that none is wanted.
func nodeLacks(l layout) error {
	switch {
	case os.Getenv("SENTRY_PAPER") != "":
		return errors.New("SENTRY_PAPER is set")
	case os.Geteuid() != 0:
		return errors.New("there is no root")
	}
	for _, try := range []func(layout) error{tryMount, tryNamespaces, tryCgroups, tryNetwork, tryKernelLog} {
		if err := try(l); err != nil {
			return err
		}
	}
	return nil
}

// tryMount mounts something, as containers and volumes are.
func tryMount(l layout) error {
	dir, err := os.MkdirTemp(l.dir, "mount-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4k"); err != nil {
		return fmt.Errorf("nothing can be mounted: %w", err)
	}
	return syscall.Unmount(dir, 0)
}

// tryNamespaces starts a process apart from the others, as every pod is.
func tryNamespaces(layout) error {
	cmd := exec.Command("true")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("there are no namespaces of processes: %w", err)
	}
	return nil
}

// tryCgroups makes a control group in each hierarchy.
func tryCgroups(l layout) error {
	roots := cgroupRoots()
	if len(roots) == 0 {
		return errors.New("no control groups are mounted")
	}
	for _, root := range roots {
		dir := filepath.Join(root, l.cgroup()+"-try")
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("no control group can be made: %w", err)
		}
		if err := os.Remove(dir); err != nil {
			return err
		}
	}
	return nil
}

// tryNetwork makes a pair of interfaces, and may have the kernel forward packets.
func tryNetwork(l layout) error {
	link := "try-" + l.id
	if err := ip("link", "add", link, "type", "veth", "peer", "name", link+"-b"); err != nil {
		return fmt.Errorf("no network for pods can be made: %w", err)
	}
	if err := ip("link", "delete", link); err != nil {
		return err
	}
	const forward = "/proc/sys/net/ipv4/ip_forward"
	value, err := os.ReadFile(forward)
	if err == nil {
		err = os.WriteFile(forward, value, 0o644)
	}
	if err != nil {
		return fmt.Errorf("no network for pods can be made: %w", err)
	}
	return nil
}

// tryKernelLog opens what the kubelet reads to learn who ran out of memory.
func tryKernelLog(layout) error {
	file, err := os.Open("/dev/kmsg")
	if err != nil {
		return fmt.Errorf("a kubelet does not start: %w", err)
	}
	return file.Close()
}
