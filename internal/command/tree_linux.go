package command

import (
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// tree is a command that was started: its first process (the leader of a session) and all that came of it.
type tree struct {
	leader identity // set under family.mu
	tag    uint64   // see firstTag
	cookie string   // the identifier of the deployment in the environment; empty where there is none

	members map[identity]process // without the leader, as of the last survey; under family.mu
	hit     map[identity]bool    // had to be ended after the leader; owned by who ends the command

	done    chan struct{}         // closed when the leader has ended; it is a zombie until release, so its id stays its
	release chan struct{}         // closed when the leader may be reaped
	state   chan *os.ProcessState // of the leader; nil where it could not be had
}

// startTree starts the command that make makes, under the rules, in a session of its own. The command is made again
// where a first try fails. begin is asked once, in this goroutine: its error keeps the command from doing anything.
func startTree(command func() *exec.Cmd, env []string, rules *ruleset, begin func() error) (*tree, error) {
	t := &tree{
		hit:  map[identity]bool{},
		done: make(chan struct{}), release: make(chan struct{}), state: make(chan *os.ProcessState, 1),
	}
	for _, variable := range env {
		if isCookie(variable) {
			t.cookie = variable
		}
	}
	ours.join(t)
	started := make(chan error)
	asked, answer := make(chan struct{}), make(chan error)
	ask := func() error {
		asked <- struct{}{}
		return <-answer
	}
	onOwnThread(func() {
		err := giveUpPrivileges()
		if err == nil {
			err = rules.enforce()
		}
		var cmd *exec.Cmd
		if err == nil {
			cmd, err = t.launch(command, ask)
		}
		if err != nil {
			ours.leave(t)
			started <- err
			return
		}
		started <- nil
		// The command dies with this thread (Pdeathsig), so the thread stays until it has ended.
		for unix.Waitid(unix.P_PID, t.leader.pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		}
		close(t.done)
		<-t.release
		_ = cmd.Wait() // how it ended is in the state
		ours.leave(t)
		t.state <- cmd.ProcessState
	})
	for {
		select {
		case <-asked:
			answer <- begin()
		case err := <-started:
			if err != nil {
				return nil, err
			}
			return t, nil
		}
	}
}

// untraceable is set once it has turned out that this system does not let a process trace its child.
var untraceable atomic.Bool

// launch starts the leader and tags it before it can start anything: it is traced, for which the kernel stops it when
// it has become the new program, and is let go with its tag when begin allows it. Should this process be killed meanwhile,
// the leader is killed where it stands. Where tracing is not allowed the leader is made after begin, the tag comes a moment
// late, and what was started before does not have it.
func (t *tree) launch(command func() *exec.Cmd, begin func() error) (*exec.Cmd, error) {
	traced := !untraceable.Load()
	if !traced {
		if err := begin(); err != nil {
			return nil, err
		}
	}
	cmd := command()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL, Ptrace: traced}
	err := cmd.Start()
	if err != nil && traced {
		traced = false
		if err := begin(); err != nil {
			return nil, err
		}
		cmd = command()
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
		if err = cmd.Start(); err == nil {
			untraceable.Store(true)
		}
	}
	if err != nil {
		return nil, err
	}
	pid := cmd.Process.Pid
	if traced {
		for unix.Waitid(unix.P_PID, pid, nil, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		}
		// Otherwise the kernel would let it go when this process ends, a moment before it kills it for that.
		_ = unix.PtraceSetOptions(pid, unix.PTRACE_O_EXITKILL) // fails where it was killed meanwhile
	}
	t.enroll(pid, traced)
	volunteer(pid)
	if !traced {
		return cmd, nil
	}
	if err := begin(); err != nil {
		_ = cmd.Process.Kill() // it is gone where that fails
		_ = cmd.Wait()         // it has done nothing
		return nil, err
	}
	_ = unix.PtraceDetach(pid) // fails where it was killed meanwhile
	return cmd, nil
}

// enroll makes pid the leader, then tags it. In this order: a tagged child that is no leader counts as an orphan.
func (t *tree) enroll(pid int, held bool) {
	ours.mu.Lock()
	defer ours.mu.Unlock()
	id, err := identify(pid)
	if err != nil {
		id = identity{pid: pid}
	}
	t.leader = id
	if tag(pid, t.tag) != nil || !held {
		ours.untagged = true
	}
}

func tag(pid int, tag uint64) error {
	limit, err := queueLimit(pid)
	if err != nil {
		return err
	}
	return unix.Prlimit(pid, unix.RLIMIT_MSGQUEUE, &unix.Rlimit{Cur: tag, Max: limit.Max}, nil)
}

func (t *tree) pid() int { return t.leader.pid }

// ended is closed when the leader has ended.
func (t *tree) ended() <-chan struct{} { return t.done }

func (t *tree) hasEnded() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// look reaps what can be, and takes note of who is there.
func (t *tree) look() { ours.look() }

// left is how many processes are left, the leader included; while the leader is there it may say 1 for all.
func (t *tree) left() int {
	switch {
	case !t.hasEnded():
		return 1
	case ours.clear():
		return 0
	default:
		return len(ours.present(t))
	}
}

// signal sends a signal to every process of the command. The group of the leader gets it in one go, in which nothing
// of it can multiply.
func (t *tree) signal(sig syscall.Signal) {
	alone, all := t.hasEnded(), ours.present(t)
	_ = unix.Kill(-t.leader.pid, sig) // there is none where that fails
	if sig == unix.SIGTERM {
		_ = unix.Kill(-t.leader.pid, unix.SIGCONT) // what is stopped cannot end
	}
	for _, p := range all {
		if p.group != t.leader.pid {
			_ = p.signal(sig) // it is gone where that fails
			if sig == unix.SIGTERM {
				_ = p.signal(unix.SIGCONT)
			}
		}
		if alone {
			t.hit[p.identity] = true
		}
	}
	if alone && sig == unix.SIGKILL {
		ours.chase(t)
	}
}

// swept is how many processes got a signal after the leader had ended.
func (t *tree) swept() int { return len(t.hit) }

// reap takes the leader away and gives how it ended: nil where the kernel does not let go of it. Then its thread reaps
// it once it does.
func (t *tree) reap() *os.ProcessState {
	close(t.release)
	if !t.hasEnded() {
		return nil
	}
	return <-t.state
}
