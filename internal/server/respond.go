package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"runtime/debug"
	"strings"
	"time"
	"unicode/utf8"

	"sentry/internal/config"
	"sentry/internal/store"
)

// ErrUnauthenticated is what Options.Authorize answers to a caller that shows no credentials, or wrong ones.
var ErrUnauthenticated = errors.New("credentials are missing or wrong")

type callerKey struct{}

// guard is around everything: no handler takes the process down, and no answer is guessed at or kept by a browser.
func (h *handler) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		tracked := &tracker{ResponseWriter: w}
		defer func() {
			cause := recover()
			switch {
			case cause == nil:
				return
			case cause == http.ErrAbortHandler: //nolint:errorlint // net/http compares it like this
				panic(cause)
			}
			h.Log.Error("a request ended in a panic", "method", r.Method, "path", r.URL.Path, "error", fmt.Sprint(cause), "stack", string(debug.Stack()))
			if tracked.begun {
				panic(http.ErrAbortHandler) // the caller must not take half an answer for a whole one
			}
			h.fail(tracked, r, &Error{Status: http.StatusInternalServerError, Code: "internal", Message: "this request met a defect of Sentry", Hint: "the daemon's log has the details"})
		}()
		next.ServeHTTP(tracked, r)
	})
}

// serve is around each route: role, deadlines, and the form of errors.
func (h *handler) serve(route Route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		if h.Hosts != nil && route.Role != RoleNone && !h.Hosts(r.Host) {
			h.fail(w, r, &Error{Status: http.StatusMisdirectedRequest, Code: "wrong_host", Message: "this is not the name of this server", Hint: "use its address, or the name in global.public_url"})
			return
		}
		if h.Authorize != nil && route.Role != RoleNone {
			caller, err := h.Authorize(r, route.Role)
			if err != nil {
				h.fail(w, r, denied(err, route.Role))
				return
			}
			ctx = context.WithValue(ctx, callerKey{}, caller)
		}
		// In a process of our own there is no connection that could be slow, and no deadline to set.
		deadlines := http.NewResponseController(w)
		_ = deadlines.SetReadDeadline(time.Now().Add(bodyTimeout))
		if !route.Streams {
			_ = deadlines.SetWriteDeadline(time.Now().Add(answerTimeout))
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, answerTimeout)
			defer cancel()
		}
		r.Body = http.MaxBytesReader(w, r.Body, route.limit())
		if err := route.handle(h, w, r.WithContext(ctx)); err != nil {
			h.fail(w, r, err)
		}
	})
}

func denied(err error, need Role) error {
	if errors.Is(err, ErrUnauthenticated) {
		return &Error{Status: http.StatusUnauthorized, Code: "unauthenticated", Message: err.Error()}
	}
	return &Error{Status: http.StatusForbidden, Code: "not_allowed", Message: fmt.Sprintf("this needs the role %q: %v", need, err)}
}

// noRoute answers what the table does not have.
func (h *handler) noRoute(w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := h.mux.Handler(other); pattern != "/" {
			allowed = append(allowed, method)
		}
	}
	if allowed == nil {
		h.fail(w, r, noSuchRoute())
		return
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	h.fail(w, r, &Error{Status: http.StatusMethodNotAllowed, Code: "wrong_method", Message: "this path takes " + strings.Join(allowed, " or ") + " only"})
}

func noSuchRoute() error {
	return &Error{Status: http.StatusNotFound, Code: "no_such_route", Message: "there is nothing at this path", Hint: "GET " + Prefix + " lists what there is"}
}

// answer writes v as JSON.
func answer(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot write the answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // a caller that went away is its own affair
	return nil
}

// fail writes err in the form of errors. Where the answer has begun it ends it, so that the caller sees it is not whole.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	e := asError(err)
	switch {
	case e.Status < http.StatusInternalServerError, e.Status == http.StatusServiceUnavailable, r == nil:
	case r.Context().Err() != nil: // nobody waits for the answer: the caller went away, or the daemon ends
		h.Log.Debug("an answer was not waited for", "method", r.Method, "path", r.URL.Path, "error", err)
	default:
		h.Log.Error("cannot answer a request", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	if t, ok := w.(*tracker); ok && t.begun {
		panic(http.ErrAbortHandler)
	}
	if answer(w, e.Status, Failure{*e}) != nil {
		w.WriteHeader(http.StatusInternalServerError)
	}
}

// asError chooses the status of an error by what the caller can do next.
func asError(err error) *Error {
	var (
		e        *Error
		problems config.Problems
		locked   *store.LockedError
	)
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &problems):
		return &Error{
			Status: http.StatusUnprocessableEntity, Code: "invalid_configuration", Problems: problems,
			Message: "the configuration is not valid, and the one before stays in use", Hint: "`sentry validate` shows the same problems",
		}
	case errors.Is(err, store.ErrNotFound):
		return &Error{Status: http.StatusNotFound, Code: "not_found", Message: err.Error()}
	case errors.Is(err, store.ErrFinal):
		return &Error{Status: http.StatusConflict, Code: "final", Message: err.Error()}
	case errors.Is(err, store.ErrFenced), errors.As(err, &locked):
		return &Error{Status: http.StatusServiceUnavailable, Code: "not_owner", Message: err.Error()}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Status: http.StatusGatewayTimeout, Code: "timed_out", Message: "this took too long and was given up"}
	}
	return &Error{Status: http.StatusInternalServerError, Code: "internal", Message: err.Error()}
}

// decode reads the body as JSON into v: nothing at all leaves v as it is, anything else must be exactly what v has.
func decode(r *http.Request, v any) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return &Error{Status: http.StatusRequestEntityTooLarge, Code: "too_large", Message: fmt.Sprintf("a body may have %d bytes", tooLarge.Limit)}
		}
		return invalid("cannot read the body: %v", err)
	}
	if len(body) == 0 {
		return nil
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return &Error{Status: http.StatusUnsupportedMediaType, Code: "not_json", Message: "the body must be application/json"}
	}
	d := json.NewDecoder(strings.NewReader(string(body)))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return invalid("the body is not what this route takes: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return invalid("there is something after the end of the JSON")
	}
	return nil
}

func invalid(format string, args ...any) error {
	return &Error{Status: http.StatusBadRequest, Code: "invalid", Message: fmt.Sprintf(format, args...)}
}

// query gives the parameters of a request, each of which must be among known.
func query(r *http.Request, known ...string) (map[string][]string, error) {
	q := r.URL.Query()
next:
	for name := range q {
		for _, k := range known {
			if name == k {
				continue next
			}
		}
		return nil, invalid("there is no parameter %q here; there are %s", clean(name, 40), strings.Join(known, ", "))
	}
	return q, nil
}

// caller is the name under which a request acts: the one that was proved, else the one that the caller says.
func (h *handler) caller(r *http.Request, says string) string {
	if c, ok := r.Context().Value(callerKey{}).(Caller); ok {
		return clean(c.Name, 100)
	}
	return clean(says, 100)
}

// clean makes a text that somebody sends fit for the ledger: one line of at most limit bytes.
func clean(text string, limit int) string {
	text = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, "\uFFFD"), func(r rune) bool { return r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 }), " ")
	if len(text) <= limit {
		return text
	}
	cut := limit
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}

// tracker notes whether an answer has begun.
type tracker struct {
	http.ResponseWriter
	begun bool
}

func (t *tracker) WriteHeader(status int) {
	t.begun = true
	t.ResponseWriter.WriteHeader(status)
}

func (t *tracker) Write(p []byte) (int, error) {
	t.begun = true
	return t.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (t *tracker) Unwrap() http.ResponseWriter { return t.ResponseWriter }
