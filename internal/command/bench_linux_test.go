package command

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// What it costs to start a command and to be sure that it has ended, against only running it.
func BenchmarkRun(b *testing.B) {
	dir := b.TempDir()
	runner := New(Options{Protect: []string{filepath.Join(dir, "state")}})
	b.Run("command", func(b *testing.B) {
		for b.Loop() {
			if res := runner.Run(context.Background(), Spec{Argv: []string{"true"}}); !res.Succeeded() {
				b.Fatal(res.Reason())
			}
		}
	})
	b.Run("start", func(b *testing.B) {
		var total time.Duration
		for b.Loop() {
			begin := time.Now()
			runner.Run(context.Background(), Spec{Argv: []string{"true"}, OnStart: func(int) { total += time.Since(begin) }})
		}
		b.ReportMetric(float64(total.Microseconds())/float64(b.N), "µs/start")
	})
	b.Run("exec", func(b *testing.B) {
		for b.Loop() {
			if err := exec.Command("true").Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// The rules of a command's sandbox, with nothing changed since the last one.
func BenchmarkRules(b *testing.B) {
	box := New(Options{Protect: []string{filepath.Join(b.TempDir(), "state"), "/var/lib/sentry"}}).box
	for b.Loop() {
		rules, err := box.rules(nil, nil)
		if err != nil {
			b.Fatal(err)
		}
		rules.close()
	}
}

func BenchmarkSurvey(b *testing.B) {
	for b.Loop() {
		ours.mu.Lock()
		ours.survey()
		ours.mu.Unlock()
	}
}

// Output from the pipe through the mask to the log.
func BenchmarkOutput(b *testing.B) {
	runner := New(Options{})
	const size = 1 << 30
	log := filepath.Join(b.TempDir(), "step.log")
	b.SetBytes(size)
	for b.Loop() {
		res := runner.Run(context.Background(), Spec{Script: "head -c 1073741824 /dev/zero", Env: []string{"PATH=" + os.Getenv("PATH")}, Log: log})
		if !res.Succeeded() || res.Output.Bytes != size {
			b.Fatal(res.Reason(), res.Output)
		}
	}
}
