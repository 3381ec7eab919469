package command

import (
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A command's tag is its soft limit on POSIX message queues, in bytes, from a range below every mark (see Mark). A
// process hands it on to whatever it starts, and nothing but setting that very limit changes it. A command that uses
// message queues still has room for one of the default size.
const (
	firstTag = 150_000
	tags     = 250_000
)

// family knows the commands that run, and finds out which process is whose. There is one in a process: orphans come
// back to the process, not to the Runner that ran their command.
type family struct {
	mu     sync.Mutex
	live   map[uint64]*tree // by tag
	looked time.Time        // when the last survey was
	// untagged is set for good once a command could not be given its tag before it ran. Then other signs count too.
	untagged bool
}

var ours = &family{live: map[uint64]*tree{}}

// join gives t a tag that no other living command has. Tags are drawn by lot: a Sentry that runs inside a command of
// another one must not draw the same.
func (f *family) join(t *tree) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		t.tag = firstTag + rand.Uint64N(tags)
		if f.live[t.tag] == nil {
			f.live[t.tag] = t
			return
		}
	}
}

// leave forgets t. What bears its tag from now on is a stray.
func (f *family) leave(t *tree) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.live, t.tag)
}

// relation says whose a descendant of this process is.
type relation struct {
	kind kind
	tree *tree // for member
}

type kind int

const (
	foreign kind = iota // no command's: this process runs git too
	member              // of a living command
	stray               // of a command that has ended
	unknown             // of some command, and it took care to hide of which: it changed the very limit that tags it
)

// survey looks at all descendants of this process. It renews the members of the living commands, reaps orphans of
// commands that have ended, kills strays, and gives those of unknown origin. Complete is as for processes. The caller
// holds mu.
func (f *family) survey() (unknowns []process, complete bool) {
	f.looked = time.Now()
	list, complete, err := processes()
	if err != nil {
		return nil, true // no /proc: the group of a command is all that can be ended
	}
	children := make(map[int][]process, len(list))
	for _, p := range list {
		children[p.parent] = append(children[p.parent], p)
	}
	limit, err := queueLimit(os.Getpid())
	s := sight{family: f, session: session(), limit: limit, limited: err == nil, leaders: map[int]*tree{}, members: map[*tree]map[identity]process{}}
	for _, t := range f.live {
		if t.leader.pid != 0 { // else it is just starting
			s.leaders[t.leader.pid] = t
		}
	}
	s.descend(children, os.Getpid(), relation{})
	for _, t := range f.live {
		t.members = s.members[t]
	}
	return s.unknowns, complete
}

// session is the session of this process.
func session() int {
	id, err := unix.Getsid(0)
	if err != nil {
		return 0 // cannot be: the call is for this process itself
	}
	return id
}

// sight is one survey under way.
type sight struct {
	family   *family
	session  int         // of this process, and so of what it starts beside commands
	limit    unix.Rlimit // idem
	limited  bool        // limit could be read
	leaders  map[int]*tree
	members  map[*tree]map[identity]process
	unknowns []process
}

// descend looks at the children of a process that is related so, and theirs.
func (s *sight) descend(children map[int][]process, parent int, related relation) {
	for _, p := range children[parent] {
		r := s.relate(p, related)
		if t := s.leaders[p.pid]; t != nil {
			r = relation{member, t}
		} else if !s.goneAlready(p, r) {
			s.note(p, r)
		}
		s.descend(children, p.pid, r)
	}
}

// relate finds out whose p is: its session's, its parent's, its tag's, or the one's where it was seen before.
func (s *sight) relate(p process, parent relation) relation {
	if t := s.leaders[p.session]; t != nil {
		return relation{member, t}
	}
	if parent.kind != foreign || p.parent != os.Getpid() {
		return parent
	}
	limit, err := queueLimit(p.pid)
	if err != nil {
		return relation{} // it is gone
	}
	if t := s.family.live[limit.Cur]; t != nil {
		return relation{member, t}
	}
	for _, t := range s.family.live {
		if _, seen := t.members[p.identity]; seen {
			return relation{member, t}
		}
	}
	switch {
	case firstTag <= limit.Cur && limit.Cur < firstTag+tags && limit.Cur != s.limit.Cur:
		return relation{stray, nil}
	case s.limited && limit != s.limit:
		return relation{unknown, nil}
	case s.family.untagged:
		return s.bySigns(p)
	default:
		return relation{}
	}
}

// bySigns is for systems on which commands have no tags. What carries the identifier of a deployment in its environment
// is that deployment's. What is in another session than this process came from some command: only they get sessions.
func (s *sight) bySigns(p process) relation {
	for _, variable := range environment(p.pid) {
		for _, t := range s.family.live {
			if t.cookie != "" && t.cookie == variable {
				return relation{member, t}
			}
		}
	}
	if p.session != s.session {
		return relation{unknown, nil}
	}
	return relation{}
}

// goneAlready reaps p where it is an orphan that has ended. Nobody waits for those of commands. Of what else this
// process starts it waits for the first processes itself; but where these have groups of their own, as git has, they
// lead them, and who does not is an orphan too.
func (s *sight) goneAlready(p process, r relation) bool {
	if !p.ended() || p.parent != os.Getpid() {
		return false
	}
	if r.kind == foreign && (p.group == p.pid || p.group == unix.Getpgrp()) {
		return false
	}
	return reapOrphan(p.pid)
}

func (s *sight) note(p process, r relation) {
	switch r.kind {
	case member:
		if s.members[r.tree] == nil {
			s.members[r.tree] = map[identity]process{}
		}
		s.members[r.tree][p.identity] = p
	case stray:
		_ = p.signal(unix.SIGKILL) // it is gone where that fails
	case unknown:
		s.unknowns = append(s.unknowns, p)
	}
}

// present gives what is there of t beside its first process, and what can be nobody else's.
func (f *family) present(t *tree) []process {
	f.mu.Lock()
	defer f.mu.Unlock()
	for try := 1; ; try++ {
		unknowns, complete := f.survey()
		var found []process
		for _, p := range t.members {
			found = append(found, p)
		}
		for _, p := range unknowns {
			if !f.maybeOthers(p, t) {
				found = append(found, p)
			}
		}
		if len(found) > 0 {
			return found
		}
		// A process can start another and end while the list is made: then it hides it. Nothing is there for certain
		// if there is nothing at the top either.
		tops := f.tops(t)
		if len(tops) == 0 && (complete || try >= 3) {
			return nil
		}
		if try >= 10 {
			return tops
		}
	}
}

// clear reports that a survey would find nothing to do for commands whose leader has ended: no orphan of theirs has come,
// and none of anybody's has ended. It is so after nearly every command.
func (f *family) clear() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	own, err := queueLimit(os.Getpid())
	children, told := adopted()
	if f.untagged || err != nil || !told {
		return false
	}
	buf := make([]byte, 512)
	for _, pid := range children {
		limit, err := queueLimit(pid)
		if err != nil || limit != own {
			return false
		}
		if p, err := readProcess(pid, buf); err != nil || p.ended() {
			return false
		}
	}
	return true
}

// tops gives the children of this process that bear the tag of t, dead or alive, without its leader. Once the leader has
// ended, there is one as long as there is any process of t: the ancestors of that one end here. They are listed in a
// fraction of the time of a survey.
func (f *family) tops(t *tree) []process {
	var found []process
	buf := make([]byte, 512)
	children, _ := adopted()
	for _, pid := range children {
		if limit, err := queueLimit(pid); err != nil || limit.Cur != t.tag || pid == t.leader.pid {
			continue
		}
		if p, err := readProcess(pid, buf); err == nil {
			found = append(found, p)
		}
	}
	return found
}

// chase kills what multiplies faster than surveys can follow, from the top. The identifier of a child is its own until
// it is reaped, which happens under mu.
func (f *family) chase(t *tree) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for range 50 {
		alive := false
		for _, p := range f.tops(t) {
			if !p.ended() {
				alive = unix.Kill(p.pid, unix.SIGKILL) == nil
			}
		}
		if !alive {
			return
		}
	}
}

// maybeOthers reports whether p, of unknown origin, may belong to a command other than t that has not ended.
func (f *family) maybeOthers(p process, t *tree) bool {
	for _, other := range f.live {
		if other != t && !other.hasEnded() && other.leader.start <= p.start {
			return true
		}
	}
	return false
}

// look makes a survey unless there was one just now.
func (f *family) look() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.looked) >= lookAfter*9/10 {
		f.survey()
	}
}

// Owns reports whether a process belongs to a command that this process runs, or ran. The socket of the daemon is for
// people, not for what they have it run.
func Owns(pid int) bool {
	ours.mu.Lock()
	defer ours.mu.Unlock()
	unknowns, _ := ours.survey()
	for _, p := range unknowns {
		if p.pid == pid {
			return true
		}
	}
	for _, t := range ours.live {
		if t.leader.pid == pid {
			return true
		}
		for id := range t.members {
			if id.pid == pid {
				return true
			}
		}
	}
	return false
}
