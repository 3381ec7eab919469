package server

import (
	"crypto/rand"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"sentry/internal/config"
	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// hookIndex is what webhooks need of one configuration. It is not changed after it was made, except that a hookSecret
// remembers when it was complained about.
type hookIndex struct {
	config   *config.Config
	secrets  map[*hookForge][]*hookSecret // those of repositories that may be there; the global one first
	byName   map[string]*hookRepository
	exact    map[string][]*hookRepository // by place; on servers of which nothing is known
	caseless map[string][]*hookRepository // by place in lower case; on forges, which do not tell upper from lower case
}

// hookSecret is one file with a secret, however many repositories use it.
type hookSecret struct {
	config.SecretFile
	told time.Time // when it was last said that it cannot be read; Hooks.mu guards it
}

// hookKey is what a secret is now.
type hookKey struct {
	secret *hookSecret
	text   []byte
}

// hookRepository is a repository that has a secret.
type hookRepository struct {
	*config.Repository
	secret *hookSecret
	hints  *rate.Limiter
}

const (
	// maxHookSecrets is how many secrets are tried for one request: a signature does not say which was used. Where there
	// are more, the path of a webhook has to name its repository.
	maxHookSecrets = 64
	// A repository is hastened this often in the long run, and some times in a row. While one is hot it is asked more
	// often than that without being told.
	hintEvery = time.Second
	hintBurst = 10
	// tellEvery is how often it is said that the file of a secret cannot be read.
	tellEvery = 10 * time.Minute
)

// nobody is the key that is tried where a path names a repository that is not there: it takes the time that any takes.
var nobody = func() hookKey {
	text := make([]byte, 32)
	_, _ = rand.Read(text) // never fails
	return hookKey{nil, text}
}()

// current gives the index of the configuration as it is now; nil where there is none.
func (k *Hooks) current() *hookIndex {
	cfg := k.o.Config()
	k.mu.Lock()
	defer k.mu.Unlock()
	if cfg == nil {
		return nil
	}
	if k.index == nil || k.index.config != cfg {
		k.index = newHookIndex(cfg)
		for _, forge := range hookForges {
			if n := len(k.index.secrets[forge]); n > maxHookSecrets {
				k.o.Log.Warn("there are more secrets of webhooks than are tried for one; the others need the repository's name in the path",
					"path", "/hooks/"+forge.name+"/NAME", "secrets", n, "tried", maxHookSecrets)
			}
		}
	}
	return k.index
}

func newHookIndex(cfg *config.Config) *hookIndex {
	x := &hookIndex{
		config: cfg, secrets: map[*hookForge][]*hookSecret{}, byName: map[string]*hookRepository{},
		exact: map[string][]*hookRepository{}, caseless: map[string][]*hookRepository{},
	}
	secrets := map[string]*hookSecret{}
	used := map[*hookForge]map[*hookSecret]bool{}
	for _, forge := range hookForges {
		used[forge] = map[*hookSecret]bool{}
	}
	for i := range cfg.Repositories {
		r := &cfg.Repositories[i]
		file := r.Monitor.WebhookSecret
		if file.Path == "" {
			file = cfg.Global.WebhookSecret
		}
		if file.Path == "" {
			continue
		}
		secret := secrets[file.Path]
		if secret == nil {
			secret = &hookSecret{SecretFile: file}
			secrets[file.Path] = secret
		}
		one := &hookRepository{r, secret, rate.NewLimiter(rate.Every(hintEvery), hintBurst)}
		x.byName[r.Name] = one
		if at := place(r.Monitor.Remote); at != "" {
			if r.Monitor.Type == "git" || r.Monitor.Type == "" {
				x.exact[at] = append(x.exact[at], one)
			} else {
				at = lower(at)
				x.caseless[at] = append(x.caseless[at], one)
			}
		}
		for _, forge := range hookForges {
			if !forge.fits(r.Monitor.Type) || used[forge][secret] {
				continue
			}
			used[forge][secret] = true
			if file.Path == cfg.Global.WebhookSecret.Path { // however many there are, this one is tried
				x.secrets[forge] = append([]*hookSecret{secret}, x.secrets[forge]...)
			} else {
				x.secrets[forge] = append(x.secrets[forge], secret)
			}
		}
	}
	return x
}

// keys gives the secrets to be tried for a webhook; nil where there is none at all, as there is nothing then.
func (k *Hooks) keys(x *hookIndex, forge *hookForge, repository string) []hookKey {
	if x == nil || len(x.secrets[forge]) == 0 {
		return nil
	}
	if repository == "" {
		return k.read(x.secrets[forge])
	}
	var keys []hookKey
	if r := x.byName[repository]; r != nil && forge.fits(r.Monitor.Type) {
		keys = k.read([]*hookSecret{r.secret})
	}
	if keys == nil {
		// Which repositories there are, and which have a secret that can be read, is nobody's business.
		keys = []hookKey{nobody}
	}
	return keys
}

// read reads secrets. One that cannot be read is none: nothing is verified with it.
func (k *Hooks) read(secrets []*hookSecret) []hookKey {
	var keys []hookKey
	for _, s := range secrets[:min(len(secrets), maxHookSecrets)] {
		text, err := s.Secret()
		if err != nil {
			k.tell(s, err)
			continue
		}
		if !text.Empty() {
			keys = append(keys, hookKey{s, []byte(text.Reveal())})
		}
	}
	return keys
}

func (k *Hooks) tell(s *hookSecret, err error) {
	now := k.o.Now()
	k.mu.Lock()
	silent := !s.told.IsZero() && now.Sub(s.told) < tellEvery
	if !silent {
		s.told = now
	}
	k.mu.Unlock()
	if !silent {
		k.o.Log.Warn("webhooks are refused: their secret cannot be read", logger.KeyError, err)
	}
}

// at gives the repositories at some addresses, each once.
func (x *hookIndex) at(urls []string) []*hookRepository {
	var found []*hookRepository
	seen := map[*hookRepository]bool{}
	for _, url := range urls {
		// What is not an address that could be configured is not one that is.
		remote, err := sentry.ParseRemote(url, sentry.RemoteRules{InsecureHTTP: true})
		if err != nil {
			continue
		}
		at := place(remote)
		for _, list := range [][]*hookRepository{x.exact[at], x.caseless[lower(at)]} {
			for _, r := range list {
				if !seen[r] {
					seen[r] = true
					found = append(found, r)
				}
			}
		}
	}
	return found
}

// place is where a repository is, whichever way leads there: the host, with its port where that is not the scheme's own,
// and the path without ".git". It is "" for a file.
func place(r sentry.Remote) string {
	if r.Host() == "" {
		return ""
	}
	return r.Host() + strings.TrimSuffix(r.Path(), ".git")
}

// lower folds the letters that forges fold in the names of repositories, and no other: beyond ASCII two letters may have
// one lower case.
func lower(text string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, text)
}
