// Package forge asks GitHub, GitLab, Gitea and any other Git server what branches point at, at the least cost to them,
// and tells them how a commit fared. It owns the one transport for all of them (Network), one budget of requests for each
// API and credential, and the choice of the way to ask: many repositories in one question where a forge has a way for
// that, the Git protocol otherwise.
//
// Repositories come as plain arguments. What is asked here is never acted upon: the monitor judges the answers.
package forge
