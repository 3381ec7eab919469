package daemon

import "io/fs"

// ownedByUs cannot be told from a FileInfo on Windows; the access lists of the parent folder decide there.
func ownedByUs(fs.FileInfo) bool { return true }
