package server

import (
	"net/http"
	"strings"
)

// Prefix is where the API begins.
const Prefix = "/api/v1"

// Route is one line of the table.
type Route struct {
	Method string `json:"method"`
	Path   string `json:"path"`
	Role   Role   `json:"role"`
	// Streams tells that the answer lasts as long as the caller listens, or as there is something to tell.
	Streams bool   `json:"streams"`
	Doc     string `json:"doc"`

	handle func(*handler, http.ResponseWriter, *http.Request) error
}

// table is everything that is served. A route without a role or a description does not get past the tests. That webhooks
// need no role does not mean that they are believed: what they prove, Hooks finds out.
func table() []Route {
	const get, post = http.MethodGet, http.MethodPost
	return []Route{
		{get, "/healthz", RoleNone, false, "Whether this process is alive. Asks nobody and tells nothing.", (*handler).healthz},
		{get, "/rollouts/{id}", RoleNone, false, "Where the links in statuses lead: how to ask about that rollout. Looks nothing up and tells nothing.", (*handler).signpost},
		{get, "/metrics", RoleRead, false, "What is counted and measured, in the text format of Prometheus.", (*handler).metrics},
		{post, "/hooks/{forge}", RoleNone, false, "A webhook of github, gitlab, gitea (and Forgejo) or generic, signed with a secret of webhooks. Hastens the repositories that it is about; tells nothing.", (*handler).hook},
		{post, "/hooks/{forge}/{repository}", RoleNone, false, "The same for the webhook of one repository, by its configured name.", (*handler).hook},
		{get, Prefix, RoleRead, false, "This table.", (*handler).index},
		{get, Prefix + "/daemon", RoleRead, false, "The daemon: its process, version, configuration and state directory. Cheap, however much is watched.", (*handler).daemon},
		{get, Prefix + "/status", RoleRead, false, "What is: the daemon, the groups with their rollouts and watches, the hosts.", (*handler).status},
		{get, Prefix + "/rollouts", RoleRead, false, "Rollouts, newest first. Query: group, repository, status (repeatable), limit, before (an id).", (*handler).rollouts},
		{get, Prefix + "/rollouts/{id}", RoleRead, false, "One rollout with its steps and what was said of it on the commits. The id may be its number alone.", (*handler).rollout},
		{get, Prefix + "/rollouts/{id}/logs", RoleRead, true, "What its commands wrote, as text. Query: repository, branch, step, attempt, tail (lines), follow.", (*handler).logs},
		{get, Prefix + "/why", RoleRead, false, "Decisions with their reasons, oldest first. Query: one of group, repository, rollout or about (any of these); limit.", (*handler).why},
		{get, Prefix + "/events", RoleRead, true, "Server-sent events: `rollout` with a rollout that changed, `change` when something else did.", (*handler).events},
		{post, Prefix + "/rollouts", RoleAct, false, "Roll out now. Body: targets (groups or repositories; none for all groups), by, look (ask them for their heads first, for a moment).", (*handler).trigger},
		{post, Prefix + "/rollouts/{id}/cancel", RoleAct, false, "Cancel a rollout that waits or runs. Body: by, reason.", (*handler).cancel},
		{post, Prefix + "/rollouts/{id}/retry", RoleAct, false, "Roll out again what a rollout did. Body: failed (only what did not succeed), by, look.", (*handler).retry},
		{post, Prefix + "/groups/{name}/pause", RoleAct, false, "Begin no rollouts of a group until it is resumed; changes go on being recorded. Body: by, reason.", (*handler).pause},
		{post, Prefix + "/groups/{name}/resume", RoleAct, false, "Begin rollouts of a paused group again. Body: by.", (*handler).resume},
		{post, Prefix + "/reload", RoleAdmin, false, "Read the configuration again; a wrong one changes nothing.", (*handler).reload},
	}
}

// limit is the most that is read of a request, in bytes.
func (r Route) limit() int64 {
	if strings.HasPrefix(r.Path, "/hooks/") {
		return maxHook
	}
	return maxBody
}

// Routes lists what is served.
func Routes() []Route { return table() }

func (h *handler) index(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, http.StatusOK, List[Route]{Routes()})
}

func (h *handler) healthz(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, http.StatusOK, map[string]string{"status": "ok"})
}
