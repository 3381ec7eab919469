package store

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"
)

// rounds makes the tests that try at random try more often.
var rounds = flag.Int("rounds", 1, "multiply the tries of random tests")

// The tests that need another process run this binary again, as one of these.
var roles = map[string]func(dir string) error{
	"hold":  roleHold,
	"write": roleWrite,
	"look":  roleLook,
	"try":   roleTry,
}

const roleVariable = "SENTRY_STORE_TEST_ROLE"

func TestMain(m *testing.M) {
	if role, ok := roles[os.Getenv(roleVariable)]; ok {
		if err := role(os.Args[1]); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	os.Exit(m.Run())
}

// as makes the command that runs this binary in a role.
func as(t testing.TB, role, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], dir)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

// roleHold opens the state, says so, and keeps it until it is killed.
func roleHold(dir string) error {
	s, err := Open(context.Background(), Options{Dir: dir, Owner: "holder"})
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Println("open")
	time.Sleep(time.Hour) // an empty select is a deadlock to the runtime, which ends the process for it
	return nil
}

// roleWrite moves one head after the other, for ever, and tells each number once it is recorded.
func roleWrite(dir string) error {
	ctx := context.Background()
	s, err := Open(ctx, Options{Dir: dir, checkpoint: 16})
	if err != nil {
		return err
	}
	first := 0
	heads, err := s.HeadsOf(ctx, "counter")
	if err != nil {
		return err
	}
	if len(heads) == 1 {
		if first, err = strconv.Atoi(heads[0].Revision.Subject); err != nil {
			return err
		}
	}
	for n := first + 1; ; n++ {
		o := see("counter", commitOf(n))
		o.Revision.Subject = strconv.Itoa(n)
		if _, err := s.RecordChanges(ctx, []Observation{o}); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// roleTry tries to open the state for writing, and says whether that is refused because it cannot be written.
func roleTry(dir string) error {
	s, err := Open(context.Background(), Options{Dir: dir})
	if err == nil {
		return errors.Join(errors.New("it was opened"), s.Close())
	}
	if !errors.Is(err, ErrReadOnly) {
		return err
	}
	fmt.Println("refused")
	return nil
}

// roleLook opens the state for reading and prints what the counter stands at.
func roleLook(dir string) error {
	s, err := Open(context.Background(), Options{Dir: dir, ReadOnly: true})
	if err != nil {
		return err
	}
	defer s.Close()
	heads, err := s.HeadsOf(context.Background(), "counter")
	if err != nil {
		return err
	}
	for _, h := range heads {
		fmt.Println(h.Revision.Subject)
	}
	broken, err := s.Check(context.Background())
	if err != nil || len(broken) > 0 {
		return fmt.Errorf("check: %v %w", broken, err)
	}
	return nil
}
