//go:build !windows

package cli

import "os"

// understandsANSI reports whether a terminal draws what ANSI sequences say.
func understandsANSI(*os.File) bool { return true }
