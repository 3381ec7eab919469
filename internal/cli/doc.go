// Package cli is the command line: arguments in, exit code out.
//
// One file holds one verb. What a verb shows it asks of the HTTP handler of package server: over the unix socket where a
// daemon runs, else inside this process over the state on disk. Data goes to standard output, progress and errors to
// standard error. The scripts below testdata specify all of it.
package cli
