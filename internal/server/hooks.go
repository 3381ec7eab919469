package server

import (
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"sentry/internal/config"
	"sentry/internal/logger"
)

// Hooks takes webhooks. A webhook is a hint that a repository is worth asking now, and nothing else: what a forge says in
// it is believed for as long as it takes to find which of the configured repositories it is about. The worst that a
// stranger can do who knows a secret is to have a repository asked that he might have asked himself.
//
// In the order of what happens to a request: the forge has a secret, or there is nothing here; the sender has not come
// too often; the body, which is not compressed, is read as far as its bound; it is signed with one of the secrets; it is
// no repetition; and only then it is parsed. One Hooks serves all listeners of a process.
type Hooks struct {
	o     HooksOptions
	flood *flood

	mu    sync.Mutex
	index *hookIndex               // of the configuration that was seen last
	seen  *lru[hookSum, time.Time] // until when a body is a repetition

	received, verified, hinted *prometheus.CounterVec // by forge
	refused, ignored           *prometheus.CounterVec // by forge and reason
}

// HooksOptions are what Hooks are made of. Config and Hint are required.
type HooksOptions struct {
	Config func() *config.Config
	// Hint makes a repository due now. It is called with the name of a configured repository, and must not wait.
	Hint     func(repository string)
	Register prometheus.Registerer // nil: nothing is counted where anybody could see it
	Log      *slog.Logger          // nil: discards
	Now      func() time.Time      // default time.Now
}

const (
	maxHook     = 1 << 20 // bytes of a body
	maxSeen     = 4096    // bodies that are remembered
	repeatAfter = 5 * time.Minute
	// Whoever calls the generic endpoint may have nothing new to say each time. What is pushed within so much time after the
	// push that made a repository due is found by the same questions: it is asked quickly for some seconds.
	repeatGeneric = time.Second
)

// NewHooks makes a receiver of webhooks.
func NewHooks(o HooksOptions) *Hooks {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return promauto.With(o.Register).NewCounterVec(prometheus.CounterOpts{Name: "sentry_webhooks_" + name + "_total", Help: help}, labels)
	}
	return &Hooks{
		o: o, flood: newFlood(), seen: newLRU[hookSum, time.Time](maxSeen),
		received: counter("received", "Webhooks that arrived where there is a secret for them.", "forge"),
		verified: counter("verified", "Webhooks that were signed with a secret that is configured.", "forge"),
		hinted:   counter("hinted", "Repositories that a webhook made due.", "forge"),
		refused:  counter("refused", "Webhooks that were not taken, by reason.", "forge", "reason"),
		ignored:  counter("ignored", "Webhooks that were in order but made nothing due, by reason.", "forge", "reason"),
	}
}

// Why a webhook is refused, or makes nothing due: the values of the label reason.
const (
	refusedOften     = "too_many"
	refusedEncoded   = "encoded"
	refusedLarge     = "too_large"
	refusedSlow      = "not_read"
	refusedUnsigned  = "not_verified"
	refusedForm      = "not_json"
	refusedMalformed = "malformed"
	refusedPanic     = "panic"

	ignoredRepeated   = "repeated"
	ignoredEvent      = "event"
	ignoredRepository = "repository"
	ignoredBranch     = "branch"
	ignoredOften      = "too_many"
)

// refusal is an answer with the reason that is counted.
type refusal struct {
	reason string
	*Error
}

func refuse(reason string, status int, code, message string) *refusal {
	return &refusal{reason, &Error{Status: status, Code: code, Message: message}}
}

// hook answers POST /hooks/{forge} and POST /hooks/{forge}/{repository}.
func (h *handler) hook(w http.ResponseWriter, r *http.Request) error {
	var named *hookForge
	if h.Hooks != nil {
		named = hookForges[r.PathValue("forge")]
	}
	if named == nil {
		return noSuchRoute()
	}
	return h.Hooks.receive(w, r, named, r.PathValue("repository"))
}

// receive takes one webhook. repository is "" where the path names none.
func (k *Hooks) receive(w http.ResponseWriter, r *http.Request, forge *hookForge, repository string) error {
	index := k.current()
	keys := k.keys(index, forge, repository)
	if keys == nil {
		return noSuchRoute() // as if there were nothing: who has no secret configured is told no more than that
	}
	k.received.WithLabelValues(forge.name).Inc()
	defer func() {
		if cause := recover(); cause != nil {
			k.refused.WithLabelValues(forge.name, refusedPanic).Inc()
			panic(cause)
		}
	}()
	if refused := k.take(r, index, forge, repository, keys); refused != nil {
		k.refused.WithLabelValues(forge.name, refused.reason).Inc()
		k.o.Log.Debug("a webhook was refused", "forge", forge.name, "reason", refused.reason, "from", r.RemoteAddr)
		if refused.Status == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", "10")
		}
		w.Header().Set("Connection", "close") // what is left of the body is not worth reading
		return refused.Error
	}
	w.WriteHeader(http.StatusAccepted) // whatever came of it: a sender learns nothing of what is watched
	return nil
}

// take does what receive says. nil is an accepted webhook, whether it made anything due or not.
func (k *Hooks) take(r *http.Request, index *hookIndex, forge *hookForge, repository string, keys []hookKey) *refusal {
	now := k.o.Now()
	from, ok := k.flood.enter(r.RemoteAddr, now)
	if !ok {
		return tooMany()
	}
	defer from.leave()
	if len(r.Header.Values("Content-Encoding")) > 0 {
		return refuse(refusedEncoded, http.StatusUnsupportedMediaType, "encoded", "a compressed body is not taken")
	}
	body, refused := readHook(r, from)
	if refused != nil {
		return refused
	}
	if !from.spend(len(body)*len(keys), now) {
		return tooMany()
	}
	verified := forge.verify(r.Header, body, keys)
	if len(verified) == 0 {
		return refuse(refusedUnsigned, http.StatusUnauthorized, "unauthenticated", ErrUnauthenticated.Error())
	}
	k.verified.WithLabelValues(forge.name).Inc()
	key := keyOf(forge, repository, body)
	if !k.remember(key, forge, now) {
		k.ignored.WithLabelValues(forge.name, ignoredRepeated).Inc()
		return nil
	}
	if refused := k.act(r.Header, index, forge, repository, body, verified, now); refused != nil {
		k.forget(key) // whoever sends it again is to be told again what is wrong
		return refused
	}
	return nil
}

// act does what a verified webhook says. The sender knows a secret, and can be told what is wrong.
func (k *Hooks) act(header http.Header, index *hookIndex, forge *hookForge, repository string, body []byte, verified map[*hookSecret]bool, now time.Time) *refusal {
	if forge.event == nil && repository != "" {
		k.hint(forge, index.byName[repository], now) // the path has said it all, and the body may be of any kind
		return nil
	}
	if kind, _, err := mime.ParseMediaType(header.Get("Content-Type")); err != nil || kind != "application/json" {
		return refuse(refusedForm, http.StatusUnsupportedMediaType, "not_json", "the body must be application/json: choose it as the content type of the webhook")
	}
	event := ""
	if forge.event != nil {
		if event = one(header, forge.event...); event == "" {
			return refuse(refusedMalformed, http.StatusBadRequest, "malformed", "the header that names the event is missing")
		}
	}
	push, err := forge.parse(event, body)
	switch {
	case errors.Is(err, errNoPush):
		k.ignored.WithLabelValues(forge.name, ignoredEvent).Inc()
		return nil
	case err != nil:
		return refuse(refusedMalformed, http.StatusBadRequest, "malformed", "the body is not what a push of this forge looks like")
	}
	k.hasten(forge, index, push, repository, verified, now)
	return nil
}

func tooMany() *refusal {
	return refuse(refusedOften, http.StatusTooManyRequests, "too_many", "too many webhooks; this one was not read")
}

// hasten makes due what a push is about: repositories at one of its addresses, with a branch that is watched, and which
// use a secret that verified it. Where the path names a repository it must be that one.
func (k *Hooks) hasten(forge *hookForge, index *hookIndex, push hookPush, repository string, verified map[*hookSecret]bool, now time.Time) {
	found := false
	for _, r := range index.at(push.urls) {
		if !forge.fits(r.Monitor.Type) || !verified[r.secret] || repository != "" && r.Name != repository {
			continue
		}
		found = true
		if push.branch != "" && !watches(r.Repository, push.branch) {
			k.ignored.WithLabelValues(forge.name, ignoredBranch).Inc()
			continue
		}
		k.hint(forge, r, now)
	}
	if !found {
		k.ignored.WithLabelValues(forge.name, ignoredRepository).Inc()
	}
}

func watches(r *config.Repository, branch string) bool {
	for _, p := range r.Monitor.Branches {
		if p.Match(branch) {
			return true
		}
	}
	return false
}

// hint makes a repository due, unless that happens too often: one question tells of any number of pushes.
func (k *Hooks) hint(forge *hookForge, r *hookRepository, now time.Time) {
	if !r.hints.AllowN(now, 1) {
		k.ignored.WithLabelValues(forge.name, ignoredOften).Inc()
		return
	}
	k.hinted.WithLabelValues(forge.name).Inc()
	k.o.Log.Debug("a webhook hastens a repository", "forge", forge.name, logger.KeyRepository, r.Name)
	k.o.Hint(r.Name)
}

// hookSum tells webhooks apart.
type hookSum [sha256.Size]byte

func keyOf(forge *hookForge, repository string, body []byte) (key hookSum) {
	sum := sha256.New()
	for _, text := range []string{forge.name, repository} {
		_, _ = io.WriteString(sum, text+"\x00")
	}
	_, _ = sum.Write(body)
	sum.Sum(key[:0])
	return key
}

// remember reports whether a verified webhook is none that came not long ago. Signatures cover no time and no number, so
// that whoever has seen one webhook can send it again and again.
func (k *Hooks) remember(key hookSum, forge *hookForge, now time.Time) bool {
	after := repeatAfter
	if forge.event == nil {
		after = repeatGeneric
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if until, known := k.seen.get(key); known && now.Before(until) {
		return false
	}
	k.seen.put(key, now.Add(after))
	return true
}

func (k *Hooks) forget(key hookSum) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen.put(key, time.Time{})
}

// readHook reads a body. It takes memory only as bytes arrive, and only as much as there is for all webhooks at a time.
func readHook(r *http.Request, from *visit) ([]byte, *refusal) {
	tooLarge := func() ([]byte, *refusal) {
		return nil, refuse(refusedLarge, http.StatusRequestEntityTooLarge, "too_large", "a webhook may have 1 MiB")
	}
	if r.ContentLength > maxHook {
		return tooLarge()
	}
	var body []byte
	for size := 8 << 10; ; size = min(2*size, maxHook+1) {
		if !from.hold(size - cap(body)) {
			return nil, tooMany()
		}
		larger := make([]byte, len(body), size)
		copy(larger, body)
		body = larger
		for len(body) < cap(body) {
			n, err := r.Body.Read(body[len(body):cap(body)])
			body = body[:len(body)+n]
			var beyond *http.MaxBytesError
			switch {
			case errors.Is(err, io.EOF):
				if len(body) > maxHook {
					return tooLarge()
				}
				return body, nil
			case errors.As(err, &beyond):
				return tooLarge()
			case errors.Is(err, os.ErrDeadlineExceeded):
				return nil, refuse(refusedSlow, http.StatusRequestTimeout, "timed_out", "the body took too long to arrive")
			case err != nil:
				return nil, refuse(refusedSlow, http.StatusBadRequest, "invalid", "the body could not be read")
			}
		}
		if len(body) > maxHook {
			return tooLarge()
		}
	}
}

// one gives the value of the first of some headers that is there; "" where it is there twice.
func one(header http.Header, names ...string) string {
	for _, name := range names {
		switch values := header.Values(name); len(values) {
		case 0:
		case 1:
			return values[0]
		default:
			return ""
		}
	}
	return ""
}
