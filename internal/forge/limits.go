package forge

import (
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// learn reads what an answer tells about the budget: how much is left, and whether to come later. body is that of a
// refusal, or nil. It gives how long to wait where the request was refused for being one too many, and why.
func (w *waiter) learn(resp *http.Response, body []byte) (wait time.Duration, limited bool) {
	b := w.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	told := readLimits(resp.Header, now)
	if !w.learned {
		b.account(w, told, now)
	}
	if text := resp.Header.Get("X-Poll-Interval"); text != "" {
		if len(b.quiet) >= maxQuiet {
			maps.DeleteFunc(b.quiet, func(_ string, until time.Time) bool { return !now.Before(until) })
		}
		if seconds, err := strconv.Atoi(text); err == nil && seconds > 0 && len(b.quiet) < maxQuiet {
			b.quiet[w.path] = now.Add(min(time.Duration(seconds)*time.Second, maxPause))
		}
	}
	said, asked := retryAfter(resp.Header, now)
	limited = tooMany(resp.StatusCode, body) || resp.StatusCode == http.StatusForbidden && (asked || told.known && told.remaining == 0)
	switch {
	case limited && !asked && told.known && told.remaining == 0:
		// The purse is empty: it waits for its next window, the others do not.
		wait = b.purse(w.purse, now).drain(now)
		if b.empty++; b.empty > 1 { // and it was empty after it should have been filled: something else is meant
			wait = max(wait, b.pause(0, false, refusal(resp.StatusCode, body), now))
		}
	case limited, asked:
		wait = b.pause(said, asked, refusal(resp.StatusCode, body), now)
		b.hush(said, asked, now)
	case resp.StatusCode < 500 && !now.Before(b.closed) && !now.Before(b.purse(w.purse, now).until):
		b.strikes, b.empty = 0, 0
	}
	b.pump(now)
	return wait, limited
}

// pauseFor closes the budget for as long as the other side says, 0 where it does not say; for answers that say so in
// their body only.
func (b *budget) pauseFor(said time.Duration, reason string) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	wait := b.pause(said, said > 0, reason, now)
	b.pump(now)
	return wait
}

// exceeded notes that an answer, which the budget has learned from already, said in its body only that it was one too
// many. It gives how long to wait: until the purse is filled again where it is empty, otherwise as pauseFor.
func (b *budget) exceeded(p purse, said time.Duration, reason string) time.Duration {
	b.mu.Lock()
	now := time.Now()
	if w := b.purse(p, now); w.limit > 0 && w.remaining == 0 {
		defer b.mu.Unlock()
		return w.drain(now)
	}
	b.mu.Unlock()
	return b.pauseFor(said, reason)
}

// pause closes the budget: for as long as was said, else for a minute, and twice as long each time that this was not
// enough. The caller holds b.mu.
func (b *budget) pause(said time.Duration, asked bool, reason string, now time.Time) time.Duration {
	if !now.Before(b.closed) { // else it answers a request that was out when the pause began
		b.strikes++
	}
	wait := unsaidPause << min(max(b.strikes-1, 0), 6)
	if asked {
		wait = max(said, 0)
		if b.strikes > 1 {
			wait = max(wait, unsaidPause<<min(b.strikes-2, 6))
		}
		wait += margin
	}
	wait = min(wait, maxPause)
	if until := now.Add(wait); until.After(b.closed) {
		b.closed, b.reason = until, reason
	}
	return b.closed.Sub(now)
}

// tooMany reports whether a refusal is about too many requests. GitHub says so in its text where no header does
// (docs.github.com, rest/using-the-rest-api/rate-limits-for-the-rest-api, "Exceeding the rate limit").
func tooMany(status int, body []byte) bool {
	if status == http.StatusTooManyRequests {
		return true
	}
	if status != http.StatusForbidden {
		return false
	}
	text := strings.ToLower(string(body[:min(len(body), 4<<10)]))
	return strings.Contains(text, "rate limit") || strings.Contains(text, "abuse detection") || strings.Contains(text, "retry later")
}

func refusal(status int, body []byte) string {
	text := "it asked for a pause (HTTP status " + strconv.Itoa(status) + ")"
	if said := message(body); said != "" {
		text = "it asked for a pause: " + said
	}
	return text
}

// limits are what the header of an answer tells about a budget.
type limits struct {
	known            bool
	purse            purse // "" where it is not told
	limit, remaining int
	reset            time.Time // by our clock; zero where it is not told, or makes no sense
}

// readLimits reads the headers of GitHub and of others that took them over (X-RateLimit-…), and of GitLab (RateLimit-…).
// A reset is a point in time, in Unix seconds, or, from others, a number of seconds; points in time are of the other
// side's clock, which may be wrong. One that is past, or years ahead, is no reset.
func readLimits(h http.Header, now time.Time) limits {
	for _, family := range []string{"X-Ratelimit-", "Ratelimit-"} {
		remaining, err := strconv.Atoi(h.Get(family + "Remaining"))
		if err != nil || remaining < 0 {
			continue
		}
		limit, err := strconv.Atoi(h.Get(family + "Limit"))
		if err != nil || limit <= 0 || remaining > limit {
			continue
		}
		l := limits{known: true, purse: purse(strings.ToLower(h.Get(family + "Resource"))), limit: limit, remaining: remaining}
		if l.purse != "" && l.purse != corePurse && l.purse != graphqlPurse {
			return limits{} // none that we spend of; and whoever answers must not have us remember any number of them
		}
		if reset, err := strconv.ParseInt(h.Get(family+"Reset"), 10, 64); err == nil && reset > 0 {
			if reset > epoch {
				reset -= theirs(h, now).Unix()
			}
			if reset > 0 && reset <= int64(2*maxPause/time.Second) {
				l.reset = now.Add(time.Duration(reset) * time.Second)
			}
		}
		return l
	}
	return limits{}
}

// epoch tells points in time, in Unix seconds, from numbers of seconds: it is in the year 1973, and three years long.
const epoch = 100_000_000

// theirs is what the other side's clock showed.
func theirs(h http.Header, now time.Time) time.Time {
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		return date
	}
	return now
}

// retryAfter reads when to come again: seconds, or a date of the other side's clock.
func retryAfter(h http.Header, now time.Time) (wait time.Duration, asked bool) {
	text := h.Get("Retry-After")
	if text == "" {
		return 0, false
	}
	var seconds int64
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		seconds = n
	} else if date, err := http.ParseTime(text); err == nil {
		seconds = int64(date.Sub(theirs(h, now)) / time.Second)
	} else {
		return 0, false
	}
	return time.Duration(min(max(seconds, 0), int64(maxPause/time.Second))) * time.Second, true
}

// account settles a request that was answered. The caller holds b.mu.
func (b *budget) account(w *waiter, told limits, now time.Time) {
	if !told.known {
		b.spend(w, now)
		return
	}
	w.learned = true
	b.spendOwn()
	mine := b.purse(w.purse, now)
	mine.out--
	p := mine
	if told.purse != "" && told.purse != w.purse { // it counts on another one than we thought
		p = b.purse(told.purse, now)
		mine.used--
		p.used++
	}
	fresh := p.limit != told.limit
	p.limit, p.remaining = told.limit, told.remaining
	if p.length <= 0 {
		p.length = maxPause
	}
	switch {
	case !told.reset.IsZero():
		if told.reset.Sub(p.reset) > 2*time.Second {
			p.used = p.out + 1
		}
		p.reset = told.reset
	case told.remaining == 0 || fresh:
		p.reset = now.Add(min(p.length, unsaidPause))
	}
	if fresh {
		p.filled, p.tokens = now, min(burst(p.free(asking), p.reset.Sub(now)), max(p.tokens, minBurst))
	}
}
