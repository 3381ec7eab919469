package logger

// automaton finds every occurrence of every needle in one pass, in time linear in the text whatever the text is
// (Aho and Corasick, "Efficient string matching", 1975). Where no needle is under way it does not look at each byte:
// every needle is at least MinSecret long, and a table of three-byte blocks tells how far the next possible beginning
// is away (Wu and Manber, "A fast algorithm for multi-pattern searching", 1994). It is immutable once built.
type automaton struct {
	nodes []node
	first [256]int32 // the nodes of one byte, 0 where no needle begins so
	// shift tells, for the hash of the block that ends the window of bytes at hand, how many positions further a needle
	// may begin at the soonest. The window is as long as the shortest needle.
	shift  [1 << shiftBits]uint8
	window int
}

// node is a prefix of a needle. Node 0 is the empty one. Children are a list of siblings: nearly all have one.
type node struct {
	child, sibling int32
	fail           int32 // the longest other suffix of this prefix that is a prefix of a needle
	depth          int32 // its length
	match          int32 // the length of the longest needle that it ends with, 0 where there is none
	b              byte  // its last byte
}

const (
	block     = 3
	shiftBits = 16
	maxWindow = 64 // more is not faster: there is nothing left to skip
)

// newAutomaton builds the automaton of needles, none of them shorter than MinSecret.
func newAutomaton(needles []string) *automaton {
	a := &automaton{nodes: make([]node, 1), window: maxWindow}
	for _, needle := range needles {
		a.window = min(a.window, len(needle))
	}
	for i := range a.shift {
		a.shift[i] = uint8(a.window - block + 1)
	}
	for _, needle := range needles {
		a.insert(needle)
		for end := block; end <= a.window; end++ {
			slot := &a.shift[blockHash(needle[end-block], needle[end-block+1], needle[end-block+2])]
			*slot = min(*slot, uint8(a.window-end))
		}
	}
	a.link()
	return a
}

func (a *automaton) insert(needle string) {
	state := a.first[needle[0]]
	if state == 0 {
		state = a.newNode(0, needle[0])
		a.first[needle[0]] = state
	}
	for i := 1; i < len(needle); i++ {
		next := a.find(state, needle[i])
		if next == 0 {
			next = a.newNode(state, needle[i])
			a.nodes[next].sibling = a.nodes[state].child
			a.nodes[state].child = next
		}
		state = next
	}
	a.nodes[state].match = int32(len(needle))
}

func (a *automaton) newNode(parent int32, b byte) int32 {
	a.nodes = append(a.nodes, node{b: b, depth: a.nodes[parent].depth + 1})
	return int32(len(a.nodes) - 1)
}

// link sets fail and match of all nodes, the shorter prefixes before the longer.
func (a *automaton) link() {
	var queue []int32
	for _, state := range a.first {
		if state != 0 {
			queue = append(queue, state)
		}
	}
	for ; len(queue) > 0; queue = queue[1:] {
		state := queue[0]
		for child := a.nodes[state].child; child != 0; child = a.nodes[child].sibling {
			n := &a.nodes[child]
			n.fail = a.step(a.nodes[state].fail, n.b)
			if n.match == 0 {
				n.match = a.nodes[n.fail].match
			}
			queue = append(queue, child)
		}
	}
}

func (a *automaton) find(state int32, b byte) int32 {
	child := a.nodes[state].child
	for child != 0 && a.nodes[child].b != b {
		child = a.nodes[child].sibling
	}
	return child
}

// step gives the longest suffix of state and b that is a prefix of a needle.
func (a *automaton) step(state int32, b byte) int32 {
	for state != 0 {
		if next := a.find(state, b); next != 0 {
			return next
		}
		state = a.nodes[state].fail
	}
	return a.first[b]
}

// span is a range of bytes of a text, end excluded.
type span struct{ start, end int }

// scan reads text from byte i on in the given state and returns the state at the end and spans with the ranges added
// that occurrences cover: in order, disjoint, not even adjacent. One that began before the text has a start below 0.
func (a *automaton) scan(text []byte, i int, state int32, spans []span) (int32, []span) {
	for i < len(text) {
		if state == 0 {
			if i = a.skip(text, i); i == len(text) {
				break
			}
		}
		state = a.step(state, text[i])
		i++
		if length := int(a.nodes[state].match); length > 0 {
			spans = cover(spans, span{i - length, i})
		}
	}
	return state, spans
}

// cover adds s, which ends after all others, and joins what it touches.
func cover(spans []span, s span) []span {
	for len(spans) > 0 && spans[len(spans)-1].end >= s.start {
		s.start = min(s.start, spans[len(spans)-1].start)
		spans = spans[:len(spans)-1]
	}
	return append(spans, s)
}

// skip gives the first position from i on at which a needle may begin: one where the table says so, or where too little
// text is left to tell.
func (a *automaton) skip(text []byte, i int) int {
	for i+a.window <= len(text) {
		end := text[i+a.window-block : i+a.window]
		by := a.shift[blockHash(end[0], end[1], end[2])]
		if by == 0 && a.first[text[i]] != 0 {
			return i
		}
		i += max(1, int(by))
	}
	return i
}

func blockHash(a, b, c byte) uint32 {
	return (uint32(a) | uint32(b)<<8 | uint32(c)<<16) * 0x9E3779B1 >> (32 - shiftBits)
}
