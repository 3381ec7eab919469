// Package measure is what the benchmarks share: medians and growth, what a process has cost, and the table in which a
// figure stands beside what it is compared with.
//
// A benchmark fails by counters only: processor time, bytes, requests. Durations are shown and told as missed, since a
// machine that is busy with something else stretches them.
package measure
