package git

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"sentry/internal/git/gitwire"
	"sentry/internal/sentry"
)

const (
	heads = "refs/heads/"
	// askTimeout bounds a question that goes through the git binary.
	askTimeout = 30 * time.Second
)

// Heads asks what the branches that match one of the patterns point at: branch to commit. All patterns of a repository
// are one question. Branches that Sentry has no use for (see sentry.CheckBranch) are as if they were not there. The
// error is a *sentry.Fault.
func (g *Git) Heads(ctx context.Context, r sentry.Remote, a Auth, patterns []sentry.Pattern) (map[string]string, error) {
	found, _, err := g.HeadsSince(ctx, r, a, patterns, 0)
	return found, err
}

// Digest stands for what a server has answered.
type Digest = gitwire.Digest

// HeadsSince is Heads for a question that is put again and again, with the same patterns: now stands for the answer. Where
// that is the answer that last stands for, found is nil: nothing has moved. It costs a fifth then.
func (g *Git) HeadsSince(ctx context.Context, r sentry.Remote, a Auth, patterns []sentry.Pattern, last Digest) (found map[string]string, now Digest, err error) {
	err = withToken(ctx, a, func(token sentry.Secret) error {
		var refs []gitwire.Ref
		if refs, now, err = g.refs(ctx, r, a, token, patterns, last); err != nil {
			return err
		}
		if refs == nil && now != 0 {
			return nil
		}
		found = make(map[string]string, len(patterns))
		wanted := newMatcher(patterns)
		for _, ref := range refs {
			branch, isBranch := strings.CutPrefix(ref.Name, heads)
			if isBranch && wanted.match(branch) {
				found[branch] = ref.Commit
			}
		}
		return nil
	})
	if err != nil {
		return nil, 0, sentry.AsFault(err)
	}
	return found, now, nil
}

// refs lists the branches that may match, and perhaps others; none where the answer is the one that last stands for.
func (g *Git) refs(ctx context.Context, r sentry.Remote, a Auth, token sentry.Secret, patterns []sentry.Pattern, last Digest) ([]gitwire.Ref, Digest, error) {
	switch r.Scheme() {
	case "http", "https":
		if len(patterns) == 0 {
			return nil, 0, nil
		}
		prefixes := prefixLists.Get().(*[]string)
		defer func() {
			clear(*prefixes)
			*prefixes = (*prefixes)[:0]
			prefixLists.Put(prefixes)
		}()
		for _, p := range patterns {
			*prefixes = append(*prefixes, p.Prefix())
		}
		return g.wire.ListBranches(ctx, r, gitwire.Auth{Username: a.Username, Token: token}, *prefixes, last)
	}
	refs, err := g.lsRemote(ctx, r, a)
	return refs, 0, err
}

// prefixLists has room for the prefixes of a question, which nobody keeps.
var prefixLists = sync.Pool{New: func() any { return new([]string) }}

// lsRemote lists all branches by the git binary.
func (g *Git) lsRemote(ctx context.Context, r sentry.Remote, a Auth) ([]gitwire.Ref, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := g.silence(r); err != nil {
		return nil, err
	}
	v, err := g.Version(ctx)
	if err != nil {
		return nil, err
	}
	env, hide, err := g.credentials(r, a, sentry.Secret{}, v)
	if err != nil {
		return nil, &sentry.Fault{Kind: sentry.Unauthorized, Err: err}
	}
	out, err := g.run(ctx, call{
		args:   []string{"ls-remote", "--heads", "--end-of-options", r.String()},
		scheme: r.Scheme(), env: env, hide: hide,
	})
	if err != nil {
		return nil, remoteFault(fmt.Errorf("cannot ask %s: %w", r, advise(err, r, a)))
	}
	var refs []gitwire.Ref
	for line := range strings.Lines(out) {
		commit, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if !ok || sentry.CheckCommit(commit) != nil {
			return nil, sentry.Faultf(sentry.Invalid, "cannot ask %s: %q is not a ref", r, clip(line, 200))
		}
		refs = append(refs, gitwire.Ref{Name: name, Commit: commit})
	}
	return refs, nil
}

// matcher tells whether a branch is meant by one of many patterns.
type matcher struct {
	exact map[string]struct{} // nil where there are few
	other []sentry.Pattern
}

func newMatcher(patterns []sentry.Pattern) matcher {
	const few = 8
	if len(patterns) <= few {
		return matcher{other: patterns}
	}
	m := matcher{exact: make(map[string]struct{}, len(patterns))}
	for _, p := range patterns {
		if p.Exact() {
			m.exact[p.String()] = struct{}{}
		} else {
			m.other = append(m.other, p)
		}
	}
	return m
}

// match reports whether a branch is meant. An exact pattern is a name that was checked; all others must be checked now.
func (m matcher) match(branch string) bool {
	if _, ok := m.exact[branch]; ok {
		return true
	}
	for _, p := range m.other {
		if p.Match(branch) {
			return p.Exact() || sentry.CheckBranch(branch) == nil
		}
	}
	return false
}
