// Package measure is what the benchmarks share: medians and growth, what a process has cost, and the table in which a
// figure stands beside what it is compared with.
//
// A benchmark fails by counters only: processor time, bytes, requests. Durations are shown and told as missed, since a
// machine that is busy with something else stretches them. Where a duration is what was promised, as it is of a push to
// Gitea, it fails as well: it is run when the machine has nothing else to do.
package measure
