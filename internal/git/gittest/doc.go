// Package gittest gives tests real Git repositories behind a real Git server on loopback: package gitserve with counters,
// an account that can change, and a hook through which a test can make the server fail. It needs git on the machine.
package gittest
