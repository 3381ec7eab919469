package command

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// identity tells a process from every other, also from a later one of the same id.
type identity struct {
	pid   int
	start uint64 // clock ticks after boot
}

// process is what /proc/PID/stat says, see proc(5).
type process struct {
	identity
	parent  int
	group   int
	session int
	state   byte
}

// ended reports whether the process is a zombie. A zombie whose other threads run on is one too.
func (p process) ended() bool { return p.state == 'Z' || p.state == 'X' }

// processes lists the processes of the system. Complete is false where one vanished meanwhile: it may have left a child
// that is not in the list.
func processes() (list []process, complete bool, err error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, false, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, false, err
	}
	complete = true
	buf := make([]byte, 512)
	for _, name := range names {
		if name[0] < '0' || name[0] > '9' {
			continue
		}
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		p, err := readProcess(pid, buf)
		if err != nil {
			complete = false
			continue
		}
		list = append(list, p)
	}
	return list, complete, nil
}

// readProcess reads about one process; buf is scratch space for a line.
func readProcess(pid int, buf []byte) (process, error) {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return process{}, err
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return process{}, err
	}
	return parseStat(buf[:n])
}

// parseStat reads the fields of a stat line that are of interest. The second, the name, may hold anything.
func parseStat(line []byte) (process, error) {
	var p process
	open, closed := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 1 || closed < open {
		return p, fmt.Errorf("unexpected line %q in /proc/PID/stat", line)
	}
	fields := bytes.Fields(line[closed+1:])
	if len(fields) < 20 { // they begin with the third
		return p, fmt.Errorf("unexpected line %q in /proc/PID/stat", line)
	}
	field := func(n int) string { return string(fields[n-3]) }
	var errs [5]error
	p.pid, errs[0] = strconv.Atoi(string(bytes.TrimSpace(line[:open])))
	p.state = field(3)[0]
	p.parent, errs[1] = strconv.Atoi(field(4))
	p.group, errs[2] = strconv.Atoi(field(5))
	p.session, errs[3] = strconv.Atoi(field(6))
	p.start, errs[4] = strconv.ParseUint(field(22), 10, 64)
	for _, err := range errs {
		if err != nil {
			return p, fmt.Errorf("unexpected line %q in /proc/PID/stat: %w", line, err)
		}
	}
	return p, nil
}

// identify gives the identity of a running process or zombie.
func identify(pid int) (identity, error) {
	p, err := readProcess(pid, make([]byte, 512))
	return p.identity, err
}

// adopted lists the children of the first thread of this process: the kernel gives orphans to that one. It reports
// false where the kernel does not tell (CONFIG_PROC_CHILDREN).
func adopted() (pids []int, told bool) {
	self := strconv.Itoa(os.Getpid())
	data, err := os.ReadFile("/proc/" + self + "/task/" + self + "/children")
	if err != nil {
		return nil, false
	}
	for _, field := range bytes.Fields(data) {
		if pid, err := strconv.Atoi(string(field)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, true
}

// signal sends a signal to exactly this process: none that got its id after it.
func (id identity) signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(id.pid, 0)
	if err == nil {
		defer unix.Close(fd)
	} else if err != unix.ENOSYS {
		return err
	}
	// The descriptor stands for the process that has the id now. If that began when ours did, it is ours, and stays so.
	if now, err := identify(id.pid); err != nil || now != id {
		return unix.ESRCH
	}
	if fd < 0 { // before Linux 5.3: the id may change hands here
		return unix.Kill(id.pid, sig)
	}
	return unix.PidfdSendSignal(fd, sig, nil, 0)
}

// queueLimit reads the limits of a process on POSIX message queues (soft and hard, in bytes), in which we write.
func queueLimit(pid int) (unix.Rlimit, error) {
	var limit unix.Rlimit
	err := unix.Prlimit(pid, unix.RLIMIT_MSGQUEUE, nil, &limit)
	if err != unix.EPERM {
		return limit, err
	}
	// A process of another user, or one that has changed user: the file is for everybody.
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/limits")
	if err != nil {
		return limit, err
	}
	return parseQueueLimit(data)
}

func parseQueueLimit(limits []byte) (unix.Rlimit, error) {
	_, after, found := bytes.Cut(limits, []byte("Max msgqueue size"))
	fields := bytes.Fields(after)
	if !found || len(fields) < 2 {
		return unix.Rlimit{}, fmt.Errorf("no limit of message queues in /proc/PID/limits")
	}
	number := func(field []byte) uint64 {
		n, err := strconv.ParseUint(string(field), 10, 64)
		if err != nil {
			return unix.RLIM_INFINITY // "unlimited"
		}
		return n
	}
	return unix.Rlimit{Cur: number(fields[0]), Max: number(fields[1])}, nil
}

// environment reads the environment that a process was started with; none where it may not be read.
func environment(pid int) []string {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return nil
	}
	return strings.Split(string(data), "\x00")
}

// reapOrphan takes away a child of this process that has ended, and reports whether it was one. It is for children that
// nobody else waits for.
func reapOrphan(pid int) bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG, nil)
	return err == nil && info.Signo == int32(unix.SIGCHLD)
}
