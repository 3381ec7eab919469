// Package crash kills Sentry, at every moment it can think of, and holds the survivors to the promise. It has tests only.
//
// TestCrash builds the real binary and lets it watch real repositories behind a real HTTP server while their branches
// move, are rewritten, deleted and made again. The daemon dies by SIGKILL over and over: during start-up, recovery, a
// poll, a fetch, a claim, right after a command began or ended, in the middle of a drain. What it leaves running is left
// running. The commands that it runs append what they do to a file, the witness, and so does the test; each line is one
// write to a file opened for appending, so the lines are in the order of what happened, across all processes. In the end
// that file, not Sentry's own state, is the evidence on which judge decides; the state is asked whether it agrees.
//
//	world      repositories, how they move, and what the forge had when      (world_test.go)
//	sentryd    the binary: start, kill, drain, ask, what it leaves behind    (daemon_test.go, left_test.go)
//	reaper     when and how the next death comes                             (reaper_test.go)
//	testimony  the witness file, read                                        (witness_test.go)
//	judge      the rules, as a table; testdata/judge shows each of them fail (judge_test.go)
//
// TestFirstStart kills what has no state yet. TestGivenUp and TestHeld are about the other end of the promise: what is
// interrupted too often, or is not to be begun again, is left alone and said to be interrupted.
//
// SENTRY_CRASH_KILLS sets how many times it is killed (default 100), SENTRY_CRASH_SEED what happens (default: of the
// clock; it is printed). The processes race as they do in life, so a seed repeats the plan, not every interleaving.
package crash
