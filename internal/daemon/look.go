package daemon

// Hint makes a repository due now: somebody is about to roll it out.
func (d *Daemon) Hint(repository string) { d.monitor.Hint(repository) }
