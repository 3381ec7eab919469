//go:build linux

package crash

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// left lists the living processes, other than this one, that have to do with the daemon under test: they name its
// folder in their arguments, their environment or their current directory, or bear the mark that it gives to all that it
// starts. The witness's path is in the arguments even of those that cleared their environment.
func (d *sentryd) left() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		d.t.Errorf("cannot list processes: %v", err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if d.ours(filepath.Join("/proc", e.Name())) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// ours tells whether a process of /proc has to do with the daemon. One that has ended has nothing of what is looked at.
func (d *sentryd) ours(dir string) bool {
	for _, file := range []string{"cmdline", "environ"} {
		if text, err := os.ReadFile(filepath.Join(dir, file)); err == nil && bytes.Contains(text, []byte(d.base+"/")) {
			return true
		}
	}
	if cwd, err := os.Readlink(filepath.Join(dir, "cwd")); err == nil && strings.HasPrefix(cwd, d.base+"/") {
		return true
	}
	status, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return false
	}
	state := bytes.TrimSpace(status[bytes.LastIndexByte(status, ')')+1:])
	return d.mark != "" && state[0] != 'Z' && state[0] != 'X' && queueLimit(dir) == d.mark
}

// queueLimit is the hard limit of a process on message queues, which nothing changes after the daemon has set it.
func queueLimit(dir string) string {
	text, err := os.ReadFile(filepath.Join(dir, "limits"))
	if err != nil {
		return ""
	}
	_, line, _ := strings.Cut(string(text), "Max msgqueue size")
	if words := strings.Fields(line); len(words) > 1 {
		return words[1]
	}
	return ""
}

// noteMark remembers the mark of the daemon, unless it is the limit that every process has.
func (d *sentryd) noteMark() {
	mark := queueLimit(filepath.Join("/proc", strconv.Itoa(d.cmd.Process.Pid)))
	if mark != queueLimit("/proc/self") {
		d.mark = mark
	}
}

// checkDescriptors fails the test where the daemon, which has nothing to do, keeps open what it should not. For a while
// it may: trees are made ahead after the last rollout.
func (d *sentryd) checkDescriptors() {
	d.t.Helper()
	var odd []string
	var n int
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if odd, n = d.descriptors(); len(odd) == 0 && n <= 64 {
			return
		}
	}
	d.t.Errorf("at rest the daemon has %d descriptors, among them: %v", n, odd)
}

// descriptors lists what the daemon has open that it should not have when it has nothing to do: files of workspaces,
// logs and mirrors, and files that are deleted. It gives how many descriptors there are in all.
func (d *sentryd) descriptors() (odd []string, n int) {
	dir := filepath.Join("/proc", strconv.Itoa(d.cmd.Process.Pid), "fd")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrPermission) {
		return nil, 0 // the daemon lets nobody but root look into it
	}
	if err != nil {
		d.t.Errorf("cannot list descriptors: %v", err)
	}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		n++
		// A device that was deleted was given to the daemon by whoever started the tests.
		unwanted := strings.HasSuffix(target, " (deleted)") && !strings.HasPrefix(target, "/dev/")
		for _, folder := range []string{"workspaces", "logs", "mirrors"} {
			unwanted = unwanted || strings.HasPrefix(target, filepath.Join(d.state(), folder)+"/")
		}
		if unwanted {
			odd = append(odd, target)
		}
	}
	return odd, n
}

// litter lists what should not be in the state directory when nothing runs: workspaces but for spares and kept ones,
// locks of git, half-written files.
func (d *sentryd) litter() []string {
	var odd []string
	entries, err := os.ReadDir(filepath.Join(d.state(), "workspaces"))
	if err != nil {
		d.t.Errorf("cannot list workspaces: %v", err)
	}
	for _, e := range entries {
		if !slices.Contains([]string{"spares", "kept"}, e.Name()) {
			odd = append(odd, filepath.Join("workspaces", e.Name()))
		}
	}
	err = filepath.WalkDir(d.state(), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		for _, pattern := range []string{"*.lock", "tmp_*", ".tmp-*", "*.sock"} {
			if match, _ := filepath.Match(pattern, e.Name()); match {
				odd = append(odd, strings.TrimPrefix(path, d.state()+"/"))
			}
		}
		return nil
	})
	if err != nil {
		d.t.Errorf("cannot look through the state directory: %v", err)
	}
	return odd
}
