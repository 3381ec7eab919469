package git

import (
	"errors"
	"fmt"
	"regexp"

	"sentry/internal/sentry"
)

// sshAdvice are the things that ssh says, in the order in which they are looked for, and what is to be done about each.
// Its own words name the problem in a picture of at signs, or not at all.
var sshAdvice = []struct {
	words  *regexp.Regexp
	advice func(s sshSetup) string
}{
	{regexp.MustCompile(`HOST IDENTIFICATION HAS CHANGED`), func(s sshSetup) string {
		return fmt.Sprintf("the host key of %s is not the one in %s: the server has a new key, or another answers in its place; "+
			"ask whoever runs the server for the new key's fingerprint before you replace the line of that file", s.host, s.hosts)
	}},
	{regexp.MustCompile(`REVOKED HOST KEY`), func(s sshSetup) string {
		return fmt.Sprintf("%s marks the host key of %s as revoked; the server must get another", s.hosts, s.host)
	}},
	{regexp.MustCompile(`(?i)no .*host key is known for`), func(s sshSetup) string {
		return fmt.Sprintf("the host key of %s is not in %s; add what ssh-keyscan prints for it, once its fingerprint "+
			"(ssh-keygen -lf) is the one that the server publishes", s.host, s.hosts)
	}},
	{regexp.MustCompile(`(?i)host key verification failed`), func(s sshSetup) string {
		return fmt.Sprintf("the host key of %s cannot be checked against %s", s.host, s.hosts)
	}},
	{regexp.MustCompile(`(?i)unprotected private key file|bad permissions`), func(s sshSetup) string {
		return fmt.Sprintf("ssh uses no key that others may read: chmod 600 %s", s.key)
	}},
	{regexp.MustCompile(`(?i)identity file .* not accessible|no such identity`), func(s sshSetup) string {
		return fmt.Sprintf("%s cannot be read: is it there, and may this account read it?", s.key)
	}},
	{regexp.MustCompile(`(?i)permission denied \(`), func(s sshSetup) string {
		return fmt.Sprintf("the server admits nobody by %s: its public half must be known there as a key that may read the repository, "+
			"the user of the address must be right, and the key must have no passphrase", s.key)
	}},
}

// sshSetup is what an advice can name.
type sshSetup struct{ host, hosts, key string }

// advise adds to an error of git over ssh what can be done about it, where that is known.
func advise(err error, r sentry.Remote, a Auth) error {
	var failed *runError
	if r.Scheme() != "ssh" || !errors.As(err, &failed) {
		return err
	}
	s := sshSetup{host: r.Host(), hosts: a.KnownHostsFile, key: a.SSHKeyFile}
	if s.hosts == "" {
		s.hosts = "the known_hosts of the account that runs Sentry (known_hosts_file is not set)"
	}
	if s.key == "" {
		s.key = "the keys of the account that runs Sentry (ssh_key_file is not set)"
	}
	for _, one := range sshAdvice {
		if one.words.MatchString(failed.stderr) {
			return fmt.Errorf("%w (%s)", err, one.advice(s))
		}
	}
	return err
}
