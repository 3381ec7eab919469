package git

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"sentry/internal/git/gitwire"
	"sentry/internal/sentry"
)

const (
	// revisionTimeout and maxRevisionBytes bound what knowing an author may cost. A server that can leave out trees and
	// files sends some 300 bytes; one that cannot sends the whole tree of the commit, or as much as fits.
	revisionTimeout  = 20 * time.Second
	maxRevisionBytes = 64 << 20

	// maxAuthor and maxSubject bound texts that go into the state and the environment of commands, in bytes.
	maxAuthor  = 256
	maxSubject = 512
)

// Revision asks who made the commit that a branch points at, when, and what its message begins with. Only the commit is
// fetched, without files where the server can leave them out: over HTTP in Go, otherwise by git into a repository that
// lives as long as the question. The texts are one line each and free of control characters. The error is a
// *sentry.Fault; where there is one, the commit is as good as before.
func (g *Git) Revision(ctx context.Context, r sentry.Remote, a Auth, branch, commit string) (sentry.Revision, error) {
	ctx, cancel := context.WithTimeout(ctx, revisionTimeout)
	defer cancel()
	revision, err := g.revision(ctx, r, a, branch, commit)
	return revision, unknown(r, commit, err)
}

// LooseRevision asks the same of a server that gives out the files in which it keeps its objects, as Gitea and Forgejo do.
// That is answered twice as fast, but tells of what was pushed lately only: where the error is of kind NotFound or
// Invalid, Revision may still be told.
func (g *Git) LooseRevision(ctx context.Context, r sentry.Remote, a Auth, commit string) (sentry.Revision, error) {
	ctx, cancel := context.WithTimeout(ctx, revisionTimeout)
	defer cancel()
	revision, err := askForCommit(ctx, r, a, commit, g.wire.LooseCommit)
	return revision, unknown(r, commit, err)
}

// unknown is the error of a commit of which nothing can be learnt.
func unknown(r sentry.Remote, commit string, err error) error {
	if err == nil {
		return nil
	}
	f := sentry.AsFault(err)
	return &sentry.Fault{
		Kind: f.Kind, RetryAfter: f.RetryAfter,
		Err: fmt.Errorf("cannot learn who made commit %s of %s: %w", sentry.ShortCommit(commit), r, err),
	}
}

func (g *Git) revision(ctx context.Context, r sentry.Remote, a Auth, branch, commit string) (sentry.Revision, error) {
	none := sentry.Revision{Commit: commit}
	if err := sentry.CheckCommit(commit); err != nil {
		return none, &sentry.Fault{Kind: sentry.Invalid, Err: err}
	}
	if err := sentry.CheckBranch(branch); err != nil {
		return none, &sentry.Fault{Kind: sentry.Invalid, Err: err}
	}
	if s := r.Scheme(); s == "http" || s == "https" {
		revision, err := askForCommit(ctx, r, a, commit, g.wire.Commit)
		if !errors.Is(err, gitwire.ErrNoFetch) {
			return revision, err
		}
	}
	dir, err := os.MkdirTemp(g.temp, "revision-")
	if err != nil {
		return none, err
	}
	defer func() { _ = RemoveTree(dir) }()
	if err := g.initBare(ctx, dir, len(commit) == 64); err != nil {
		return none, err
	}
	err = g.fetch(ctx, fetching{
		remote: r, auth: a, dir: dir, from: heads + branch, to: heads + branch, depth: 1, onlyCommits: true, maxBytes: maxRevisionBytes,
	})
	if err != nil {
		return none, err
	}
	// %x00 cannot be in any of the fields. A branch that moved since then is asked for the commit that was meant.
	out, err := g.run(ctx, call{args: []string{
		"--git-dir=" + dir, "log", "-1", "--no-show-signature", "--encoding=UTF-8", "--no-mailmap", "--no-decorate", "--no-notes",
		"--format=%H%x00%an%x00%ae%x00%ct%x00%s", "--end-of-options", commit, "--",
	}})
	if err != nil {
		return none, err
	}
	fields := strings.Split(strings.TrimSuffix(out, "\n"), "\x00")
	if len(fields) != 5 || fields[0] != commit {
		return none, sentry.Faultf(sentry.Invalid, "git log answers %q", clip(out, 200))
	}
	var at time.Time
	if seconds, err := strconv.ParseInt(fields[3], 10, 64); err == nil && seconds < lastSecond {
		at = time.Unix(seconds, 0).UTC()
	}
	return makeRevision(commit, fields[1], fields[2], fields[4], at), nil
}

// lastSecond is the end of the year 9999, in Unix seconds: JSON has no later times.
const lastSecond = 253_402_300_799

// askForCommit asks a server over HTTP, in one of the ways in which it may be asked.
func askForCommit(ctx context.Context, r sentry.Remote, a Auth, commit string, ask func(context.Context, sentry.Remote, gitwire.Auth, string) (gitwire.Commit, error)) (sentry.Revision, error) {
	revision := sentry.Revision{Commit: commit}
	err := withToken(ctx, a, func(token sentry.Secret) error {
		c, err := ask(ctx, r, gitwire.Auth{Username: a.Username, Token: token}, commit)
		if err != nil {
			return err
		}
		revision = NewRevision(commit, c)
		return nil
	})
	return revision, err
}

// NewRevision makes what is kept of a commit out of what it says of itself: one line each, free of control characters and
// not too long.
func NewRevision(commit string, c gitwire.Commit) sentry.Revision {
	// As git has it, the subject is the first paragraph.
	subject, _, _ := strings.Cut(strings.TrimLeft(c.Message, "\n"), "\n\n")
	return makeRevision(commit, c.AuthorName, c.AuthorEmail, subject, c.Time)
}

func makeRevision(commit, name, email, subject string, at time.Time) sentry.Revision {
	return sentry.Revision{
		Commit: commit, Author: oneLine(fmt.Sprintf("%s <%s>", name, email), maxAuthor), Subject: oneLine(subject, maxSubject), Time: at,
	}
}

// oneLine makes a text fit for one line of any output.
func oneLine(text string, most int) string {
	return clip(strings.TrimSpace(printable(text, false)), most)
}
