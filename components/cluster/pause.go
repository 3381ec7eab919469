package main

import (
	"os"
	"os/signal"
	"syscall"
)

// pause holds the namespaces of a pod: it does nothing, collects processes that lost their parents, and ends when asked to.
func pause() {
	orphans, end := make(chan os.Signal, 16), make(chan os.Signal, 1)
	signal.Notify(orphans, syscall.SIGCHLD)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	for {
		select {
		case <-orphans:
			for {
				if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
					break
				}
			}
		case <-end:
			return
		}
	}
}
