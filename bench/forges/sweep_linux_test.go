package forges

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"sentry/bench/internal/measure"
	"sentry/internal/forge"
	"sentry/internal/forge/forgetest"
)

const idle = 10_000 // repositories

// goals are how many times fewer requests a sweep makes than one for each branch.
var goals = map[string]float64{"github": 100, "gitlab": 10}

// TestRatiosSweep asks about ten thousand idle repositories with two branches each, first with one request for each branch,
// as the documentation of the forges shows it, then as Sentry does. Requests are counted by the forge.
func TestRatiosSweep(t *testing.T) {
	table := measure.Table{
		Title:   fmt.Sprintf("A sweep of %s idle repositories × %d branches: requests that the forge counts", measure.Count(idle), len(branches)),
		Columns: []string{"forge", "one for each branch", "Sentry", "of them Git", "fewer", "goal", ""},
	}
	labs := map[string]func(t *testing.T) forgetest.Lab{
		"github": func(t *testing.T) forgetest.Lab {
			return forgetest.NewGitHub(t, forgetest.GitHubOptions{NoLimits: true})
		},
		"gitlab": func(t *testing.T) forgetest.Lab {
			return forgetest.NewGitLab(t, forgetest.GitLabOptions{PerMinute: 1_000_000})
		},
	}
	for _, kind := range []string{"github", "gitlab"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, labs[kind](t), idle, 0)
			before := w.lab.Requests()
			w.each()
			each := w.lab.Requests()
			w.sweep(w.right)
			sweep := w.lab.Requests()
			theirs, ours := each.API-before.API, sweep.API+sweep.Git-each.API-each.Git
			ratio := float64(theirs) / float64(ours)
			reached := ratio >= goals[kind]
			table.Row(kind, theirs, ours, sweep.Git-each.Git, measure.Times(ratio), measure.Times(goals[kind]), measure.Verdict(reached))
			if !reached {
				t.Errorf("%s: %d requests in place of %d", kind, ours, theirs)
			}
		})
	}
	table.Print()
}

// right fails the test unless an answer is what the forge has.
func (w *world) right(r *forge.Repository, a forge.Answer) {
	if a.Err != nil {
		w.t.Fatalf("%s: %v", r.Name, a.Err)
	}
	for _, branch := range branches {
		if a.Heads[branch] != w.lab.Head("acme/"+r.Name, branch) {
			w.t.Fatalf("%s: %v", r.Name, a.Heads)
		}
	}
}

// each asks for every branch with a request of its own.
func (w *world) each() {
	client := &http.Client{Transport: &http.Transport{DialContext: w.lab.Dial()}}
	defer client.CloseIdleConnections()
	for _, r := range w.all {
		for _, branch := range branches {
			status, body := w.ask(client, r.Name, branch)
			if status != http.StatusOK || !strings.Contains(body, w.lab.Head("acme/"+r.Name, branch)) {
				w.t.Fatalf("%s: %d %.200s", r.Name, status, body)
			}
		}
	}
}

// ask asks for one branch.
func (w *world) ask(client *http.Client, name, branch string) (status int, body string) {
	address := w.lab.API() + "/repos/acme/" + name + "/commits/" + branch
	if w.lab.Kind() == "gitlab" {
		address = w.lab.API() + "/projects/acme%2F" + name + "/repository/branches/" + branch
	}
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, address, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.token.Reveal())
	resp, err := client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}
