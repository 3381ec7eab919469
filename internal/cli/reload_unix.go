//go:build !windows

package cli

import (
	"os"
	"os/signal"
	"syscall"
)

// notifyReload sends a signal to c when somebody wants the configuration to be read again.
func notifyReload(c chan<- os.Signal) { signal.Notify(c, syscall.SIGHUP) }
