package daemon

// RetireMirrors does what is done once an hour.
func (d *Daemon) RetireMirrors() { d.retireMirrors() }
