//go:build unix

package gitwire

import (
	"net"
	"syscall"
)

// silent reports whether nothing has come over an idle connection: no data, no end, no error. It looks without waiting
// and without taking anything.
func silent(c net.Conn) bool {
	socket, ok := c.(syscall.Conn)
	if !ok {
		return true
	}
	access, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = access.Read(func(fd uintptr) bool {
		var one [1]byte
		_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK)
		quiet = err == syscall.EAGAIN || err == syscall.EWOULDBLOCK // sockets of Go do not block
		return true
	})
	return err == nil && quiet
}
