// Package check measures what asking for the heads of branches costs, beside the git program and go-git.
package check
