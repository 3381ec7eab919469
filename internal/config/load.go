package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"sentry/internal/sentry"

	"go.yaml.in/yaml/v4"
)

// Options of Load and Parse.
type Options struct {
	// Environ has the variables as NAME=value; nil is the process's own environment.
	Environ []string
	// StateDir, where given, overrides the file's; relative to the working directory. (--state-dir)
	StateDir string
	// IgnoreUnset makes an unset variable a warning and leaves the value it belongs to unread. What Load gives then is
	// for checking a file on a machine without its secrets, not for running it.
	IgnoreUnset bool
}

// Load reads a configuration file, with the .env beside it. It gives a whole, valid configuration and warnings about
// it, or an error which is Problems: every mistake of the files at once. Files with secrets are read, to know what to mask;
// one that cannot be read is a warning, since it may be mounted later.
func Load(file string, o Options) (*Config, Problems, error) {
	var versions []version // before the files are read: what changes meanwhile is a change to Watch
	if absolute, err := filepath.Abs(file); err == nil {
		versions = look(watched(absolute))
	}
	data, err := readFile(file, MaxSize)
	if err != nil {
		return nil, nil, Problems{{File: file, Message: err.Error(), Hint: missingHint(err), cause: err}}
	}
	environ, problem := withDotenv(o.environ(), filepath.Join(filepath.Dir(file), dotenvName))
	o.Environ = environ
	if problem != nil {
		// The configuration is checked all the same, to tell every mistake at once; what it takes from .env is missing.
		o.IgnoreUnset = true
		found := Problems{*problem}
		_, warnings, err := Parse(file, data, o)
		var more Problems
		errors.As(err, &more)
		return nil, warnings, append(found, more...)
	}
	c, warnings, err := Parse(file, data, o)
	if err != nil {
		return nil, warnings, err
	}
	c.versions = versions
	return c, append(warnings, c.readSecrets(file)...), nil
}

// Parse is Load for a text that was read already. It touches no file: neither .env nor files with secrets are looked at.
// file names the text in problems, and relative paths start at its folder.
func Parse(file string, data []byte, o Options) (*Config, Problems, error) {
	absolute, err := filepath.Abs(file)
	if err != nil {
		return nil, nil, Problems{{File: file, Message: err.Error(), cause: err}}
	}
	d := &decoder{
		file: file, folder: filepath.Dir(absolute), find: finder(o.environ()), lenient: o.IgnoreUnset,
		groups: map[string]*yaml.Node{}, inJobs: map[string]bool{}, names: map[string]named{}, patterns: map[string]sentry.Pattern{},
	}
	c := initialConfig()
	c.File = absolute
	d.config = &c
	root, problem := parse(data)
	if problem != nil {
		d.report(Problem{Line: problem.line, Column: problem.column, Message: problem.message, Hint: problem.hint})
	} else {
		configKeys().read(d, &place{}, root, &c)
	}
	d.stateDir(o)
	warnings, wrong := d.problems.split()
	if len(wrong) > 0 {
		return nil, warnings, wrong
	}
	c.index()
	return &c, warnings, nil
}

// stateDir settles where state and workspaces are, when the file is read.
func (d *decoder) stateDir(o Options) {
	g := &d.config.Global
	switch {
	case o.StateDir != "":
		absolute, err := filepath.Abs(o.StateDir)
		if err != nil {
			d.report(Problem{Message: "cannot tell where the state directory is: " + err.Error()})
		}
		g.StateDir = absolute
	case g.StateDir == "":
		g.StateDir = defaultStateDir(d.find)
	}
	if g.TmpDir == "" {
		g.TmpDir = filepath.Join(g.StateDir, "workspaces")
	}
}

// DefaultStateDir is where state is kept unless something else is configured: $XDG_STATE_HOME/sentry, by default
// ~/.local/state/sentry, on Windows %LocalAppData%\sentry, and /var/lib/sentry for an account without a home.
func DefaultStateDir() string { return defaultStateDir(os.LookupEnv) }

func defaultStateDir(find lookup) string {
	// The XDG specification has relative paths ignored.
	if dir, _ := find("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "sentry")
	}
	if runtime.GOOS == "windows" {
		if dir, _ := find("LocalAppData"); filepath.IsAbs(dir) {
			return filepath.Join(dir, "sentry")
		}
	}
	if home, _ := find("HOME"); filepath.IsAbs(home) && home != "/" {
		return filepath.Join(home, ".local", "state", "sentry")
	}
	return filepath.FromSlash("/var/lib/sentry")
}

func (o Options) environ() []string {
	if o.Environ != nil {
		return o.Environ
	}
	return os.Environ()
}

func finder(environ []string) lookup {
	values := make(map[string]string, len(environ))
	for _, entry := range environ {
		if name, value, ok := strings.Cut(entry, "="); ok {
			values[name] = value
		}
	}
	return func(name string) (string, bool) {
		value, set := values[name]
		return value, set
	}
}

// readFile reads a regular file of at most limit bytes. Anything else (a pipe, a terminal, a directory) is refused
// before it is opened, as reading it might never end.
func readFile(file string, limit int64) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", reason(err))
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("cannot be read: it is not a regular file")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", reason(err))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", reason(err))
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("it has more than %d bytes", limit)
	}
	return data, nil
}

// reason drops the operation and the path, which the problem names already.
func reason(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

func missingHint(err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return "name the configuration file with --config"
	}
	return ""
}

// readSecrets reads every file with a secret once.
func (c *Config) readSecrets(file string) Problems {
	var warnings Problems
	told := map[string]bool{}
	warn := func(path, message, hint string) {
		warnings = append(warnings, Problem{File: file, Path: path, Message: message, Hint: hint, Warning: true})
	}
	read := func(name, key string, secret func() (sentry.Secret, error)) {
		if name == "" || told[name] {
			return
		}
		told[name] = true
		s, err := secret()
		switch {
		case err != nil:
			warn(key, err.Error(), "it is read again when it is needed")
		case strings.HasSuffix(key, "webhook_secret_file") && len(s.Reveal()) < minWebhookSecret:
			warn(key, fmt.Sprintf("the webhook secret has less than %d bytes, and whoever guesses it may send webhooks", minWebhookSecret),
				"make one with: openssl rand -hex 32")
		}
	}
	read(c.Global.WebhookSecret.Path, "global.webhook_secret_file", c.Global.WebhookSecret.Secret)
	for i := range c.Repositories {
		r := &c.Repositories[i]
		at := fmt.Sprintf("repositories[%d].", i)
		read(r.Monitor.WebhookSecret.Path, at+"monitor.webhook_secret_file", r.Monitor.WebhookSecret.Secret)
		read(r.Monitor.Auth.TokenFile, at+"monitor.auth.token_file", r.Monitor.Auth.Secret)
		read(r.Deploy.Auth.TokenFile, at+"deploy.auth.token_file", r.Deploy.Auth.Secret)
	}
	for _, path := range c.keyFiles() {
		_, _ = c.secretFile(privateKey, path).read() // to mask it; whoever needs it says what is wrong with it
	}
	return warnings
}

// minWebhookSecret is the length, in bytes, from which a secret cannot be found by trying.
const minWebhookSecret = 16

// secretFile gives the one reader of a file with a secret, however many repositories name it.
func (c *Config) secretFile(what, path string) *secretFile {
	if c.files == nil {
		c.files = map[string]*secretFile{}
	}
	f, ok := c.files[path]
	if !ok {
		f = &secretFile{what: what, path: path}
		c.files[path] = f
	}
	return f
}
