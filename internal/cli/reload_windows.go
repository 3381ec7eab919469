package cli

import "os"

// notifyReload does nothing: Windows has no signal for it. A changed file is noticed all the same.
func notifyReload(chan<- os.Signal) {}
