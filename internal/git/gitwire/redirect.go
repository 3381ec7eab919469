package gitwire

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"sentry/internal/sentry"
)

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// movedTo reads where an answer to first contact redirects to, and gives the path of the repository there. As git does,
// it wants the new address to end like the one that was asked, so that it is known where the repository itself is.
// An address on another origin is an error that names it without what could be a secret in it.
func movedTo(r sentry.Remote, asked string, resp *http.Response) (path string, err error) {
	text := resp.Header.Get("Location")
	to, err := (&url.URL{Scheme: r.Scheme(), Host: r.Host(), Path: asked}).Parse(text)
	if err != nil || text == "" || to.Opaque != "" {
		return "", sentry.Faultf(sentry.Invalid, "it redirects to nowhere (HTTP status %d)", resp.StatusCode)
	}
	repository, isRepository := strings.CutSuffix(to.EscapedPath(), infoRefs)
	address := (&url.URL{Scheme: to.Scheme, Host: to.Host}).String() + repository
	if !isRepository {
		return "", sentry.Faultf(sentry.Invalid, "it redirects to %q, which is no Git repository (HTTP status %d)", clip(address), resp.StatusCode)
	}
	moved, err := sentry.ParseRemote((&url.URL{Scheme: to.Scheme, Host: to.Host, User: to.User}).String()+repository, sentry.RemoteRules{InsecureHTTP: true})
	if err != nil {
		return "", sentry.Faultf(sentry.Invalid, "it redirects to an address that is not accepted (HTTP status %d): %w", resp.StatusCode, err)
	}
	if moved.Origin() != r.Origin() {
		why := "Sentry stays on the server that it was given"
		if moved.Scheme() == "http" && r.Scheme() == "https" {
			why = "that address is not encrypted"
		}
		return "", sentry.Faultf(sentry.NotFound, "it has moved to %s, and %s; write the new address into the configuration if it is right (HTTP status %d)",
			fmt.Sprintf("%q", clip(moved.String())), why, resp.StatusCode)
	}
	return moved.Path(), nil
}
