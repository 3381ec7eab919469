package deploy

import (
	"encoding/json"
	"io"
	"reflect"
	"slices"
	"sync"
	"time"

	"sentry/internal/sentry"
)

// How much of the log of a step a runner tells. What a container prints is kept by its node, which throws old lines away: so
// the beginning goes out as it comes, up to the size that a log on disk shows the beginning of, and what follows at no more than
// some rate. What waits is told when that allows for a good part of it; of what is too much the end is.
const (
	liveBytes  = 1 << 20
	laterRate  = 8 << 10 // bytes a second
	laterBytes = 64 << 10
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

// stateVoice tells how far a deployment is, one state after the other.
type stateVoice struct {
	*voice
	told map[string]sentry.PipelineRun // by nonce
}

// tell tells of those pipeline runs that have changed since it told last.
func (s *stateVoice) tell(d sentry.Deployment) error {
	m := message{Kind: sayState, Deployment: &d}
	told := map[string]sentry.PipelineRun{}
	runs := ofAttempt(d)
	d.PipelineRuns = nil
	for _, run := range runs {
		if last, known := s.told[run.Nonce]; !known || !reflect.DeepEqual(run, last) {
			d.PipelineRuns = append(d.PipelineRuns, run)
		}
		told[run.Nonce] = run
	}
	for nonce := range s.told {
		if _, stays := told[nonce]; !stays {
			m.Dropped = append(m.Dropped, nonce)
		}
	}
	s.told = told
	return s.say(m)
}

// ofAttempt gives the pipeline runs that the current attempt has created.
func ofAttempt(d sentry.Deployment) []sentry.PipelineRun {
	return slices.DeleteFunc(slices.Clone(d.PipelineRuns), func(run sentry.PipelineRun) bool { return run.Attempt != d.Attempt })
}

// logVoice tells the log of one step. Its errors are those of the voice.
type logVoice struct {
	*voice
	name string

	mu    sync.Mutex
	said  int64  // what was said, or passed over
	queue []byte // what follows that, and is about to be said
	may   int64  // how much may be said
	as    time.Time
	spent bool // it waits until more may
	timer *time.Timer
	err   error
}

func (v *voice) log(name string) *logVoice {
	return &logVoice{voice: v, name: name, may: liveBytes, as: time.Now()}
}

// Write takes all of p.
func (l *logVoice) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = append(l.queue, p...)
	l.sayOn(pieceBytes)
	if len(l.queue) > 2*tailBytes {
		l.passOver()
	}
	l.wait()
	return len(p), nil
}

// wait has the rest said soon, or when that may be. The caller has the lock.
func (l *logVoice) wait() {
	if len(l.queue) == 0 || l.timer != nil {
		return
	}
	pause := pieceTime
	if l.spent {
		pause = max(pause, time.Duration(laterBytes-l.may)*time.Second/laterRate)
	}
	l.timer = time.AfterFunc(pause, l.late)
}

// late says what waits.
func (l *logVoice) late() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer = nil
		l.sayOn(1)
		l.wait()
	}
}

// sayOn says what may be said, in pieces of at least so many bytes. The caller has the lock.
func (l *logVoice) sayOn(least int) {
	now := time.Now()
	if more := int64(now.Sub(l.as).Seconds() * laterRate); more > 0 {
		l.may, l.as = min(liveBytes, l.may+more), now
	}
	l.spent = l.spent && l.may < laterBytes
	for !l.spent && len(l.queue) >= least {
		n := int(min(int64(len(l.queue)), pieceBytes, l.may))
		if l.spent = n == 0; !l.spent {
			l.may -= int64(n)
			l.saySome(n)
		}
	}
}

// passOver keeps the end of the queue. The caller has the lock.
func (l *logVoice) passOver() {
	over := max(0, len(l.queue)-tailBytes)
	l.said += int64(over)
	l.queue = l.queue[over:]
}

// saySome says the first n bytes of the queue. The caller has the lock.
func (l *logVoice) saySome(n int) {
	l.sayAt(l.queue[:n], false)
	l.said += int64(n)
	l.queue = l.queue[n:]
}

func (l *logVoice) sayAt(text []byte, end bool) {
	err := l.say(message{Kind: sayLog, Log: l.name, Offset: l.said, Text: text, End: end})
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
	l.passOver()
	for len(l.queue) > 0 {
		l.saySome(min(len(l.queue), pieceBytes))
	}
	l.sayAt(nil, true)
	return l.err
}
