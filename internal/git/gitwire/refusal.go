package gitwire

import (
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"sentry/internal/sentry"
)

// maxRetryAfter bounds what a server may ask for: GitHub's longest window is an hour, and a clock that is wrong by years
// must not silence a repository.
const maxRetryAfter = time.Hour

// statusError is an answer with another status than 200.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return e.text }

// HTTPStatus is the status of the answer.
func (e *statusError) HTTPStatus() int { return e.status }

// doubtful reports whether a server that does not know the request could answer like this.
func (e *statusError) doubtful() bool {
	switch e.status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests, http.StatusRequestTimeout,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return false
	}
	return true
}

// checkAnswer gives nil for an answer of status 200 with the wanted type, and otherwise a fault that says what to do.
func checkAnswer(resp *http.Response, a Auth, want string) error {
	if resp.StatusCode != http.StatusOK {
		return refusal(resp, a)
	}
	got := resp.Header.Get("Content-Type")
	if got == want {
		return nil
	}
	media, _, _ := mime.ParseMediaType(got)
	switch media {
	case want:
		return nil
	case "text/html":
		return invalidAnswer(resp, "it answers with a web page; is this the address of a Git repository?")
	case "text/plain", "application/octet-stream", "":
		return invalidAnswer(resp, "it offers only Git's old file-by-file (\"dumb\") HTTP protocol, or is no Git repository; a server with smart HTTP is needed")
	}
	return invalidAnswer(resp, fmt.Sprintf("it answers with %q; is this the address of a Git repository?", clip(media)))
}

func invalidAnswer(resp *http.Response, text string) error {
	return &sentry.Fault{Kind: sentry.Invalid, Err: &statusError{status: resp.StatusCode, text: text}}
}

// refusal explains an answer of another status than 200.
func refusal(resp *http.Response, a Auth) error {
	status := resp.StatusCode
	wait, limited := retryAfter(resp.Header)
	fault := func(kind sentry.FaultKind, text string) error {
		text += fmt.Sprintf(" (HTTP status %d", status)
		if said := excerpt(resp); said != "" {
			text += ", " + said
		}
		return &sentry.Fault{Kind: kind, RetryAfter: wait, Err: &statusError{status: status, text: text + ")"}}
	}
	switch {
	case status == http.StatusUnauthorized && a.Token.Empty():
		return fault(sentry.Unauthorized, "it wants credentials: it is private, or does not exist")
	case status == http.StatusUnauthorized:
		return fault(sentry.Unauthorized, "it refuses the credentials")
	case status == http.StatusTooManyRequests, status == http.StatusForbidden && limited:
		return fault(sentry.RateLimited, "it is asked too often")
	case status == http.StatusForbidden:
		return fault(sentry.Unauthorized, "it forbids reading with these credentials")
	case status == http.StatusNotFound, status == http.StatusGone:
		return fault(sentry.NotFound, "there is no such repository, or the credentials may not see it")
	case status >= 500, status == http.StatusRequestTimeout:
		return fault(sentry.Transient, "the server is in trouble")
	case isRedirect(status):
		return fault(sentry.Invalid, "it redirects a question")
	}
	return fault(sentry.Invalid, "it does not understand the question")
}

// retryAfter reads when to ask again: Retry-After, in seconds or as a date, or else the end of a window of requests that
// is used up (GitHub's X-RateLimit headers, GitLab's RateLimit). limited tells that one of them was there. Dates count
// from the server's own clock where it shows it.
func retryAfter(h http.Header) (wait time.Duration, limited bool) {
	now := time.Now()
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	if text := h.Get("Retry-After"); text != "" {
		if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
			return bounded(seconds), true
		}
		if date, err := http.ParseTime(text); err == nil {
			return bounded(int64(date.Sub(now).Seconds())), true
		}
		return 0, true
	}
	for _, family := range []string{"X-Ratelimit-", "Ratelimit-"} {
		if h.Get(family+"Remaining") != "0" {
			continue
		}
		reset, err := strconv.ParseInt(h.Get(family+"Reset"), 10, 64)
		switch {
		case err != nil:
			return 0, true
		case reset > 100_000_000: // a point in time, in Unix seconds; otherwise it is a duration
			reset -= now.Unix()
		}
		return bounded(reset), true
	}
	return 0, false
}

func bounded(seconds int64) time.Duration {
	return time.Duration(min(max(seconds, 0), int64(maxRetryAfter/time.Second))) * time.Second
}

// excerpt quotes the first line of a refusal that is plain text.
func excerpt(resp *http.Response) string {
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if media != "text/plain" || resp.Header.Get("Content-Encoding") != "" {
		return ""
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	if line = strings.TrimSpace(line); line == "" {
		return ""
	}
	return fmt.Sprintf("it says %q", clip(line))
}
