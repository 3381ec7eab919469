package deploy

import (
	"encoding/json"
	"io"
	"sync"
	"time"
)

// How much of the log of a step a runner tells. What a container prints is kept by its node, which throws old lines away:
// so the beginning goes out as it comes, up to the size that a log on disk shows the beginning of, and of the rest only the
// end, once there is one.
const (
	liveBytes  = 1 << 20
	tailBytes  = 1 << 20
	pieceBytes = 8 << 10                // of a log in one message: a line of it is no longer than a container runtime takes in one piece
	pieceTime  = 100 * time.Millisecond // within which small pieces join
)

// voice is how a runner tells its controller what happens. It is safe for concurrent use.
type voice struct {
	mu  sync.Mutex
	out io.Writer
	seq int64
}

// say tells one message. Who reads it may be away: it is on the disk of the node then.
func (v *voice) say(m message) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.seq++
	m.Seq = v.seq
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = v.out.Write(append(line, '\n'))
	return err
}

// logVoice tells the log of one step. Its errors are those of the voice.
type logVoice struct {
	*voice
	name string

	mu    sync.Mutex
	total int64  // what was written
	said  int64  // of it, from the beginning
	piece []byte // what follows that, and is about to be said
	tail  []byte // what was written after liveBytes: the last of it
	timer *time.Timer
	err   error
}

func (v *voice) log(name string) *logVoice { return &logVoice{voice: v, name: name} }

// Write takes all of p.
func (l *logVoice) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(p)
	live := int(min(int64(n), max(0, liveBytes-l.total)))
	l.total += int64(n)
	l.piece = append(l.piece, p[:live]...)
	for len(l.piece) >= pieceBytes {
		l.saySome(pieceBytes)
	}
	if len(l.piece) > 0 && l.timer == nil {
		l.timer = time.AfterFunc(pieceTime, l.late)
	}
	l.tail = append(l.tail, p[live:]...)
	if len(l.tail) > 2*tailBytes {
		l.tail = append(l.tail[:0], l.tail[len(l.tail)-tailBytes:]...)
	}
	return n, nil
}

// late says the piece that waits.
func (l *logVoice) late() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer = nil
	l.saySome(len(l.piece))
}

// saySome says the first n bytes of the piece. The caller has the lock.
func (l *logVoice) saySome(n int) {
	if n > 0 {
		l.sayAt(l.said, l.piece[:n], false)
		l.said += int64(n)
		l.piece = append(l.piece[:0], l.piece[n:]...)
	}
}

func (l *logVoice) sayAt(offset int64, text []byte, end bool) {
	err := l.say(message{Kind: sayLog, Log: l.name, Offset: offset, Text: text, End: end})
	if l.err == nil {
		l.err = err
	}
}

// Close says what is left, and that it was all.
func (l *logVoice) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	l.saySome(len(l.piece))
	rest := l.tail[max(0, len(l.tail)-tailBytes):]
	for len(rest) > 0 {
		piece := rest[:min(len(rest), pieceBytes)]
		l.sayAt(l.total-int64(len(rest)), piece, false)
		rest = rest[len(piece):]
	}
	l.tail = nil
	l.sayAt(l.total, nil, true)
	return l.err
}
