package config

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"sentry/internal/sentry"
)

// maxSecret is the most that a token file may hold, in bytes.
const maxSecret = 64 << 10

// Auth is how Sentry proves who it is to one server. The secret belongs to the exact origin of the address beside it.
type Auth struct {
	// Username goes with the token where the server wants one; "" lets the forge's convention apply.
	Username string
	// Token is given in the file, or rather by a variable of it. At most one of Token and TokenFile is set.
	Token sentry.Secret
	// TokenFile is read again when it changes, so that a rotated token needs no restart. Absolute.
	TokenFile string
	// SSHKeyFile is the private key for ssh addresses, and KnownHostsFile the host keys to believe. Absolute.
	SSHKeyFile, KnownHostsFile string
	// App is the installation of a GitHub App, which makes tokens for itself; nil where there is none. Never together
	// with a token.
	App *App

	literal bool        // the token is written out in the file
	file    *secretFile // of TokenFile; nil where a test wrote the Auth by hand
}

// App is an installation of a GitHub App.
type App struct {
	ID, Installation int64
	KeyFile          string // the app's private key, read again when it changes; absolute
}

// SecretFile is a file that holds one secret. It is read again when it changes. The zero SecretFile is none.
type SecretFile struct {
	Path string // absolute; "" for none

	file *secretFile // of Path; nil where a test wrote the SecretFile by hand
}

// Secret gives what the file holds now, without the line end after it. It is empty where no file is configured. Errors:
// as those of Auth.Secret.
func (s SecretFile) Secret() (sentry.Secret, error) {
	switch {
	case s.Path == "":
		return sentry.Secret{}, nil
	case s.file != nil:
		return s.file.read()
	default:
		return (&secretFile{what: webhookSecret, path: s.Path}).read()
	}
}

// What a file holds, for messages.
const (
	accessToken   = "token"
	webhookSecret = "webhook secret"
	privateKey    = "private key" // of several lines, in PEM form
)

// Secret gives the token, or what the token file holds now without the line end after it. It is empty where neither is
// configured. Errors: the file cannot be read, is no regular file, is empty, or holds more than one line.
func (a Auth) Secret() (sentry.Secret, error) {
	switch {
	case a.TokenFile == "":
		return a.Token, nil
	case a.file != nil:
		return a.file.read()
	default:
		return (&secretFile{what: accessToken, path: a.TokenFile}).read()
	}
}

// secretFile remembers what a file held, so that asking costs one stat. Safe for concurrent use.
type secretFile struct {
	what string // accessToken, webhookSecret or privateKey
	path string

	mu     sync.Mutex
	info   os.FileInfo // of what was read; nil before
	readAt time.Time
	secret sentry.Secret
	older  sentry.Secret // what it held before: commands that started with it may still print it
}

// settled is the age from which a file's time of modification tells versions apart: within the grain of a file
// system's clock two writes have the same.
const settled = 2 * time.Second

func (f *secretFile) read() (sentry.Secret, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err != nil {
		return sentry.Secret{}, fmt.Errorf("the %s file %s cannot be read: %w", f.what, f.path, reason(err))
	}
	if f.info != nil && os.SameFile(f.info, info) && f.info.Size() == info.Size() && f.info.ModTime().Equal(info.ModTime()) &&
		f.readAt.Sub(info.ModTime()) > settled {
		return f.secret, nil
	}
	now := time.Now()
	secret, err := f.readSecret(info)
	if err != nil {
		return sentry.Secret{}, err
	}
	if secret != f.secret {
		f.older = f.secret
	}
	f.info, f.readAt, f.secret = info, now, secret
	return secret, nil
}

// known gives what the file holds and held, as last read.
func (f *secretFile) known() []sentry.Secret {
	f.mu.Lock()
	defer f.mu.Unlock()
	return []sentry.Secret{f.secret, f.older}
}

func (f *secretFile) readSecret(info os.FileInfo) (sentry.Secret, error) {
	// A pipe or a device would hold up, for ever, whoever reads it.
	if !info.Mode().IsRegular() {
		return sentry.Secret{}, fmt.Errorf("the %s file %s is not a regular file", f.what, f.path)
	}
	file, err := os.Open(f.path)
	if err != nil {
		return sentry.Secret{}, fmt.Errorf("the %s file %s cannot be read: %w", f.what, f.path, reason(err))
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxSecret+1))
	if err != nil {
		return sentry.Secret{}, fmt.Errorf("the %s file %s cannot be read: %w", f.what, f.path, reason(err))
	}
	if len(data) > maxSecret {
		return sentry.Secret{}, fmt.Errorf("the %s file %s has more than %d bytes", f.what, f.path, maxSecret)
	}
	if f.what == privateKey {
		return sentry.NewSecret(withoutArmour(string(data))), nil
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if err := checkSecret(f.what, text); err != nil {
		return sentry.Secret{}, fmt.Errorf("the %s file %s: %w", f.what, f.path, err)
	}
	return sentry.NewSecret(text), nil
}

// withoutArmour gives the lines of a PEM file that say nothing to whoever does not have it: all but the first and the last
// of each block.
func withoutArmour(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "-----") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// checkSecret refuses what cannot travel in a header. Its error never repeats the secret; what says which kind it is.
func checkSecret(what, text string) error {
	switch {
	case text == "":
		return fmt.Errorf("the %s is empty", what)
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || isControl(r) }):
		return fmt.Errorf("the %s holds white space or a control character", what)
	}
	return nil
}
