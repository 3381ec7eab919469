//go:build race

package config

// raceDetector tells that everything takes ten times as long.
const raceDetector = true
