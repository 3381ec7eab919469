//go:build race

package gitwire_test

// raceDetector: sync.Pool then drops what it is given at random, so that allocations tell nothing.
const raceDetector = true
