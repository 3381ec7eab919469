//go:build linux

package endtoend

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// A token that is revoked is said to be, once, and Gitea is left alone: it is asked no more than once a minute. With
// another token in the file everything goes on, without a restart.
func TestTokenRevoked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.sentry(settings{}, "main")
	var mu sync.Mutex
	var asked []string // with the token that is revoked
	w.gitea.Fail(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if !strings.HasPrefix(r.URL.Path, "/"+qa) {
			mu.Lock()
			asked = append(asked, time.Now().Format("05.000 ")+r.Method+" "+r.URL.Path)
			mu.Unlock()
		}
		next.ServeHTTP(rw, r)
	})
	since := func() []string {
		mu.Lock()
		defer mu.Unlock()
		list := asked
		asked = nil
		return list
	}

	w.gitea.Revoke(w.token)
	d.until("the token is known to be refused", func() string {
		if watch := d.watch("rag", "main"); !strings.Contains(watch.Answer, w.dir+"/token") {
			return "the last answer was " + watch.Answer
		}
		return ""
	})
	// What begins with that may go on for a moment. Then, in a time in which it would ask thirty times:
	time.Sleep(3 * time.Second)
	since()
	time.Sleep(30 * time.Second)
	if list := since(); len(list) > 1 {
		t.Errorf("with a token that is refused it went on asking:\n%s", strings.Join(list, "\n"))
	}
	if lines := d.logged("WARN", ""); len(lines) != 1 || !strings.Contains(lines[0], "a credential is refused") || !strings.Contains(lines[0], w.dir+"/token") {
		t.Errorf("it is to be said once:\n%s", strings.Join(lines, "\n"))
	}

	commit := w.gitea.Push(watched, "main")
	began := time.Now()
	w.write("token", w.gitea.Token()+"\n")
	w.rolledOut(d, "main "+commit)
	took := time.Since(began)
	t.Logf("the new token was found after %v", took.Round(time.Millisecond))
	if took > 15*time.Second {
		t.Errorf("it took %v until the new token was found", took)
	}
}
