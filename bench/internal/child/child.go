// Package child runs parts of a benchmark in processes of their own: the test binary starts itself again, in a role. So
// what a daemon costs is not mixed with what the other side of a conversation costs.
package child

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

const variable = "BENCH_ROLE"

// Role is the main function of a child. in ends when the parent wants the child to end, or is gone; what the child
// writes to standard output goes to Process.Read. The result is the exit code.
type Role func(args []string, in io.Reader) int

// Main is TestMain for a package whose tests start children.
func Main(m *testing.M, roles map[string]Role) {
	if role, ok := roles[os.Getenv(variable)]; ok {
		os.Exit(role(os.Args[1:], os.Stdin))
	}
	os.Exit(m.Run())
}

// Build builds Sentry as it is released, by its own module and without C, and gives the path of the binary. The test's
// folder is two below the root.
func Build(t testing.TB) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "sentry")
	cmd := exec.Command("go", "build", "-o", binary, ".")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build sentry: %v\n%s", err, out)
	}
	return binary
}

// Process is a child.
type Process struct {
	t    testing.TB
	role string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
	once bool // Stop was called
}

// Start starts a child, which ends with the test at the latest. Its log goes to the file, which may be "" for none.
func Start(t testing.TB, role, log string, args ...string) *Process {
	t.Helper()
	p := &Process{t: t, role: role, cmd: exec.Command(os.Args[0], args...)}
	p.cmd.Env = append(os.Environ(), variable+"="+role)
	var err error
	if log != "" {
		file, err := os.Create(log)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		p.cmd.Stderr = file
	}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = json.NewDecoder(bufio.NewReader(out))
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

// Ask writes a line to the child and reads its answer.
func (p *Process) Ask(line string, answer any) {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.in, line); err != nil {
		p.t.Fatalf("cannot ask the %s: %v", p.role, err)
	}
	p.Read(answer)
}

// Read reads one JSON value that the child writes.
func (p *Process) Read(value any) {
	p.t.Helper()
	if err := p.out.Decode(value); err != nil {
		p.t.Fatalf("the %s does not answer: %v", p.role, err)
	}
}

// Stop lets the child end, and waits for that.
func (p *Process) Stop() {
	if p.once {
		return
	}
	p.once = true
	p.in.Close()
	late := time.AfterFunc(30*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	var exit *exec.ExitError
	if err := p.cmd.Wait(); errors.As(err, &exit) {
		p.t.Errorf("the %s ended with %v", p.role, exit)
	}
}
