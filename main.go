// Sentry watches branches of many Git repositories and rolls out groups of them. Everything is in internal/cli.
package main

import (
	"os"

	"sentry/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Environ())) }
