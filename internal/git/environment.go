package git

import (
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"unicode"

	"sentry/internal/git/gitwire"
	"sentry/internal/sentry"
)

// inherited are the variables of our own environment that git gets: where programs are, how the network is reached and
// which authorities are trusted. Everything else could change what git does.
var inherited = []string{
	"PATH", "TMPDIR", "TZ",
	"http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY",
	"SSL_CERT_FILE", "SSL_CERT_DIR",
	"SystemRoot", "TEMP", "TMP", "PATHEXT", // Windows starts no program without
}

// environment is all that a run of git finds, but for credentials.
func (g *Git) environment(scheme string) []string {
	env := []string{
		"HOME=" + g.home, "XDG_CONFIG_HOME=" + g.home,
		"LC_ALL=C", "LANGUAGE=C",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_CONFIG_SYSTEM=" + os.DevNull, "GIT_ATTR_NOSYSTEM=1",
		"GIT_TEMPLATE_DIR=",
		"GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=", "SSH_ASKPASS=", "SSH_ASKPASS_REQUIRE=never", "GCM_INTERACTIVE=never",
		"GIT_ALLOW_PROTOCOL=" + scheme, "GIT_PROTOCOL_FROM_USER=0",
		"GIT_NO_LAZY_FETCH=1", "GIT_LFS_SKIP_SMUDGE=1",
		"GIT_PAGER=cat", "PAGER=cat", "GIT_EDITOR=false", "EDITOR=false",
	}
	for _, key := range inherited {
		if value, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+value)
		}
	}
	if file := os.Getenv("SSL_CERT_FILE"); file != "" {
		env = append(env, "GIT_SSL_CAINFO="+file) // git over GnuTLS does not look at SSL_CERT_FILE
	}
	return env
}

// credentials is what the environment needs besides, so that a run can show who asks, and the texts that must then not
// be shown. A token goes into a header that git sends to this origin only, and only in its environment: arguments are
// readable by everybody on the machine, addresses and configuration files stay on disk.
func (g *Git) credentials(r sentry.Remote, a Auth, token sentry.Secret, v Version) (env, hide []string, err error) {
	switch r.Scheme() {
	case "ssh":
		command, err := sshCommand(a)
		if err != nil {
			return nil, nil, err
		}
		env := []string{"GIT_SSH_COMMAND=" + command, "GIT_SSH_VARIANT=ssh"}
		if agent, ok := os.LookupEnv("SSH_AUTH_SOCK"); ok && a.SSHKeyFile == "" {
			env = append(env, "SSH_AUTH_SOCK="+agent)
		}
		return env, nil, nil
	case "http", "https":
		env := g.certificates(r)
		if token.Empty() {
			return env, nil, nil
		}
		user := a.Username
		if user == "" {
			user = gitwire.DefaultUsername
		}
		encoded := base64.StdEncoding.EncodeToString([]byte(user + ":" + token.Reveal()))
		key, header := "http."+r.Origin()+"/.extraHeader", "Authorization: Basic "+encoded
		hide := []string{encoded, token.Reveal()}
		if v.Before(Version{2, 31, 0}) {
			// Before GIT_CONFIG_COUNT there was only the variable in which git hands -c on to its children, in this form.
			return append(env, "GIT_CONFIG_PARAMETERS="+shellQuote(key+"="+header)), hide, nil
		}
		return append(env, "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0="+key, "GIT_CONFIG_VALUE_0="+header), hide, nil
	}
	return nil, nil, nil
}

// certificates is how a run of git is told whom to believe and what to show. It speaks to one origin only.
func (g *Git) certificates(r sentry.Remote) (env []string) {
	if g.o.Certificates == nil || r.Scheme() != "https" {
		return nil
	}
	authorities, certificate, key := g.o.Certificates(r.Origin())
	for _, v := range []struct{ name, file string }{
		{"GIT_SSL_CAINFO", authorities}, {"GIT_SSL_CERT", certificate}, {"GIT_SSL_KEY", key}, // in place of those of our environment
	} {
		if v.file != "" {
			env = append(env, v.name+"="+v.file)
		}
	}
	return env
}

// sshCommand is the ssh that git starts: without the account's configuration, which could run programs or name other
// hosts, and without a question to anybody.
func sshCommand(a Auth) (string, error) {
	options := []string{
		"BatchMode=yes", "StrictHostKeyChecking=yes", "UpdateHostKeys=no", "CheckHostIP=no",
		"ConnectTimeout=15", "ServerAliveInterval=15", "ServerAliveCountMax=4",
		"PasswordAuthentication=no", "KbdInteractiveAuthentication=no",
		"ForwardAgent=no", "ForwardX11=no", "ClearAllForwardings=yes", "PermitLocalCommand=no",
	}
	if a.KnownHostsFile != "" {
		file, err := sshPath(a.KnownHostsFile)
		if err != nil {
			return "", fmt.Errorf("cannot use known_hosts_file: %w", err)
		}
		options = append(options, "UserKnownHostsFile="+file, "GlobalKnownHostsFile="+os.DevNull)
	}
	if a.SSHKeyFile != "" {
		file, err := sshPath(a.SSHKeyFile)
		if err != nil {
			return "", fmt.Errorf("cannot use ssh_key_file: %w", err)
		}
		options = append(options, "IdentityFile="+file, "IdentitiesOnly=yes", "IdentityAgent=none")
	}
	words := []string{"ssh", "-F", os.DevNull}
	for _, o := range options {
		words = append(words, "-o", shellQuote(o))
	}
	return strings.Join(words, " "), nil
}

// sshPath writes a path as ssh_config reads one: quoted because of spaces, and with no token or variable in it.
func sshPath(path string) (string, error) {
	if strings.ContainsAny(path, "\"\\\n\r\x00") || strings.Contains(path, "${") {
		return "", fmt.Errorf("ssh cannot take %q for the name of a file", path)
	}
	return `"` + strings.ReplaceAll(path, "%", "%%") + `"`, nil
}

// shellQuote writes a word for sh, and for git's own reading of quoted words.
func shellQuote(word string) string {
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// visible reports whether a character is text: neither a control character nor one that changes the direction or the
// look of others.
func visible(r rune) bool { return unicode.IsPrint(r) && r != '\uFEFF' }
