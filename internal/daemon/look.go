package daemon

import "sentry/internal/forge"

// Hint makes a repository due now: somebody is about to roll it out.
func (d *Daemon) Hint(repository string) { d.monitor.Hint(repository) }

// renewed makes repositories due whose credential was refused, and of which there is another one by now.
func (d *Daemon) renewed(repositories []*forge.Repository) {
	names := make([]string, len(repositories))
	for i, r := range repositories {
		names[i] = r.Name
	}
	d.monitor.Renewed(names...)
}

// Budgets tells what is left of what the forges allow.
func (d *Daemon) Budgets() []forge.BudgetState { return d.asker.forges.Budgets() }

// Explain tells how a repository is asked, and why so.
func (d *Daemon) Explain(repository string) string {
	if r, ok := d.config.Load().Repository(repository); ok {
		return d.asker.Explain(r)
	}
	return ""
}
