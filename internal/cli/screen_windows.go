package cli

import (
	"os"

	"golang.org/x/sys/windows"
)

// understandsANSI reports whether a console draws what ANSI sequences say. It has to be asked to.
func understandsANSI(f *os.File) bool {
	var mode uint32
	h := windows.Handle(f.Fd())
	if windows.GetConsoleMode(h, &mode) != nil {
		return false
	}
	return windows.SetConsoleMode(h, mode|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING) == nil
}
