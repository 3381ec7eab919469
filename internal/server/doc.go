// Package server is Sentry's HTTP side: a JSON API over the state and the running daemon, live logs, and events.
//
// Everything it serves stands in one table (routes.go): method, path, the role a caller needs, handler, description. The
// same handler serves the daemon's unix socket, the command line inside its own process where no daemon runs, and
// whatever listener comes later: who may do what is asked of Options.Authorize, nowhere else.
package server
