package cli

import (
	"fmt"
	"os"
	"os/user"
)

// person names who sits at the command line, for the records. It is not proof of anything.
func (a *app) person() string {
	if name := getenv(a.environ, "SUDO_USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	if name := getenv(a.environ, "USER"); name != "" {
		return name
	}
	return fmt.Sprintf("uid %d", os.Getuid())
}
