package deploy

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"sentry/internal/command"
	"sentry/internal/kube"
	"sentry/internal/sentry"
	"sentry/internal/sentry/sentrytest"
)

// podWorld stands in for a cluster that runs Jobs: each is a process of the real program, with a folder for its volume and a
// file for its log. It outlives the controllers that use it. What it does wrong is for the tests to say.
type podWorld struct {
	Cluster // nothing else is asked

	t      testing.TB
	binary string
	dir    string

	mu       sync.Mutex
	jobs     map[string]*podJob
	starts   int
	refuse   error               // of the next creation
	pending  string              // why pods do not start
	never    bool                // and never will
	oom      bool                // a process of each pod is killed for memory
	drop     int                 // every so many lines the stream of a log is dropped, and begins some lines before; 0 for never
	lose     int                 // how many lines of the beginning of a log are gone for who begins to follow it
	lifetime func(time.Duration) // if not nil, told for how long a token is asked
	deaf     int                 // how many attempts to send are cut off in the middle
	silent   bool                // nobody is told whether there is a Job
	stuck    bool                // no Job ends
	outage   string              // what is told when a Job begins to be followed, and is over then
	cluster  string              // the UID of the cluster; "" for the first
	token    string              // of every service account; "" where there is none
	found    []sentry.PipelineRun
	ended    []string // the names of those that were to end
	ending   func()   // if not nil, called then
}

// podJob is a Job with its pod.
type podJob struct {
	ref   kube.JobRef
	spec  kube.JobSpec
	cmd   *exec.Cmd // nil where it never started
	stdin *os.File
	log   string
	dir   string
	ended chan struct{}
	code  int
	taken string // by what it was taken away; "" for nothing
	oom   bool
	own   bool // it was evicted for what it did itself
}

// bearing gives this process a mark before it starts any pod. The first kill would do so otherwise, and take pods for its own
// that others start meanwhile.
var bearing sync.Once

func newPodWorld(t testing.TB) *podWorld {
	bearing.Do(func() {
		if _, err := command.Prepare(t.TempDir()); err != nil {
			t.Fatal(err)
		}
	})
	w := &podWorld{t: t, binary: sentrytest.Binary(t), dir: t.TempDir(), jobs: map[string]*podJob{}}
	t.Cleanup(func() {
		for _, j := range w.jobs {
			j.kill()
		}
	})
	return w
}

func (w *podWorld) Hold() (Cluster, func(), error) { return w, func() {}, nil }
func (w *podWorld) Namespaces() []string           { return []string{"qa"} }
func (w *podWorld) Find(context.Context, kube.Selector, []string) ([]sentry.PipelineRun, error) {
	return w.found, nil
}

// Mark tells which cluster this is.
func (w *podWorld) Mark(context.Context, string) *sentry.ClusterID {
	return &sentry.ClusterID{UID: cmp.Or(w.cluster, "this one")}
}

func (w *podWorld) StartJob(ctx context.Context, spec kube.JobSpec) (kube.JobRef, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuse != nil {
		return kube.JobRef{}, w.refuse
	}
	if j := w.jobs[spec.Name]; j != nil {
		return j.ref, nil
	}
	w.starts++
	j := &podJob{
		ref:  kube.JobRef{Namespace: spec.Namespace, Name: spec.Name, UID: fmt.Sprint("uid-", w.starts)},
		spec: spec, dir: filepath.Join(w.dir, spec.Name), log: filepath.Join(w.dir, spec.Name+".log"), ended: make(chan struct{}),
	}
	w.jobs[spec.Name] = j
	if w.pending != "" {
		return j.ref, nil
	}
	args := slices.Clone(spec.Args)
	for i, arg := range args {
		if arg == kube.JobWork {
			args[i] = j.dir
		}
	}
	out, err := os.Create(j.log)
	if err != nil {
		return j.ref, err
	}
	defer out.Close()
	read, write, err := os.Pipe()
	if err != nil {
		return j.ref, err
	}
	defer read.Close()
	j.stdin, j.cmd = write, exec.Command(w.binary, args...)
	j.cmd.Stdin, j.cmd.Stdout, j.cmd.Stderr = read, out, out
	j.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir, "TMPDIR=" + w.dir}
	if err := j.cmd.Start(); err != nil {
		return j.ref, err
	}
	go func() {
		_ = j.cmd.Wait()
		j.code = j.cmd.ProcessState.ExitCode()
		_ = j.stdin.Close()
		close(j.ended)
	}()
	return j.ref, nil
}

// kill ends the pod as a node does that loses its power: nothing of it is left.
func (j *podJob) kill() {
	if j.cmd == nil {
		return
	}
	_ = j.cmd.Process.Signal(syscall.SIGKILL)
	<-j.ended
	if mark, err := command.Prepare(j.dir); err == nil {
		_, _ = command.Sweep(mark)
	}
}

func (w *podWorld) FindJob(ctx context.Context, ref kube.JobRef) (kube.JobRef, bool, error) {
	if w.silent {
		<-ctx.Done()
		return ref, false, context.Cause(ctx)
	}
	if other := w.Mark(ctx, ref.Namespace); ref.Cluster != nil && !ref.Cluster.Same(*other) {
		return ref, false, fmt.Errorf("it was created in another cluster: %s, and this is %s", ref.Cluster, other)
	}
	j := w.job(ref)
	if j == nil {
		return ref, false, nil
	}
	return j.ref, true, nil
}

func (w *podWorld) job(ref kube.JobRef) *podJob {
	w.mu.Lock()
	defer w.mu.Unlock()
	j := w.jobs[ref.Name]
	if j == nil || ref.UID != "" && j.ref.UID != ref.UID {
		return nil
	}
	return j
}

// only gives the one Job that there is.
func (w *podWorld) only() *podJob {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, j := range w.jobs {
		return j
	}
	return nil
}

func (w *podWorld) FollowJob(ctx context.Context, ref kube.JobRef, f kube.JobFollow) (kube.JobEnd, error) {
	j := w.job(ref)
	if j == nil {
		return kube.JobEnd{Lost: true, Reason: "Deleted", ExitCode: -1}, nil
	}
	if w.outage != "" {
		f.Away(w.outage)
		f.Away("")
	}
	if j.cmd == nil {
		f.Waiting(w.pending)
		if !w.never {
			select {
			case <-ctx.Done():
				return kube.JobEnd{}, context.Cause(ctx)
			case <-j.ended:
				return kube.JobEnd{Lost: true, Reason: "Deleted", ExitCode: -1}, nil
			}
		}
		return kube.JobEnd{Never: true, Message: w.pending, ExitCode: -1}, nil
	}
	at := w.lose
	for {
		over := false
		select {
		case <-j.ended:
			over = true
		default:
		}
		lines, err := readLines(j.log)
		if err != nil {
			return kube.JobEnd{}, err
		}
		for n := 0; at < len(lines); n++ {
			if err := f.Line(lines[at]); err != nil {
				return kube.JobEnd{}, err
			}
			if at++; w.drop > 0 && n > 0 && n%w.drop == 0 {
				at = max(0, at-3)
			}
		}
		if over {
			end := kube.JobEnd{Started: true, ExitCode: j.code, Reason: "Completed"}
			switch {
			case j.oom || w.oom:
				end.Reason = "OOMKilled"
			case j.own:
				end.Reason, end.Message, end.Own = "Evicted", "it filled its disk", true
			case j.taken != "":
				end.Reason, end.Lost = j.taken, true
			case j.code != 0:
				end.Reason = "Error"
			}
			return end, nil
		}
		select {
		case <-ctx.Done():
			return kube.JobEnd{}, context.Cause(ctx)
		case <-j.ended:
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// readLines gives the whole lines of a file.
func readLines(file string) (lines [][]byte, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	scanner := bufio.NewScanner(bytes.NewReader(text))
	scanner.Buffer(nil, 1<<24)
	for scanner.Scan() {
		lines = append(lines, bytes.Clone(scanner.Bytes()))
	}
	return lines, scanner.Err()
}

func (w *podWorld) SendToJob(_ context.Context, ref kube.JobRef, line []byte) error {
	j := w.job(ref)
	w.mu.Lock()
	cut := w.deaf > 0
	if cut {
		w.deaf--
	}
	w.mu.Unlock()
	if cut {
		_, _ = j.stdin.Write(append([]byte{'\n'}, line[:len(line)/2]...))
		return errors.New("the connection was cut off")
	}
	_, err := j.stdin.Write(slices.Concat([]byte{'\n'}, line, []byte{'\n'}))
	return err
}

func (w *podWorld) EndJob(ctx context.Context, ref kube.JobRef, grace time.Duration) error {
	if _, _, err := w.FindJob(ctx, ref); err != nil && !w.silent {
		return err
	}
	j := w.job(ref)
	w.mu.Lock()
	w.ended = append(w.ended, ref.Name)
	w.mu.Unlock()
	if w.ending != nil {
		w.ending()
	}
	if w.stuck {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	if j == nil {
		return nil
	}
	if j.cmd == nil {
		close(j.ended)
	} else {
		_ = j.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-j.ended:
		case <-time.After(grace):
			j.kill()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.jobs, ref.Name)
	return nil
}

func (w *podWorld) ServiceToken(_ context.Context, _ kube.JobRef, _ string, lifetime time.Duration) (string, time.Time, error) {
	if w.lifetime != nil {
		w.lifetime(lifetime)
	}
	if w.token != "" {
		return w.token, time.Now().Add(lifetime), nil
	}
	return "", time.Time{}, errors.New("no service account")
}
