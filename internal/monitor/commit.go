package monitor

import (
	"encoding/hex"

	"sentry/internal/sentry"
)

// commitID is a commit in a third of the room that its hexadecimal form takes as a string. A hundred thousand watches
// are kept in memory, and none of them is a pointer for the garbage collector.
type commitID struct {
	size  uint8 // 20 for SHA-1, 32 for SHA-256
	bytes [32]byte
}

// parseCommit reads 40 or 64 lower-case hexadecimal digits; its error says what is wrong with them.
func parseCommit(text string) (commitID, error) {
	if err := sentry.CheckCommit(text); err != nil {
		return commitID{}, err
	}
	var c commitID
	n, err := hex.Decode(c.bytes[:], []byte(text))
	c.size = uint8(n)
	return c, err
}

// String is the hexadecimal form, "" for the zero commit.
func (c commitID) String() string { return hex.EncodeToString(c.bytes[:c.size]) }

// is reports whether text is the hexadecimal form of c. It allocates nothing: it runs for every watch of every answer.
func (c *commitID) is(text string) bool {
	const digits = "0123456789abcdef"
	if len(text) != 2*int(c.size) {
		return false
	}
	for i, b := range c.bytes[:c.size] {
		if text[2*i] != digits[b>>4] || text[2*i+1] != digits[b&15] {
			return false
		}
	}
	return true
}
