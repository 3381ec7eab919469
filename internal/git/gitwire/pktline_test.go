package gitwire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// transcript reads packets to the end and writes down what it saw.
func transcript(from io.Reader, limit int64) string {
	var p packetReader
	p.reset(from, limit)
	var out strings.Builder
	for {
		content, kind, err := p.read()
		if err != nil {
			fmt.Fprintf(&out, "!%v", err)
			return out.String()
		}
		switch kind {
		case dataPacket:
			fmt.Fprintf(&out, "%q ", content)
		case flushPacket:
			out.WriteString("flush ")
		case delimiterPacket:
			out.WriteString("delimiter ")
		case responseEndPacket:
			out.WriteString("end ")
		}
	}
}

func TestPackets(t *testing.T) {
	long := strings.Repeat("x", maxPacket-4)
	for _, c := range []struct{ in, want string }{
		{"", "!EOF"},
		{"0000", "flush !EOF"},
		{"0006a\n0001000bfoobar\n00000002", `"a\n" delimiter "foobar\n" flush end !EOF`},
		{"0004", `"" !EOF`},
		{"000Aabcdef", `"abcdef" !EOF`},
		{"fff0" + long, fmt.Sprintf("%q !EOF", long)},
		{"000", "!" + errTruncated.Error()},
		{"0009ab", "!" + errTruncated.Error()},
		{"0009", "!" + errTruncated.Error()},
		{"0003", `!the answer is not in Git's packet format (it has "0003" where a length belongs)`},
		{"fff1" + long + "x", `!the answer is not in Git's packet format (it has "fff1" where a length belongs)`},
		{"<htm", `!the answer is not in Git's packet format (it has "<htm" where a length belongs)`},
		{"+00a", `!the answer is not in Git's packet format (it has "+00a" where a length belongs)`},
	} {
		for name, reader := range map[string]io.Reader{
			"whole":   strings.NewReader(c.in),
			"bytes":   iotest.OneByteReader(strings.NewReader(c.in)),
			"dataErr": iotest.DataErrReader(strings.NewReader(c.in)),
		} {
			if got := transcript(reader, 1<<20); got != c.want {
				t.Errorf("%s of %.40q: got %.200s, want %.200s", name, c.in, got, c.want)
			}
		}
	}
}

func TestPacketsStopAtTheLimit(t *testing.T) {
	in := "0008abcd0000"
	if got, want := transcript(strings.NewReader(in), int64(len(in))), `"abcd" flush !EOF`; got != want {
		t.Errorf("an answer that just fits: %s", got)
	}
	if got, want := transcript(strings.NewReader(in), int64(len(in))-1), `"abcd" !`+errTooBig.Error(); got != want {
		t.Errorf("an answer a byte too long: got %s, want %s", got, want)
	}
	var p packetReader
	p.reset(&endless{text: "0008abcd"}, 1<<20)
	packets := 0
	for {
		_, _, err := p.read()
		if err != nil {
			if !errors.Is(err, errTooBig) {
				t.Errorf("an endless answer ends with %v", err)
			}
			break
		}
		packets++
	}
	if packets != 1<<20/8 || cap(p.buf) > 8<<10 {
		t.Errorf("read %d packets into %d bytes", packets, cap(p.buf))
	}
}

// endless repeats a text for ever.
type endless struct {
	text string
	at   int
}

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = e.text[e.at]
		e.at = (e.at + 1) % len(e.text)
	}
	return len(p), nil
}

func TestReadErrorsPass(t *testing.T) {
	boom := errors.New("connection reset")
	in := io.MultiReader(strings.NewReader("0005x00"), iotest.ErrReader(boom))
	if got, want := transcript(in, 100), `"x" !connection reset`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func FuzzPktLine(f *testing.F) {
	for _, seed := range []string{
		"", "0000", "0001", "0002", "0003", "0004", "0005a", "0006a\n0000", "fff0", "ffff", "000g", "00000000", "0009ab",
		"0014command=ls-refs\n00010000", "PACK", "\x00\x00\x00\x04",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		whole := transcript(bytes.NewReader(in), 1<<20)
		if pieces := transcript(iotest.OneByteReader(bytes.NewReader(in)), 1<<20); pieces != whole {
			t.Fatalf("read byte by byte: %s; at once: %s", pieces, whole)
		}
		var out []byte
		out = appendPacket(out, string(in[:min(len(in), maxPacket-5)]), "")
		var p packetReader
		p.reset(bytes.NewReader(out), int64(len(out)))
		content, kind, err := p.read()
		if err != nil || kind != dataPacket || string(content) != string(in[:min(len(in), maxPacket-5)])+"\n" {
			t.Fatalf("wrote %q, read %q %v %v", out, content, kind, err)
		}
	})
}
