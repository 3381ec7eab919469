package server

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"sentry/internal/sentry"
	"sentry/internal/store"
)

// How many decisions a story has.
const (
	defaultDecisions = 200
	maxDecisions     = 10_000
)

func (h *handler) why(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "group", "repository", "rollout", "about", "limit")
	if err != nil {
		return err
	}
	n, err := limit(first(q["limit"]), defaultDecisions, maxDecisions)
	if err != nil {
		return err
	}
	delete(q, "limit")
	var about About
	for kind, names := range q {
		if len(q) != 1 || len(names) != 1 || names[0] == "" {
			return invalid("name one group, repository or rollout")
		}
		about = About{kind, names[0]}
	}
	status, err := h.present(r.Context())
	if err != nil {
		return err
	}
	story, err := h.tell(r.Context(), status, about, n)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, story)
}

// tell finds what a story is about, and tells it.
func (h *handler) tell(ctx context.Context, status Status, about About, n int) (Story, error) {
	cfg := h.Config()
	now := h.Now()
	groups, repositories := groupNames(cfg), repositoryNames(cfg)
	if about.Kind == "about" {
		switch {
		case slices.ContainsFunc(status.Items, func(g Group) bool { return g.Name == about.Name }):
			about.Kind = "group"
		case slices.Contains(repositories, about.Name):
			about.Kind = "repository"
		default:
			about.Kind = "rollout"
		}
		story, err := h.tell(ctx, status, about, n)
		if errors.Is(err, store.ErrNotFound) {
			// It may be a name that the configuration had once: the ledger knows.
			for _, kind := range []string{"group", "repository"} {
				old, err := h.tell(ctx, status, About{kind, about.Name}, n)
				if err == nil {
					return old, nil
				}
			}
			err = unknown("group, repository or rollout", about.Name, append(groups, repositories...))
		}
		return story, err
	}
	story := Story{About: about, Items: []sentry.Decision{}}
	filter := store.WhyFilter{Limit: n}
	known := true
	switch about.Kind {
	case "rollout":
		rollout, err := h.Store.Rollout(ctx, about.Name)
		if err != nil {
			return story, err
		}
		story.About.Name, filter.Rollout = rollout.ID, rollout.ID
		story.Now = tellRollout(rollout, h.Control == nil, now)
	case "repository":
		filter.Repository = about.Name
		if err := h.addLastOf(ctx, &status, func(g Group) bool {
			return slices.ContainsFunc(g.Members, func(m Member) bool { return m.Repository == about.Name })
		}); err != nil {
			return story, err
		}
		asked := ""
		if h.Control != nil {
			asked = h.Control.Explain(about.Name)
		}
		story.Now, known = tellRepository(status, about.Name, asked, now)
	case "group":
		filter.Group = about.Name
		if err := h.addLastOf(ctx, &status, func(g Group) bool { return g.Name == about.Name }); err != nil {
			return story, err
		}
		story.Now, known = tellGroup(status, about.Name, now)
	default:
		return story, invalid("name one group, repository or rollout")
	}
	decisions, err := h.Store.Why(ctx, filter)
	if err != nil {
		return story, err
	}
	if !known && len(decisions) == 0 {
		have := groups
		if about.Kind == "repository" {
			have = repositories
		}
		return story, unknown(about.Kind, about.Name, have)
	}
	story.Items = append(story.Items, decisions...)
	return story, nil
}

// addLastOf adds the last rollouts of some groups.
func (h *handler) addLastOf(ctx context.Context, status *Status, which func(Group) bool) error {
	for i := range status.Items {
		if which(status.Items[i]) {
			if err := h.addLast(ctx, status.Items[i:i+1]); err != nil {
				return err
			}
		}
	}
	return nil
}
