package forge

import (
	"net/url"
	"sync"
)

// accountKey tells accounts apart: a credential at an API.
type accountKey struct {
	kind Kind
	api  string // the base; the origin of the repositories for Git
	key  string // of the credential
}

// account is a credential at an API, or at a Git server: what shares a budget of requests. It outlives configurations
// that keep it.
type account struct {
	accountKey
	base    *url.URL // of the API, without a slash at its end; nil for Git
	service service  // nil where only the Git protocol is known
	budget  *budget  // nil for Git

	mu      sync.Mutex // guards what follows
	auth    Auth
	members int
}

// batches reports whether its repositories are asked many at once, as things are now, and how many.
func (a *account) batches() (batch int, sweep bool) {
	if a.service == nil {
		return 1, false
	}
	batch, sweep = a.service.lane()
	return max(1, batch), sweep
}
