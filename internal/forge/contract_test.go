package forge_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/forge"
	"sentry/internal/forge/forgetest"
	"sentry/internal/git/gittest"
	"sentry/internal/sentry"
)

// What every forge must do, whichever it is, emulated or real. A behaviour may add repositories to the rig, which has
// company in it: enough repositories that they are asked many at once, where the forge has a way for that.
var contract = []struct {
	name string
	do   func(c *trial)
}{
	{"a branch is watched", func(c *trial) {
		one := c.add("team/watched", false, "main", "dev")
		c.expect(one)
		c.push(one, "main")
		c.push(one, "dev")
		c.expect(one)
		c.quiet()
		c.push(one, "main")
		c.expect(one)
	}},
	{"who made a commit", func(c *trial) {
		one := c.add("team/made", true)
		commit := c.push(one, "main")
		c.update()
		made, err := c.forges.Commit(c.t.Context(), one, commit)
		if err != nil || made.AuthorName == "" || !strings.Contains(made.AuthorEmail, "@") || strings.TrimSpace(made.Message) == "" || made.Time.IsZero() || made.Time.Location() != time.UTC {
			c.t.Errorf("it is %+v, %v", made, err)
		}
		if made, err := c.forges.Commit(c.t.Context(), one, strings.Repeat("1", len(commit))); err == nil || sentry.AsFault(err).Kind != sentry.NotFound {
			c.t.Errorf("of one that is not there: %+v, %v", made, err)
		}
		if _, err := c.forges.Commit(c.t.Context(), one, "main"); err == nil || sentry.AsFault(err).Kind != sentry.Invalid {
			c.t.Errorf("of a branch: %v", err)
		}
	}},
	{"who wants it fresh gets it at once", func(c *trial) {
		one := c.add("team/hot", false)
		c.push(one, "main")
		c.expect(one)
		for range 3 {
			commit := c.push(one, "main")
			if got := c.heads(one, true)["main"]; got != commit {
				c.t.Fatalf("main is %s, and is said to be %s", commit, got)
			}
		}
	}},
	{"a branch is new", func(c *trial) {
		one := c.add("team/new", false, "main", "later", "release/*")
		c.push(one, "main")
		c.expect(one)
		c.push(one, "later")
		c.expect(one)
		c.push(one, "release/1.0")
		c.expect(one)
	}},
	{"a private repository is seen with a token", func(c *trial) {
		one := c.add("team/private", true)
		c.push(one, "main")
		c.expect(one)
		c.push(one, "main")
		c.expect(one)
	}},
	{"a private repository is not seen without a token", func(c *trial) {
		stranger := newRig(c.t, c.lab, "-")
		one := stranger.configure("team/secret", c.lab.Repository("team/secret", true))
		public := stranger.configure("team/open", c.lab.Repository("team/open", false))
		c.lab.Push("team/secret", "main")
		c.lab.Push("team/open", "main")
		stranger.update()
		for range 2 {
			a := stranger.ask(false)
			if kind := sentry.AsFault(a[0].Err).Kind; a[0].Err == nil || kind != sentry.Unauthorized && kind != sentry.NotFound {
				c.t.Errorf("the secret one: %s", show(a[0]))
			}
			if a[1].Heads["main"] != c.lab.Head("team/open", "main") && !a[1].Same {
				c.t.Errorf("the open one: %s", show(a[1]))
			}
		}
		if err := stranger.forges.Diagnose(c.t.Context(), one, stranger.ask(true, one)[0].Err); !strings.Contains(err.Error(), "token") {
			c.t.Errorf("the diagnosis does not say that a token is needed: %v", err)
		}
		_ = public
	}},
	{"a token is revoked, and another one put in its place", func(c *trial) {
		one := c.add("team/revoked", true)
		c.push(one, "main")
		c.expect(one)
		c.lab.Revoke(c.token.Reveal())
		c.reads = 0
		var a forge.Answer
		for range 3 { // a sweep may be what finds it out, or one by one
			a = c.ask(true, one)[0]
		}
		if a.Err == nil || sentry.AsFault(a.Err).Kind != sentry.Unauthorized {
			c.t.Fatalf("after the token was revoked: %s", show(a))
		}
		if c.reads == 0 {
			c.t.Error("the token was not read again")
		}
		c.setToken(c.lab.Token())
		commit := c.push(one, "main")
		if got := c.heads(one, true)["main"]; got != commit {
			c.t.Errorf("with the new token main is %s, not %s", got, commit)
		}
		c.expect(one)
	}},
	{"a refused token is shown no more than once a minute", func(c *trial) {
		if !c.virtual {
			c.t.Skip("it takes minutes")
		}
		for i := range 5 {
			c.push(c.add(fmt.Sprintf("team/refused%d", i), true), "main")
		}
		c.update()
		c.ask(true)
		c.settle()
		c.lab.Revoke(c.token.Reveal())
		c.ask(false)
		c.ask(false)
		spent := c.requests(func() {
			for range 30 {
				time.Sleep(20 * time.Second)
				for i, a := range c.ask(false) {
					if a.Err == nil || sentry.AsFault(a.Err).Kind != sentry.Unauthorized {
						c.t.Fatalf("%s: %s", c.all[i].Name, show(a))
					}
				}
			}
		})
		if n := spent.API + spent.Git; n > 2*10 { // once by the API, once over Git
			c.t.Errorf("in 10 minutes it was shown %d times: %+v", n, spent)
		}
	}},
	{"a branch is deleted and comes back", func(c *trial) {
		one := c.add("team/deleted", false, "main", "dev")
		c.push(one, "main")
		commit := c.push(one, "dev")
		c.expect(one)
		c.lab.Delete(one.Name, "dev")
		c.expect(one)
		c.expect(one)
		c.lab.Set(one.Name, "dev", commit)
		c.expect(one)
	}},
	{"a branch is rewritten, and put back", func(c *trial) {
		one := c.add("team/forced", false)
		first := c.push(one, "main")
		c.expect(one)
		c.lab.ForcePush(one.Name, "main")
		c.expect(one)
		c.lab.Set(one.Name, "main", first)
		c.expect(one)
	}},
	{"a repository is renamed", func(c *trial) {
		one := c.add("team/before", false)
		c.push(one, "main")
		c.expect(one)
		c.lab.Rename("team/before", "team/after")
		c.settle()
		// Whether Git goes on to answer is up to the forge; that it has moved, and where to, can be told in any case.
		a := c.ask(true, one)[0]
		if a.Err != nil && sentry.AsFault(a.Err).Kind != sentry.NotFound || a.Err == nil && a.Heads["main"] != c.lab.Head("team/after", "main") {
			c.t.Errorf("after it was renamed: %s", show(a))
		}
		told := c.forges.Diagnose(c.t.Context(), one, &sentry.Fault{Kind: sentry.NotFound, Err: errors.New("not found")})
		if told == nil || !strings.Contains(told.Error(), "team/after") {
			c.t.Errorf("the diagnosis does not say where to: %v", told)
		}
		if why := c.forges.Explain(one); a.Err == nil && c.lab.Kind() != "gitlab" && !strings.Contains(why, "team/after") { // GitLab's Git leads nowhere else
			c.t.Errorf("it is not said where it is: %s", why)
		}
		c.lab.Push("team/after", "main")
		if a := c.ask(true, one)[0]; a.Err == nil && a.Heads["main"] != c.lab.Head("team/after", "main") {
			c.t.Errorf("after a push to the new name: %s", show(a))
		}
	}},
	{"a repository is removed, and others go on", func(c *trial) {
		gone, stays := c.add("team/gone", false), c.add("team/stays", false)
		c.push(gone, "main")
		c.push(stays, "main")
		c.expect(gone)
		c.expect(stays)
		c.lab.Remove("team/gone")
		c.settle()
		a := c.ask(true, gone)[0]
		kind := sentry.AsFault(a.Err).Kind
		if a.Err == nil || kind != sentry.NotFound && kind != sentry.Unauthorized {
			c.t.Errorf("after it was removed: %s", show(a))
		}
		if told := c.forges.Diagnose(c.t.Context(), gone, a.Err); !strings.Contains(told.Error(), "team/gone") {
			c.t.Errorf("the diagnosis does not name it: %v", told)
		}
		c.push(stays, "main")
		c.expectOf(stays, gone)
	}},
	{"a status goes from pending to a verdict, and again is no other", func(c *trial) {
		one := c.add("team/status", false)
		commit := c.push(one, "main")
		c.update()
		for state, words := range map[forge.State][]string{
			forge.Success: {"success"}, forge.Failure: {"failure", "failed"}, forge.Errored: {"error", "failed"}, forge.Canceled: {"error", "canceled", "failure"},
		} {
			s := forge.Status{Commit: commit, Branch: "main", State: forge.Pending, Context: "sentry/" + string(state), Description: "rolling out", URL: "https://sentry.example/r/1"}
			c.report(one, s)
			c.reported(one, s, []string{"pending"})
			rows := c.rows(one, commit)
			c.report(one, s)
			c.report(one, s)
			if after := c.rows(one, commit); after != rows {
				c.t.Errorf("doing it again made %d statuses out of %d", after, rows)
			}
			s.State, s.Description = state, "all is said"
			c.report(one, s)
			c.report(one, s)
			c.reported(one, s, words)
			rows = c.rows(one, commit)
			c.report(one, s)
			if after := c.rows(one, commit); after != rows {
				c.t.Errorf("doing it again made %d statuses out of %d", after, rows)
			}
		}
		// The next rollout of the same commit begins anew.
		s := forge.Status{Commit: commit, Branch: "main", State: forge.Pending, Context: "sentry/success", Description: "once more"}
		c.report(one, s)
		c.reported(one, s, []string{"pending"})
	}},
	{"a status that may not be set says what is missing", func(c *trial) {
		one := c.add("team/unreported", false)
		commit := c.push(one, "main")
		reader := newRig(c.t, c.lab, map[string]string{"github": "read:org", "gitlab": "read_api", "gitea": "read:repository"}[c.lab.Kind()])
		same := reader.configure(one.Name, one.Remote.String())
		reader.update()
		err := reader.forges.SetStatus(c.t.Context(), same, forge.Status{Commit: commit, Branch: "main", State: forge.Pending, Context: "sentry/x"})
		want := map[string]string{"github": "repo:status", "gitlab": "api", "gitea": "write:repository"}[c.lab.Kind()]
		if err == nil || sentry.AsFault(err).Kind != sentry.Unauthorized || !strings.Contains(err.Error(), want) {
			c.t.Errorf("it says %v, and should name %s", err, want)
		}
	}},
	{"patterns find what they match, and nothing else", func(c *trial) {
		one := c.add("team/patterns", false, "main", "release/*", "/^v[0-9]+$/")
		for _, branch := range []string{"main", "main2", "release/1", "release/2", "release/3/x", "v1", "v12", "v1x", "other"} {
			c.push(one, branch)
		}
		got := c.expect(one)
		if want := []string{"main", "release/1", "release/2", "v1", "v12"}; !slices.Equal(slices.Sorted(maps.Keys(got)), want) {
			c.t.Errorf("found are %v", slices.Sorted(maps.Keys(got)))
		}
		c.push(one, "release/9")
		c.expect(one)
	}},
	{"a broken repository does not spoil the others", func(c *trial) {
		broken := c.configure("team/never", strings.Replace(c.all[0].Remote.String(), c.all[0].Name, "team/never", 1))
		one := c.add("team/fine", false)
		c.push(one, "main")
		c.update()
		for range 3 {
			c.settle()
			answers := c.ask(false)
			for i, a := range answers {
				if bad := c.all[i] == broken; bad != (a.Err != nil) {
					c.t.Errorf("%s: %s", c.all[i].Name, show(a))
				}
			}
		}
	}},
	{"a hundred branches", func(c *trial) {
		var names []string
		for i := range 100 {
			names = append(names, fmt.Sprintf("topic/%03d", i))
		}
		one := c.add("team/hundred", false, names...)
		all := c.add("team/hundred-by-pattern", false, "topic/*")
		first := c.push(one, names[0])
		other := c.push(all, names[0])
		c.fan(one, first, names[1:])
		c.fan(all, other, names[1:])
		for _, r := range []*forge.Repository{one, all} {
			if got := c.expect(r); len(got) != 100 {
				c.t.Errorf("%s: %d branches are found", r.Name, len(got))
			}
		}
		c.push(all, names[57])
		c.expect(all)
	}},
	{"nonsense is not believed", func(c *trial) {
		one := c.add("team/nonsense", false, "main", "dev")
		c.push(one, "main")
		c.push(one, "dev")
		c.expect(one)
		for _, n := range nonsense {
			if n.slow && !c.virtual {
				continue
			}
			for _, door := range []string{"api", "git", "both"} {
				c.lab.Fail(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
					if git := strings.Contains(r.URL.Path, ".git/"); door == "both" || git == (door == "git") {
						n.answer(w, r, next)
						return
					}
					next.ServeHTTP(w, r)
				})
				for _, full := range []bool{false, true} {
					ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
					answers := c.forges.Heads(ctx, []forge.Ask{{Repository: one, Full: full}})
					cancel()
					a := answers[0]
					if a.Err == nil && !a.Same && (a.Heads["main"] != c.lab.Head(one.Name, "main") || a.Heads["dev"] != c.lab.Head(one.Name, "dev")) {
						c.t.Errorf("%s by %s is believed: %s", n.name, door, show(a))
					}
				}
				if c.virtual {
					c.settle()
				}
			}
		}
		c.lab.Fail(nil)
		c.push(one, "main")
		c.heal()
		c.expect(one)
	}},
	{"nobody is led elsewhere with the token", func(c *trial) {
		one := c.add("team/led", true)
		c.push(one, "main")
		c.expect(one)
		for _, to := range []string{
			"http://evil.test", "https://evil.test", "http://" + hostOf(c.lab.URL()) + ".evil.test", "http://127.0.0.1:1",
			"http://ada:secret@" + hostOf(c.lab.URL()), "//evil.test", "https://" + hostOf(c.lab.URL()), "ftp://" + hostOf(c.lab.URL()),
		} {
			for _, status := range []int{301, 302, 303, 307, 308} {
				var followed []string
				c.lab.Fail(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
					if r.Host != hostOf(c.lab.URL()) && r.Host != hostOf(c.lab.API()) {
						followed = append(followed, r.Host)
					}
					http.Redirect(w, r, to+r.URL.RequestURI(), status)
				})
				a := c.ask(true, one)[0]
				if a.Err == nil {
					c.t.Errorf("led to %s it answers %s", to, show(a))
				}
				if len(followed) > 0 {
					c.t.Errorf("led to %s (%d) it went to %v", to, status, followed)
				}
				_ = c.forges.SetStatus(c.t.Context(), one, forge.Status{Commit: strings.Repeat("a", 40), State: forge.Pending, Context: "x"})
				if len(followed) > 0 {
					c.t.Errorf("led to %s (%d) a status went to %v", to, status, followed)
				}
				if a.Err != nil && strings.Contains(a.Err.Error(), "secret") {
					c.t.Errorf("the error repeats a password: %v", a.Err)
				}
				c.lab.Fail(nil)
				c.heal()
			}
		}
		c.expect(one)
	}},
}

func hostOf(address string) string {
	_, host, _ := strings.Cut(address, "://")
	host, _, _ = strings.Cut(host, "/")
	return host
}

// nonsense is what nobody should believe.
var nonsense = []struct {
	name   string
	slow   bool
	answer forgetest.Fault
}{
	{name: "nothing", answer: says(200, "application/json", "")},
	{name: "a web page", answer: says(200, "text/html", "<html><body>Please log in</body></html>")},
	{name: "a web page with status 502", answer: says(502, "text/html", "<html><body>Bad gateway</body></html>")},
	{name: "null", answer: says(200, "application/json", "null")},
	{name: "an empty object", answer: says(200, "application/json", "{}")},
	{name: "an empty list", answer: says(200, "application/json", "[]")},
	{name: "a number", answer: says(200, "application/json", "42")},
	{name: "a text", answer: says(200, "application/json", `"ok"`)},
	{name: "no data", answer: says(200, "application/json", `{"data":null}`)},
	{name: "empty data", answer: says(200, "application/json", `{"data":{}}`)},
	{name: "data of the wrong type", answer: says(200, "application/json", `{"ok":1,"data":"none","errors":"none"}`)},
	{name: "errors only", answer: says(200, "application/json", `{"errors":[{"message":"Internal server error"}]}`)},
	{name: "errors with null data", answer: says(200, "application/json", `{"data":null,"errors":[{"message":"Timeout"}]}`)},
	{name: "a deep nest", answer: says(200, "application/json", strings.Repeat("[", 100_000))},
	{name: "a truncated answer", answer: spoiled(func(body string) string { return body[:len(body)/2] })},
	{name: "an answer without its last byte", answer: spoiled(func(body string) string { return body[:max(0, len(body)-1)] })},
	{name: "commits that are too short", answer: commits(func(sha string) string { return sha[:39] })},
	{name: "commits that are too long", answer: commits(func(sha string) string { return sha + "0" })},
	{name: "commits in capitals", answer: commits(func(sha string) string { return strings.ToUpper(sha[:39]) + "F" })},
	{name: "commits that are none", answer: commits(func(string) string { return strings.Repeat("g", 40) })},
	{name: "commits that are words", answer: commits(func(string) string { return "HEAD" })},
	{name: "a huge answer", answer: func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", "application/json")
		chunk := []byte(`{"data":"` + strings.Repeat("x", 1<<20))
		for range 64 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}},
	{name: "an answer that never ends", slow: true, answer: func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		for r.Context().Err() == nil {
			if _, err := w.Write([]byte(" ")); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			select {
			case <-time.After(time.Second):
			case <-r.Context().Done():
			}
		}
	}},
	{name: "no answer at all", slow: true, answer: func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body) // a server sees that the client has gone when it has read all
		<-r.Context().Done()
	}},
	{name: "a connection that breaks", answer: func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }},
}

// says answers always the same.
func says(status int, kind, body string) forgetest.Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// spoiled changes the body of what the forge answers.
func spoiled(change func(body string) string) forgetest.Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		out := &recorder{header: http.Header{}, status: http.StatusOK}
		next.ServeHTTP(out, r)
		maps.Copy(w.Header(), out.header)
		w.Header().Del("Content-Length")
		w.WriteHeader(out.status)
		_, _ = w.Write([]byte(change(out.body.String())))
	}
}

// commits changes every commit in what the forge answers.
func commits(change func(sha string) string) forgetest.Fault {
	return spoiled(func(body string) string { return sha40.ReplaceAllStringFunc(body, change) })
}

// trial is one behaviour of the contract on one forge.
type trial struct {
	*rig
	t       testing.TB
	virtual bool                                    // in a bubble, whose time passes at once
	last    map[*forge.Repository]map[string]string // what was told of each
	names   map[*forge.Repository]map[string]bool   // of branches that were pushed
}

func newTrial(t testing.TB, lab forgetest.Lab, virtual bool) *trial {
	c := &trial{rig: newRig(t, lab), t: t, virtual: virtual, last: map[*forge.Repository]map[string]string{}, names: map[*forge.Repository]map[string]bool{}}
	c.company()
	return c
}

// push makes a commit.
func (c *trial) push(one *forge.Repository, branch string) string {
	c.t.Helper()
	if c.names[one] == nil {
		c.names[one] = map[string]bool{}
	}
	c.names[one][branch] = true
	return c.lab.Push(one.Name, branch)
}

// fan points many branches at a commit.
func (c *trial) fan(one *forge.Repository, commit string, names []string) {
	c.t.Helper()
	for _, name := range names {
		c.names[one][name] = true
		if c.virtual {
			c.lab.Set(one.Name, name, commit)
		}
	}
	if c.virtual {
		return
	}
	// One push is a second; so many are minutes.
	dir := filepath.Join(c.t.TempDir(), "clone")
	address := strings.Replace(one.Remote.String(), "://", "://any:"+c.lab.Token()+"@", 1)
	gittest.Git(c.t, "", "clone", "--quiet", "--bare", address, dir)
	args := []string{"push", "--quiet", address}
	for _, name := range names {
		args = append(args, commit+":refs/heads/"+name)
	}
	gittest.Git(c.t, dir, args...)
}

// want is what there is to be told of a repository.
func (c *trial) want(one *forge.Repository) map[string]string {
	names := map[string]bool{}
	maps.Copy(names, c.names[one])
	for _, p := range one.Patterns {
		if p.Exact() {
			names[p.String()] = true
		}
	}
	want := map[string]string{}
	for name := range names {
		if head := c.lab.Head(one.Name, name); head != "" && slices.ContainsFunc(one.Patterns, func(p sentry.Pattern) bool { return p.Match(name) }) {
			want[name] = head
		}
	}
	return want
}

// settle lets pass what a forge takes to write down what happened, and us to ask again.
func (c *trial) settle() {
	if c.virtual {
		time.Sleep(time.Minute)
	} else {
		time.Sleep(300 * time.Millisecond)
	}
}

// heal lets pass the time for which we leave somebody alone.
func (c *trial) heal() {
	if c.virtual {
		time.Sleep(20 * time.Minute)
		return
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if c.ask(true, c.all[len(c.all)-1])[0].Err == nil {
			return
		}
	}
}

// expect asks about all repositories, as the monitor does, until this one is known to be as it is; that must not take
// longer than two intervals, or the time that a real forge takes. Nothing else may ever be said of it than what is or was.
func (c *trial) expect(one *forge.Repository) map[string]string { return c.expectOf(one) }

// expectOf is expect where others may fail.
func (c *trial) expectOf(one *forge.Repository, but ...*forge.Repository) map[string]string {
	c.t.Helper()
	c.update()
	want := c.want(one)
	tries, began := 0, time.Now()
	for {
		for i, a := range c.ask(false) {
			r := c.all[i]
			if a.Err != nil && !slices.Contains(but, r) {
				c.t.Fatalf("%s: %s", r.Name, show(a))
			}
			if a.Heads != nil {
				c.last[r] = a.Heads
			}
		}
		tries++
		if c.last[one] != nil && maps.Equal(c.last[one], want) {
			c.settle() // what comes later than expected must be the same
			if a := c.ask(false, one)[0]; !a.Same && !maps.Equal(a.Heads, c.last[one]) {
				c.t.Fatalf("%s: then it is %s", one.Name, show(a))
			}
			return c.last[one]
		}
		if c.virtual && tries > 2 || !c.virtual && time.Since(began) > 20*time.Second {
			c.t.Fatalf("%s: wanted %v, got %v", one.Name, want, c.last[one])
		}
		c.settle()
	}
}

// quiet asks for a while, when nothing happens, and looks what that costs: where many are asked at once less than one
// request for each branch.
func (c *trial) quiet() {
	c.t.Helper()
	const rounds = 5
	for range 2 {
		c.settle()
		c.ask(false)
	}
	branches := 0
	for _, r := range c.all {
		branches += len(r.Patterns)
	}
	spent := c.requests(func() {
		for range rounds {
			c.settle()
			for i, a := range c.ask(false) {
				if a.Err != nil || !a.Same && !maps.Equal(a.Heads, c.last[c.all[i]]) {
					c.t.Errorf("%s: when nothing happens it is %s", c.all[i].Name, show(a))
				}
			}
		}
	})
	if n := spent.API + spent.Git; n > rounds*branches/5 {
		c.t.Errorf("%d rounds over %d idle branches cost %+v", rounds, branches, spent)
	}
}

// report sets a status; the test ends where that fails.
func (c *trial) report(one *forge.Repository, s forge.Status) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	if err := c.forges.SetStatus(ctx, one, s); err != nil {
		c.t.Fatalf("%s of %s: %v", s.State, s.Context, err)
	}
}

// reported looks whether a status is there, once, in one of the words of the forge.
func (c *trial) reported(one *forge.Repository, s forge.Status, words []string) {
	c.t.Helper()
	var found []forgetest.Status
	for _, there := range c.lab.Statuses(one.Name, s.Commit) {
		if there.Context == s.Context {
			found = append(found, there)
		}
	}
	if len(found) != 1 || !slices.Contains(words, found[0].State) || found[0].Description != s.Description || found[0].URL != s.URL {
		c.t.Errorf("%+v is shown as %+v", s, found)
	}
}

// rows counts the statuses that were ever made. GitHub is not asked first whether one is there: nobody sees the difference,
// and each question counts on the budget.
func (c *trial) rows(one *forge.Repository, commit string) int {
	if c.lab.Kind() == "github" {
		return 0
	}
	switch lab := c.lab.(type) {
	case interface{ StatusRows() int }:
		return lab.StatusRows()
	case interface {
		History(repository, commit string) []forgetest.Status
	}:
		return len(lab.History(one.Name, commit))
	}
	return len(c.lab.Statuses(one.Name, commit))
}

// company makes the other repositories, unless the lab has them from another trial.
func (c *trial) company() {
	shared, _ := c.lab.(*sharing)
	for i := range 6 {
		name := fmt.Sprintf("team/other%d", i)
		if shared != nil && shared.company {
			c.configure(name, c.lab.URL()+"/"+shared.name(name)+".git", "main", "dev")
			continue
		}
		one := c.add(name, i%2 == 0, "main", "dev")
		c.push(one, "main")
		c.push(one, "dev")
	}
	c.update()
}

func TestContract(t *testing.T) {
	for _, kind := range []string{"GitHub", "GitLab", "Gitea"} {
		t.Run(kind, func(t *testing.T) {
			for _, behaviour := range contract {
				t.Run(behaviour.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						behaviour.do(newTrial(t, emulated(t, kind), true))
					})
				})
			}
		})
	}
}

// emulated starts an emulated forge in the bubble of a test.
func emulated(t testing.TB, kind string) forgetest.Lab {
	switch kind {
	case "GitHub":
		return forgetest.NewGitHub(t, forgetest.GitHubOptions{})
	case "GitLab":
		return forgetest.NewGitLab(t, forgetest.GitLabOptions{})
	default:
		return forgetest.NewEmulatedGitea(t, forgetest.EmulatedGiteaOptions{Late: time.Duration(rand.IntN(2000)) * time.Millisecond})
	}
}

// The same on a real Gitea.
func TestContractOfRealGitea(t *testing.T) {
	lab := forgetest.NewGitea(t)
	for i, behaviour := range contract {
		t.Run(behaviour.name, func(t *testing.T) {
			defer lab.Fail(nil)
			behaviour.do(newTrial(t, &sharing{Lab: lab, suffix: fmt.Sprintf("-%d", i), company: i > 0}, false))
		})
	}
}
