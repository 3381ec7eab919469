package server

import (
	"net/http"
	"strconv"

	"sentry/internal/sentry"
	"sentry/internal/store"
)

// How many rollouts a list has.
const (
	defaultLimit = 50
	maxLimit     = 1000
)

func (h *handler) rollouts(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "group", "repository", "status", "limit", "before")
	if err != nil {
		return err
	}
	filter := store.Filter{Group: first(q["group"]), Repository: first(q["repository"]), Before: first(q["before"])}
	if filter.Limit, err = limit(first(q["limit"]), defaultLimit, maxLimit); err != nil {
		return err
	}
	for _, name := range q["status"] {
		status, err := sentry.ParseStatus(name)
		if err != nil {
			return invalid("%v", err)
		}
		filter.Status = append(filter.Status, status)
	}
	list, err := h.Store.Rollouts(r.Context(), filter)
	if err != nil {
		return err
	}
	if list == nil {
		list = []sentry.Rollout{}
	}
	h.abandoned(list)
	return answer(w, http.StatusOK, List[sentry.Rollout]{list})
}

func (h *handler) rollout(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	rollout, err := h.Store.Rollout(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	reports, err := h.Store.Reports(r.Context(), rollout.ID)
	if err != nil {
		return err
	}
	one := []sentry.Rollout{rollout}
	h.abandoned(one)
	return answer(w, http.StatusOK, Rollout{one[0], reports})
}

// abandoned says of rollouts that are on record as running that nobody runs them, where nobody owns the state.
func (h *handler) abandoned(list []sentry.Rollout) {
	if h.Control != nil {
		return
	}
	for i := range list {
		if r := &list[i]; r.Status == sentry.Running {
			r.Reason = "interrupted: no daemon is running; it begins again, or is given up, when Sentry starts"
		}
	}
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// limit reads a number of things to list: from 1 to most, normal where nothing is said.
func limit(text string, normal, most int) (int, error) {
	if text == "" {
		return normal, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, invalid("%q is not a number from 1 to %d", clean(text, 40), most)
	}
	return n, nil
}
