package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a part of the cluster as it was started; the record of it, in run/parts, outlives this program, and is enough to
// end it and to start it again.
type process struct {
	Name  string   `json:"name"`
	Args  []string `json:"args"` // the program and its arguments
	Env   []string `json:"env"`  // besides PATH and HOME
	Order int      `json:"order"`
	Apart string   `json:"apart"` // the addresses that lead to it, in a network namespace of its own; "": it has none
	PID   int      `json:"pid"`   // 0: it is not meant to run
	Since string   `json:"since"` // when it began, by the kernel: a number that is used again does not deceive
}

func (l layout) record(name string) string  { return l.at("parts", name+".json") }
func (l layout) logFile(name string) string { return l.at("log", name+".log") }

// save writes the record.
func (l layout) save(p process) error {
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(l.record(p.Name), data, 0o600)
}

// load reads the record of a part.
func (l layout) load(name string) (process, error) {
	var p process
	data, err := os.ReadFile(l.record(name))
	if err != nil {
		return p, fmt.Errorf("there is no part %q: `cluster parts` tells them", name)
	}
	return p, json.Unmarshal(data, &p)
}

// processes are the recorded parts in the order of their start.
func (l layout) processes() ([]process, error) {
	files, err := filepath.Glob(l.record("*"))
	if err != nil {
		return nil, err
	}
	var all []process
	for _, file := range files {
		p, err := l.load(strings.TrimSuffix(filepath.Base(file), ".json"))
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b process) int { return a.Order - b.Order })
	return all, nil
}

// start starts the process in a session of its own, with its log, and records it.
func (l layout) start(p process) (process, error) {
	log, err := os.OpenFile(l.logFile(p.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return p, err
	}
	defer log.Close()
	cmd := exec.Command(p.Args[0], p.Args[1:]...)
	cmd.Dir = l.run
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + l.run}, p.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if p.Apart != "" {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
	}
	if err := cmd.Start(); err != nil {
		return p, fmt.Errorf("cannot start %s: %w", p.Name, err)
	}
	p.PID = cmd.Process.Pid
	if p.Since = startOf(p.PID); p.Since == "" {
		return p, l.died(p)
	}
	go cmd.Wait() // while this program lives it is the parent; afterwards init is
	if err := l.save(p); err != nil || p.Apart == "" {
		return p, err
	}
	c, err := loadCluster(l)
	if err != nil {
		return p, err
	}
	return p, c.Network.apart(l.links()[p.Name], p.PID, p.Apart)
}

// died is the error for a part that ended by itself, with the end of its log.
func (l layout) died(p process) error {
	return fmt.Errorf("%s has ended; the end of its log (%s):\n%s", p.Name, l.logFile(p.Name), l.tail(p.Name))
}

// tail is the end of a part's log.
func (l layout) tail(name string) string { return l.lastLines(name, 25) }

func (l layout) lastLines(name string, n int) string {
	text, err := os.ReadFile(l.logFile(name))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// startOf is when a process began, in the kernel's words; "" where it does not run.
func startOf(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The name may hold spaces; the state follows it, and the start is the 20th field from the state on.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

// alive reports whether the process that was recorded runs.
func (p process) alive() bool { return p.PID != 0 && startOf(p.PID) == p.Since }

// end asks the process to end, insists after ten seconds, and comes back when it is gone.
func (p process) end(first syscall.Signal) error {
	for _, s := range []syscall.Signal{first, syscall.SIGKILL} {
		if !p.alive() {
			return nil
		}
		if err := syscall.Kill(p.PID, s); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("cannot end %s: %w", p.Name, err)
		}
		if within(10*time.Second, func() bool { return !p.alive() }) {
			return nil
		}
	}
	return fmt.Errorf("%s, process %d, does not end", p.Name, p.PID)
}

// within asks again and again, for so long at most, whether something is so.
func within(most time.Duration, so func() bool) bool {
	late := time.Now().Add(most)
	for !so() {
		if time.Now().After(late) {
			return false
		}
		time.Sleep(20 * time.Millisecond) // between two questions
	}
	return true
}

// stopPart ends one part and keeps its record, so that it can be started again.
func stopPart(l layout, name string) error {
	p, err := l.load(name)
	if err != nil {
		return err
	}
	if err := p.end(syscall.SIGTERM); err != nil {
		return err
	}
	p.PID = 0
	return l.save(p)
}

// startPart starts a part that was stopped as it was started first, and waits until it is ready.
func startPart(l layout, name string) error {
	p, err := l.load(name)
	if err != nil {
		return err
	}
	if !p.alive() {
		if p, err = l.start(p); err != nil {
			return err
		}
	}
	c, err := loadCluster(l)
	if err != nil {
		return err
	}
	return c.waitFor(p)
}

// listParts tells the parts, one a line.
func listParts(l layout) error {
	all, err := l.processes()
	if err != nil {
		return err
	}
	for _, p := range all {
		state := "stopped"
		if p.alive() {
			state = strconv.Itoa(p.PID)
		}
		fmt.Printf("%-24s %-8s %s\n", p.Name, state, l.logFile(p.Name))
	}
	return nil
}

// showLogs prints the ends of the parts' logs: of those that run pods more than of the others, and last.
func showLogs(l layout) error {
	all, err := l.processes()
	if err != nil {
		return err
	}
	lines := map[string]int{"kube-apiserver": 60, "containerd": 60, "kubelet": 60, "tekton": 60}
	slices.SortStableFunc(all, func(a, b process) int { return lines[a.Name] - lines[b.Name] })
	for _, p := range all {
		state := "runs"
		if !p.alive() {
			state = "does not run"
		}
		fmt.Printf("\n--- %s %s; the end of %s\n%s\n", p.Name, state, l.logFile(p.Name), l.lastLines(p.Name, max(lines[p.Name], 15)))
	}
	return nil
}
