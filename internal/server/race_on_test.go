//go:build race

package server

// racing tells that everything takes ten times as long.
const racing = true
