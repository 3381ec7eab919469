package logger

import (
	"io"
	"strings"
	"sync"
	"sync/atomic"

	"sentry/internal/sentry"
)

// Masker replaces secrets, and their usual encodings, by sentry.Redacted. It guards against accidents: whoever runs
// commands that were given a secret can print it in a form that nobody foresees (reversed, a character a line). It is
// safe for concurrent use. A nil Masker masks nothing.
//
// Every byte that belongs to an occurrence is masked, also where occurrences overlap; adjacent masked bytes show as one
// mark, which therefore does not tell how much was there.
type Masker struct {
	mu     sync.Mutex // held while secrets are added
	known  map[string]bool
	texts  []string                  // the forms of all known secrets; owned by mu
	search atomic.Pointer[automaton] // nil while there is nothing to look for
}

// NewMasker makes a Masker of secrets.
func NewMasker(secrets ...sentry.Secret) *Masker {
	m := &Masker{known: map[string]bool{}}
	m.Add(secrets...)
	return m
}

// Add masks more secrets from now on, also in what is under way through its writers. Secrets shorter than MinSecret
// are ignored. Known ones cost nothing; a new one costs a few milliseconds for each ten kilobytes of secrets known.
func (m *Masker) Add(secrets ...sentry.Secret) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := len(m.texts)
	for _, secret := range secrets {
		text := secret.Reveal()
		if len(text) < MinSecret || m.known[text] {
			continue
		}
		m.known[text] = true
		m.texts = append(m.texts, forms(text)...)
	}
	if len(m.texts) > before {
		m.search.Store(newAutomaton(m.texts))
	}
}

// String masks s.
func (m *Masker) String(s string) string {
	search := m.current()
	if search == nil || len(s) < MinSecret {
		return s
	}
	text := []byte(s)
	_, spans := search.scan(text, 0, 0, nil)
	if len(spans) == 0 {
		return s
	}
	var b strings.Builder
	from := 0
	for _, covered := range spans {
		b.Write(text[from:covered.start])
		b.WriteString(sentry.Redacted)
		from = covered.end
	}
	b.Write(text[from:])
	return b.String()
}

// Writer masks what is written through to w, see MaskWriter.
func (m *Masker) Writer(w io.Writer) *MaskWriter { return &MaskWriter{w: w, masker: m} }

func (m *Masker) current() *automaton {
	if m == nil {
		return nil
	}
	return m.search.Load()
}
