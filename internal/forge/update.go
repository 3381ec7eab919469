package forge

import (
	"net/url"
	"slices"
)

// Update takes the repositories of a configuration, all of them, and forgets those that are gone. Which of them share a
// credential decides how they are asked.
func (f *Forges) Update(repositories []*Repository) {
	f.mu.Lock()
	defer f.mu.Unlock()
	accounts := map[accountKey]*account{}
	places := make(map[*Repository]*place, len(repositories))
	members := map[*account][]*Repository{}
	for _, r := range repositories {
		a := f.accountOf(accounts, r)
		members[a] = append(members[a], r)
		p := &place{account: a}
		if old := f.places[r]; old != nil && old.account == a {
			old.mu.Lock() // a question about it may be out
			p.known, p.asked, p.byAPI, p.noAPI, p.moved, p.diagnosis = old.known, old.asked, old.byAPI, old.noAPI, old.moved, old.diagnosis
			old.mu.Unlock()
		}
		places[r] = p
	}
	for a, all := range members {
		a.mu.Lock()
		a.members, a.former, a.auth = len(all), false, all[0].Auth
		a.mu.Unlock()
		if a.service != nil {
			a.service.update(all)
			a.budget().configure(f.o.Network.host(a.origin))
		}
	}
	for key, a := range f.accounts {
		if accounts[key] != nil {
			continue
		}
		a.abandon()
		switch {
		case a.budget() == nil:
		case a.recent(): // what a forge has said to a credential holds for as long as it said, whatever is configured
			a.service.update(nil)
			accounts[key] = a
		default:
			f.shares.end(a)
		}
	}
	f.accounts, f.places = accounts, places
	f.assignLanes()
	select {
	case f.updated <- struct{}{}:
	default:
	}
}

// accountOf gives the account of a repository out of those given, or an older one, or a new one, which it adds to them.
// The caller holds f.mu.
func (f *Forges) accountOf(accounts map[accountKey]*account, r *Repository) *account {
	base, err := apiBase(r)
	if err != nil {
		base = nil // it is asked over Git; the configuration was checked before
	}
	key := keyOf(r, base)
	a := accounts[key]
	if a == nil {
		if a = f.accounts[key]; a == nil {
			a = f.open(key, base, r.Auth)
		}
		accounts[key] = a
	}
	return a
}

// keyOf is the account of a repository, whose API is at base; nil for none.
func keyOf(r *Repository, base *url.URL) accountKey {
	if base == nil {
		return accountKey{kind: Git, api: r.Remote.Origin(), key: r.Auth.Key}
	}
	return accountKey{kind: r.Kind, api: base.String(), key: r.Auth.Key}
}

// assignLanes decides who shares a lane. All repositories of an origin do, whatever their credentials, except those that
// are asked many at once: they have a lane for each account, named after the credential unless they are alone there. The
// caller holds f.mu.
func (f *Forges) assignLanes() {
	together := map[*account]bool{}
	for _, a := range f.accounts {
		batch, sweep := a.batches()
		together[a] = batch > 1 || sweep
	}
	neighbours := map[string][]*account{} // the lanes at an origin; nil stands for the one of all that are asked one by one
	for r, p := range f.places {
		a := p.account
		if !together[a] {
			a = nil
		}
		if origin := r.Remote.Origin(); !slices.Contains(neighbours[origin], a) {
			neighbours[origin] = append(neighbours[origin], a)
		}
	}
	for r, p := range f.places {
		p.lane = r.Remote.Origin()
		if together[p.account] && len(neighbours[p.lane]) > 1 {
			p.lane += " " + p.account.name()
		}
	}
}

// Lane says with whom a repository may be asked in one question.
func (f *Forges) Lane(r *Repository) Lane {
	p := f.place(r)
	if p == nil {
		return Lane{Key: r.Remote.Origin(), Batch: 1, AtOnce: f.o.Network.host(r.Remote.Origin()).Concurrency}
	}
	batch, sweep := p.account.batches()
	return Lane{Key: p.lane, Batch: batch, Sweep: sweep, AtOnce: f.atOnce(r, p.account)}
}

// atOnce is how many requests may be out at a time at the servers that a repository is asked of; 0: any number.
func (f *Forges) atOnce(r *Repository, a *account) int {
	git, api := f.o.Network.host(r.Remote.Origin()).Concurrency, f.o.Network.host(a.origin).Concurrency
	if git == 0 || api > 0 && api < git {
		return api
	}
	return git
}

// account gives that of a repository, which the configuration need not have: a status may go to where the commands come
// from.
func (f *Forges) account(r *Repository) *account {
	if p := f.place(r); p != nil {
		return p.account
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.accountOf(f.accounts, r)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.members == 0 {
		a.auth, a.former = r.Auth, false
	}
	return a
}

// membersOf gives the repositories of an account.
func (f *Forges) membersOf(a *account) []*Repository {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var list []*Repository
	for r, p := range f.places {
		if p.account == a {
			list = append(list, r)
		}
	}
	return list
}

// place gives what is known of a repository, nil where the configuration does not have it.
func (f *Forges) place(r *Repository) *place {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.places[r]
}
