package server

import (
	"context"
	"net/http"
	"sort"
	"strings"

	"sentry/internal/config"
	"sentry/internal/forge"
	"sentry/internal/monitor"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

func (h *handler) daemon(w http.ResponseWriter, _ *http.Request) error {
	control, err := h.control()
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, control.Info())
}

func (h *handler) status(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	status, err := h.present(r.Context())
	if err != nil {
		return err
	}
	if err := h.addLast(r.Context(), status.Items); err != nil {
		return err
	}
	return answer(w, http.StatusOK, status)
}

// present gathers what is, but for the last rollouts of the groups. It reads the state once for all of them.
func (h *handler) present(ctx context.Context) (Status, error) {
	status := Status{Items: []Group{}, Hosts: []Host{}, Budgets: []forge.BudgetState{}}
	var asked []monitor.WatchState
	if h.Control != nil {
		status.Daemon = h.Control.Info()
		asked = h.Control.Watches()
		for _, b := range h.Control.Budgets() {
			b.Reset, b.PausedUntil = b.Reset.UTC(), b.PausedUntil.UTC()
			status.Budgets = append(status.Budgets, b)
		}
		for _, host := range h.Control.Hosts() {
			status.Hosts = append(status.Hosts, Host{host.Host, host.Breaker, host.Waiting, host.Active, host.RetryAt.UTC(), host.Reason})
		}
	}
	heads, err := h.Store.Heads(ctx)
	if err != nil {
		return status, err
	}
	paused, err := h.Store.Paused(ctx)
	if err != nil {
		return status, err
	}
	active, err := h.active(ctx)
	if err != nil {
		return status, err
	}
	h.abandoned(active)
	status.Items = groups(h.Config(), heads, asked, active, paused)
	for i := range status.Items {
		g := &status.Items[i]
		if g.unattended = h.Control == nil; g.unattended && g.Current != nil {
			g.State = GroupInterrupted
		}
	}
	return status, nil
}

// active lists every rollout that waits or runs, newest first.
func (h *handler) active(ctx context.Context) (all []sentry.Rollout, err error) {
	filter := store.Filter{Status: []sentry.Status{sentry.Running, sentry.Pending}, Limit: maxLimit}
	for {
		page, err := h.Store.Rollouts(ctx, filter)
		if err != nil {
			return nil, err
		}
		if all = append(all, page...); len(page) < filter.Limit {
			return all, nil
		}
		filter.Before = page[len(page)-1].ID
	}
}

// addLast adds to each group its newest rollout that has ended, with one question for all of them.
func (h *handler) addLast(ctx context.Context, groups []Group) error {
	names := make([]string, len(groups))
	for i := range groups {
		names[i] = groups[i].Name
	}
	latest, err := h.Store.Latest(ctx, names...)
	if err != nil {
		return err
	}
	for i := range groups {
		if last, ok := latest[groups[i].Name]; ok {
			groups[i].Last = &last
		}
	}
	return nil
}

// group is present for one group; not_found where neither the configuration nor the state knows it.
func (h *handler) group(ctx context.Context, name string) (Group, error) {
	status, err := h.present(ctx)
	if err != nil {
		return Group{}, err
	}
	for i, g := range status.Items {
		if g.Name == name {
			err := h.addLast(ctx, status.Items[i:i+1])
			return status.Items[i], err
		}
	}
	return Group{}, unknown("group", name, groupNames(h.Config()))
}

// groups puts together what the configuration, the state and the monitor know: the configured groups in the order of the
// file, then those that are not configured any more but have something waiting, running or paused.
func groups(cfg *config.Config, heads []sentry.Head, asked []monitor.WatchState, active []sentry.Rollout, paused map[string]store.Pause) []Group {
	list := []Group{}
	index := map[string]int{}
	add := func(g Group) *Group {
		if _, known := index[g.Name]; !known {
			index[g.Name] = len(list)
			list = append(list, g)
		}
		return &list[index[g.Name]]
	}
	if cfg != nil {
		watches := newWatchIndex(heads, asked)
		for _, g := range cfg.Groups {
			policy := g.Policy
			one := Group{Name: g.Name, Implicit: g.Implicit, Policy: &policy, Members: []Member{}}
			for _, m := range cfg.Members(g.Name) {
				one.Members = append(one.Members, Member{Repository: m.Name, URL: m.Monitor.Remote.String(), Watches: watches.of(m)})
			}
			add(one)
		}
	}
	for _, rollout := range active { // newest first
		g := add(Group{Name: rollout.Group, Members: []Member{}})
		if rollout.Status == sentry.Running {
			g.Current = &rollout
		} else {
			g.Next = &rollout
			g.Waiting++
		}
	}
	var names []string
	for name := range paused {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		p := paused[name]
		add(Group{Name: name, Members: []Member{}}).Paused = &Pause{By: p.By, Reason: p.Reason, At: p.At}
	}
	for i := range list {
		list[i].State = stateOf(list[i])
	}
	return list
}

func stateOf(g Group) GroupState {
	switch {
	case g.Current != nil:
		return GroupRunning
	case g.Paused != nil:
		return GroupPaused
	case g.Waiting > 0:
		return GroupWaiting
	}
	return GroupIdle
}

// watchIndex finds heads and answers by repository.
type watchIndex struct {
	heads map[string][]sentry.Head
	asked map[string][]monitor.WatchState
}

func newWatchIndex(heads []sentry.Head, asked []monitor.WatchState) watchIndex {
	x := watchIndex{map[string][]sentry.Head{}, map[string][]monitor.WatchState{}}
	for _, head := range heads {
		x.heads[head.Repository] = append(x.heads[head.Repository], head)
	}
	for _, a := range asked {
		x.asked[a.Repository] = append(x.asked[a.Repository], a)
	}
	return x
}

// of lists the watches of a repository: for each configured branch or pattern, in their order, what matches it.
func (x watchIndex) of(repo *config.Repository) []Watch {
	heads, asked := x.heads[repo.Name], x.asked[repo.Name]
	branches := map[string]*Watch{}
	var found []string
	at := func(branch string) *Watch {
		if branches[branch] == nil {
			branches[branch] = &Watch{Branch: branch}
			found = append(found, branch)
		}
		return branches[branch]
	}
	for _, head := range heads {
		w := at(head.Branch)
		w.Commit, w.Generation, w.Deleted, w.MovedAt = head.Commit, head.Generation, head.Deleted, head.RecordedAt
		w.Author, w.Subject = head.Author, head.Subject
	}
	for _, a := range asked {
		w := at(a.Branch)
		// The address stands beside it already.
		answer := strings.Replace(a.Answer, "cannot ask "+repo.Monitor.Remote.String()+": ", "", 1)
		w.Answer, w.Doubt, w.Failures, w.Interval = answer, a.Doubt, a.Failures, sentry.Duration(a.Interval)
		w.Trouble = a.Failures > 0 || a.Answer == monitor.AnswerNoBranch
		w.AskedAt, w.AnsweredAt, w.NextAt = a.LastAsked.UTC(), a.LastAnswered.UTC(), a.NextDue.UTC()
	}
	sort.Strings(found)
	list := []Watch{}
	shown := map[string]bool{}
	for _, p := range repo.Monitor.Branches {
		matched := false
		for _, branch := range found {
			if branch != p.String() && (p.Exact() || !p.Match(branch)) {
				continue
			}
			matched = true
			if !shown[branch] {
				shown[branch] = true
				w := *branches[branch]
				w.Pattern = !p.Exact() && branch == p.String() && w.Commit == ""
				list = append(list, w)
			}
		}
		if !matched {
			list = append(list, Watch{Branch: p.String(), Pattern: !p.Exact()})
		}
	}
	return list
}
