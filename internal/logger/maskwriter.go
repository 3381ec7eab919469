package logger

import (
	"io"

	"sentry/internal/sentry"
)

// MaskWriter masks a stream, wherever its writes cut it. It passes everything on at once except bytes at the end that
// may be the beginning of a secret, which wait for what follows. It is for one goroutine at a time.
type MaskWriter struct {
	w      io.Writer
	masker *Masker

	search *automaton // the one that state belongs to; nil before the first write with secrets known
	state  int32      // of the search at the end of what was written
	held   []byte     // what was written and not passed on, see Held
	spans  []span     // the parts of held that are covered, see automaton.scan
	marked bool       // the last byte passed on was covered: what continues it needs no second mark
	out    []byte     // reused for what is passed on where something was masked
}

// writeChunk bounds in bytes how much is copied before it is passed on.
const writeChunk = 64 << 10

// Write masks p and passes on what is decided. The error is the first one of the writer below, which then lacks
// something; what is written later is masked all the same.
func (w *MaskWriter) Write(p []byte) (int, error) {
	w.refresh()
	if w.search == nil {
		return w.w.Write(p)
	}
	var first error
	for rest := p; len(rest) > 0; {
		n := min(len(rest), writeChunk)
		if err := w.write(rest[:n]); first == nil {
			first = err
		}
		rest = rest[n:]
	}
	if first != nil {
		return 0, first
	}
	return len(p), nil
}

// refresh takes note of secrets that were added. What is held is looked at again: it may end otherwise now. What was
// passed on is out.
func (w *MaskWriter) refresh() {
	current := w.masker.current()
	if current == w.search {
		return
	}
	w.search = current
	w.state, w.spans = current.scan(w.held, 0, 0, w.spans[:0])
}

func (w *MaskWriter) write(p []byte) error {
	text, from := p, 0
	if len(w.held) > 0 {
		from = len(w.held)
		w.held = append(w.held, p...)
		text = w.held
	}
	w.state, w.spans = w.search.scan(text, from, w.state, w.spans)
	decided := w.decided(len(text))
	err := w.pass(text[:decided])
	w.held = append(w.held[:0], text[decided:]...)
	return err
}

// decided gives how many bytes of the length bytes at hand no future occurrence can change: those before the beginning
// that the state stands for, and after it as far as they are covered already.
func (w *MaskWriter) decided(length int) int {
	at := max(0, length-int(w.search.nodes[w.state].depth))
	for _, covered := range w.spans {
		if covered.start <= at && at < covered.end {
			at = covered.end
		}
	}
	return at
}

// pass writes text with what is covered masked, and moves the spans to what is left after it.
func (w *MaskWriter) pass(text []byte) error {
	if len(text) == 0 {
		return nil
	}
	if len(w.spans) == 0 {
		w.marked = false
		_, err := w.w.Write(text)
		return err
	}
	w.out = w.out[:0]
	from, left := 0, w.spans[:0]
	for _, covered := range w.spans {
		if covered.start >= len(text) {
			left = append(left, span{covered.start - len(text), covered.end - len(text)})
			continue
		}
		if start := max(0, covered.start); start > from {
			w.out = append(w.out, text[from:start]...)
			w.marked = false
		}
		if !w.marked {
			w.out = append(w.out, sentry.Redacted...)
			w.marked = true
		}
		from = covered.end
	}
	if from < len(text) {
		w.out = append(w.out, text[from:]...)
		w.marked = false
	}
	w.spans = left
	if len(w.out) == 0 {
		return nil
	}
	_, err := w.w.Write(w.out)
	return err
}

// Held is how many bytes wait for what follows them: they may be the beginning of a secret, and are fewer than its
// longest form has.
func (w *MaskWriter) Held() int { return len(w.held) }

// FlushIdle passes on what is held, for readers who watch, when nothing has followed for a while. Only fewer than
// MinSecret bytes go, too few to tell anything; should the rest of a secret follow, that is masked. A longer beginning
// stays: programs write in blocks, and the rest of a token may come with the next block, minutes later.
func (w *MaskWriter) FlushIdle() error {
	if len(w.held) >= MinSecret {
		return nil
	}
	err := w.pass(w.held)
	w.held = w.held[:0]
	return err
}

// Flush passes on everything that is held: the stream has ended. A secret that it ends in the middle of shows.
func (w *MaskWriter) Flush() error {
	err := w.pass(w.held)
	w.held, w.spans, w.state, w.marked = w.held[:0], w.spans[:0], 0, false
	return err
}
