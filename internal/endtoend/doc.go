// Package endtoend has the real Sentry watch a real Gitea. It has tests only.
//
// Each test starts a Gitea of its own (package forgetest) and the binary as it is released, and then does what people do:
// they push, rewrite and delete branches, rename a repository, revoke a token. The commands that Sentry runs append what
// they were run for to a file, the witness; it and what Gitea tells are the evidence, and Sentry is asked whether it
// agrees.
//
//	sentryd  the binary: start it, ask it, wait for it (sentryd_test.go)
//	world    a Gitea, what Sentry is to do with it, and what came of it (world_test.go)
//
// Without a Gitea the tests are skipped; `make test-forges` builds one first.
package endtoend
