package command

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
	"unsafe"

	landlock "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// sandbox keeps commands away from protected paths, by Landlock. Landlock knows only permission: a rule opens a
// directory with all that is and will be below it, and there is none that closes. So everything is opened but the
// protected paths and the directories above them, see policy; of these and all below the names can be listed, since that
// cannot be had without. It follows that a command cannot make an entry in a directory that has a protected path
// somewhere below, say in /var/lib beside /var/lib/sentry, nor use one that is made there while it runs.
type sandbox struct {
	abi    int // of Landlock; 0 where the kernel has none
	policy *policy
	keep   time.Duration // see spareTime

	mu     sync.Mutex
	spare  *ruleset // nil where none was made ahead
	making bool     // one is being made ahead
}

func newSandbox(protect []string, log *slog.Logger) *sandbox {
	return &sandbox{abi: landlockABI(), policy: newPolicy(protect, log), keep: spareTime}
}

// landlockABI is the version of Landlock that the kernel speaks, 0 where it has none or it is switched off.
func landlockABI() int {
	version, err := landlock.LandlockGetABIVersion()
	if err != nil {
		return 0
	}
	return version
}

// The versions of Landlock that matter, and the kernels that brought them.
const (
	abiRefer    = 2 // 5.19: files may move between directories
	abiTruncate = 3 // 6.2: truncating needs a right
	abiDevices  = 5 // 6.10: ioctl on devices needs a right
	abiScope    = 6 // 6.12: signals and abstract sockets stay inside
	abiSockets  = 9 // connecting to a socket of a path needs a right
)

// rightsOf gives all rights on files that a version of Landlock can withhold.
func rightsOf(abi int) uint64 {
	bits := 13
	switch {
	case abi >= abiSockets:
		bits = 17
	case abi >= abiDevices:
		bits = 16
	case abi >= abiTruncate:
		bits = 15
	case abi >= abiRefer:
		bits = 14
	}
	return 1<<bits - 1
}

const (
	// fileRights can be had on what is not a directory.
	fileRights = landlock.AccessFSExecute | landlock.AccessFSReadFile | landlock.AccessFSWriteFile |
		landlock.AccessFSTruncate | landlock.AccessFSIoctlDev | landlock.AccessFSResolveUnix
	listRights = landlock.AccessFSReadDir
	readRights = landlock.AccessFSReadDir | landlock.AccessFSReadFile | landlock.AccessFSExecute
)

// ruleset is what one command may do, ready to be enforced.
type ruleset struct {
	fd   int // -1 where the kernel has no Landlock
	look int // of the policy that it opens what was found
}

// rules makes the ruleset of one command. It may use the writable paths and read the readable ones, wherever they are.
func (b *sandbox) rules(writable, readable []string) (*ruleset, error) {
	if b.abi == 0 {
		return &ruleset{fd: -1}, nil
	}
	opened, look, err := b.policy.opened()
	if err != nil {
		return nil, err
	}
	r := b.take(look)
	if r == nil {
		if r, err = b.common(opened, look); err != nil {
			return nil, err
		}
	}
	if err := r.grant(b.policy, writable, rightsOf(b.abi)); err != nil {
		r.close()
		return nil, err
	}
	if err := r.grant(b.policy, readable, readRights); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// spareTime is how long a ruleset that was made ahead waits for its command.
const spareTime = 10 * time.Second

// expect has a ruleset made ahead, with all that does not depend on the command: that is most of the work, one rule for
// each entry of the directories above what is protected. There is one at most. It does not wait.
func (b *sandbox) expect() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.abi == 0 || b.making || b.spare != nil {
		return
	}
	b.making = true
	go func() {
		r := b.ahead()
		b.mu.Lock()
		defer b.mu.Unlock()
		b.making = false
		if r != nil {
			b.spare = r
			time.AfterFunc(b.keep, func() { b.drop(r) })
		}
	}()
}

// ahead makes a ruleset for a command that will come; nil where it cannot, which that command will be told.
func (b *sandbox) ahead() *ruleset {
	opened, look, err := b.policy.opened()
	if err != nil {
		return nil
	}
	r, err := b.common(opened, look)
	if err != nil {
		return nil
	}
	return r
}

// take gives the ruleset that was made ahead, where it opens what was found in that look of the policy; otherwise nil.
func (b *sandbox) take(look int) *ruleset {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.spare
	b.spare = nil
	if r != nil && r.look != look {
		r.close()
		r = nil
	}
	return r
}

// drop closes a ruleset that was made ahead, if it is still there.
func (b *sandbox) drop(r *ruleset) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.spare == r {
		r.close()
		b.spare = nil
	}
}

// common makes a ruleset with what every command may use.
func (b *sandbox) common(opened []opened, look int) (*ruleset, error) {
	all := rightsOf(b.abi)
	attr := landlock.RulesetAttr{HandledAccessFS: all}
	if b.abi >= abiScope {
		attr.Scoped = landlock.ScopeSignal | landlock.ScopeAbstractUnixSocket
	}
	fd, err := landlock.LandlockCreateRuleset(&attr, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make a sandbox: %w", err)
	}
	r := &ruleset{fd, look}
	rights := map[opening]uint64{openWhole: all, openFile: all & fileRights, openNames: listRights}
	for _, o := range opened {
		// What has gone, or become something else, since it was found is not opened.
		if err := r.open(o.path, rights[o.how]); err != nil && !vanished(err) {
			r.close()
			return nil, err
		}
	}
	return r, nil
}

func vanished(err error) bool {
	for _, gone := range []error{unix.ENOENT, unix.ENOTDIR, unix.EINVAL, unix.EACCES} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// grant opens paths that may be below a protected one.
func (r *ruleset) grant(p *policy, paths []string, rights uint64) error {
	for _, path := range paths {
		rights := rights
		path, err := p.grant(path)
		if err != nil {
			return err
		}
		if info, err := os.Lstat(path); err == nil && !info.IsDir() {
			rights &= fileRights
		}
		if err := r.open(path, rights); err != nil {
			return err
		}
	}
	return nil
}

// open adds a rule: these rights on path and everything below.
func (r *ruleset) open(path string, rights uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return &os.PathError{Op: "cannot let a command use", Path: path, Err: err}
	}
	defer unix.Close(fd)
	attr := landlock.PathBeneathAttr{AllowedAccess: rights, ParentFd: fd}
	if err := landlock.LandlockAddRule(r.fd, landlock.RuleTypePathBeneath, unsafe.Pointer(&attr), 0); err != nil {
		return &os.PathError{Op: "cannot let a command use", Path: path, Err: err}
	}
	return nil
}

// enforce restricts the calling thread, and what is started from it, for good.
func (r *ruleset) enforce() error {
	if r.fd < 0 {
		return nil
	}
	if err := landlock.LandlockRestrictSelf(r.fd, 0); err != nil {
		return fmt.Errorf("cannot enter the sandbox: %w", err)
	}
	return nil
}

func (r *ruleset) close() {
	if r.fd >= 0 {
		_ = unix.Close(r.fd)
		r.fd = -1
	}
}
