package cli

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// listeningSockets gives the sockets of this user and of this name at which processes of this machine listen.
func listeningSockets(name string) []string {
	text, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return nil
	}
	const (
		flags, path = 3, 7 // which field of a line; a path is left out where there is none, and spaces in it are its own
		listens     = "00010000"
	)
	var found []string
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.Join(strings.Fields(line), " "), " ", path+1)
		if len(fields) <= path || fields[flags] != listens || filepath.Base(fields[path]) != name {
			continue
		}
		info, err := os.Lstat(fields[path])
		if err != nil {
			continue
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); ok && int(owner.Uid) == os.Geteuid() {
			found = append(found, fields[path])
		}
	}
	return found
}
