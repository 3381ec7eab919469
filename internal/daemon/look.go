package daemon

import "sentry/internal/forge"

// Hint makes a repository due now: somebody is about to roll it out.
func (d *Daemon) Hint(repository string) { d.monitor.Hint(repository) }

// Budgets tells what is left of what the forges allow.
func (d *Daemon) Budgets() []forge.BudgetState { return d.asker.forges.Budgets() }

// Explain tells how a repository is asked, and why so.
func (d *Daemon) Explain(repository string) string {
	if r, ok := d.config.Load().Repository(repository); ok {
		return d.asker.Explain(r)
	}
	return ""
}
