package server

import (
	"strings"
	"testing"
)

// TestSignpost: the link of a status leads to an answer, which is the same whether there is such a rollout or not.
func TestSignpost(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Authorize, o.Hosts = Anonymous(), Named("sentry.example.org") })
	for _, id := range []string{"1", "7-qe6ur", "9223372036854775807-abcde"} {
		w := f.send("GET", "/rollouts/"+id, "", nil)
		text := w.Body.String()
		if w.Code != 200 || strings.Count(text, id) != 4 || !strings.Contains(text, "sentry show "+id+" ") {
			t.Errorf("%s: %d %s", id, w.Code, text)
		}
		for name, want := range map[string]string{
			"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
			"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: %s is %q", id, name, got)
			}
		}
	}
	for _, id := range []string{"0", "x", "-1", "1-", "1-ABC", "1-a%20b", "1%0aevil", "<b>", "%3Cscript%3E", "1-" + strings.Repeat("a", 17), "1/logs", "..%2f1"} {
		if w := f.send("GET", "/rollouts/"+id, "", nil); w.Code == 200 {
			t.Errorf("%s: %d %s", id, w.Code, w.Body)
		}
	}
	if w := f.send("POST", "/rollouts/1", "", nil); w.Code != 405 {
		t.Errorf("POST: %d %s", w.Code, w.Body)
	}
}
