package forge_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sentry/internal/forge"
	"sentry/internal/forge/forgetest"
	"sentry/internal/sentry"
)

// tokenFile is a file with a token.
type tokenFile struct {
	mu    sync.Mutex
	token string
}

func (f *tokenFile) write(token string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.token = token
}

func (f *tokenFile) read() (sentry.Secret, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return sentry.NewSecret(f.token), nil
}

// The same token in several files has one budget; what the forge said to it holds for all of them, also after they are
// rotated one after the other, and a token of its own has a budget of its own.
func TestTheSameTokenTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lab := forgetest.NewGitHub(t, forgetest.GitHubOptions{})
		r := newRig(t, lab)
		one, two := lab.TokenOf("ada", time.Time{}, "repo"), lab.TokenOf("ada", time.Time{}, "repo")
		files := make([]*tokenFile, 3)
		for i := range files {
			files[i] = &tokenFile{token: one}
			name := fmt.Sprintf("acme/app%d", i)
			r.add(name, false).Auth = forge.Auth{Key: fmt.Sprintf("file %d", i), Token: files[i].read}
			lab.Push(name, "main")
		}
		files[2].write(lab.TokenOf("eve", time.Time{}, "repo"))
		r.update()
		look := func(i int) error {
			_, err := r.forges.Access(t.Context(), r.all[i])
			return err
		}
		names := func(want ...string) {
			t.Helper()
			var got []string
			for _, s := range r.forges.Budgets() {
				if s.Resource == "core" {
					got = append(got, s.Key)
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("there are the budgets %q, want %q", got, want)
			}
		}
		all := func() {
			t.Helper()
			for i := range files {
				if err := look(i); err != nil {
					t.Errorf("%d: %v", i, err)
				}
			}
		}
		all()
		names("file 0, file 1", "file 2")

		lab.Limit(one, 10*time.Minute)
		_ = look(0)
		for _, step := range []func(){
			func() {}, // it holds for the other file
			func() { files[0].write(two) },
			func() { files[1].write(two) },
		} {
			step()
			if look(0) == nil || look(1) == nil {
				t.Error("a request in a forbidden window is answered")
			}
			if err := look(2); err != nil {
				t.Errorf("somebody else's token: %v", err)
			}
			time.Sleep(time.Minute)
		}
		if n := lab.Requests().Forbidden; n != 0 {
			t.Errorf("%d requests in a forbidden window", n)
		}
		time.Sleep(10 * time.Minute)
		all()
		names("file 0, file 1", "file 2")

		files[1].write(lab.TokenOf("bob", time.Time{}, "repo"))
		all()
		names("file 0", "file 1", "file 2")
		files[1].write(two)
		files[2].write(two)
		all()
		names("file 0, file 1, file 2")
		other := r.all[2]
		r.all = r.all[:1]
		r.update()
		names("file 0")
		if err := r.forges.SetStatus(t.Context(), other, forge.Status{Commit: lab.Head(other.Name, "main"), State: forge.Success, Context: "c"}); err != nil {
			t.Error(err)
		}
		names("file 0, file 2") // for statuses only
		r.update()
		names("file 0, file 2")
		time.Sleep(3 * time.Hour)
		r.update()
		files[0].write(one)
		if err := look(0); err != nil {
			t.Error(err)
		}
		names("file 0")
	})
}

// What the configuration will cost is told of each token, and not of each file that it is in.
func TestCostOfTheSameToken(t *testing.T) {
	files := []*tokenFile{{token: "one"}, {token: "one"}, {token: "two"}}
	var all []*forge.Repository
	for i := range 30 {
		r := repository(t, fmt.Sprintf("https://github.com/acme/app%d", i), forge.GitHub)
		r.Auth = forge.Auth{Key: fmt.Sprintf("file %d", i%3), Token: files[i%3].read}
		r.Interval = time.Minute
		all = append(all, r)
	}
	var got []string
	for _, c := range forge.Cost(all) {
		got = append(got, fmt.Sprintf("%s: %d", c.Key, c.Repositories))
	}
	if want := "[file 0: 20 file 2: 10]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}
