//go:build !race

package gitwire_test

const raceDetector = false
