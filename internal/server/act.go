package server

import (
	"errors"
	"fmt"
	"net/http"

	"sentry/internal/config"
	"sentry/internal/sentry"
	"sentry/internal/store"
)

// control gives the owner of the state, or says what to do where there is none.
func (h *handler) control() (Control, error) {
	if h.Control == nil {
		return nil, &Error{Status: http.StatusServiceUnavailable, Code: "no_daemon", Message: "no daemon is running on this state directory", Hint: "start one with `sentry watch`"}
	}
	return h.Control, nil
}

// configured gives the configuration, which acting routes cannot do without.
func (h *handler) configured() (*config.Config, error) {
	if cfg := h.Config(); cfg != nil {
		return cfg, nil
	}
	return nil, &Error{Status: http.StatusServiceUnavailable, Code: "no_configuration", Message: "the configuration cannot be read", Hint: "`sentry validate` says why"}
}

func (h *handler) trigger(w http.ResponseWriter, r *http.Request) error {
	var body TriggerRequest
	if err := decode(r, &body); err != nil {
		return err
	}
	cfg, err := h.configured()
	if err != nil {
		return err
	}
	requests, err := Targets(cfg, body.Targets, h.caller(r, body.By))
	if err != nil {
		return err
	}
	return h.queue(w, r, cfg, body.Look, requests...)
}

func (h *handler) retry(w http.ResponseWriter, r *http.Request) error {
	var body RetryRequest
	if err := decode(r, &body); err != nil {
		return err
	}
	cfg, err := h.configured()
	if err != nil {
		return err
	}
	old, err := h.Store.Rollout(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	request, err := Again(cfg, old, body.Failed, h.caller(r, body.By))
	if err != nil {
		return err
	}
	return h.queue(w, r, cfg, body.Look, request)
}

// queue hands requests on. A paused group refuses them all: half of what was asked for would surprise.
func (h *handler) queue(w http.ResponseWriter, r *http.Request, cfg *config.Config, look bool, requests ...store.Request) error {
	control, err := h.control()
	if err != nil {
		return err
	}
	paused, err := h.Store.Paused(r.Context())
	if err != nil {
		return err
	}
	if refused := Refusal(requests, paused); refused != nil {
		for _, request := range requests {
			err := control.Refuse(r.Context(), sentry.Decision{
				Verb: sentry.Refused, Group: request.Group,
				Reason: fmt.Sprintf("%s asked for a rollout, but %s", somebody(request.By), refused.Message),
			})
			if err != nil {
				return err
			}
		}
		return refused
	}
	if !look {
		queued, err := control.Trigger(r.Context(), requests...)
		if err != nil {
			return err
		}
		return answer(w, http.StatusAccepted, Triggered{Items: queued})
	}
	result, err := h.lookAndQueue(r.Context(), control, cfg, requests)
	if err != nil {
		return err
	}
	return answer(w, http.StatusAccepted, result)
}

// Refusal says why requests cannot be taken: one of their groups is paused. nil where none is.
func Refusal(requests []store.Request, paused map[string]store.Pause) *Error {
	for _, request := range requests {
		if p, ok := paused[request.Group]; ok {
			message := fmt.Sprintf("group %s is paused by %s", request.Group, somebody(p.By))
			if p.Reason != "" {
				message += ": " + p.Reason
			}
			return &Error{Status: http.StatusConflict, Code: "paused", Message: message, Hint: "`sentry resume " + request.Group + "` lets it roll out again"}
		}
	}
	return nil
}

func somebody(name string) string {
	if name == "" {
		return "somebody"
	}
	return name
}

func (h *handler) cancel(w http.ResponseWriter, r *http.Request) error {
	var body CancelRequest
	if err := decode(r, &body); err != nil {
		return err
	}
	rollout, err := h.Store.Rollout(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if rollout.Status.Terminal() {
		return conflict("final", fmt.Sprintf("rollout %s has ended already: it %s", rollout.ID, Ended(rollout.Status)), "")
	}
	control, err := h.control()
	if err != nil {
		return err
	}
	status, err := control.Cancel(r.Context(), rollout.ID, h.caller(r, body.By), clean(body.Reason, 500))
	if err != nil {
		return err
	}
	if rollout, err = h.Store.Rollout(r.Context(), rollout.ID); err != nil {
		return err
	}
	if status.Terminal() {
		return answer(w, http.StatusOK, rollout)
	}
	return answer(w, http.StatusAccepted, rollout) // it was asked to end, and will
}

// Ended says how something ended, to follow its name.
func Ended(s sentry.Status) string {
	switch s {
	case sentry.Succeeded, sentry.Failed:
		return string(s)
	case sentry.TimedOut:
		return "timed out"
	}
	return "was " + string(s)
}

func (h *handler) pause(w http.ResponseWriter, r *http.Request) error {
	var body PauseRequest
	if err := decode(r, &body); err != nil {
		return err
	}
	g, err := h.group(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	control, err := h.control()
	if err != nil {
		return err
	}
	if err := control.Pause(r.Context(), g.Name, h.caller(r, body.By), clean(body.Reason, 500)); err != nil {
		return err
	}
	return h.answerGroup(w, r, g.Name)
}

func (h *handler) resume(w http.ResponseWriter, r *http.Request) error {
	var body ResumeRequest
	if err := decode(r, &body); err != nil {
		return err
	}
	g, err := h.group(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	if g.Paused == nil {
		return conflict("not_paused", "group "+g.Name+" is not paused", "")
	}
	control, err := h.control()
	if err != nil {
		return err
	}
	if err := control.Resume(r.Context(), g.Name, h.caller(r, body.By)); err != nil {
		return err
	}
	return h.answerGroup(w, r, g.Name)
}

func (h *handler) answerGroup(w http.ResponseWriter, r *http.Request, name string) error {
	g, err := h.group(r.Context(), name)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, g)
}

func (h *handler) reload(w http.ResponseWriter, r *http.Request) error {
	control, err := h.control()
	if err != nil {
		return err
	}
	if err := control.Reload(r.Context()); err != nil {
		var problems config.Problems
		if errors.As(err, &problems) {
			return err
		}
		return conflict("not_reloaded", err.Error(), "")
	}
	return answer(w, http.StatusOK, Reload{At: h.Now(), OK: true})
}
