package gitwire

import "hash/maphash"

// Digest stands for an answer, byte by byte, as long as this process lives; 0 for none. Nobody outside can make two answers
// of the same digest.
type Digest uint64

// maxDigested is how long an answer may be that has a digest, in bytes: that is some 600 branches.
const maxDigested = 64 << 10

var seed = maphash.MakeSeed()

// digest gives that of the whole answer, which remains to be read.
func (p *packetReader) digest() Digest {
	text, ok := p.whole(maxDigested)
	if !ok {
		return 0
	}
	return Digest(maphash.Bytes(seed, text))
}
