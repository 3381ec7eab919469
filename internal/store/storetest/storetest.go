// Package storetest opens states for tests.
package storetest

import (
	"testing"

	"sentry/internal/store"
)

// Open opens an empty state in memory that ends with the test. It may be called inside a bubble of testing/synctest.
func Open(t testing.TB) *store.Store { return OpenWith(t, store.Options{}) }

// OpenWith is Open with options, say an Owner or a clock.
func OpenWith(t testing.TB, o store.Options) *store.Store {
	t.Helper()
	s, err := store.OpenMemory(t.Context(), o)
	if err != nil {
		t.Fatalf("cannot open a state in memory: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("cannot close the state: %v", err)
		}
	})
	return s
}
