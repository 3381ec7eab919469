// Package git asks Git servers for the heads of branches, and makes ready trees of QA repositories for commands to run
// in.
//
// Heads come from package gitwire where a server speaks HTTP. Everything else is the git binary, behind one wrapper
// (run.go) that no caller can hand options to: it decides which configuration, environment and transport a run of git
// gets. Credentials are part of a run only when it speaks to the server that they belong to, and never in a repository
// that commands can have touched: those are private copies.
//
// On disk there is a bare mirror for each QA repository, which only Sentry reads, and trees made from it. A tree holds
// its own objects, with the last Depth commits of its branch, so that commands may do with it what they like: nothing
// that is shared can be damaged through it, and a mirror can be thrown away at any time. Trees are made ahead (spares)
// and moved into place when they are wanted.
package git
