package cli

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	"sentry/internal/daemon"
	"sentry/internal/server"
)

// elsewhere tells of a daemon that runs this very configuration, but with another state directory: somebody has changed
// global.state_dir since it started. Where no daemon answers, that is what a person has to know before anything else.
func (a *app) elsewhere(ctx context.Context, p place) {
	file, err := filepath.Abs(a.flags.config)
	if err != nil || a.flags.stateDir != "" || a.missing() || a.searched {
		return
	}
	a.searched = true
	const atMost, patience = 8, 2 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	own := daemon.SocketPath(p.stateDir)
	sockets := slices.DeleteFunc(listeningSockets(filepath.Base(own)), func(path string) bool { return path == own })
	for _, path := range sockets[:min(len(sockets), atMost)] {
		c := socketClient(path, place{stateDir: filepath.Dir(path)})
		var d server.Daemon
		err := c.get(ctx, "daemon", nil, &d)
		_ = c.Close()
		if err == nil && d.Config == file && d.StateDir != p.stateDir {
			a.note("pid %d runs this configuration with the state directory %s: it was started before state_dir was changed.\n"+
				"`--state-dir %s` asks it; to have it use %s, start it again.", d.PID, d.StateDir, d.StateDir, p.stateDir)
			return
		}
	}
}
