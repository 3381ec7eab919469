package forgetest

import (
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// repositories are those of an emulated forge: their names, and what their branches point at. There are no objects behind
// the commits: who watches a forge does not ask for any. It is the half of a Lab that moves things.
type repositories struct {
	t    testing.TB
	base string // the address that remotes begin with

	mu    sync.Mutex // guards what follows, and all repositories
	all   map[string]*repository
	moved map[string]*repository // by the names that they had
	made  int
	count int // of commits
}

// repository is one of them. Its name has its case, but is found without regard to it, as GitHub, GitLab and Gitea do.
type repository struct {
	id       int
	name     string
	private  bool
	branches map[string]string
	commits  map[string]bool // all that it has, or ever had
	updated  time.Time       // when a branch was last moved
	moves    []time.Time     // when it was made, and then all these moments
	modern   bool            // its commits have names by SHA-256
}

func newRepositories(t testing.TB, base string) *repositories {
	return &repositories{t: t, base: base, all: map[string]*repository{}, moved: map[string]*repository{}}
}

// find gives the repository of a name, in any case; nil where there is none. The caller holds r.mu.
func (r *repositories) find(name string) *repository { return r.all[strings.ToLower(name)] }

// findMoved gives the repository that had a name, nil where none had, or another one has it now. The caller holds r.mu.
func (r *repositories) findMoved(name string) *repository { return r.moved[strings.ToLower(name)] }

// must gives the repository of a name, and ends the test where there is none. The caller holds r.mu.
func (r *repositories) must(name string) *repository {
	r.t.Helper()
	one := r.find(name)
	if one == nil {
		r.t.Fatalf("there is no repository %s", name)
	}
	return one
}

// Repository makes an empty repository and gives its address.
func (r *repositories) Repository(name string, private bool) (remote string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.find(name) != nil {
		r.t.Fatalf("there is a repository %s", name)
	}
	r.made++
	one := &repository{id: r.made, name: name, private: private, branches: map[string]string{}, commits: map[string]bool{}}
	one.updated = time.Now()
	one.moves = []time.Time{one.updated}
	r.all[strings.ToLower(name)] = one
	delete(r.moved, strings.ToLower(name))
	return r.base + "/" + name + ".git"
}

// commit makes one that no other repository has. The caller holds r.mu.
func (r *repositories) commit(one *repository) string {
	r.count++
	text := fmt.Appendf(nil, "%s %d", one.name, r.count)
	id := fmt.Sprintf("%x", sha1.Sum(text))
	if one.modern {
		id = fmt.Sprintf("%x", sha256.Sum256(text))
	}
	one.commits[id] = true
	return id
}

// Modern gives the commits that a repository gets from now on names by SHA-256. It must have none yet.
func (r *repositories) Modern(name string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.must(name).modern = true
}

// Push gives a branch a new commit, and makes the branch where there is none.
func (r *repositories) Push(name, branch string) (commit string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.must(name)
	id := r.commit(one)
	one.move(branch, id)
	return id
}

// ForcePush gives a branch a commit that is not on top of its last one. Without objects that is what Push does.
func (r *repositories) ForcePush(name, branch string) (commit string) {
	r.t.Helper()
	return r.Push(name, branch)
}

// Set moves a branch to a commit that the repository has, or had.
func (r *repositories) Set(name, branch, commit string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.must(name)
	if !one.commits[commit] {
		r.t.Fatalf("%s never had the commit %s", name, commit)
	}
	one.move(branch, commit)
}

// Delete removes a branch.
func (r *repositories) Delete(name, branch string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.must(name)
	one.move(branch, "")
}

// Head is the commit of a branch, "" where there is no such branch.
func (r *repositories) Head(name, branch string) (commit string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.must(name).branches[branch]
}

// Rename gives a repository another name. The old one leads to it until it is given to another.
func (r *repositories) Rename(name, to string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.must(name)
	delete(r.all, strings.ToLower(name))
	delete(r.moved, strings.ToLower(to))
	r.moved[strings.ToLower(name)] = one
	one.name = to
	r.all[strings.ToLower(to)] = one
}

// Remove deletes a repository. Names that led to it lead nowhere.
func (r *repositories) Remove(name string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.must(name)
	delete(r.all, strings.ToLower(name))
	maps.DeleteFunc(r.moved, func(_ string, other *repository) bool { return other == one })
}

// look reads a repository under the lock.
func (r *repositories) look(read func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	read()
}

// move points a branch at a commit, or removes it where there is none.
func (one *repository) move(branch, commit string) {
	one.updated = time.Now()
	one.moves = append(one.moves, one.updated)
	if commit == "" {
		delete(one.branches, branch)
	} else {
		one.branches[branch] = commit
	}
}

// What all commits say of themselves.
const (
	authorName    = "Ada Author"
	authorEmail   = "ada@example.com"
	commitMessage = "A subject\n\nand why.\n"
	commitTime    = "2024-05-06T09:08:09+02:00"
)

// author is a signature of a commit as GitHub and Gitea tell it.
func author() map[string]any {
	return map[string]any{"name": authorName, "email": authorEmail, "date": commitTime}
}

// refs gives the branches of a repository in the order of their names, with the prefix that Git has for them.
func (one *repository) refs() []ref {
	refs := make([]ref, 0, len(one.branches))
	for _, branch := range slices.Sorted(maps.Keys(one.branches)) {
		refs = append(refs, ref{"refs/heads/" + branch, one.branches[branch]})
	}
	return refs
}

type ref struct{ name, commit string }
