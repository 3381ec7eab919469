package config

import (
	"strings"

	"sentry/internal/sentry"
)

// shared is what many repositories of a configuration have in common: it is kept once.
type shared struct {
	texts map[string]string
	lists map[string][]sentry.Pattern
}

// keep gives a text its own bytes, or those of an equal one before it. As they come from the file, texts lie among those of
// its keys, which are of no use any more: kept there, each would hold on to several times its length.
func (s *shared) keep(text string) string {
	if kept, ok := s.texts[text]; ok {
		return kept
	}
	if s.texts == nil {
		s.texts = map[string]string{}
	}
	text = strings.Clone(text)
	s.texts[text] = text
	return text
}

// share gives a list the memory of an equal one before it. Nobody may change it.
func (s *shared) share(list []sentry.Pattern) []sentry.Pattern {
	var key strings.Builder
	for _, p := range list {
		key.WriteString(p.String())
		key.WriteByte(0)
	}
	if known, ok := s.lists[key.String()]; ok {
		return known
	}
	if s.lists == nil {
		s.lists = map[string][]sentry.Pattern{}
	}
	s.lists[key.String()] = list
	return list
}
