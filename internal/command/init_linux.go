package command

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// strangersEvery is how often the first process of a container looks for strangers that have ended.
const strangersEvery = 5 * time.Second

// ReapStrangers does until ctx ends what the kernel expects of the first process of a system, where this is one, as in a
// container. Such a process gets every orphan, also of what others start beside it (kubectl exec, docker exec, a probe), and
// nobody else can reap these. Elsewhere it returns at once: orphans of commands are reaped while commands run.
func ReapStrangers(ctx context.Context) {
	if os.Getpid() != 1 {
		return
	}
	ticker := time.NewTicker(strangersEvery)
	defer ticker.Stop()
	var seen map[identity]bool
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			seen = ours.reapStrangers(seen)
		}
	}
}

// reapStrangers reaps children that this process has not started, and that had ended when it last looked: those are in
// seen. It gives what has ended now. What this process itself starts and waits for is in its own
// session, or leads a command; a leader that has just been started, and is not known as one yet, is not seen ended twice.
func (f *family) reapStrangers(seen map[identity]bool) map[identity]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	list, _, err := processes()
	if err != nil {
		return nil
	}
	leaders := map[int]bool{}
	for _, t := range f.live {
		leaders[t.leader.pid] = true
	}
	ended := map[identity]bool{}
	mine := session()
	for _, p := range list {
		if p.parent != os.Getpid() || !p.ended() || leaders[p.pid] {
			continue
		}
		if p.session == mine && (p.group == p.pid || p.group == unix.Getpgrp()) {
			continue
		}
		if seen[p.identity] {
			reapOrphan(p.pid)
		} else {
			ended[p.identity] = true
		}
	}
	return ended
}
