package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"sentry/internal/config"
	"sentry/internal/daemon"
	"sentry/internal/sentry"
)

const (
	checksAtOnce = 8
	checkTimeout = 30 * time.Second
)

// question asks one repository, with one account, for all branches that matter in it.
type question struct {
	remote   sentry.Remote
	auth     config.Auth
	patterns []sentry.Pattern
	uses     []use
	of       *config.Repository // an entry that names it, on this side
	side     sentry.Target
	watched  *config.Repository // one that is watched there; nil for a QA repository
}

// use is what a part of the configuration expects of a repository.
type use struct {
	place    int              // in the order of the configuration
	subject  string           // which repository of the configuration, and which side of it
	key      string           // where the configuration names it
	patterns []sentry.Pattern // each must match at least one branch; a glob may match none
}

// questions puts together what is asked of the same repository with the same account.
func questions(cfg *config.Config) []*question {
	type identity struct {
		remote sentry.Remote
		auth   config.Auth
		api    string // who makes the tokens of an App
	}
	var list []*question
	index := map[identity]*question{}
	places := 0
	add := func(r *config.Repository, side sentry.Target, u use) *question {
		remote, auth := r.Monitor.Remote, r.Monitor.Auth
		if side == sentry.QA {
			remote, auth = r.Deploy.Remote, r.Deploy.Auth
		}
		id := identity{remote: remote, auth: auth}
		if auth.App != nil {
			id.api = r.Monitor.APIURL
		}
		q := index[id]
		if q == nil {
			q = &question{remote: remote, auth: auth, of: r, side: side}
			index[id] = q
			list = append(list, q)
		}
		for _, p := range u.patterns {
			if !slices.ContainsFunc(q.patterns, func(known sentry.Pattern) bool { return known.String() == p.String() }) {
				q.patterns = append(q.patterns, p)
			}
		}
		u.place, places = places, places+1
		q.uses = append(q.uses, u)
		return q
	}
	for i := range cfg.Repositories {
		r := &cfg.Repositories[i]
		add(r, sentry.Upstream, use{subject: r.Name, key: r.Name + ": monitor", patterns: r.Monitor.Branches}).watched = r
		if branch, err := sentry.ParsePattern(r.Deploy.Branch); err == nil { // always: the configuration has checked it
			add(r, sentry.QA, use{subject: r.Name + " (QA)", key: r.Name + ": deploy", patterns: []sentry.Pattern{branch}})
		}
	}
	return list
}

// checkRemotes asks every repository once, some at a time. The findings are in the order of the configuration.
func checkRemotes(ctx context.Context, cfg *config.Config, inquiry *daemon.Inquiry) ([]finding, error) {
	found := make([]finding, 2*len(cfg.Repositories))
	var group errgroup.Group
	group.SetLimit(checksAtOnce)
	for _, q := range questions(cfg) {
		group.Go(func() error {
			heads, wrong := q.ask(ctx, inquiry)
			for _, u := range q.uses {
				f := u.judge(q.remote, heads)
				if wrong != nil {
					f = *wrong
					f.Subject = u.subject
				}
				found[u.place] = f
			}
			return nil
		})
	}
	_ = group.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return found, nil
}

// ask gives the branches that there are, or what is wrong.
func (q *question) ask(ctx context.Context, inquiry *daemon.Inquiry) (map[string]string, *finding) {
	if f := q.credentials(); f != nil {
		return nil, f
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	heads, err := inquiry.Heads(ctx, q.of, q.side, q.patterns)
	if err == nil {
		return heads, nil
	}
	f := &finding{Status: checkFail, Message: err.Error(), Fix: mend(sentry.AsFault(err), q.remote, q.auth)}
	if q.watched != nil {
		if better := inquiry.Diagnose(ctx, q.watched, err); better != err { // it says what to do
			f.Message, f.Fix = fmt.Sprintf("%s: %v", q.remote, better), ""
		}
	}
	return nil, f
}

// credentials says what is wrong with them before anybody is asked; nil where nothing is.
func (q *question) credentials() *finding {
	if _, err := q.auth.Secret(); err != nil {
		return &finding{Status: checkFail, Message: err.Error(), Fix: "put the token there, readable for the user that runs Sentry"}
	}
	files := []string{q.auth.SSHKeyFile, q.auth.KnownHostsFile}
	if q.auth.App != nil {
		files = append(files, q.auth.App.KeyFile)
	}
	for _, file := range files {
		if file == "" {
			continue
		}
		f, err := os.Open(file)
		if err != nil {
			return &finding{Status: checkFail, Message: err.Error(), Fix: "put the file there, readable for the user that runs Sentry"}
		}
		_ = f.Close()
	}
	return nil
}

// judge compares the branches that there are with those that are expected.
func (u use) judge(remote sentry.Remote, heads map[string]string) finding {
	var seen, missing, empty []string
	for _, p := range u.patterns {
		if p.Exact() {
			if commit, ok := heads[p.String()]; ok {
				seen = append(seen, p.String()+" at "+sentry.ShortCommit(commit))
			} else {
				missing = append(missing, p.String())
			}
			continue
		}
		n := 0
		for branch := range heads {
			if p.Match(branch) {
				n++
			}
		}
		seen = append(seen, fmt.Sprintf("%s matches %s", p, counted(n, "branch", "branches")))
		if n == 0 {
			empty = append(empty, p.String())
		}
	}
	f := finding{checkOK, u.subject, fmt.Sprintf("%s: %s", remote, strings.Join(seen, ", ")), ""}
	switch {
	case len(missing) > 0:
		f.Status = checkFail
		f.Message = fmt.Sprintf("%s has no branch %s", remote, strings.Join(missing, ", "))
		f.Fix = fmt.Sprintf("correct the branch in %s, or create it", u.key)
	case len(empty) > 0:
		f.Status = checkWarn
		f.Fix = fmt.Sprintf("nothing to do if such branches are to come; else correct the pattern in %s", u.key)
	}
	return f
}

// mend says what a person can do about a fault.
func mend(f *sentry.Fault, remote sentry.Remote, auth config.Auth) string {
	if remote.Scheme() == "file" {
		return mendLocal(f, remote.Path())
	}
	switch f.Kind {
	case sentry.Unauthorized:
		switch {
		case auth.SSHKeyFile != "":
			return "register the public half of " + auth.SSHKeyFile + " at the server, with the right to read"
		case auth.TokenFile != "":
			return "renew the token in " + auth.TokenFile + ", or give it the right to read this repository"
		case !auth.Token.Empty():
			return "renew the token, or give it the right to read this repository"
		}
		return "give a token with the right to read this repository"
	case sentry.NotFound:
		return "correct the address, or let the account see the repository: servers hide what it may not see"
	case sentry.RateLimited:
		return "wait, and then poll less often or with an account of its own"
	case sentry.Invalid:
		return "see whether this is the address of a Git repository"
	}
	return "see whether this machine reaches the server: name, proxy, firewall, certificate"
}

// mendLocal says what a person can do about a repository of this machine that does not answer.
func mendLocal(f *sentry.Fault, path string) string {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "there is nothing at " + path + ": correct the path, or put a repository there"
	case errors.Is(err, fs.ErrPermission):
		return "let the user that runs Sentry read " + path
	case err == nil && !info.IsDir():
		return path + " is a file: name the folder of the repository"
	case strings.Contains(f.Error(), "ownership"):
		return "git reads only repositories of the user that runs it: give " + path + " to the one that runs Sentry"
	}
	return "let the path lead to a Git repository: a bare one, or a folder with .git in it"
}
