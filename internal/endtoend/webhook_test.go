//go:build linux

package endtoend

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"sentry/internal/server"
)

// With a webhook a push is rolled out at once, and once, however seldom the repository is asked; one that is signed with
// another secret does nothing.
func TestWebhook(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const secret = "a-secret-of-the-test"
	w.write("secret", secret+"\n")
	d := w.sentry(settings{interval: "1h", global: []string{"listen: 127.0.0.1:0", "webhook_secret_file: " + w.dir + "/secret"}}, "main")
	began := time.Now()
	var status server.Status
	if err := d.ask("/status", &status); err != nil {
		t.Fatal(err)
	}
	hooks := "http://" + status.Daemon.Listen + "/hooks/gitea"

	bad := newRelay(t, hooks)
	w.gitea.Webhook(watched, bad.url, "another-secret")
	unseen := w.gitea.Push(watched, "main")
	bad.answered(d, unseen, http.StatusUnauthorized)
	if watch := d.watch("rag", "main"); watch.Generation != 1 || len(d.rollouts()) != 0 {
		t.Errorf("a webhook with another secret had the repository asked: %+v", watch)
	}

	good := newRelay(t, hooks)
	w.gitea.Webhook(watched, good.url, secret)
	first := w.gitea.Push(watched, "main")
	w.rolledOut(d, "main "+first)
	second := w.gitea.ForcePush(watched, "main")
	w.rolledOut(d, "main "+first, "main "+second)
	for _, commit := range []string{first, second} {
		good.answered(d, commit, http.StatusAccepted)
		bad.answered(d, commit, http.StatusUnauthorized)
	}
	w.rolledOut(d, "main "+first, "main "+second)
	if took := time.Since(began); took > 30*time.Minute {
		t.Errorf("that took %v: by the interval, then", took)
	}
}

// relay passes webhooks on to Sentry and notes how they are answered: Gitea's API does not tell.
type relay struct {
	url string

	mu      sync.Mutex
	answers map[string]int // by the commit that was pushed
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	r := &relay{answers: map[string]int{}}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, in *http.Request) {
		body, err := io.ReadAll(in.Body)
		if err != nil {
			return // Gitea went away
		}
		out, err := http.NewRequestWithContext(in.Context(), http.MethodPost, to, bytes.NewReader(body))
		if err != nil {
			panic(err)
		}
		out.Header = in.Header
		answer, err := http.DefaultTransport.RoundTrip(out)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		answer.Body.Close()
		var push struct{ After string }
		if err := json.Unmarshal(body, &push); err == nil {
			r.mu.Lock()
			r.answers[push.After] = answer.StatusCode
			r.mu.Unlock()
		}
		w.WriteHeader(answer.StatusCode)
	}))
	t.Cleanup(front.Close)
	r.url = front.URL
	return r
}

// answered waits until the webhook about a commit has been answered like this.
func (r *relay) answered(d *sentryd, commit string, want int) {
	d.t.Helper()
	d.until(fmt.Sprintf("the webhook about %.10s is answered with %d", commit, want), func() string {
		r.mu.Lock()
		defer r.mu.Unlock()
		if got := r.answers[commit]; got != want {
			return fmt.Sprintf("the answer is %d, of %v", got, r.answers)
		}
		return ""
	})
}
