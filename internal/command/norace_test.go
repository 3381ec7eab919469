//go:build !race

package command

// raceFactor is how much slower things may be under the race detector.
const raceFactor = 1
