package store

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestHeld: whoever has the lock is told from nobody, nothing is made, and taking the lock is not disturbed.
func TestHeld(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if got := Held(dir); got != "" {
		t.Errorf("what does not exist is held by %q", got)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("it was made")
	}
	asking, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(asking)
		for {
			select {
			case <-stop:
				return
			default:
				Held(dir)
			}
		}
	}()
	for range 20 {
		s := openDir(t, dir)
		if got := Held(dir); !strings.Contains(got, "tester") {
			t.Fatalf("held by %q", got)
		}
		closed(t, s)
	}
	close(stop)
	<-asking
	if got := Held(dir); got != "" {
		t.Errorf("after its end it is held by %q", got)
	}
}
