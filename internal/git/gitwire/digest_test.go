package gitwire

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"sentry/internal/sentry"
)

// An answer that has not changed is not read again; whatever else there is, the branches are given.
func TestDigest(t *testing.T) {
	many := make([]string, 0, 1001)
	for i := range 1000 {
		many = append(many, fmt.Sprintf("%s refs/heads/topic/%04d", commitA, i))
	}
	one := []string{commitA + " refs/heads/main"}
	two := []string{commitB + " refs/heads/main", commitA + " refs/heads/main2"}
	var body string
	status := http.StatusOK
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, infoRefs) {
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			_, _ = fmt.Fprint(w, packets("version 2", "ls-refs", "flush"))
			return
		}
		w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
		w.WriteHeader(status)
		_, _ = fmt.Fprint(w, body)
	}))
	defer h.Close()
	at, err := sentry.ParseRemote(h.URL+"/r.git", sentry.RemoteRules{InsecureHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	c := New(Options{})
	seen := map[string]Digest{}
	last := Digest(0)
	for i, step := range []struct {
		lines   []string
		status  int
		refs    int
		same    bool
		failing bool
	}{
		{one, 200, 1, false, false},
		{one, 200, 0, true, false},
		{two, 200, 2, false, false},
		{two, 200, 0, true, false},
		{one, 200, 1, false, false},
		{one, 503, 0, false, true},
		{one[:0], 200, 0, false, false},
		{[]string{"nonsense"}, 200, 0, false, true},
		{many, 200, 1000, false, false},
		{many, 200, 1000, false, false},
		{one, 200, 1, false, false},
		{one, 200, 0, true, false},
	} {
		status, body = step.status, packets(append(slices.Clone(step.lines), "flush")...)
		refs, now, err := c.ListBranches(t.Context(), at, Auth{}, []string{"main", "topic/"}, last)
		long := len(step.lines) == len(many)
		switch {
		case step.failing:
			if err == nil || now != 0 || refs != nil {
				t.Errorf("step %d: %d refs, digest %d, %v", i, len(refs), now, err)
			}
			continue
		case err != nil, step.same != (refs == nil), len(refs) != step.refs, (now == last && now != 0) != step.same, (now == 0) != long:
			t.Errorf("step %d: %d refs (nil: %t), digest %x after %x, %v", i, len(refs), refs == nil, now, last, err)
		}
		if was, met := seen[body]; met && was != now {
			t.Errorf("step %d: digest %x, and of the same answer before %x", i, now, was)
		}
		seen[body], last = now, now
	}
	// Who wants to know it all is told.
	if refs, now, err := c.ListBranches(t.Context(), at, Auth{}, []string{"main"}, 0); err != nil || len(refs) != 1 || now != last {
		t.Errorf("%d refs, digest %x, %v", len(refs), now, err)
	}
}

// Servers of the old protocol list all there is, each time.
func TestNoDigestOfAListing(t *testing.T) {
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
		_, _ = fmt.Fprint(w, packets("# service=git-upload-pack", "flush", commitA+" refs/heads/main\x00agent=old", commitB+" refs/tags/main", "flush"))
	}))
	defer h.Close()
	at, err := sentry.ParseRemote(h.URL+"/r.git", sentry.RemoteRules{InsecureHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	c := New(Options{})
	for range 2 {
		refs, now, err := c.ListBranches(t.Context(), at, Auth{}, []string{"main"}, 0)
		if err != nil || len(refs) != 1 || refs[0].Name != "refs/heads/main" || now != 0 {
			t.Errorf("%+v, digest %x, %v", refs, now, err)
		}
	}
}
