// Cluster starts a Kubernetes of one node with Tekton for the tests, and ends it without a trace: etcd, the control plane,
// containerd, the kubelet and Tekton's controller as processes of this machine, each started, asked whether it is ready, and
// recorded. It needs Linux. Without root, or what else node.go tries, there is no node: see paper.go.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

var errUsage = errors.New(`usage: cluster COMMAND

  up                         start the cluster, or say that it runs
  down                       end it, and remove every trace
  stop PART, start PART      end one part, start it again: kube-apiserver, tekton, …
  import ARCHIVE...          load docker-archives into the node
  image NAME FILE=PATH...    write a docker-archive of files to standard output; the first is its entry point
  parts                      the parts, their processes and logs
  logs                       the ends of their logs`)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// run is the program: one command with its arguments.
func run(args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	command, args := args[0], args[1:]
	switch command {
	case "image": // needs no cluster
		return writeImage(os.Stdout, args)
	case "apart": // how some parts begin
		if len(args) < 3 {
			return errUsage
		}
		return runApart(args[0], args[1], args[2:])
	case "pause": // what a pod's sandbox runs
		pause()
		return nil
	}
	l, err := findLayout()
	if err != nil {
		return err
	}
	switch { // parts of a cluster
	case command == "addons" && len(args) == 0:
		return addons(l)
	case command == "paper" && len(args) == 0:
		return paper(l)
	}
	if command != "parts" && command != "logs" {
		unlock, err := l.lock()
		if err != nil {
			return err
		}
		defer unlock()
	}
	switch {
	case command == "up" && len(args) == 0:
		return up(l)
	case command == "down" && len(args) == 0:
		return down(l)
	case command == "stop" && len(args) == 1:
		return stopPart(l, args[0])
	case command == "start" && len(args) == 1:
		return startPart(l, args[0])
	case command == "import" && len(args) > 0:
		return importImages(l, args)
	case command == "parts" && len(args) == 0:
		return listParts(l)
	case command == "logs" && len(args) == 0:
		return showLogs(l)
	}
	return errUsage
}

// findLayout finds the project above the working folder; the cluster belongs to it.
func findLayout() (layout, error) {
	dir, err := os.Getwd()
	if err != nil {
		return layout{}, err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "components", "cluster", "up")); err == nil {
			return newLayout(dir)
		}
		if dir == filepath.Dir(dir) {
			return layout{}, errors.New("this must be run inside of the project")
		}
	}
}
