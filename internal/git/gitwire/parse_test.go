package gitwire

import (
	"bytes"
	"compress/zlib"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"sentry/internal/sentry"
)

const (
	commitA = "a94a8fe5ccb19ba61c4c0873d391e987982fbbd3"
	commitB = "0123456789abcdef0123456789abcdef01234567"
	long    = commitA + "c0ffeec0ffeec0ffeec0ffee"
)

// packets writes each line as a packet; "flush" and "delimiter" are what they say.
func packets(lines ...string) string {
	var out []byte
	for _, line := range lines {
		switch line {
		case "flush":
			out = append(out, flush...)
		case "delimiter":
			out = append(out, delimiter...)
		default:
			out = appendPacket(out, line)
		}
	}
	return string(out)
}

func parseLsRefs(in string, prefixes []string, format objectFormat) ([]Ref, error) {
	var p packetReader
	p.reset(strings.NewReader(in), 1<<20)
	want, err := newPrefixSet("", prefixes)
	if err != nil {
		return nil, err
	}
	return readLsRefs(&p, want, format, nil)
}

func parseAdvertisement(in string, prefixes ...string) (advertisement, error) {
	var p packetReader
	p.reset(strings.NewReader(in), 1<<20)
	want, err := newPrefixSet("", prefixes)
	if err != nil {
		return advertisement{}, err
	}
	return readAdvertisement(&p, want)
}

func TestLsRefs(t *testing.T) {
	in := packets(
		commitA+" HEAD symref-target:refs/heads/main",
		commitA+" refs/heads/main",
		commitB+" refs/heads/main2 some-attribute:of the future",
		commitB+" refs/tags/v1 peeled:"+commitA,
		"flush")
	for prefix, want := range map[string][]Ref{
		"": {
			{"HEAD", commitA, "refs/heads/main"},
			{"refs/heads/main", commitA, ""},
			{"refs/heads/main2", commitB, ""},
			{"refs/tags/v1", commitB, ""},
		},
		"refs/heads/main2": {{"refs/heads/main2", commitB, ""}},
		"refs/notes/":      nil,
	} {
		got, err := parseLsRefs(in, []string{prefix}, sha1)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v %v, want %v", prefix, got, err, want)
		}
	}
}

func TestLsRefsOfAnotherHash(t *testing.T) {
	in := packets(long+" refs/heads/main", "flush")
	if refs, err := parseLsRefs(in, nil, sha256); err != nil || len(refs) != 1 || refs[0].Commit != long {
		t.Errorf("with SHA-256: %v %v", refs, err)
	}
	if refs, err := parseLsRefs(in, nil, sha1); !errors.Is(err, errNonsense) {
		t.Errorf("as if it were SHA-1: %v %v", refs, err)
	}
}

// A line that is not a ref spoils the whole answer: who knows what else is wrong with it.
func TestHostileLines(t *testing.T) {
	lines := []string{
		"", " ", commitA, commitA + " ", commitA + "  refs/heads/main", commitA + "\trefs/heads/main",
		strings.ToUpper(commitA) + " refs/heads/main", commitA[1:] + " refs/heads/main", "g" + commitA[1:] + " refs/heads/main",
		strings.Repeat("0", 40) + " refs/heads/main", "unborn HEAD symref-target:refs/heads/main",
		long + " refs/heads/main",
	}
	for _, name := range []string{
		"refs/heads/../../x", "refs/heads/a..b", "refs/heads/.hidden", "refs/heads/a.lock", "refs/heads/a.lock/b", "refs/heads/a/",
		"refs/heads//a", "/refs/heads/a", "refs/heads/a.", "refs/heads/a@{1}", "refs/heads/a~1", "refs/heads/a^", "refs/heads/a:b",
		"refs/heads/a?", "refs/heads/a*", "refs/heads/a[b", `refs/heads/a\b`, "refs/heads/a\x00b", "refs/heads/a\x1b[2J", "refs/heads/a\rb",
		"refs/heads/a\nb", "refs/heads/a\x7f", "refs/heads/" + strings.Repeat("a", maxRefName),
	} {
		lines = append(lines, commitA+" "+name)
	}
	for _, line := range lines {
		for what, parse := range map[string]func() ([]Ref, error){
			"ls-refs": func() ([]Ref, error) {
				return parseLsRefs(packets(commitB+" refs/heads/good", line, "flush"), nil, sha1)
			},
			"listing": func() ([]Ref, error) {
				a, err := parseAdvertisement(packets(commitB+" refs/heads/good\x00", line, "flush"))
				return a.refs, err
			},
		} {
			if refs, err := parse(); !errors.Is(err, errNonsense) {
				t.Errorf("%s of %.100q: %v, error %v", what, line, refs, err)
			}
		}
	}
}

func TestAdvertisements(t *testing.T) {
	zero := strings.Repeat("0", 40)
	for _, c := range []struct {
		name, in string
		want     advertisement
		wrong    string // a part of the message
	}{
		{
			name: "v2",
			in:   packets("version 2", "agent=git/2.39.5", "ls-refs=unborn", "fetch=shallow wait-for-done filter", "object-format=sha1", "flush"),
			want: advertisement{protocol: version2, filter: true},
		},
		{
			name: "v2 behind a service line, with another hash",
			in:   packets("# service=git-upload-pack", "flush", "version 2", "ls-refs", "object-format=sha256", "flush"),
			want: advertisement{protocol: version2, format: sha256},
		},
		{name: "v2 without ls-refs", in: packets("version 2", "fetch", "flush"), wrong: "no ls-refs"},
		{name: "v2 with a new hash", in: packets("version 2", "ls-refs", "object-format=blake3", "flush"), wrong: `object format is "blake3"`},
		{name: "v2 without end", in: packets("version 2", "ls-refs"), wrong: "ends in the middle"},
		{name: "v3", in: packets("version 3", "flush"), wrong: `unknown "version 3"`},
		{
			name: "v0",
			in: packets("# service=git-upload-pack", "flush",
				commitA+" HEAD\x00multi_ack symref=HEAD:refs/heads/main object-format=sha1 agent=git/1", commitA+" refs/heads/main",
				commitB+" refs/tags/v1", commitA+" refs/tags/v1^{}", "shallow "+commitB, "flush"),
			want: advertisement{protocol: listing, refs: []Ref{
				{"HEAD", commitA, "refs/heads/main"}, {"refs/heads/main", commitA, ""}, {"refs/tags/v1", commitB, ""},
			}},
		},
		{
			name: "v1",
			in:   packets("# service=git-upload-pack", "flush", "version 1", commitA+" refs/heads/main\x00", "flush"),
			want: advertisement{protocol: listing, refs: []Ref{{"refs/heads/main", commitA, ""}}},
		},
		{
			name: "v0 with another hash",
			in:   packets(long+" refs/heads/main\x00object-format=sha256", "flush"),
			want: advertisement{protocol: listing, format: sha256, refs: []Ref{{"refs/heads/main", long, ""}}},
		},
		{name: "v0, empty", in: packets(zero+" capabilities^{}\x00agent=git/1", "flush"), want: advertisement{protocol: listing}},
		{name: "v0, empty, of git 2.39", in: packets("# service=git-upload-pack", "flush", "flush"), want: advertisement{protocol: listing}},
		{name: "v1, empty", in: packets("# service=git-upload-pack", "flush", "version 1", "flush"), want: advertisement{protocol: listing}},
		{name: "v0, empty but not", in: packets(zero+" capabilities^{}\x00", commitA+" refs/heads/main", "flush"), wrong: "refs after"},
		{name: "v0 without end", in: packets(commitA + " refs/heads/main\x00"), wrong: "ends in the middle"},
		{name: "another service", in: packets("# service=git-receive-pack", "flush"), wrong: "another service"},
		{name: "no flush", in: packets("# service=git-upload-pack", "version 2", "flush"), wrong: "no flush packet"},
		{name: "an error", in: packets("ERR access denied\x1b"), wrong: `the server says: "access denied\x1b"`},
		{name: "an error after the service", in: packets("# service=git-upload-pack", "flush", "ERR no"), wrong: `the server says: "no"`},
		{name: "nothing", in: "", wrong: "ends in the middle"},
		{name: "only a flush", in: "0000", wrong: "it is empty"},
		{name: "dumb", in: "g" + commitA + "\trefs/heads/main\n", wrong: "packet format"},
	} {
		got, err := parseAdvertisement(c.in)
		switch {
		case c.wrong != "":
			if err == nil || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%s: error %v, want …%s…", c.name, err, c.wrong)
			}
		case err != nil || got.protocol != c.want.protocol || got.filter != c.want.filter || got.format != c.want.format || !slices.Equal(got.refs, c.want.refs):
			t.Errorf("%s: %+v %v, want %+v", c.name, got, err, c.want)
		}
	}
}

func TestQuestion(t *testing.T) {
	set, err := newPrefixSet("", []string{"refs/heads/release/", "refs/heads/main", "refs/heads/release/1", "refs/heads/main", "HEAD"})
	if err != nil {
		t.Fatal(err)
	}
	got := string(appendLsRefs(nil, set, sha256))
	want := packets("command=ls-refs", "object-format=sha256", "delimiter", "symrefs",
		"ref-prefix HEAD", "ref-prefix refs/heads/main", "ref-prefix refs/heads/release/", "flush")
	if got != want {
		t.Errorf("asks\n%q, want\n%q", got, want)
	}
	if got, want := string(appendLsRefs(nil, prefixSet{rest: []string{"refs/heads/main"}}, sha1)), packets("command=ls-refs", "delimiter", "ref-prefix refs/heads/main", "flush"); got != want {
		t.Errorf("asks\n%q, want\n%q", got, want)
	}
}

func TestPrefixSet(t *testing.T) {
	names := []string{"HEAD", "refs/heads/a", "refs/heads/a/b", "refs/heads/ab", "refs/heads/b", "refs/heads/b!", "refs/heads/", "refs/tags/a", "r", "zz"}
	for _, prefixes := range [][]string{
		nil,
		{""},
		{"refs/heads/a", ""},
		{"refs/heads/a"},
		{"refs/heads/b", "refs/heads/a", "refs/heads/a/"},
		{"HEAD", "refs/tags/"},
		{"zzz"},
		{"refs/heads/b", "refs/heads/b!", "r/", "refs/tags/a"},
	} {
		set, err := newPrefixSet("", prefixes)
		if err != nil {
			t.Fatal(err)
		}
		inOrder := filter{set: set} // one for all names, as for an answer; the other way round it must find them too
		for _, order := range [][]string{slices.Sorted(slices.Values(names)), names} {
			for _, name := range order {
				want := len(prefixes) == 0 || slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
				if got := inOrder.has([]byte(name)); got != want {
					t.Errorf("%q has %q: %v, want %v", prefixes, name, got, want)
				}
			}
			slices.Reverse(names)
		}
	}
	set, err := newPrefixSet("refs/heads/", []string{"b", "a/", "", "b!"})
	if err != nil {
		t.Fatal(err)
	}
	want := packets("command=ls-refs", "delimiter", "ref-prefix refs/heads/", "flush")
	if got := string(appendLsRefs(nil, set, sha1)); got != want {
		t.Errorf("asks\n%q, want\n%q", got, want)
	}
	for _, prefixes := range [][]string{{"a"}, {"b", "a/"}, {"b!", "b", "ab"}, {""}} {
		set, err := newPrefixSet("refs/heads/", prefixes)
		if err != nil {
			t.Fatal(err)
		}
		names := &filter{set: set}
		for _, name := range []string{"HEAD", "a", "ab", "refs/heads/a", "refs/heads/a/b", "refs/heads/ab", "refs/heads/b!", "refs/heads/", "refs/heads", "refs/tags/a"} {
			branch, is := strings.CutPrefix(name, "refs/heads/")
			want := is && slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(branch, p) })
			if got := names.has([]byte(name)); got != want {
				t.Errorf("branches %q have %q: %v, want %v", prefixes, name, got, want)
			}
		}
	}
	if _, err := newPrefixSet("", []string{strings.Repeat("x", maxPrefix+1)}); err == nil {
		t.Error("a prefix of any length is accepted")
	}
}

func FuzzLsRefs(f *testing.F) {
	f.Add([]byte(packets(commitA+" HEAD symref-target:refs/heads/main", commitA+" refs/heads/main", "flush")), "refs/heads/")
	f.Add([]byte(packets(long+" refs/heads/main", "flush")), "")
	f.Add([]byte(packets("ERR no", "flush")), "HEAD")
	f.Add([]byte("0000"), "refs/heads/main")
	f.Fuzz(func(t *testing.T, in []byte, prefix string) {
		if len(prefix) > maxPrefix {
			return
		}
		for _, format := range []objectFormat{sha1, sha256} {
			refs, err := parseLsRefs(string(in), []string{prefix}, format)
			if err == nil {
				checkRefs(t, refs, prefix, format)
				if !bytes.Contains(in, []byte(flush)) {
					t.Fatalf("believed %q, which has no end", in)
				}
			}
		}
	})
}

func FuzzAdvertisement(f *testing.F) {
	f.Add([]byte(packets("# service=git-upload-pack", "flush", "version 2", "ls-refs=unborn", "object-format=sha256", "flush")))
	f.Add([]byte(packets("version 1", commitA+" refs/heads/main\x00", "flush")))
	f.Add([]byte(packets(commitA+" HEAD\x00symref=HEAD:refs/heads/main", commitA+" refs/heads/main", commitB+" refs/tags/v1^{}", "flush")))
	f.Add([]byte(packets(strings.Repeat("0", 40)+" capabilities^{}\x00", "flush")))
	f.Add([]byte(packets("ERR no")))
	f.Fuzz(func(t *testing.T, in []byte) {
		a, err := parseAdvertisement(string(in), "refs/", "HEAD")
		if err == nil {
			checkRefs(t, a.refs, "", a.format)
			if a.protocol == unknown {
				t.Fatalf("%q: no error and no protocol", in)
			}
		}
	})
}

func checkRefs(t *testing.T, refs []Ref, prefix string, format objectFormat) {
	t.Helper()
	for _, r := range refs {
		if err := sentry.CheckCommit(r.Commit); err != nil || len(r.Commit) != format.digits() {
			t.Fatalf("%+v: %v", r, err)
		}
		if !strings.HasPrefix(r.Name, prefix) || strings.ContainsAny(r.Name, " \x00\n\r\x1b:") || strings.Contains(r.Name, "..") {
			t.Fatalf("%+v", r)
		}
		if strings.ContainsAny(r.Target, " \x00\n") {
			t.Fatalf("%+v", r)
		}
	}
}

func fetchAnswer(object string, lines ...string) string {
	return packets(append(lines, "packfile")...) + band1("PACK\x00\x00\x00\x02\x00\x00\x00\x01"+object) + flush
}

func band1(data string) string { return fmt.Sprintf("%04x\x01%s", len(data)+5, data) }

func TestWrongPacks(t *testing.T) {
	read := func(in string) error {
		var p packetReader
		p.reset(strings.NewReader(in), 1<<20)
		_, err := readFetch(&p, commitA)
		return err
	}
	deflated := func(text string) string {
		var b bytes.Buffer
		z := zlib.NewWriter(&b)
		_, _ = z.Write([]byte(text))
		_ = z.Close()
		return b.String()
	}
	for name, c := range map[string]struct{ in, wrong string }{
		"another commit":   {fetchAnswer("\x15" + deflated("tree ")), "it sends commit"},
		"a tree":           {fetchAnswer("\x25" + deflated("tree ")), "an object of kind 2"},
		"a delta":          {fetchAnswer("\x75" + deflated("tree ")), "an object of kind 7"},
		"a huge commit":    {fetchAnswer("\x9f\xff\xff\xff\x7f" + deflated("tree ")), "a commit of more than"},
		"a length for aye": {fetchAnswer("\x9f" + strings.Repeat("\xff", 100)), "a commit of more than"},
		"too little":       {fetchAnswer("\x1f" + deflated("tree ")), "ends in the middle"},
		"not zlib":         {fetchAnswer("\x15nonsense"), "makes no sense"},
		"broken zlib":      {fetchAnswer("\x15\x78\x9c\xff\xff\xff\xff\xff\xff"), "makes no sense"},
		"no pack":          {packets("shallow-info", "delimiter", "flush"), "ends without a pack"},
		"not a pack":       {packets("packfile") + band1("NOTAPACKNOTAPACK") + flush, "not the header of a pack"},
		"an error":         {packets("ERR upload-pack: not our ref"), "not our ref"},
		"an error midway":  {packets("packfile") + "0009\x03oops" + flush, `the server says: "oops"`},
		"another band":     {packets("packfile") + "0009\x04oops" + flush, "band 4"},
		"an empty band":    {packets("packfile") + "0004" + flush, "an empty packet"},
		"nothing":          {"", "ends in the middle"},
	} {
		if err := read(c.in); err == nil || !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: %v, want …%s…", name, err, c.wrong)
		}
	}
}

func FuzzFetch(f *testing.F) {
	f.Add([]byte(fetchAnswer("\x15\x78\x9c+)JMU\x00\x00\x05\x9f\x01\xf9", "shallow-info", "shallow "+commitA, "delimiter")))
	f.Add([]byte(packets("packfile") + "0009\x03oops" + flush))
	f.Add([]byte("tree x\nauthor A <a> 1 +0\ncommitter C <c> 2 +0\nencoding latin1\n\nmessage"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var p packetReader
		p.reset(bytes.NewReader(in), 1<<20)
		if _, err := readFetch(&p, commitA); err == nil {
			t.Fatalf("%q is a pack with commit %s", in, commitA)
		}
		c, err := parseCommit(in)
		if err != nil {
			return
		}
		for _, text := range []string{c.AuthorName, c.AuthorEmail, c.Message} {
			if !utf8.ValidString(text) {
				t.Fatalf("%q is not UTF-8", text)
			}
		}
		if _, err := c.Time.MarshalJSON(); err != nil {
			t.Fatal(err)
		}
	})
}
