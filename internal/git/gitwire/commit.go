package gitwire

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/zlib"
	"context"
	cryptosha1 "crypto/sha1"
	cryptosha256 "crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"
	"time"

	"sentry/internal/sentry"
)

// Commit is what a commit says of itself. The texts are as its author wrote them, in UTF-8; they may have any character.
type Commit struct {
	AuthorName, AuthorEmail string
	Time                    time.Time // when it was committed, UTC; zero where it says nothing that is a time
	Message                 string
}

// maxCommit bounds a commit, in bytes.
const maxCommit = 1 << 20

// ErrNoFetch is the cause of the error of Commit where a server speaks no protocol v2.
var ErrNoFetch = errors.New("the server does not speak protocol v2")

// Commit fetches one commit, without its history and, where the server can leave them out, its files; where it cannot,
// the conversation ends as soon as the commit is there, which comes before them. The commit is checked against its name.
// The error is a *sentry.Fault.
func (c *Client) Commit(ctx context.Context, r sentry.Remote, a Auth, id string) (Commit, error) {
	if err := sentry.CheckCommit(id); err != nil {
		return Commit{}, &sentry.Fault{Kind: sentry.Invalid, Err: err}
	}
	var commit Commit
	err := c.converse(ctx, r, a, func(ctx context.Context, q *question) (err error) {
		at := q.known(r)
		if at.protocol != version2 {
			if at, _, err = q.meet(ctx, prefixSet{rest: []string{nothing}}); err != nil {
				return err
			}
			q.learn(r, at)
		}
		if at.protocol != version2 {
			return &sentry.Fault{Kind: sentry.Invalid, Err: ErrNoFetch}
		}
		return q.command(ctx, at, appendFetch(nil, id, at.filter), func(p *packetReader) error {
			text, err := readFetch(p, id)
			if err != nil {
				return err
			}
			commit, err = parseCommit(text)
			return err
		})
	})
	return commit, err
}

// LooseCommit reads one commit as the file that a repository keeps it in (a loose object, gitprotocol-http), where the
// server gives those out as Gitea and Forgejo do: it starts no git for that, so it answers in half the time. What is in a
// pack has no file of its own: then the error is of kind NotFound, as where there is no repository. The commit is checked
// against its name. The error is a *sentry.Fault.
func (c *Client) LooseCommit(ctx context.Context, r sentry.Remote, a Auth, id string) (Commit, error) {
	if err := sentry.CheckCommit(id); err != nil {
		return Commit{}, &sentry.Fault{Kind: sentry.Invalid, Err: err}
	}
	var commit Commit
	err := c.converse(ctx, r, a, func(ctx context.Context, q *question) error {
		resp, err := q.send(ctx, q.path(q.known(r))+"/objects/"+id[:2]+"/"+id[2:], "", nil)
		if err != nil {
			return err
		}
		defer drop(resp)
		if err := checkAnswer(resp, q.auth, "application/x-git-loose-object"); err != nil {
			return err
		}
		body, err := unpacked(resp)
		if err != nil {
			return err
		}
		text, err := readLoose(body, id)
		if err != nil {
			return q.unreadable(err)
		}
		commit, err = parseCommit(text)
		return q.unreadable(err)
	})
	return commit, err
}

// readLoose reads a loose object (gitrepository-layout), which must be the commit of that name.
func readLoose(in io.Reader, id string) ([]byte, error) {
	unpacked, err := zlib.NewReader(in)
	if err != nil {
		return nil, endsEarly(err)
	}
	const header = "commit %d"
	whole, err := io.ReadAll(io.LimitReader(unpacked, maxCommit+int64(len(header))+10))
	if err != nil {
		return nil, endsEarly(err)
	}
	head, text, _ := bytes.Cut(whole, []byte{0})
	if want := fmt.Sprintf(header, len(text)); string(head) != want {
		return nil, fmt.Errorf("%w: %q begins an object of %d bytes where the commit belongs", errNonsense, clip(string(head)), len(text))
	}
	return text, checkName(text, id)
}

// nothing is a prefix that no ref has.
const nothing = "\x00"

// appendFetch renders the question for one commit.
func appendFetch(b []byte, id string, filter bool) []byte {
	b = appendPacket(b, "command=fetch", "")
	if len(id) == sha256.digits() {
		b = appendPacket(b, "object-format=sha256", "")
	}
	b = append(b, delimiter...)
	b = appendPacket(b, "no-progress", "")
	if filter {
		b = appendPacket(b, "filter ", "tree:0")
	}
	b = appendPacket(b, "deepen ", "1")
	b = appendPacket(b, "want ", id)
	b = appendPacket(b, "done", "")
	return append(b, flush...)
}

// readFetch reads the answer as far as the first object, which must be the commit of that name.
func readFetch(p *packetReader, id string) ([]byte, error) {
	for {
		line, kind, err := p.read()
		switch {
		case err == io.EOF:
			return nil, errTruncated
		case err != nil:
			return nil, err
		case kind == flushPacket || kind == responseEndPacket:
			return nil, fmt.Errorf("%w: it ends without a pack", errNonsense)
		}
		if err := saidError(line); err != nil {
			return nil, err
		}
		if kind == dataPacket && string(bytes.TrimSuffix(line, newline)) == "packfile" {
			return readFirstObject(bufio.NewReader(&band{packets: p}), id)
		}
	}
}

// band gives what is sent over the first of the bands into which a pack is put: the second is for progress, the third
// for errors.
type band struct {
	packets *packetReader
	rest    []byte
}

func (b *band) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		content, kind, err := b.packets.read()
		switch {
		case err == io.EOF:
			return 0, errTruncated
		case err != nil:
			return 0, err
		case kind == flushPacket:
			return 0, io.EOF
		case kind != dataPacket || len(content) == 0:
			return 0, fmt.Errorf("%w: an empty packet in the pack", errNonsense)
		}
		switch content[0] {
		case 1:
			b.rest = content[1:]
		case 2:
		case 3:
			return 0, &serverError{text: fmt.Sprintf("%q", clip(string(bytes.TrimSpace(content[1:]))))}
		default:
			return 0, fmt.Errorf("%w: band %d in the pack", errNonsense, content[0])
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

const commitObject = 1

// readFirstObject reads the beginning of a pack (gitformat-pack): its header, and one commit, which is never a delta as
// there is no other.
func readFirstObject(in *bufio.Reader, id string) ([]byte, error) {
	var header [12]byte
	if _, err := io.ReadFull(in, header[:]); err != nil {
		return nil, endsEarly(err)
	}
	if string(header[:4]) != "PACK" || header[7] != 2 && header[7] != 3 {
		return nil, fmt.Errorf("%w: %q is not the header of a pack", errNonsense, header[:8])
	}
	first, err := in.ReadByte()
	if err != nil {
		return nil, endsEarly(err)
	}
	size := int64(first & 15)
	for more, shift := first, 4; more&0x80 != 0; shift += 7 {
		if more, err = in.ReadByte(); err != nil {
			return nil, endsEarly(err)
		}
		if size |= int64(more&0x7f) << shift; shift > 32 || size > maxCommit {
			return nil, fmt.Errorf("%w: a commit of more than %d bytes", errNonsense, maxCommit)
		}
	}
	if kind := first >> 4 & 7; kind != commitObject {
		return nil, fmt.Errorf("%w: an object of kind %d where the commit belongs", errNonsense, kind)
	}
	unpacked, err := zlib.NewReader(in)
	if err != nil {
		return nil, endsEarly(err)
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(unpacked, text); err != nil {
		return nil, endsEarly(err)
	}
	return text, checkName(text, id)
}

// checkName compares a commit with its name, which is a hash of it.
func checkName(text []byte, id string) error {
	var sum hash.Hash = cryptosha1.New()
	if len(id) == sha256.digits() {
		sum = cryptosha256.New()
	}
	fmt.Fprintf(sum, "commit %d\x00%s", len(text), text)
	if got := hex.EncodeToString(sum.Sum(nil)); got != id {
		return fmt.Errorf("%w: it sends commit %s for %s", errNonsense, got, id)
	}
	return nil
}

// endsEarly tells a pack that was cut from one that was spoilt.
func endsEarly(err error) error {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errTruncated
	case errors.Is(err, zlib.ErrHeader), errors.Is(err, zlib.ErrChecksum), errors.As(err, new(flate.CorruptInputError)):
		return fmt.Errorf("%w: %w", errNonsense, err)
	}
	return err
}

// parseCommit reads the headers of a commit, and its message.
func parseCommit(text []byte) (Commit, error) {
	head, message, _ := strings.Cut(string(text), "\n\n")
	if !strings.HasPrefix(head, "tree ") {
		return Commit{}, fmt.Errorf("%w: %q is not a commit", errNonsense, clip(head))
	}
	var c Commit
	encoding := ""
	for line := range strings.SplitSeq(head, "\n") {
		key, value, _ := strings.Cut(line, " ")
		switch key {
		case "author":
			c.AuthorName, c.AuthorEmail, _ = parsePerson(value)
		case "committer":
			_, _, c.Time = parsePerson(value)
		case "encoding":
			encoding = strings.ToLower(value)
		}
	}
	c.Message = message
	for _, field := range []*string{&c.AuthorName, &c.AuthorEmail, &c.Message} {
		if strings.HasPrefix(encoding, "iso-8859-1") || encoding == "latin1" || encoding == "latin-1" {
			*field = fromLatin1(*field)
		}
		*field = strings.ToValidUTF8(*field, "\uFFFD")
	}
	return c, nil
}

// lastSecond is the end of the year 9999, in Unix seconds: JSON has no later times.
const lastSecond = 253_402_300_799

// parsePerson reads "name <address> seconds zone". What is missing stays empty.
func parsePerson(text string) (name, email string, at time.Time) {
	name, rest, _ := strings.Cut(text, "<")
	email, when, _ := strings.Cut(rest, ">")
	if fields := strings.Fields(when); len(fields) > 0 {
		if seconds, err := strconv.ParseInt(fields[0], 10, 64); err == nil && seconds >= 0 && seconds <= lastSecond {
			at = time.Unix(seconds, 0).UTC()
		}
	}
	return strings.TrimSpace(name), strings.TrimSpace(email), at
}

func fromLatin1(text string) string {
	var b strings.Builder
	for i := range len(text) {
		b.WriteRune(rune(text[i]))
	}
	return b.String()
}
