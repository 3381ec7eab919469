package gitwire

import (
	"context"
	"encoding/base64"
	"errors"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"sentry/internal/sentry"
)

// Auth is an account. Without a token requests are anonymous.
type Auth struct {
	Username string // DefaultUsername where it is empty
	Token    sentry.Secret
}

// authorization is the header of HTTP basic authentication (RFC 7617).
func (a Auth) authorization() string { return "Basic " + a.encoded() }

func (a Auth) encoded() string {
	user := a.Username
	if user == "" {
		user = DefaultUsername
	}
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + a.Token.Reveal()))
}

// userinfo is what stands before the host of an address.
var userinfo = regexp.MustCompile(`://[^/\s"'@]*@`)

// hide gives an error whose text shows neither the token, in the forms in which a server could send it back to us, nor
// the user part of an address, such as a proxy's. Where it had to hide something, of its cause only the end of the
// context stays, as the cause's own text shows it all.
func (a Auth) hide(err error) error {
	text := err.Error()
	clean := userinfo.ReplaceAllString(text, "://")
	if token := a.Token.Reveal(); token != "" {
		quoted := strconv.Quote(token)
		for _, form := range []string{
			a.encoded(), base64.StdEncoding.EncodeToString([]byte(token)), token, quoted[1 : len(quoted)-1],
			url.QueryEscape(token), url.PathEscape(token),
		} {
			clean = strings.ReplaceAll(clean, form, sentry.Redacted)
		}
	}
	if clean == text {
		return err
	}
	hidden := &hiddenError{text: clean}
	for _, end := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, end) {
			hidden.cause = end
		}
	}
	return hidden
}

type hiddenError struct {
	text  string
	cause error
}

func (e *hiddenError) Error() string { return e.text }
func (e *hiddenError) Unwrap() error { return e.cause }
