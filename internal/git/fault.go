package git

import (
	"context"
	"errors"
	"regexp"
	"strings"

	"sentry/internal/sentry"
)

// signs are what git, ssh and servers say when something is wrong, in the order in which they are looked for. git has
// no codes for it; with LC_ALL=C these words have been the same for many years.
var signs = []struct {
	kind  sentry.FaultKind
	words *regexp.Regexp
}{
	{sentry.RateLimited, regexp.MustCompile(`(?i)returned error: 429|too many requests|rate limit`)},
	{sentry.Unauthorized, regexp.MustCompile(`(?i)returned error: 40[13]|authentication failed|could not read (username|password)|` +
		`permission denied|host key verification failed|access denied|invalid credentials`)},
	{sentry.NotFound, regexp.MustCompile(`(?i)returned error: (404|410)|repository .*not found|repository not found|does not exist|` +
		`does not appear to be a git repository|couldn't find remote ref|no such remote ref`)},
	{sentry.Invalid, regexp.MustCompile(`(?i)returned error: 3\d\d|unable to update url base from redirection|not valid: is this a git repository|` +
		`protocol error|bad line length|mismatched (object format|algorithms)`)},
}

// remoteFault turns a git that failed while it spoke to a server into a fault.
func remoteFault(err error) error {
	var failed *runError
	if !errors.As(err, &failed) {
		return err
	}
	kind := sentry.Transient
	if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		for _, sign := range signs {
			if sign.words.MatchString(failed.stderr) {
				kind = sign.kind
				break
			}
		}
	}
	return &sentry.Fault{Kind: kind, Err: err}
}

// damage is what git says when objects that it has are not what they should be.
var damage = regexp.MustCompile(`(?i)corrupt|inflate|packfile|loose object|bad object|bad tree|unable to read|could not read|` +
	`cannot read|failed to read|missing|hash mismatch|not a valid object|invalid object|did not send all necessary objects|not a tree object`)

// damaged reports whether a git that failed may have failed because of what the mirror has on disk.
func (m *mirror) damaged(ctx context.Context, err error) bool {
	var failed *runError
	if !errors.As(err, &failed) || ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errMirrorTooBig) {
		return false
	}
	if sentry.AsFault(err).Kind != sentry.Transient || strings.Contains(failed.stderr, "unable to access") || strings.Contains(failed.stderr, cutOff) {
		return false // the server said so, or is not there
	}
	return damage.MatchString(failed.stderr) || !m.sound(ctx)
}
