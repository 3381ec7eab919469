package command

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// sweepTime bounds how long Sweep tries. Killed processes are gone in milliseconds, unless the kernel holds them.
const sweepTime = 5 * time.Second

// Sweep kills every process that bears the mark, except this one and its ancestors: what a daemon that was killed has
// left. It is to be called by the next one, after Prepare and with the lock of the state directory in hand, before it
// starts anything itself. It gives how many it killed; the error says that some are still there.
func Sweep(m Mark) (killed int, err error) {
	spared := lineage()
	hit := map[identity]bool{}
	deadline, clean := time.Now().Add(sweepTime), 0
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		found, complete, err := bearers(m, spared)
		if err != nil {
			return len(hit), fmt.Errorf("cannot look for what an earlier daemon left: %w", err)
		}
		for _, p := range found {
			if p.signal(unix.SIGKILL) == nil {
				hit[p.identity] = true
			}
		}
		if clean++; len(found) > 0 || !complete {
			clean = 0
		}
		if clean == 2 { // a process may have been born and orphaned while a list was made, but hardly twice
			return len(hit), nil
		}
		if time.Now().After(deadline) {
			if len(found) == 0 {
				return len(hit), nil // only so many processes come and go that no list is complete
			}
			return len(hit), fmt.Errorf("%d processes that an earlier daemon left cannot be ended, process %d among them", len(found), found[0].pid)
		}
		time.Sleep(pause)
	}
}

// lineage gives this process and its ancestors.
func lineage() map[int]bool {
	line := map[int]bool{1: true}
	buf := make([]byte, 512)
	for pid := os.Getpid(); pid > 0 && !line[pid]; {
		line[pid] = true
		p, err := readProcess(pid, buf)
		if err != nil {
			break
		}
		pid = p.parent
	}
	return line
}

// bearers lists the living processes that bear the mark. Complete is as for processes.
func bearers(m Mark, spared map[int]bool) (found []process, complete bool, err error) {
	list, complete, err := processes()
	if err != nil {
		return nil, false, err
	}
	for _, p := range list {
		if spared[p.pid] || p.ended() {
			continue
		}
		if m.limit != 0 {
			limit, err := queueLimit(p.pid)
			if err == nil && limit.Max == m.limit {
				found = append(found, p)
			}
		} else if m.borneBy(environment(p.pid)) {
			found = append(found, p)
		}
	}
	return found, complete, nil
}
