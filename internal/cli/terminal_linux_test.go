package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sentry/internal/git/gittest"
)

// terminal is what a person looks at: it draws what is written to it, as far as Sentry uses what terminals can do.
type terminal struct {
	width int
	rows  [][]rune // all that there ever was, the screen at its end
	x, y  int
}

var sequence = regexp.MustCompile(`^\x1b\[([0-9;]*)([A-Za-z])`)

func (t *terminal) write(tb testing.TB, text string) {
	tb.Helper()
	for text != "" {
		if m := sequence.FindStringSubmatch(text); m != nil {
			n, _ := strconv.Atoi(m[1])
			switch m[2] {
			case "A":
				t.y = max(0, t.y-max(1, n))
			case "J":
				t.rows = t.rows[:min(len(t.rows), t.y+1)]
				if t.y < len(t.rows) {
					t.rows[t.y] = t.rows[t.y][:min(len(t.rows[t.y]), t.x)]
				}
			case "m":
			default:
				tb.Fatalf("a sequence that was not to be used: %q", m[0])
			}
			text = text[len(m[0]):]
			continue
		}
		r := []rune(text)[0]
		text = text[len(string(r)):]
		switch r {
		case '\n':
			t.x, t.y = 0, t.y+1
		case '\r':
			t.x = 0
		case '\x1b', '\a', '\b':
			tb.Fatalf("a control character: %q", r)
		default:
			if t.x >= t.width {
				t.x, t.y = 0, t.y+1
			}
			for len(t.rows) <= t.y {
				t.rows = append(t.rows, nil)
			}
			row := t.rows[t.y]
			for len(row) <= t.x {
				row = append(row, ' ')
			}
			row[t.x] = r
			if t.x++; runeWidth(r) == 2 {
				row = append(row[:t.x], 0)
				t.x++
			}
			t.rows[t.y] = row
		}
	}
}

func (t *terminal) String() string {
	var lines []string
	for _, row := range t.rows {
		lines = append(lines, strings.TrimRight(strings.ReplaceAll(string(row), "\x00", ""), " "))
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n")
}

func TestRedrawingLeavesNothingBehind(t *testing.T) {
	screen := &terminal{width: 20}
	var out bytes.Buffer
	l := &live{s: on(20, true)}
	l.s.Writer = &out
	show := func(want string) {
		t.Helper()
		screen.write(t, out.String())
		out.Reset()
		if got := screen.String(); got != want {
			t.Fatalf("the screen shows\n%s\nwant\n%s", got, want)
		}
	}
	l.draw([]string{"one", l.s.paint(red, "two"), "three"})
	show("one\ntwo\nthree")
	l.draw([]string{"1", strings.Repeat("x", 20)})
	show("1\n" + strings.Repeat("x", 20))
	fmt.Fprint(l, "a log line\nanother, ")
	show("a log line\n1\n" + strings.Repeat("x", 20))
	l.draw([]string{"修正"})
	show("a log line\n修正")
	fmt.Fprint(l, "whole\n")
	show("a log line\nanother, whole\n修正")
	l.leave()
	l.draw([]string{"next"})
	show("a log line\nanother, whole\n修正\nnext")
	l.clear()
	show("a log line\nanother, whole\n修正")
}

// openTerminal makes a pseudo-terminal; what is written to the file is collected.
func openTerminal(t *testing.T, width, height int) (*os.File, func() string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("this machine has no pseudo-terminals: %v", err)
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(width), Row: uint16(height)}); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	var seen bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(&seen, master) // ends with EIO when the slave is closed
	}()
	text := sync.OnceValue(func() string {
		_ = slave.Close()
		<-done
		_ = master.Close()
		return seen.String()
	})
	t.Cleanup(func() { text() })
	return slave, text
}

// TestTriggerOnATerminal watches what a person sees of a rollout: a view that is redrawn, and in the end one table.
func TestTriggerOnATerminal(t *testing.T) {
	server := gittest.NewServer(t)
	server.Repo(t, "shop.git").Commit(t, "main", map[string]string{"README": "shop"}, "start")
	server.Repo(t, "qa.git").Commit(t, "main", map[string]string{"README": "qa"}, "start")
	dir := t.TempDir()
	file := filepath.Join(dir, "sentry.yaml")
	err := os.WriteFile(file, []byte(fmt.Sprintf(`
global: {state_dir: state, allow_insecure_http: true, grace: 1s}
repositories:
  - name: shop
    monitor: {repo_url: "%[1]s/shop.git", branches: [main]}
    deploy: {qa_repo_url: "%[1]s/qa.git", qa_repo_branch: main, commands: [{name: work, run: sleep 1.2}]}
`, server.URL)), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		environ []string
		colour  bool
	}{
		{"colour", []string{"TERM=xterm-256color"}, true},
		{"no colour", []string{"TERM=xterm-256color", "NO_COLOR=1"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			tty, text := openTerminal(t, 100, 24)
			environ := append(c.environ, "PATH="+os.Getenv("PATH"), "HOME="+dir)
			a := &app{stdin: strings.NewReader(""), out: newScreen(tty, environ), err: newScreen(tty, environ), environ: environ, now: time.Now}
			if !a.out.terminal() || a.out.width() != 100 {
				t.Fatalf("it does not see a terminal of 100 columns: %v", a.out)
			}
			code := a.main(context.Background(), []string{"trigger", "shop", "-c", file})
			seen := text()
			if code != exitOK {
				t.Fatalf("exit code %d:\n%s", code, seen)
			}
			if !regexp.MustCompile(`\x1b\[\d+A\x1b\[J`).MatchString(seen) || !strings.Contains(uncoloured(seen), "2 work") {
				t.Errorf("nothing was redrawn, or it did not show the step that runs:\n%q", seen)
			}
			if got := colours.MatchString(seen); got != c.colour {
				t.Errorf("colours: %v, want %v:\n%q", got, c.colour, seen)
			}
			screen := &terminal{width: 100}
			screen.write(t, seen)
			want := regexp.MustCompile(`^no daemon is running: rolling out here
ROLLOUT +GROUP +DEPLOYMENT +COMMIT +STATUS +TOOK
\d-[a-z0-9]+ +shop +shop@main +[0-9a-f]{10} +succeeded +[0-9.]+s$`)
			if !want.MatchString(screen.String()) {
				t.Errorf("in the end the screen shows\n%s", screen)
			}
		})
	}
}

// TestStatusOnATerminal watches the status until it is interrupted: one screen, drawn again and again.
func TestStatusOnATerminal(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "sentry.yaml")
	err := os.WriteFile(file, []byte(`
global: {state_dir: state}
repositories:
  - name: shop
    monitor: {repo_url: "https://git.invalid/shop.git", branches: [main]}
    deploy: {qa_repo_url: "https://git.invalid/qa.git", qa_repo_branch: main, commands: ["true"]}
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	tty, text := openTerminal(t, 60, 24)
	environ := []string{"TERM=xterm", "HOME=" + dir}
	a := &app{stdin: strings.NewReader(""), out: newScreen(tty, environ), err: newScreen(tty, environ), environ: environ, now: time.Now}
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(2500*time.Millisecond, func() { cancel(errInterrupted) })
	if code := a.main(ctx, []string{"status", "-w", "-c", file}); code != exitInterrupted {
		t.Errorf("exit code %d, want %d", code, exitInterrupted)
	}
	seen := text()
	screen := &terminal{width: 60}
	screen.write(t, seen)
	want := "no daemon is running: nothing is polled (`sentry watch` sta…\n\nGROUP  STATE  ROLLOUT\nshop   idle   -\n\nREPOSITORY  BRANCH  ANSWER\nshop        main    not asked yet"
	if screen.String() != want {
		t.Errorf("in the end the screen shows\n%s\nwant\n%s", screen, want)
	}
	if n := strings.Count(seen, "GROUP"); n < 2 {
		t.Errorf("drawn %d times in 2.5 seconds", n)
	}
}
