//go:build !unix

package git

import "os/exec"

// Without process groups git itself is killed when the context ends, and its helpers end when their pipes break.
func ownGroup(*exec.Cmd) {}

func killGroup(*exec.Cmd) {}
