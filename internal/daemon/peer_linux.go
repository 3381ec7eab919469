package daemon

import (
	"net"

	"golang.org/x/sys/unix"

	"sentry/internal/command"
)

// fromCommand reports whether one of our own commands is at the other end. Commands run as the same user, so the
// permissions of the socket do not stop them, and most kernels' Landlock does not either.
func fromCommand(c net.Conn) bool {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return true // it is closed already
	}
	ours := true
	err = raw.Control(func(fd uintptr) {
		peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		ours = err != nil || command.Owns(int(peer.Pid))
	})
	return ours || err != nil
}
