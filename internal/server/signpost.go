package server

import (
	"fmt"
	"net/http"
	"regexp"
)

// rolloutID is what identifies a rollout: its number, and what was chosen to make it one of a kind.
var rolloutID = regexp.MustCompile(`^[1-9][0-9]{0,18}(-[a-z0-9]{1,16})?$`)

// signpost answers GET /rollouts/{id}, where the links in statuses lead. Whoever sees a status may be anybody, so it says
// only how to ask, and does not look whether there is such a rollout.
func (h *handler) signpost(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	if !rolloutID.MatchString(id) {
		return noSuchRoute()
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	w.Header().Set("Referrer-Policy", "no-referrer")
	_, _ = fmt.Fprintf(w, `This is where Sentry was asked to lead for rollout %[1]s.
What happened in it is told on the machine where Sentry runs, to those who may ask there:

  sentry show %[1]s     what was rolled out, and how it ended
  sentry logs %[1]s     what its commands wrote
  sentry why %[1]s      what was decided, and why
`, id)
	return nil
}
