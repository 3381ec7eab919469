package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// layout tells where everything of one cluster is. All of it is below .cache/cluster of the project, but for what the kernel
// and the kubelet want at a short path or a fixed one.
type layout struct {
	cache string // .cache of the project
	dir   string // .cache/cluster
	run   string // .cache/cluster/run: the state of the cluster that runs
	id    string // eight hexadecimal digits of where the cluster is: two projects on one machine do not meet
	short string // a short folder for sockets, whose paths end at 108 bytes
}

func newLayout(root string) (layout, error) {
	cache := filepath.Join(root, ".cache")
	if err := os.MkdirAll(filepath.Join(cache, "cluster"), 0o755); err != nil {
		return layout{}, err
	}
	cache, err := filepath.EvalSymlinks(cache) // several checkouts may share it, and then the cluster
	if err != nil {
		return layout{}, err
	}
	sum := sha256.Sum256([]byte(cache))
	id := hex.EncodeToString(sum[:4])
	short := "/run/sentry-" + id
	if os.Geteuid() != 0 {
		short = filepath.Join(os.TempDir(), "sentry-"+id)
	}
	dir := filepath.Join(cache, "cluster")
	return layout{cache: cache, dir: dir, run: filepath.Join(dir, "run"), id: id, short: short}, nil
}

// lock waits until no other program changes this cluster, and keeps others waiting until unlock.
func (l layout) lock() (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(l.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		file.Close()
		return nil, err
	}
	return func() { file.Close() }, nil
}

// at is a path in the state folder.
func (l layout) at(name ...string) string { return filepath.Join(append([]string{l.run}, name...)...) }

// built is the path of a program that was built for the cluster: of the version that is current now, and not of one that is
// built while the cluster runs.
func (l layout) built(component, program string) string {
	dir := filepath.Join(l.cache, component, "current")
	if current, err := filepath.EvalSymlinks(dir); err == nil {
		dir = current
	}
	return filepath.Join(dir, program)
}

func (l layout) kubeconfig() string { return filepath.Join(l.dir, "kubeconfig") }
func (l layout) infoFile() string   { return filepath.Join(l.dir, "cluster.json") }
func (l layout) containerd() string { return filepath.Join(l.short, "containerd.sock") }

// info is what the tests want to know of the cluster: cluster.json.
type info struct {
	Node       bool   `json:"node"`       // a real node runs the pods; otherwise somebody completes them on paper
	Host       string `json:"host"`       // the address at which pods reach this machine, and at which tests can listen
	Kubeconfig string `json:"kubeconfig"` // of an administrator
	Kubectl    string `json:"kubectl"`    // the program
	Helm       string `json:"helm"`       // the program
	Program    string `json:"program"`    // this program, to stop and start parts, and to import images
	Busybox    string `json:"busybox"`    // the name of an image with a shell
	Kubernetes string `json:"kubernetes"` // its version
	Tekton     string `json:"tekton"`     // its version
	LeftOut    string `json:"left_out"`   // what this cluster has not, in words
}

func (l layout) writeInfo(i info) error {
	data, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(l.infoFile(), append(data, '\n'), 0o644)
}

func (l layout) readInfo() (info, error) {
	var i info
	data, err := os.ReadFile(l.infoFile())
	if err == nil {
		err = json.Unmarshal(data, &i)
	}
	if err != nil {
		return i, fmt.Errorf("cannot tell what runs: %w", err)
	}
	return i, nil
}
