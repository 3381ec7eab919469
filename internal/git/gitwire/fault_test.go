package gitwire_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"sentry/internal/git/gittest"
	"sentry/internal/git/gitwire"
	"sentry/internal/sentry"
)

const canary = `c4n4ry-"t0k3n"/+%`

var account = gitwire.Auth{Username: "bot", Token: sentry.NewSecret(canary)}

// leaks tells whether a text has the canary in one of the forms that it takes on its way.
func leaks(text string) bool {
	for _, form := range []string{
		canary, url.QueryEscape(canary), url.PathEscape(canary), base64.StdEncoding.EncodeToString([]byte(canary)),
		base64.StdEncoding.EncodeToString([]byte("bot:" + canary)), strings.Trim(fmt.Sprintf("%q", canary), `"`),
	} {
		if strings.Contains(text, form) {
			return true
		}
	}
	return false
}

func TestRefusals(t *testing.T) {
	day := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC) // the server's clock, far from ours
	header := func(pairs ...string) http.Header {
		h := http.Header{"Date": {day.Format(http.TimeFormat)}}
		for i := 0; i < len(pairs); i += 2 {
			h.Set(pairs[i], pairs[i+1])
		}
		return h
	}
	for _, c := range []struct {
		status int
		header http.Header
		kind   sentry.FaultKind
		wait   time.Duration
	}{
		{401, nil, sentry.Unauthorized, 0},
		{403, nil, sentry.Unauthorized, 0},
		{403, header("Retry-After", "90"), sentry.RateLimited, 90 * time.Second},
		{403, header("X-RateLimit-Remaining", "0", "X-RateLimit-Reset", fmt.Sprint(day.Unix()+120)), sentry.RateLimited, 2 * time.Minute},
		{403, header("X-RateLimit-Remaining", "17", "X-RateLimit-Reset", fmt.Sprint(day.Unix()+120)), sentry.Unauthorized, 0},
		{429, nil, sentry.RateLimited, 0},
		{429, header("Retry-After", "7"), sentry.RateLimited, 7 * time.Second},
		{429, header("Retry-After", "-7"), sentry.RateLimited, 0},
		{429, header("Retry-After", "99999999999"), sentry.RateLimited, time.Hour},
		{429, header("Retry-After", "99999999999999999999"), sentry.RateLimited, 0},
		{429, header("Retry-After", "soon"), sentry.RateLimited, 0},
		{429, header("Retry-After", day.Add(5*time.Minute).Format(http.TimeFormat)), sentry.RateLimited, 5 * time.Minute},
		{429, header("Retry-After", day.Add(-5*time.Minute).Format(http.TimeFormat)), sentry.RateLimited, 0},
		{429, header("Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT"), sentry.RateLimited, time.Hour},
		{429, header("RateLimit-Remaining", "0", "RateLimit-Reset", "45"), sentry.RateLimited, 45 * time.Second},
		{429, header("RateLimit-Remaining", "0", "RateLimit-Reset", "never"), sentry.RateLimited, 0},
		// GitLab's is a moment, in Unix seconds; that of the IETF's drafts, and of others, a number of seconds.
		{429, header("RateLimit-Remaining", "0", "RateLimit-Reset", fmt.Sprint(day.Unix()+45)), sentry.RateLimited, 45 * time.Second},
		{429, header("RateLimit-Remaining", "0", "RateLimit-Reset", fmt.Sprint(day.Unix()-45)), sentry.RateLimited, 0},
		{429, header("RateLimit-Remaining", "0", "RateLimit-Reset", fmt.Sprint(day.Unix()+7200)), sentry.RateLimited, time.Hour},
		{429, header("RateLimit-Remaining", "0", "RateLimit-Reset", "253402300799"), sentry.RateLimited, time.Hour},
		{429, header("RateLimit-Remaining", "0", "RateLimit-Reset", "0"), sentry.RateLimited, 0},
		{429, header("RateLimit-Remaining", "0", "RateLimit-Reset", "-1"), sentry.RateLimited, 0},
		{429, header("RateLimit-Remaining", "0", "RateLimit-Reset", "86400"), sentry.RateLimited, time.Hour},
		{429, header("RateLimit-Remaining", "0", "RateLimit-Reset", "100000000"), sentry.RateLimited, time.Hour},
		{429, header("RateLimit-Remaining", "0", "RateLimit-Reset", "100000001"), sentry.RateLimited, 0},
		{429, header("RateLimit-Remaining", "0", "RateLimit-Reset", "999999999"), sentry.RateLimited, 0},
		{404, nil, sentry.NotFound, 0},
		{410, nil, sentry.NotFound, 0},
		{500, nil, sentry.Transient, 0},
		{502, nil, sentry.Transient, 0},
		{503, header("Retry-After", "30"), sentry.Transient, 30 * time.Second},
		{408, nil, sentry.Transient, 0},
		{400, nil, sentry.Invalid, 0},
		{204, nil, sentry.Invalid, 0},
		{418, nil, sentry.Invalid, 0},
	} {
		s := gittest.NewServer(t)
		repo := s.Repo(t, "r.git")
		repo.Commit(t, "main", nil, "first")
		for _, contact := range []string{"first", "later"} {
			client := gitwire.New(gitwire.Options{})
			s.Intercept(nil)
			if contact == "later" {
				list(t, client, repo.URL, "refs/heads/main")
			}
			s.Intercept(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				for key, values := range c.header {
					w.Header()[key] = values
				}
				w.Header().Set("Content-Type", "text/plain; charset=utf-8")
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, "because of \x1b[31mreasons\nand more")
			})
			f := fault(t, client, repo.URL, gitwire.Auth{})
			if f.Kind != c.kind || f.RetryAfter != c.wait {
				t.Errorf("%s contact, %d %v: %s after %s, want %s after %s", contact, c.status, c.header, f.Kind, f.RetryAfter, c.kind, c.wait)
			}
			if text := f.Error(); !strings.Contains(text, fmt.Sprint(c.status)) || strings.Contains(text, "\x1b") ||
				c.status != 204 && !strings.Contains(text, `it says "because of \x1b[31mreasons"`) {
				t.Errorf("%d: %s", c.status, text)
			}
		}
	}
}

func TestTroubleIsNotAskedTwice(t *testing.T) {
	s := gittest.NewServer(t)
	repo := s.Repo(t, "r.git")
	repo.Commit(t, "main", nil, "first")
	c := gitwire.New(gitwire.Options{})
	list(t, c, repo.URL, "refs/heads/main")
	for status, want := range map[int]int{401: 1, 403: 1, 429: 1, 502: 1, 503: 1, 504: 1, 404: 2, 500: 2} {
		s.Intercept(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(status) })
		s.Forget()
		fault(t, c, repo.URL, gitwire.Auth{})
		if got := s.Count(); got != want {
			t.Errorf("after %d the server got %d requests, want %d", status, got, want)
		}
	}
}

// A server that sends back what it got must not bring a credential into a message.
func TestCredentialsAreNotShown(t *testing.T) {
	echoes := map[string]func(w http.ResponseWriter, r *http.Request){
		"text": func(w http.ResponseWriter, r *http.Request) {
			user, token, _ := r.BasicAuth()
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusForbidden)
			_, _ = fmt.Fprintf(w, "no %s %s %s %s", r.Header.Get("Authorization"), user, token, url.QueryEscape(token))
		},
		"packet": func(w http.ResponseWriter, r *http.Request) {
			_, token, _ := r.BasicAuth()
			text := "ERR " + token + " " + r.Header.Get("Authorization")
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			_, _ = fmt.Fprintf(w, "%04x%s", len(text)+4, text)
		},
		"no packet": func(w http.ResponseWriter, r *http.Request) {
			_, token, _ := r.BasicAuth()
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			line := "version 2 " + token
			_, _ = fmt.Fprintf(w, "%04x%s", len(line)+4, line)
		},
		"type": func(w http.ResponseWriter, r *http.Request) {
			_, token, _ := r.BasicAuth()
			w.Header().Set("Content-Type", "x/"+url.QueryEscape(token))
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			_, token, _ := r.BasicAuth()
			w.Header().Set("Location", "https://bot:"+url.QueryEscape(token)+"@evil.example/r.git/info/refs?private_token="+url.QueryEscape(token))
			w.WriteHeader(http.StatusFound)
		},
		"redirect in the path": func(w http.ResponseWriter, r *http.Request) {
			_, token, _ := r.BasicAuth()
			w.Header().Set("Location", "https://evil.example/"+url.PathEscape(token)+"/info/refs")
			w.WriteHeader(http.StatusFound)
		},
		"status line": func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 %s\r\n\r\n", r.Header.Get("Authorization"))
			_ = conn.Close()
		},
	}
	for name, echo := range echoes {
		h := httptest.NewServer(http.HandlerFunc(echo))
		f := fault(t, gitwire.New(gitwire.Options{}), h.URL+"/r.git", account)
		for _, text := range []string{f.Error(), fmt.Sprintf("%+v", f), fmt.Sprintf("%#v", f)} {
			if leaks(text) {
				t.Errorf("%s: %s", name, text)
			}
		}
		h.Close()
	}
}

func TestPackedAnswers(t *testing.T) {
	pack := func(text string) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = io.WriteString(z, text)
		_ = z.Close()
		return b.Bytes()
	}
	packet := func(text string) string { return fmt.Sprintf("%04x%s", len(text)+4, text) }
	first := packet(strings.Repeat("a", 40) + " refs/heads/main\x00\n")
	other := packet(strings.Repeat("a", 40) + " refs/heads/other\n")
	v0 := first + "0000"
	for _, c := range []struct {
		name, encoding string
		body           []byte
		wrong          string
	}{
		{"good", "gzip", pack(v0), ""},
		{"cut", "gzip", pack(v0)[:20], "ends in the middle"},
		{"not packed at all", "gzip", []byte(v0), "cannot be unpacked"},
		{"another way", "br", pack(v0), `("br")`},
		{"bomb", "gzip", pack(strings.Repeat("0008abcd", 1<<20)), "not a ref"},
		{"bomb of refs", "gzip", pack(first + strings.Repeat(other, 1<<18)), "too big"},
	} {
		h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			w.Header().Set("Content-Encoding", c.encoding)
			_, _ = w.Write(c.body)
		}))
		refs, err := gitwire.New(gitwire.Options{MaxBytes: 1 << 20}).ListRefs(t.Context(), remote(t, h.URL+"/r"), gitwire.Auth{}, []string{"refs/heads/main"})
		if c.wrong == "" && (err != nil || len(refs) != 1) || c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)) {
			t.Errorf("%s: %v, error %v, want …%s…", c.name, refs, err, c.wrong)
		}
		h.Close()
	}
}

// Whatever the byte at which an answer ends, it is not believed.
func TestTruncatedAnswers(t *testing.T) {
	s := gittest.NewServer(t)
	repo := s.Repo(t, "r.git")
	repo.Commit(t, "main", nil, "first")
	repo.Branch(t, "other", "main")

	for _, c := range []struct{ version, contact string }{{"2", "/info/refs"}, {"2", "/git-upload-pack"}, {"0", "/info/refs"}} {
		answers := map[string]*httptest.ResponseRecorder{} // the same for every cut
		cut, whole := 0, -1
		s.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			answer := answers[r.URL.Path]
			if answer == nil {
				if c.version == "0" {
					r.Header.Del("Git-Protocol")
				}
				answer = httptest.NewRecorder()
				next.ServeHTTP(answer, r)
				answers[r.URL.Path] = answer
			}
			body := answer.Body.Bytes()
			if strings.HasSuffix(r.URL.Path, c.contact) {
				whole = len(body)
				body = body[:min(cut, len(body))]
			}
			w.Header().Set("Content-Type", answer.Header().Get("Content-Type"))
			_, _ = w.Write(body)
		})
		client := gitwire.New(gitwire.Options{})
		for ; whole < 0 || cut < whole; cut++ {
			f := fault(t, client, repo.URL, gitwire.Auth{})
			if f.Kind != sentry.Transient || !strings.Contains(f.Error(), "ends in the middle") {
				t.Fatalf("%v, cut at %d of %d: %s: %v", c, cut, whole, f.Kind, f)
			}
		}
		if refs := list(t, client, repo.URL, "refs/heads/main"); len(refs) != 1 || whole < 65 {
			t.Errorf("%v: the whole answer of %d bytes gives %v", c, whole, refs)
		}
	}
}

// closingProxy forwards requests, and closes each connection after the first answer without having said so.
func closingProxy(t *testing.T, to string) string {
	t.Helper()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	back := httputil.NewSingleHostReverseProxy(target)
	back.ErrorLog = log.New(io.Discard, "", 0)
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		back.ServeHTTP(w, r)
		_ = http.NewResponseController(w).Flush()
		if conn, ok := r.Context().Value(connKey{}).(net.Conn); ok {
			time.AfterFunc(time.Millisecond, func() { _ = conn.Close() })
		}
	}))
	front.Config.ConnContext = withConn
	front.Start()
	t.Cleanup(front.Close)
	return front.URL
}
