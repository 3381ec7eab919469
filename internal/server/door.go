package server

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// errAnonymous is what callers are told where they cannot prove who they are.
type errAnonymous struct{}

func (errAnonymous) Error() string {
	return "only /healthz, webhooks and the links of statuses are answered here, where callers cannot prove who they are; on the machine itself `sentry` asks through a socket"
}

// Is makes it an ErrUnauthenticated.
func (errAnonymous) Is(target error) bool { return target == ErrUnauthenticated }

// Anonymous is the Options.Authorize of a listener whose callers cannot prove who they are. It admits nobody to anything
// that needs a role, except to look at the paths in open.
func Anonymous(open ...string) func(*http.Request, Role) (Caller, error) {
	return func(r *http.Request, need Role) (Caller, error) {
		if need == RoleRead && slices.Contains(open, r.URL.Path) {
			return Caller{}, nil
		}
		return Caller{}, errAnonymous{}
	}
}

// Named is the Options.Hosts of a listener that browsers reach: a request gives an address, localhost, or one of names.
// Only names can be made to stand for another machine.
func Named(names ...string) func(host string) bool {
	return func(host string) bool {
		name := host
		if alone, _, err := net.SplitHostPort(host); err == nil {
			name = alone
		}
		if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
			return true
		}
		return strings.EqualFold(name, "localhost") || slices.ContainsFunc(names, func(n string) bool { return n != "" && strings.EqualFold(n, name) })
	}
}
