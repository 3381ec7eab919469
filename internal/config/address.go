package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"sentry/internal/sentry"
)

// remote is the address of a Git repository.
func remote[T any](field func(*T) *sentry.Remote) codec[T] {
	return parsed(
		func(d *decoder, s *scalar, into *T) error {
			r, err := sentry.ParseRemote(s.text, d.rules())
			*field(into) = r
			return advise(err)
		},
		func(from *T) string { return field(from).String() },
	)
}

// advise adds the key that would settle why an address is refused.
func advise(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sentry.ErrInsecureRemote):
		return withHint(err, "use https://, or set global.allow_insecure_http: true where the network is trusted")
	case errors.Is(err, sentry.ErrLocalRemote):
		return withHint(err, "set global.allow_local_repositories: true to use them")
	case errors.Is(err, sentry.ErrCredentialInRemote):
		return withHint(err, "take it out of the address and give it under auth, where it is kept secret")
	default:
		return err
	}
}

// apiURL is the base address of a forge's API.
func apiURL[T any](field func(*T) *string) codec[T] {
	return parsed(
		func(d *decoder, s *scalar, into *T) error {
			base, err := parseBase(s.text, d.rules().InsecureHTTP)
			*field(into) = base
			return err
		},
		func(from *T) string { return *field(from) },
	)
}

// publicURL is the address of Sentry's own page. It is written into statuses for everybody to read and nothing secret
// goes there, so that http:// is accepted.
func publicURL[T any](field func(*T) *string) codec[T] {
	return parsed(
		func(_ *decoder, s *scalar, into *T) error {
			base, err := parseBase(s.text, true)
			if errors.Is(err, sentry.ErrCredentialInRemote) {
				return withHint(err, "take it out: everybody can read the links")
			}
			*field(into) = base
			return err
		},
		func(from *T) string { return *field(from) },
	)
}

// origin is a scheme, a host and a port.
func origin[T any](field func(*T) *string) codec[T] {
	return parsed(
		func(d *decoder, s *scalar, into *T) error {
			base, err := parseBase(s.text, d.rules().InsecureHTTP)
			if err != nil {
				return err
			}
			r, err := sentry.ParseRemote(base+"/x", sentry.RemoteRules{InsecureHTTP: true})
			if err != nil {
				return err
			}
			if r.Path() != "/x" {
				return withHint(errors.New("it has a path"), "write "+strings.TrimSuffix(r.String(), r.Path()))
			}
			*field(into) = r.Origin()
			return nil
		},
		func(from *T) string { return *field(from) },
	)
}

// parseBase checks an http:// or https:// address that others are made from, and takes the slash from its end. The reader
// of repository addresses checks it, with a path put behind it that a base does not need.
func parseBase(text string, insecure bool) (string, error) {
	if scheme, _, ok := strings.Cut(strings.ToLower(text), "://"); !ok || scheme != "https" && scheme != "http" {
		return "", errors.New("it is not an https:// address")
	}
	r, err := sentry.ParseRemote(strings.TrimSuffix(text, "/")+"/x", sentry.RemoteRules{InsecureHTTP: insecure})
	if err != nil {
		return "", advise(err)
	}
	return strings.TrimSuffix(r.String(), "/x"), nil
}

// webhook is an address that is a secret: whoever has it may post there. No message repeats any of it.
func webhook[T any](field func(*T) *sentry.Secret) codec[T] {
	return parsed(
		func(d *decoder, s *scalar, into *T) error {
			u, err := url.Parse(s.text)
			switch {
			case err != nil || u.Host == "" || u.Opaque != "" || strings.ContainsFunc(s.text, isControl):
				return errors.New("it is not an address such as https://host/path")
			case u.User != nil:
				return errors.New("it carries a user name or password")
			case u.Scheme == "http" && !d.rules().InsecureHTTP:
				return advise(sentry.ErrInsecureRemote)
			case u.Scheme != "https" && u.Scheme != "http":
				return errors.New("it does not begin with https://")
			}
			*field(into) = sentry.NewSecret(s.text)
			return nil
		},
		func(from *T) string {
			u, err := url.Parse(field(from).Reveal())
			if err != nil || u.Host == "" {
				return ""
			}
			return u.Scheme + "://" + u.Host + "/" + sentry.Redacted
		},
	)
}

// checkListen wants host:port. Port 0 lets the system choose.
func checkListen(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return withHint(errors.New("it is not host:port"), "write it like 127.0.0.1:8080")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("the port %q is not a number from 0 to 65535", clip(port, 20))
	}
	for _, r := range host {
		if !strings.ContainsRune(".-:_%", r) && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
			return fmt.Errorf("the host contains %q", r)
		}
	}
	return nil
}

// loopback tells whether what is sent to a host stays on this machine.
func loopback(r sentry.Remote) bool {
	host := hostname(r)
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// hostname is the host of an address without its port and brackets.
func hostname(r sentry.Remote) string {
	host := r.Host()
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.Trim(host, "[]")
}
