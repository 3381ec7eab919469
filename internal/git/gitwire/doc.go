// Package gitwire asks a Git server over smart HTTP which commits its branches point at, without a git process.
//
// It speaks the one command of protocol v2 that the question needs, ls-refs with ref-prefixes, over kept-alive
// connections: what goes over the wire and what it costs depend on the branches asked for, not on the refs of the
// repository. A server without protocol v2 answers with all its refs (v0 and v1), which are read as they come and
// dropped where nobody asked for them.
//
// Sources: gitprotocol-common, gitprotocol-pack, gitprotocol-v2 and gitprotocol-http of Git's documentation.
package gitwire
