package daemon

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
)

// SocketPath is where the daemon of a state directory answers. Operating systems allow about 100 bytes for the path of
// a socket; where the state directory's is longer, the socket is in a folder of the user's with a short name.
func SocketPath(stateDir string) string {
	path := filepath.Join(stateDir, "sentry.sock")
	if len(path) <= maxSocketPath {
		return path
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("sentry-%d-%s", os.Getuid(), shortHash(stateDir)), "sentry.sock")
}

// maxSocketPath is below the shortest sun_path among the supported systems (104 bytes on macOS, with the final NUL).
const maxSocketPath = 100

type socket struct {
	net.Listener
	path string
}

// listen binds the socket. The caller holds the lock of the state directory, so that a socket which is there already
// belongs to a dead process and may be removed.
func listen(stateDir string) (*socket, error) {
	path := SocketPath(stateDir)
	dir := filepath.Dir(path)
	if dir != stateDir {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("cannot make the folder for the socket: %w", err)
		}
	}
	if err := checkPrivate(dir); err != nil {
		return nil, fmt.Errorf("refusing to make a socket in %s: %w", dir, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot remove an old socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot bind the socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &socket{l, path}, nil
}

// Accept waits for somebody who may ask. Commands may not: what they can do is what was configured.
func (s *socket) Accept() (net.Conn, error) {
	for {
		c, err := s.Listener.Accept()
		if err != nil || !fromCommand(c) {
			return c, err
		}
		_ = c.Close()
	}
}

// Close stops listening and removes the socket.
func (s *socket) Close() error {
	err := s.Listener.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// checkPrivate refuses a folder that is a link, or that others may write to.
func checkPrivate(dir string) error {
	info, err := os.Lstat(dir)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return errors.New("it is not a folder (a link is not followed here)")
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("others may write to it (mode %s); use chmod 700", info.Mode().Perm())
	case !ownedByUs(info):
		return errors.New("it belongs to another user")
	}
	return nil
}

func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:6])
}
