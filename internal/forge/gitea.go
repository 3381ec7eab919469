package forge

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"sentry/internal/sentry"
)

// Gitea and Forgejo are asked one question for all repositories of a token: which ones changed last? Every push moves
// updated_at of its repository (services/repository/push.go), so GET /repos/search?sort=updated is the answer for as many
// as there are. What has changed is then asked over Git, and so is what the search says nothing about.
//
// The search is not believed blindly:
//   - updated_at counts seconds, and is written after the push, up to some seconds later: a search goes back to what was the
//     latest change at a search some while before the last one, since when nothing can have been written with an earlier
//     time; and what was changed just now is asked once more afterwards.
//   - A repository is only left to the search when the search has been seen to show it.
//   - Mirrors carry the time of their newest commit, which may be long ago: they are asked one by one.
//   - Every repository is asked itself now and then, spread over the time, whatever the search says.

// Of the search.
const (
	giteaFew     = 4                // repositories from which on a search is worth it
	giteaFirst   = 10               // results at first: a search for ten costs a third of one for fifty
	giteaPage    = 50               // the most that Gitea gives, by its default
	giteaPages   = 10               // to read through, for the changes since the last search
	giteaOverlap = 10 * time.Second // nothing is written that much later than it says
	giteaSettle  = 3 * time.Second  // when a change just seen is asked about once more
	giteaVerify  = 15 * time.Minute // every repository is asked itself so often, or in ten intervals where those are longer
	giteaVerify1 = time.Second      // but all of them together no more often than this
	giteaLate    = 15 * time.Second // a search that takes longer is given up
	giteaSurvey  = 10 * time.Second // how long to look at a time whether the search shows what is watched
	giteaRelook  = 15 * time.Minute // when to look again for what it did not show
	giteaAside   = 15 * time.Minute // how long the search is left alone where it is refused, or too much happens there
	giteaStand   = 50               // repositories that are asked one by one where the search fails
	giteaWrong   = 3                // answers in a row that make no sense, until the search is left alone
)

// gitea is a Gitea or Forgejo for one credential.
type gitea struct {
	a *account

	mu      sync.Mutex // guards what follows
	watches map[*Repository]*giteaWatch
	places  map[string]*giteaPlace // by name, in lower case
	byID    map[int64]*giteaPlace
	settled time.Time // every change up to this moment of theirs was seen; zero before the first search
	blind   bool      // more has changed than could be read: all are asked themselves, until what comes then can be told
	newest  time.Time // the latest change that was seen
	since   time.Time // when that was, by our clock
	clock   time.Time // theirs at the last search
	read    time.Time // ours at that moment
	page    int       // of a survey that goes on, 0 where none does
	plain   bool      // surveys page by page are not understood
	refused time.Time // the search is left alone until then
	why     string
	debt    int // by how much searches have cost more than they spared
	wrong   int // answers in a row that made no sense
}

// giteaPlace is what the search tells about a repository.
type giteaPlace struct {
	name    string
	id      int64
	shown   bool // the search shows it
	mirror  bool
	moved   string // its name now, where that is another
	updated time.Time
	version int       // counts the changes of updated
	looked  time.Time // when it was looked for in vain
}

// giteaWatch is what was done about a repository.
type giteaWatch struct {
	place   *giteaPlace
	version int       // of the place when the repository was asked itself; -1: never
	again   time.Time // when to ask it once more, though nothing seems to have changed; zero: not
	verify  time.Time // when to ask it in any case
}

func newGitea(a *account) *gitea {
	return &gitea{a: a, watches: map[*Repository]*giteaWatch{}, places: map[string]*giteaPlace{}, byID: map[int64]*giteaPlace{}}
}

// repository is the name of a repository: "owner/name".
func (g *gitea) repository(r *Repository) string { return below(g.a.base, "/api/v1", r) }

// rules: Gitea has no limits of its own.
func (g *gitea) rules() rules { return rules{concurrency: 4} }

// authorize puts the token into a request.
func (g *gitea) authorize(h http.Header, token sentry.Secret) {
	h.Set("Authorization", "token "+token.Reveal())
}

// update keeps what is known of repositories that stay.
func (g *gitea) update(members []*Repository) {
	g.mu.Lock()
	defer g.mu.Unlock()
	watches, places := map[*Repository]*giteaWatch{}, map[string]*giteaPlace{}
	g.byID = map[int64]*giteaPlace{}
	for _, r := range members {
		name := strings.ToLower(g.repository(r))
		p := places[name]
		if p == nil {
			if p = g.places[name]; p == nil {
				p = &giteaPlace{name: g.repository(r)}
			}
			places[name] = p
		}
		if p.id != 0 {
			g.byID[p.id] = p
		}
		w := g.watches[r]
		if w == nil {
			w = &giteaWatch{place: p, version: -1}
		}
		watches[r] = w
	}
	g.watches, g.places, g.page = watches, places, 0
}

// lane says that one question covers all, unless there are too few.
func (g *gitea) lane() (batch int, sweep bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.sweeps() {
		return 1, false
	}
	return len(g.watches), true
}

func (g *gitea) sweeps() bool {
	return len(g.watches) >= giteaFew && !time.Now().Before(g.refused)
}

// explain says how a repository is asked.
func (g *gitea) explain(r *Repository) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	const alone = "asked over the Git protocol (ls-refs): "
	w := g.watches[r]
	switch {
	case w == nil:
		return alone + "it is not configured"
	case len(g.watches) < giteaFew:
		return alone + "too few repositories share a token to search for changes"
	case !g.sweeps():
		return alone + "the search for changes is left alone, because " + g.why
	case w.place.moved != "":
		return alone + "the search for changes calls it " + w.place.moved
	case w.place.mirror:
		return alone + "it is a mirror, whose changes the search does not tell"
	case !w.place.shown:
		return alone + "the search for changes does not show it, or has not been looked at yet"
	}
	return fmt.Sprintf("one search tells which of %d repositories have changed; those, and each now and then (%s), are asked over the Git protocol (ls-refs)",
		len(g.watches), g.verifies(r).Round(time.Minute))
}

// verifies is how often a repository is asked itself, whatever the search says. The caller holds g.mu.
func (g *gitea) verifies(r *Repository) time.Duration {
	return max(giteaVerify, 10*r.Interval, time.Duration(len(g.watches))*giteaVerify1)
}

// many searches for what has changed, and leaves that open.
func (g *gitea) many(ctx context.Context, repositories []*Repository, answers []Answer) error {
	total, err := g.search(ctx)
	if err != nil {
		if kind := sentry.AsFault(err).Kind; len(repositories) <= giteaStand || kind == sentry.Unauthorized || kind == sentry.NotFound {
			return err
		}
		// The next search covers the time of this one too, so nothing is lost; but so many questions over Git would be no help
		// to a server in trouble.
		for i := range answers {
			answers[i] = Answer{Err: err, Way: "search"}
		}
		return nil
	}
	g.survey(ctx, total)
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for i, r := range repositories {
		if w := g.watches[r]; w != nil && !g.due(r, w, now) {
			answers[i] = Answer{Same: true, Way: "search"}
		}
	}
	return nil
}

// due reports whether a repository is to be asked itself, and reckons with that. The caller holds g.mu.
func (g *gitea) due(r *Repository, w *giteaWatch, now time.Time) bool {
	p := w.place
	switch {
	case !p.shown || p.mirror || p.moved != "":
		return true
	case w.version != p.version:
		if w.again = (time.Time{}); w.verify.IsZero() { // all begin at once
			every := g.verifies(r)
			w.verify = now.Add(every/5 + rand.N(every))
		}
		// Another push in the same second leaves no trace, and one whose second has passed is done.
		if !p.updated.Before(g.newest.Add(-giteaOverlap)) {
			w.again = now.Add(giteaSettle)
		}
	case !w.again.IsZero() && !now.Before(w.again):
		w.again = time.Time{}
	case !now.Before(w.verify):
		every := g.verifies(r)
		w.verify = now.Add(every - every/20 + rand.N(every/10))
	default:
		return false
	}
	w.version = p.version
	return true
}

// giteaFound is a repository as the search tells of it.
type giteaFound struct {
	ID      int64     `json:"id"`
	Name    string    `json:"full_name"`
	Mirror  bool      `json:"mirror"`
	Updated time.Time `json:"updated_at"`
}

// find asks for a page of the search. total is how many there are in all, -1 where that is not told.
func (g *gitea) find(ctx context.Context, query url.Values) (found []giteaFound, total int, server time.Time, err error) {
	var out struct {
		OK   *bool        `json:"ok"`
		Data []giteaFound `json:"data"`
	}
	within, cancel := context.WithTimeout(ctx, giteaLate)
	defer cancel()
	r, err := g.a.call(within, call{class: asking, path: "/repos/search", query: query}, &out)
	if err == nil && (out.OK == nil || !*out.OK || out.Data == nil) {
		err = sentry.Faultf(sentry.Invalid, "the search of %s gives no list of repositories", hostOf(g.a.origin))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		f := sentry.AsFault(err)
		if f.Kind == sentry.Invalid {
			g.wrong++
		}
		if f.Kind == sentry.Unauthorized || f.Kind == sentry.NotFound || g.wrong >= giteaWrong {
			g.leave(fmt.Sprintf("it does not work (%v)", f.Err))
		}
		return nil, 0, time.Time{}, err
	}
	g.wrong = 0
	total = -1
	if n, err := strconv.Atoi(r.header.Get("X-Total-Count")); err == nil && n >= 0 {
		total = n
	}
	return out.Data, total, theirs(r.header, time.Now()), nil
}

// leave leaves the search alone for a while, and then begins anew. The caller holds g.mu.
func (g *gitea) leave(why string) {
	g.refused, g.why, g.debt, g.wrong = time.Now().Add(giteaAside), why, 0, 0
	g.restart()
}

// restart forgets what searches have told: every repository is asked itself before the search is believed again. The
// caller holds g.mu.
func (g *gitea) restart() {
	g.settled, g.newest, g.blind = time.Time{}, time.Time{}, false
	g.openAll()
}

func (g *gitea) openAll() {
	for _, w := range g.watches {
		w.version = -1
	}
}

// search asks what has changed since all was settled.
func (g *gitea) search(ctx context.Context) (total int, err error) {
	start := time.Now()
	query := url.Values{"sort": {"updated"}, "order": {"desc"}, "limit": {strconv.Itoa(giteaFirst)}}
	found, total, server, err := g.find(ctx, query)
	if err != nil {
		return 0, err
	}
	g.mu.Lock()
	if g.read.IsZero() || server.Sub(g.clock)-start.Sub(g.read) < -giteaOverlap/2 {
		g.restart() // their clock was put back: what is changed now may look older than what was changed before
	}
	g.clock, g.read = server, start
	settled, watched := g.settled, len(g.watches)
	most := max(giteaPages, watched/10)
	g.mu.Unlock()

	all, pages := found, 1
	if !settled.IsZero() && reaches(found, giteaFirst, settled) {
		all = nil
		query.Set("limit", strconv.Itoa(giteaPage))
		for page := 1; page <= most; page++ {
			query.Set("page", strconv.Itoa(page))
			if found, _, _, err = g.find(ctx, query); err != nil {
				return 0, err
			}
			pages++
			all = append(all, found...)
			if !reaches(found, giteaPage, settled) {
				break
			}
		}
	}

	g.mu.Lock()
	defer g.mu.Unlock()
	newest := time.Time{}
	for _, f := range all {
		if f.Updated.After(newest) && !f.Mirror {
			newest = f.Updated
		}
		g.note(f)
	}
	switch {
	case pages > most:
		g.restart()
		g.blind, g.newest, g.since = true, newest, start
	case g.blind && start.Sub(g.since) < giteaOverlap:
		g.openAll()
	case g.blind:
		g.openAll()
		g.blind, g.settled, g.newest, g.since = false, g.newest, newest, start
	case settled.IsZero():
		g.settled, g.newest, g.since = newest.Add(-giteaOverlap), newest, start
	case start.Sub(g.since) >= giteaOverlap:
		g.settled, g.newest, g.since = g.newest, newest, start
	}
	spared := 0
	if !g.settled.IsZero() {
		spared = watched / 2 // a page of the search is worth two questions over Git
	}
	if g.debt = max(0, g.debt+pages-spared); g.debt > 2*max(giteaPages, watched) {
		g.leave("so much happens there that asking each is cheaper")
	}
	return total, nil
}

// reaches reports whether there may be more on the next page that has changed after a moment.
func reaches(found []giteaFound, limit int, moment time.Time) bool {
	return len(found) >= limit && found[len(found)-1].Updated.After(moment)
}

// note takes over what the search tells about one repository. The caller holds g.mu.
func (g *gitea) note(f giteaFound) {
	p := g.places[strings.ToLower(f.Name)]
	if p == nil {
		if p = g.byID[f.ID]; p != nil {
			p.moved = oneLine(f.Name)
		}
		return
	}
	if p.id != f.ID { // seen for the first time, or another repository took the name
		delete(g.byID, p.id)
		p.id, g.byID[f.ID] = f.ID, p
		p.version++
	}
	p.shown, p.mirror, p.moved = true, f.Mirror, ""
	if !p.updated.Equal(f.Updated) {
		p.updated = f.Updated
		p.version++
	}
}

// survey looks whether the search shows what is watched: through all pages where that takes fewer requests than to look
// for each by name. It goes on with the next question where it takes too long.
func (g *gitea) survey(ctx context.Context, total int) {
	start := time.Now()
	for time.Since(start) < giteaSurvey && ctx.Err() == nil {
		g.mu.Lock()
		unseen := g.unseen(start)
		page, plain := g.page, g.plain
		g.mu.Unlock()
		switch {
		case len(unseen) == 0:
			g.mu.Lock()
			g.page = 0
			g.mu.Unlock()
			return
		case page == 0 && (plain || total < 0 || total/giteaPage >= len(unseen)):
			if !g.lookFor(ctx, unseen[0]) {
				return
			}
		default:
			if !g.surveyPage(ctx, page+1, unseen) {
				return
			}
		}
	}
}

// unseen lists the places that the search has not shown. The caller holds g.mu.
func (g *gitea) unseen(now time.Time) []*giteaPlace {
	var list []*giteaPlace
	for _, p := range g.places {
		if !p.shown && p.moved == "" && (p.looked.IsZero() || now.Sub(p.looked) >= giteaRelook) {
			list = append(list, p)
		}
	}
	return list
}

// lookFor searches for one repository by its name.
func (g *gitea) lookFor(ctx context.Context, p *giteaPlace) bool {
	found, _, _, err := g.find(ctx, url.Values{"q": {p.name}, "limit": {strconv.Itoa(giteaPage)}})
	if err != nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, f := range found {
		g.note(f)
	}
	if !p.shown {
		p.looked = time.Now()
	}
	return true
}

// surveyPage reads one page of all that the search shows, in an order that changes do not disturb.
func (g *gitea) surveyPage(ctx context.Context, page int, unseen []*giteaPlace) bool {
	found, _, _, err := g.find(ctx, url.Values{"sort": {"id"}, "order": {"asc"}, "limit": {strconv.Itoa(giteaPage)}, "page": {strconv.Itoa(page)}})
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		g.plain = g.plain || sentry.AsFault(err).Kind == sentry.Invalid
		g.page = 0
		return false
	}
	for _, f := range found {
		g.note(f)
	}
	if g.page = page; len(found) < giteaPage {
		g.page = 0
		for _, p := range unseen {
			if !p.shown {
				p.looked = time.Now()
			}
		}
	}
	return true
}
