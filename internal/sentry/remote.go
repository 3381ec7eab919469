package sentry

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxRemote is the longest address of a repository, in bytes. Forges refuse request lines of about 8 KiB.
const MaxRemote = 2048

// Reasons why an address is refused that an option of the configuration, or another key of it, would settle. Compare
// with errors.Is.
var (
	ErrInsecureRemote     = errors.New("http:// sends everything, credentials included, unencrypted")
	ErrLocalRemote        = errors.New("file:// and paths of this machine are switched off")
	ErrCredentialInRemote = errors.New("it carries a user name or password")
)

// Remote is the address of a Git repository: checked, in one canonical spelling, and without any credential, so that
// it may be compared, logged and given to git. The zero Remote is no address.
type Remote struct {
	scheme string // https, http, ssh, file
	user   string // ssh only: the account to log in as, which is no secret
	host   string // lower case; an IPv6 address stands in brackets; "" for file
	port   string // "" where it is the scheme's default
	path   string // begins with "/"; for the scp form it is what follows the colon, with "/" put before it
	scp    bool   // written host:path, where the path starts at the account's home, unlike that of ssh://host/path
}

// RemoteRules tell which unsafe kinds of address are accepted.
type RemoteRules struct {
	InsecureHTTP bool // http://
	Local        bool // file:// and absolute paths
}

// schemes maps what may be written to the default port. Everything else is refused: git would run a helper program
// for ext::, fd:: and unknown schemes (CVE-2026-28292 is a list of forbidden ones that upper case walks past).
var schemes = map[string]string{"https": "443", "http": "80", "ssh": "22", "file": ""}

// ParseRemote reads the address of a Git repository: https://, http://, ssh://, the scp form user@host:path, file://
// or an absolute path. It refuses every other transport, credentials in the address, whatever git or ssh could take
// for an option, and characters that an address has no use for. The text of an error never repeats a credential.
func ParseRemote(text string, rules RemoteRules) (Remote, error) {
	r, err := parseRemote(text, rules)
	if err != nil {
		return Remote{}, err
	}
	return r, nil
}

func parseRemote(text string, rules RemoteRules) (Remote, error) {
	if err := checkRemoteText(text); err != nil {
		return Remote{}, err
	}
	if strings.HasPrefix(text, "/") {
		return parseFile(text, rules)
	}
	if helper, ok := cutHelper(text); ok {
		return Remote{}, fmt.Errorf("%q would make git run a helper program; use https:// or ssh://", helper)
	}
	scheme, rest, isURL := strings.Cut(text, "://")
	if !isURL {
		return parseSCP(text)
	}
	switch scheme = strings.ToLower(scheme); scheme {
	case "https", "ssh":
		return parseURL(scheme, rest)
	case "http":
		if !rules.InsecureHTTP {
			// Look for a credential first: advice to allow http:// would only let it travel unencrypted.
			if _, err := parseURL(scheme, rest); errors.Is(err, ErrCredentialInRemote) {
				return Remote{}, err
			}
			return Remote{}, ErrInsecureRemote
		}
		return parseURL(scheme, rest)
	case "file":
		if !strings.HasPrefix(rest, "/") {
			return Remote{}, errors.New("file:// names a host or a relative path; write file:///absolute/path")
		}
		return parseFile(rest, rules)
	default:
		return Remote{}, fmt.Errorf("the transport %q is not accepted; use https:// or ssh://", clip(scheme, 32))
	}
}

// checkRemoteText refuses what no form of address may have.
func checkRemoteText(text string) error {
	switch {
	case text == "":
		return errors.New("it is empty")
	case len(text) > MaxRemote:
		return fmt.Errorf("it has %d bytes; at most %d are accepted", len(text), MaxRemote)
	case !utf8.ValidString(text):
		return errors.New("it is not valid UTF-8")
	case text[0] == '-':
		return errors.New(`it begins with "-", which git would take for an option`)
	}
	for _, r := range text {
		if unicode.IsSpace(r) || unicode.IsControl(r) {
			return fmt.Errorf("it contains white space or a control character (%U)", r)
		}
	}
	return nil
}

// cutHelper finds the "helper::" in front of an address with which git picks a remote helper. A "::" further back, as
// in an IPv6 address, is not one.
func cutHelper(text string) (helper string, ok bool) {
	helper, _, ok = strings.Cut(text, "::")
	if !ok || strings.ContainsFunc(helper, func(r rune) bool { return !alphanumeric(r) && !strings.ContainsRune("+-._", r) }) {
		return "", false
	}
	return clip(helper, 32) + "::", true
}

func parseURL(scheme, rest string) (Remote, error) {
	authority, path, hasPath := strings.Cut(rest, "/")
	// Everything up to the last "@" is user information, as curl and browsers read it: github.com@evil.org is at evil.org.
	at := strings.LastIndexByte(authority, '@')
	user := authority[:max(at, 0)]
	if at >= 0 && (scheme != "ssh" || strings.Contains(user, ":")) {
		return Remote{}, ErrCredentialInRemote
	}
	if at >= 0 {
		if err := checkUser(user); err != nil {
			return Remote{}, err
		}
	}
	host, port, err := splitHost(authority[at+1:])
	if err != nil {
		return Remote{}, err
	}
	if !hasPath {
		return Remote{}, errors.New("it names a server but no repository on it")
	}
	path, err = checkURLPath("/" + path)
	if err != nil {
		return Remote{}, err
	}
	if port == schemes[scheme] {
		port = ""
	}
	return Remote{scheme: scheme, user: user, host: host, port: port, path: path}, nil
}

// parseSCP reads [user@]host:path. As git does, it wants the colon before the first slash.
func parseSCP(text string) (Remote, error) {
	beforeSlash, _, _ := strings.Cut(text, "/")
	// The colons of an address in brackets are its own.
	skip := max(strings.LastIndexByte(beforeSlash, ']'), 0)
	colon := strings.IndexByte(beforeSlash[skip:], ':')
	if colon < 0 {
		return Remote{}, errors.New("it is not an address; write it like https://host/owner/repository or git@host:owner/repository")
	}
	colon += skip
	authority, path := text[:colon], text[colon+1:]
	at := strings.LastIndexByte(authority, '@')
	user := authority[:max(at, 0)]
	if at >= 0 {
		if err := checkUser(user); err != nil {
			return Remote{}, err
		}
	}
	host, port, err := splitHost(authority[at+1:])
	switch {
	case err != nil:
		return Remote{}, err
	case port != "":
		return Remote{}, errors.New("a port needs the form ssh://user@host:port/path")
	case len(host) == 1 && at < 0: // with a user before it, it is the alias of a host
		return Remote{}, errors.New("a drive letter is not a host; write file:///C:/path")
	case strings.HasPrefix(path, "-"):
		return Remote{}, errors.New(`its path begins with "-", which ssh would take for an option`)
	case strings.HasPrefix(path, "/"):
		// host:/path is absolute, exactly as ssh://host/path is: one spelling for one place.
		path, err = checkURLPath(path)
		return Remote{scheme: "ssh", user: user, host: host, path: path}, err
	}
	path, err = checkURLPath("/" + path)
	return Remote{scheme: "ssh", user: user, host: host, path: path, scp: true}, err
}

func parseFile(path string, rules RemoteRules) (Remote, error) {
	if !rules.Local {
		return Remote{}, ErrLocalRemote
	}
	if strings.ContainsRune(path, '%') {
		// git decodes it in file:// but not in a plain path: one text would name two places.
		return Remote{}, errors.New(`"%" is not accepted in a path`)
	}
	path, err := checkURLPath(path)
	return Remote{scheme: "file", path: path}, err
}

func checkUser(user string) error {
	for i, r := range user {
		if !alphanumeric(r) && r != '_' && (i == 0 || !strings.ContainsRune("-.+", r)) {
			return errors.New(`the user name may have letters, digits, "_", "-", "." and "+", and begins with a letter or digit`)
		}
	}
	if user == "" {
		return errors.New(`the user name before "@" is empty`)
	}
	return nil
}

// splitHost takes host[:port] apart and checks both.
func splitHost(authority string) (host, port string, err error) {
	if strings.HasPrefix(authority, "[") {
		return splitIPv6(authority)
	}
	host, port, hasPort := strings.Cut(authority, ":")
	if hasPort {
		if err := checkPort(port); err != nil {
			return "", "", err
		}
	}
	host = strings.ToLower(host)
	return host, port, checkHost(host)
}

func splitIPv6(authority string) (host, port string, err error) {
	inside, after, closed := strings.Cut(authority[1:], "]")
	address, err := netip.ParseAddr(inside)
	if !closed || err != nil || !address.Is6() || address.Zone() != "" {
		return "", "", errors.New("what stands in brackets is not an IPv6 address")
	}
	if after != "" {
		if after[0] != ':' {
			return "", "", errors.New("only a port may follow the brackets of an IPv6 address")
		}
		port = after[1:]
		if err := checkPort(port); err != nil {
			return "", "", err
		}
	}
	return "[" + address.String() + "]", port, nil
}

func checkPort(port string) error {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || port[0] == '0' {
		return errors.New("the port is not a number from 1 to 65535")
	}
	return nil
}

// checkHost wants a plain ASCII host name or an IPv4 address. A token is bound to a host by comparing names, so a name
// that has several spellings (a dot at the end, letters that look alike, an address in hexadecimal) is refused.
func checkHost(host string) error {
	switch {
	case host == "":
		return errors.New("it names no host")
	case len(host) > 253:
		return errors.New("the host name has more than 253 characters")
	}
	labels := strings.Split(host, ".")
	for _, label := range labels {
		switch {
		case label == "" && strings.HasSuffix(host, "."):
			return errors.New("the host name ends with a dot; write it without")
		case label == "":
			return errors.New("the host name has two dots in a row or begins with one")
		case len(label) > 63:
			return errors.New("a part of the host name has more than 63 characters")
		case label[0] == '-':
			return errors.New(`the host name, or a part of it, begins with "-", which ssh would take for an option`)
		}
		for _, r := range label {
			if r >= utf8.RuneSelf {
				return errors.New("the host name has letters beyond ASCII, which can look like others; write its xn-- form")
			}
			if !alphanumeric(r) && r != '-' && r != '_' {
				return fmt.Errorf("the host name contains %q", r)
			}
		}
	}
	// As in the URL Standard: a name whose last part is a number is an IPv4 address, and must be a plain one.
	if last := labels[len(labels)-1]; last[0] >= '0' && last[0] <= '9' {
		_, decimal := strconv.ParseUint(last, 10, 64)
		if decimal == nil || strings.HasPrefix(last, "0x") {
			if _, err := netip.ParseAddr(host); err != nil {
				return errors.New("the host looks like an IPv4 address but is not one of four numbers from 0 to 255")
			}
		}
	}
	return nil
}

// checkURLPath checks a path that begins with "/" and takes the slash from its end.
func checkURLPath(path string) (string, error) {
	if i := strings.IndexAny(path, `?#"<>\^`+"`{|}"); i >= 0 {
		return "", fmt.Errorf("its path contains %q", path[i])
	}
	path = strings.TrimSuffix(path, "/")
	if path == "" {
		return "", errors.New("it names a server but no repository on it")
	}
	decoded, err := decodePath(path)
	if err != nil {
		return "", err
	}
	for _, segment := range strings.Split(decoded[1:], "/") {
		switch segment {
		case "":
			return "", errors.New("its path has two slashes in a row")
		case ".", "..":
			return "", fmt.Errorf("its path has the part %q; write where it leads to", segment)
		}
	}
	return path, nil
}

// decodePath undoes the %XX of a path, only to look at it: what a server would see must pass the same checks.
func decodePath(path string) (string, error) {
	if !strings.Contains(path, "%") {
		return path, nil
	}
	var out strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] != '%' {
			out.WriteByte(path[i])
			continue
		}
		if i+3 > len(path) {
			return "", errors.New(`its path has a "%" without two hexadecimal digits after it`)
		}
		b, err := strconv.ParseUint(path[i+1:i+3], 16, 8)
		if err != nil {
			return "", errors.New(`its path has a "%" without two hexadecimal digits after it`)
		}
		if b < ' ' || b == 0x7f {
			return "", errors.New("its path contains an encoded control character")
		}
		out.WriteByte(byte(b))
		i += 2
	}
	return out.String(), nil
}

// String is the canonical form, which git is given. It holds no credential. The zero Remote gives "".
func (r Remote) String() string {
	switch {
	case r.scheme == "":
		return ""
	case r.scp:
		return r.login() + r.host + ":" + r.path[1:]
	default:
		return r.scheme + "://" + r.login() + r.Host() + r.path
	}
}

func (r Remote) login() string {
	if r.user == "" {
		return ""
	}
	return r.user + "@"
}

// MarshalText gives the form of String.
func (r Remote) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// IsZero reports whether r is no address.
func (r Remote) IsZero() bool { return r == Remote{} }

// Scheme is "https", "http", "ssh" (the scp form included) or "file".
func (r Remote) Scheme() string { return r.scheme }

// Host is the host in lower case, with ":port" where that is not the scheme's default; "" for a file.
func (r Remote) Host() string {
	if r.port == "" {
		return r.host
	}
	return r.host + ":" + r.port
}

// Origin is scheme://host:port with the port always there; "file://" for a file. Credentials, request budgets and
// circuit breakers belong to an origin.
func (r Remote) Origin() string {
	switch r.scheme {
	case "":
		return ""
	case "file":
		return "file://"
	}
	port := r.port
	if port == "" {
		port = schemes[r.scheme]
	}
	return r.scheme + "://" + r.host + ":" + port
}

// Path begins with "/": "/owner/repository.git".
func (r Remote) Path() string { return r.path }

func alphanumeric(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}

// clip cuts text that is repeated in a message to at most n bytes.
func clip(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + "…"
}
