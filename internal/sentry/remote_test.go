package sentry

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

func TestParseRemote(t *testing.T) {
	tests := []struct {
		text                     string
		want, host, origin, path string // want "" stands for text itself
	}{
		{"https://github.com/owner/repo", "", "github.com", "https://github.com:443", "/owner/repo"},
		{"https://github.com/owner/repo.git", "", "github.com", "https://github.com:443", "/owner/repo.git"},
		{"HTTPS://GitHub.COM:443/Owner/Repo/", "https://github.com/Owner/Repo", "github.com", "https://github.com:443", "/Owner/Repo"},
		{"https://git.example.org:8443/a/b/c", "", "git.example.org:8443", "https://git.example.org:8443", "/a/b/c"},
		{"https://gitlab-master.nvidia.com/...", "", "gitlab-master.nvidia.com", "https://gitlab-master.nvidia.com:443", "/..."},
		{"https://10.0.0.7/r", "", "10.0.0.7", "https://10.0.0.7:443", "/r"},
		{"https://[2001:DB8:0::1]:444/r", "https://[2001:db8::1]:444/r", "[2001:db8::1]:444", "https://[2001:db8::1]:444", "/r"},
		{"http://127.0.0.1:3000/up.git", "", "127.0.0.1:3000", "http://127.0.0.1:3000", "/up.git"},
		{"http://localhost:80/up", "http://localhost/up", "localhost", "http://localhost:80", "/up"},
		{"ssh://git@github.com/owner/repo", "", "github.com", "ssh://github.com:22", "/owner/repo"},
		{"ssh://git@host.example:2222/~me/repo", "", "host.example:2222", "ssh://host.example:2222", "/~me/repo"},
		{"git@github.com:owner/repo.git", "", "github.com", "ssh://github.com:22", "/owner/repo.git"},
		{"github.com:owner/repo.git", "", "github.com", "ssh://github.com:22", "/owner/repo.git"},
		{"git@h:team/repo", "git@h:team/repo", "h", "ssh://h:22", "/team/repo"},
		{"git@host:/srv/repo", "ssh://git@host/srv/repo", "host", "ssh://host:22", "/srv/repo"},
		{"git@[::1]:repo", "", "[::1]", "ssh://[::1]:22", "/repo"},
		{"file:///srv/git/repo.git", "", "", "file://", "/srv/git/repo.git"},
		{"/srv/git/repo.git", "file:///srv/git/repo.git", "", "file://", "/srv/git/repo.git"},
		{"https://host/with%20space/r", "", "host", "https://host:443", "/with%20space/r"},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			if tt.want == "" {
				tt.want = tt.text
			}
			r, err := ParseRemote(tt.text, RemoteRules{InsecureHTTP: true, Local: true})
			if err != nil {
				t.Fatal(err)
			}
			if r.String() != tt.want || r.Host() != tt.host || r.Origin() != tt.origin || r.Path() != tt.path {
				t.Errorf("got %q, host %q, origin %q, path %q;\nwant %q, host %q, origin %q, path %q",
					r, r.Host(), r.Origin(), r.Path(), tt.want, tt.host, tt.origin, tt.path)
			}
			again, err := ParseRemote(r.String(), RemoteRules{InsecureHTTP: true, Local: true})
			if err != nil || again != r {
				t.Errorf("the canonical form reads back as %#v, %v", again, err)
			}
		})
	}
}

func TestParseRemoteRefuses(t *testing.T) {
	tests := []struct{ text, want string }{
		{"", "empty"},
		{"https://h/" + strings.Repeat("x", MaxRemote), "at most 2048"},
		{"ext::sh -c touch% /tmp/p", "white space"},
		{"ext::sh", `"ext::" would make git run a helper program`},
		{"EXT::sh", "helper program"},
		{"fd::7", "helper program"},
		{"https::ext::sh", "helper program"},
		{"::https://h/x", "helper program"},
		{"git://github.com/a/b", `transport "git"`},
		{"GIT://github.com/a/b", `transport "git"`},
		{"ftp://h/x", `transport "ftp"`},
		{"git+ssh://git@h/x", `transport "git+ssh"`},
		{"javascript://h/x", `transport "javascript"`},
		{"http\t://h/x", "white space"},
		{"https://h/x\ny", "white space"},
		{" https://h/x", "white space"},
		{"\u00a0--upload-pack=x", "white space"},
		{"https://h/a\x00b", "control character"},
		{"https://h/a\u0085b", "white space"},
		{"https://h/\xff", "UTF-8"},
		{"--upload-pack=touch${IFS}/tmp/pwn", `begins with "-"`},
		{"-u", `begins with "-"`},
		{"ssh://-oProxyCommand=calc/x", `begins with "-"`},
		{"git@-oProxyCommand=calc:x", `begins with "-"`},
		{"ssh://-oProxyCommand=calc@host/x", "user name may have"},
		{"-oProxyCommand=calc@host:x", `begins with "-"`},
		{"host:-oProxyCommand=calc", "path begins"},
		{"https://user:hunter2@h/x", "user name or password"},
		{"https://token@h/x", "user name or password"},
		{"https://github.com@evil.org/x", "user name or password"},
		{"https://@h/x", "user name or password"},
		{"http://user:hunter2@h/x", "user name or password"},
		{"ssh://git:hunter2@h/x", "user name or password"},
		{"ssh://@h/x", "user name"},
		{"https:///x", "no host"},
		{"https://:443/x", "no host"},
		{"https://h", "no repository"},
		{"https://h/", "no repository"},
		{"https://h:/x", "port"},
		{"https://h:0/x", "port"},
		{"https://h:65536/x", "port"},
		{"https://h:+80/x", "port"},
		{"https://h:080/x", "port"},
		{"https://h:80:80/x", "port"},
		{"https://github.com./x", "ends with a dot"},
		{"https://git..hub/x", "two dots"},
		{"https://.h/x", "two dots"},
		{"https://a.-b/x", `begins with "-"`},
		{"https://gıthub.com/x", "beyond ASCII"},
		{"https://h%2e/x", "contains '%'"},
		{"https://h\\@evil/x", "user name or password"},
		{"https://h\\evil/x", `contains '\\'`},
		{"https://0x7f.1/x", "IPv4"},
		{"https://2130706433/x", "IPv4"},
		{"https://127.0.0.01/x", "IPv4"},
		{"https://1.2.3.256/x", "IPv4"},
		{"https://[::1/x", "IPv6"},
		{"https://[1.2.3.4]/x", "IPv6"},
		{"https://[fe80::1%25eth0]/x", "IPv6"},
		{"https://[::1]x/x", "brackets"},
		{"https://" + strings.Repeat("a", 64) + "/x", "63 characters"},
		{"https://" + strings.Repeat("a.", 130) + "b/x", "253 characters"},
		{"https://h/a/../b", `part ".."`},
		{"https://h/a/%2e%2E/b", `part ".."`},
		{"https://h/./b", `part "."`},
		{"https://h//b", "two slashes"},
		{"https://h/b//", "two slashes"},
		{"https://h/a#frag", "contains '#'"},
		{"https://h/a?token=x", "contains '?'"},
		{"https://h/${NAME}", "contains '{'"},
		{"https://h/a%", "hexadecimal"},
		{"https://h/a%g0", "hexadecimal"},
		{"https://h/a%0ab", "encoded control"},
		{"../x", "not an address"},
		{"./x:y", "not an address"},
		{"owner/repo", "not an address"},
		{"github.com/owner/repo", "not an address"},
		{"C:/repo", "drive letter"},
		{"file://host/x", "file:///absolute"},
		{"file://../x", "file:///absolute"},
		{"file:///a/../etc", `part ".."`},
		{"/etc/../x", `part ".."`},
		{"/a%2e", `"%"`},
		{"/", "no repository"},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			r, err := ParseRemote(tt.text, RemoteRules{InsecureHTTP: true, Local: true})
			if err == nil {
				t.Fatalf("accepted as %q", r)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q does not say %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %q repeats the password", err)
			}
		})
	}
}

func TestParseRemoteRules(t *testing.T) {
	tests := []struct {
		text  string
		rules RemoteRules
		want  error
	}{
		{"http://h/x", RemoteRules{}, ErrInsecureRemote},
		{"HTTP://h/x", RemoteRules{Local: true}, ErrInsecureRemote},
		{"http://h/x", RemoteRules{InsecureHTTP: true}, nil},
		{"http://u:p@h/x", RemoteRules{}, ErrCredentialInRemote},
		{"file:///x", RemoteRules{InsecureHTTP: true}, ErrLocalRemote},
		{"FILE:///x", RemoteRules{}, ErrLocalRemote},
		{"/x", RemoteRules{}, ErrLocalRemote},
		{"/x", RemoteRules{Local: true}, nil},
		{"https://h/x", RemoteRules{}, nil},
		{"https://u:p@h/x", RemoteRules{}, ErrCredentialInRemote},
	}
	for _, tt := range tests {
		if _, err := ParseRemote(tt.text, tt.rules); !errors.Is(err, tt.want) {
			t.Errorf("%q under %+v: %v, want %v", tt.text, tt.rules, err, tt.want)
		}
	}
}

func TestRemoteOriginSeparates(t *testing.T) {
	// A token bound to the first must not be sent to any of the others.
	const ours = "https://github.com/o/r"
	others := []string{
		"http://github.com/o/r", "https://github.com:444/o/r", "https://api.github.com/o/r",
		"https://github.com.evil.org/o/r", "https://evil.org/github.com", "ssh://github.com/o/r",
	}
	rules := RemoteRules{InsecureHTTP: true}
	first, err := ParseRemote(ours, rules)
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range others {
		r, err := ParseRemote(other, rules)
		if err != nil {
			t.Fatal(err)
		}
		if r.Origin() == first.Origin() {
			t.Errorf("%s has the origin of %s", other, ours)
		}
	}
}

func TestZeroRemote(t *testing.T) {
	var r Remote
	if !r.IsZero() || r.String() != "" || r.Origin() != "" || r.Host() != "" {
		t.Errorf("the zero Remote is %q at %q", r, r.Origin())
	}
}

func FuzzParseRemote(f *testing.F) {
	for _, seed := range []string{
		"https://github.com/owner/repo.git", "http://h:1/x", "ssh://git@h:22/~x/y", "git@host:a/b", "git@[::1]:r", "file:///a", "/a/b",
		"ext::sh", "https://u:p@h/x", "ssh://-oProxyCommand=x/y", "https://h/%2e%2e/x", "https://[::1]:1/x", "https://h/a?b#c", "C:/x",
	} {
		f.Add(seed)
	}
	helper := regexp.MustCompile(`^[A-Za-z0-9+.-]*::`) // as transport.c of git decides it
	f.Fuzz(func(t *testing.T, text string) {
		rules := RemoteRules{InsecureHTTP: true, Local: true}
		r, err := ParseRemote(text, rules)
		if err != nil {
			if !r.IsZero() {
				t.Fatalf("%q gives both %q and %v", text, r, err)
			}
			return
		}
		canonical := r.String()
		again, err := ParseRemote(canonical, rules)
		if err != nil || again != r {
			t.Fatalf("%q → %q reads back as %q, %v", text, canonical, again, err)
		}
		if _, known := schemes[r.Scheme()]; !known {
			t.Fatalf("%q has the scheme %q", text, r.Scheme())
		}
		if canonical[0] == '-' || strings.HasPrefix(r.Host(), "-") || helper.MatchString(canonical) {
			t.Fatalf("%q → %q could be taken for an option or a helper", text, canonical)
		}
		if strings.ContainsFunc(canonical, func(c rune) bool { return unicode.IsSpace(c) || unicode.IsControl(c) }) {
			t.Fatalf("%q → %q has white space or control characters", text, canonical)
		}
		if (r.Scheme() == "https" || r.Scheme() == "http") && strings.Contains(strings.SplitN(canonical, "/", 4)[2], "@") {
			t.Fatalf("%q → %q carries user information", text, canonical)
		}
		if !strings.HasPrefix(r.Path(), "/") || strings.Contains(r.Path()+"/", "/../") {
			t.Fatalf("%q has the path %q", text, r.Path())
		}
	})
}
