package gitwire

import (
	"errors"
	"fmt"
	"io"
)

// maxPacket is the longest packet, its four digits of length included (gitprotocol-common).
const maxPacket = 65520

// packet is the kind of a pkt-line.
type packet int

const (
	dataPacket packet = iota
	flushPacket
	delimiterPacket
	responseEndPacket
)

// What can be wrong with a stream of packets.
var (
	errTruncated = errors.New("the answer ends in the middle")
	errTooBig    = errors.New("the answer is too big")
	errNoPacket  = errors.New("the answer is not in Git's packet format")
)

// packetReader reads pkt-lines from a stream into one buffer that grows only where a packet needs it. It never reads
// more than limit bytes.
type packetReader struct {
	from  io.Reader
	limit int64  // bytes that may still be read
	buf   []byte // buf[:len] holds what was read; buf[next:] of it is not yet given out
	next  int
	err   error // what ended the reading
}

// reset begins a new stream and keeps the buffer.
func (p *packetReader) reset(from io.Reader, limit int64) {
	*p = packetReader{from: from, limit: limit, buf: p.buf[:0]}
}

// read gives the next packet. Its content is valid until the next call. At the end of the stream, between packets, the
// error is io.EOF.
func (p *packetReader) read() (content []byte, kind packet, err error) {
	if err := p.need(4); err != nil {
		return nil, 0, err
	}
	size, ok := packetSize(p.buf[p.next:])
	if !ok {
		return nil, 0, fmt.Errorf("%w (it has %q where a length belongs)", errNoPacket, p.buf[p.next:p.next+4])
	}
	switch size {
	case 0, 1, 2:
		p.next += 4
		return nil, [...]packet{flushPacket, delimiterPacket, responseEndPacket}[size], nil
	}
	if err := p.need(size); err != nil {
		if err == io.EOF {
			err = errTruncated
		}
		return nil, 0, err
	}
	content = p.buf[p.next+4 : p.next+size]
	p.next += size
	return content, dataPacket, nil
}

// whole reads to the end of a stream that is no longer than most, and gives all of it; nothing of it counts as given out.
// It reports false where the stream is longer, or breaks off.
func (p *packetReader) whole(most int) ([]byte, bool) {
	for p.err == nil && len(p.buf) <= most {
		p.fill(len(p.buf) - p.next + 1)
	}
	return p.buf, p.err == io.EOF && p.next == 0 && len(p.buf) <= most
}

// need makes sure that n bytes lie in the buffer after next. It gives io.EOF where the stream has ended right there.
func (p *packetReader) need(n int) error {
	for len(p.buf)-p.next < n {
		if p.err != nil {
			if p.err == io.EOF && len(p.buf) > p.next {
				return errTruncated
			}
			return p.err
		}
		p.fill(n)
	}
	return nil
}

// fill reads once more, after making room for n bytes behind next.
func (p *packetReader) fill(n int) {
	if p.next > 0 && (p.next == len(p.buf) || p.next+n > cap(p.buf)) {
		p.buf = p.buf[:copy(p.buf, p.buf[p.next:])]
		p.next = 0
	}
	if n > cap(p.buf) {
		bigger := make([]byte, len(p.buf), max(n, 2*cap(p.buf), 4096))
		copy(bigger, p.buf)
		p.buf = bigger
	}
	room := p.buf[len(p.buf):cap(p.buf)]
	if p.limit <= 0 {
		// One byte more tells an answer that is too long from one that just fits.
		room = room[:1]
	} else if int64(len(room)) > p.limit {
		room = room[:p.limit]
	}
	got, err := p.from.Read(room)
	switch {
	case got > 0 && p.limit <= 0:
		p.err = errTooBig
		return
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = errTruncated
	}
	p.limit -= int64(got)
	p.buf = p.buf[:len(p.buf)+got]
	p.err = err
}

// packetSize reads the length in front of a packet. 3, and whatever is longer than a packet may be, is no length.
func packetSize(b []byte) (size int, ok bool) {
	for _, c := range b[:4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		size = size<<4 | int(c)
	}
	return size, size != 3 && size <= maxPacket
}

const (
	flush     = "0000"
	delimiter = "0001"
)

// appendPacket adds a packet with the content of some parts and a line feed. Together they are far shorter than maxPacket.
func appendPacket(b []byte, parts ...string) []byte {
	const digits = "0123456789abcdef"
	n := 4 + 1
	for _, p := range parts {
		n += len(p)
	}
	b = append(b, digits[n>>12&15], digits[n>>8&15], digits[n>>4&15], digits[n&15])
	for _, p := range parts {
		b = append(b, p...)
	}
	return append(b, '\n')
}
