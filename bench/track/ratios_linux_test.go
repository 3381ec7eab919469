package track

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"sentry/bench/internal/child"
	"sentry/bench/internal/measure"
	"sentry/internal/kube"
	"sentry/internal/sentry"
)

// The goal, and the bound beyond which the test fails: bytes resident over the process before it followed anything.
const (
	goalMemory  = 30 << 20
	boundMemory = 30 << 20
)

func TestMain(m *testing.M) {
	child.Main(m, map[string]child.Role{"server": serve, "sentry": sentryRole})
}

// cost is what following all runs to their end has cost a process.
type cost struct {
	Base  int64 // bytes resident before
	Peak  int64 // the most while it went on
	Heap  int64 // bytes live when every run was known, after a collection
	CPU   time.Duration
	Ended int // runs that succeeded, as it knows
	Error string
}

// watchOver runs follow, which tells when every run is known, and measures meanwhile.
func watchOver(follow func(known func()) (ended int, err error)) int {
	debug.FreeOSMemory()
	var c cost
	c.Base, _ = measure.Resident()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	begin := measure.CPU()
	out := json.NewEncoder(os.Stdout)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			now, _ := measure.Resident()
			c.Peak = max(c.Peak, now)
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	ended, err := follow(func() {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		c.Heap = int64(m.HeapAlloc) - int64(before.HeapAlloc)
		_ = out.Encode("known") // the parent that is gone ends us
	})
	close(stop)
	<-stopped
	c.Ended, c.CPU = ended, measure.CPU()-begin
	if err != nil {
		c.Error = err.Error()
	}
	if out.Encode(c) != nil {
		return 1
	}
	return 0
}

// sentryRole follows each run by a Track of its own, as 500 deployments do.
func sentryRole(args []string, _ io.Reader) int {
	c, err := kube.Connect(kube.Options{Kubeconfig: args[0], UserAgent: "bench"})
	if err != nil {
		panic(err)
	}
	return watchOver(func(known func()) (int, error) {
		var all, first sync.WaitGroup
		var mu sync.Mutex
		ended := 0
		var failed error
		for i := range runs {
			first.Add(1)
			tell := sync.OnceFunc(first.Done)
			all.Go(func() {
				run := sentry.PipelineRun{Namespace: namespace, Name: fmt.Sprintf("run-%d", i), UID: fmt.Sprintf("uid-%d", i), Status: sentry.Pending}
				got, err := c.Track(context.Background(), []sentry.PipelineRun{run}, kube.TrackOptions{Instance: "bench", Log: io.Discard, Progress: func([]sentry.PipelineRun) error {
					tell()
					return nil
				}})
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failed = err
				}
				if got[0].Status == sentry.Succeeded && len(got[0].Tasks) == changes {
					ended++
				}
			})
		}
		first.Wait()
		known()
		all.Wait()
		return ended, failed
	})
}

// TestRatios has 500 runs followed to their end, each by a Track of its own.
func TestRatios(t *testing.T) {
	machine := measure.Alone(t)
	c, asked := follow(t)
	if c.Error != "" || c.Ended != runs {
		t.Fatalf("%d runs ended well: %s", c.Ended, c.Error)
	}
	over := c.Peak - c.Base
	table := measure.Table{
		Title:   fmt.Sprintf("Tracking: %d pipeline runs of %d KB, %d changes each, to their end\n  (%s)", runs, runBytes>>10, changes, machine),
		Columns: []string{"runs", "resident over before", "live heap", "live heap a run", "CPU", "watches at once", "requests"},
	}
	table.Row(runs, measure.Megabytes(over), measure.Megabytes(c.Heap), c.Heap/runs, c.CPU, asked.Watches, asked.Asked)
	table.Note("goal %s resident over before, one watch: %s", measure.Megabytes(goalMemory), measure.Verdict(over <= goalMemory && asked.Watches == 1))
	table.Print()
	if over > boundMemory {
		t.Errorf("%s resident over before; the bound is %s", measure.Megabytes(over), measure.Megabytes(boundMemory))
	}
	if asked.Watches != 1 {
		t.Errorf("%d watches at once", asked.Watches)
	}
}

// follow lets a process follow the runs of a server.
func follow(t *testing.T) (c cost, asked tally) {
	t.Helper()
	server := child.Start(t, "server", "")
	defer server.Stop()
	var at address
	server.Read(&at)
	folder := t.TempDir()
	authority := filepath.Join(folder, "ca.crt")
	kubeconfig := filepath.Join(folder, "kubeconfig")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: %q, certificate-authority: %q}}]\nusers: [{name: u, user: {token: t}}]\n"+
		"contexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n", at.URL, authority)
	for file, data := range map[string]string{authority: at.Authority, kubeconfig: text} {
		if err := os.WriteFile(file, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	process := child.Start(t, "sentry", "", kubeconfig)
	defer process.Stop()
	var known string
	process.Read(&known)
	server.Ask("go", &asked)
	process.Read(&c)
	server.Ask("tell", &asked)
	return c, asked
}
