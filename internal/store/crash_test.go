package store

import (
	"bufio"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestKill kills a process that writes, again and again at random moments: what it told is there, and the next one goes
// on from it. A third process reads meanwhile.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(7, 8))
	told := 0
	for range 6 * *rounds {
		writer := as(t, "write", dir)
		out := must(writer.StdoutPipe())(t)
		noError(t, writer.Start())
		lines := bufio.NewReader(out)
		wait := time.Duration(random.IntN(20)) * time.Millisecond
		for stop := told + 1 + random.IntN(60); told < stop; {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatalf("the writer ended after %d: %v", told, err)
			}
			n, err := strconv.Atoi(strings.TrimSpace(line))
			if err != nil || n != told+1 {
				t.Fatalf("the writer told %q after %d", line, told)
			}
			told = n
		}
		if random.IntN(2) == 0 {
			seen, err := as(t, "look", dir).Output()
			if n, _ := strconv.Atoi(strings.TrimSpace(string(seen))); err != nil || n < told {
				t.Fatalf("a reader sees %q after %d was told: %v", seen, told, err)
			}
		} else {
			time.Sleep(wait)
		}
		noError(t, writer.Process.Kill())
		rest, _ := io.ReadAll(lines) // told, but not read by us before the kill
		_ = writer.Wait()
		if all := strings.Fields(string(rest)); len(all) > 0 {
			told = must(strconv.Atoi(all[len(all)-1]))(t)
		}
		if random.IntN(2) == 0 {
			afterwards(t, dir, told)
		}
		s := openWith(t, Options{Dir: dir, ReadOnly: true})
		if got := counted(t, s); got < told || got > told+1 {
			t.Fatalf("%d was told, %d is there", told, got)
		} else {
			told = got
		}
		closed(t, s)
	}
	t.Logf("%d writes told", told)
}
