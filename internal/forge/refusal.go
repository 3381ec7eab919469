package forge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"sentry/internal/sentry"
)

// maxSaid is how much of a refusal is read, and maxQuote how much of it is repeated, in bytes.
const (
	maxSaid  = 64 << 10
	maxQuote = 200
)

// StatusError is an answer that refuses.
type StatusError struct {
	Status  int
	Said    string      // what the other side gave as the reason; one line, not to be trusted
	Header  http.Header // of the answer
	address string      // what was asked
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("%s answers with HTTP status %d", e.address, e.Status)
	if e.Said != "" {
		text += fmt.Sprintf(" and says %q", e.Said)
	}
	return text
}

// failed says what a request came to that got no answer, or not all of it.
func (a *account) failed(ctx context.Context, address string, err error) error {
	if f, ok := errors.AsType[*sentry.Fault](err); ok {
		return &sentry.Fault{Kind: f.Kind, RetryAfter: f.RetryAfter, Err: fmt.Errorf("cannot ask %s: %w", address, f.Err)}
	}
	kind := sentry.Transient
	switch {
	case errors.Is(err, errTooLong), errors.Is(err, errHops):
		kind = sentry.Invalid
	case strings.Contains(err.Error(), " Location header"): // net/http has no type for it
		return sentry.Faultf(sentry.Invalid, "cannot ask %s: it redirects to nowhere", address)
	}
	if off, ok := errors.AsType[*OffOriginError](err); ok {
		return sentry.Faultf(sentry.NotFound, "cannot ask %s: %w", address, off)
	}
	if ctx.Err() != nil {
		return sentry.Faultf(kind, "cannot ask %s: %w", address, ctx.Err())
	}
	return sentry.Faultf(kind, "cannot ask %s: %w", address, cause(err))
}

// statusFault is what an answer means that refuses.
func statusFault(resp *http.Response, body []byte, address string) error {
	e := &StatusError{Status: resp.StatusCode, Said: message(body), Header: resp.Header, address: address}
	wait, _ := retryAfter(resp.Header, time.Now())
	f := &sentry.Fault{Kind: sentry.Invalid, RetryAfter: wait, Err: e}
	switch status := resp.StatusCode; {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		f.Kind = sentry.Unauthorized
	case status == http.StatusNotFound, status == http.StatusGone, status == http.StatusUnavailableForLegalReasons:
		f.Kind = sentry.NotFound
	case status == http.StatusTooManyRequests:
		f.Kind = sentry.RateLimited
	case status >= 500, status == http.StatusRequestTimeout, status == http.StatusTooEarly:
		f.Kind = sentry.Transient
	}
	return f
}

// libraryFault is what the error of a client library means; resp is the answer that it came with, or nil.
func (a *account) libraryFault(ctx context.Context, address string, err error, resp *http.Response) error {
	if _, ok := errors.AsType[*sentry.Fault](err); ok || resp == nil || resp.StatusCode < 300 {
		return a.failed(ctx, address, err)
	}
	return statusFault(resp, excerptOf(resp), address)
}

// excerptOf reads the beginning of a body, and closes it.
func excerptOf(resp *http.Response) []byte {
	if resp.Body == nil {
		return nil
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxSaid))
	return body
}

// message finds what a refusal says: the message of GitHub and Gitea, message or error of GitLab; in one line.
func message(body []byte) string {
	var said struct {
		Message any `json:"message"`
		Error   any `json:"error"`
		Detail  any `json:"error_description"`
	}
	if json.Unmarshal(body, &said) != nil {
		return ""
	}
	for _, v := range []any{said.Message, said.Detail, said.Error} {
		switch v := v.(type) {
		case nil:
		case string:
			if v != "" {
				return oneLine(v)
			}
		default:
			data, _ := json.Marshal(v)
			return oneLine(string(data))
		}
	}
	return ""
}

// oneLine makes a text of the other side fit for a message.
func oneLine(text string) string {
	var out strings.Builder
	for _, r := range strings.Join(strings.Fields(text), " ") {
		if out.Len() >= maxQuote {
			out.WriteString("…")
			break
		}
		if r != utf8.RuneError && unicode.IsPrint(r) {
			out.WriteRune(r)
		}
	}
	return out.String()
}

// jsonMistake says what is wrong with JSON, without what stands there.
func jsonMistake(err error) string {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Sprintf("%s is a %s", wrong.Field, wrong.Value)
	}
	if bad, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Sprintf("it breaks off or goes wrong after %d bytes", bad.Offset)
	}
	return "it cannot be read"
}
