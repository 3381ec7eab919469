// Package forgetest has forges for tests: GitHub and GitLab emulated at the wire as their documentation describes them,
// limits and errors included, and a real Gitea where there is one. All of them are driven in the same way, as a Lab.
package forgetest
