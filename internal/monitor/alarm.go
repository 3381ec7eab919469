package monitor

import (
	"cmp"
	"container/heap"
	"math"
	"slices"
	"time"
)

// Moments are durations since the monitor was made, by the monotonic clock: a jump of the wall clock moves none of
// them, and one takes 8 bytes where a time.Time takes 24.
const (
	never   = time.Duration(-1)            // a moment that has not been
	forever = time.Duration(math.MaxInt64) // a moment that will not be
)

// alarm wakes the monitor for a repository or for a lane. That of a repository which has rung is in a queue of its lane.
type alarm struct {
	at         time.Duration
	in         *list // nil when it is neither set nor in a queue
	prev, next *alarm
	repository *repository // due then
	lane       *lane       // some of it are due then; with neither, the alarm only wakes
}

// list is of alarms; each is in one list at most.
type list struct {
	first, last *alarm
	n           int
}

// add puts an alarm at the end.
func (l *list) add(x *alarm) {
	x.leave()
	x.in, x.prev, x.next = l, l.last, nil
	if l.last != nil {
		l.last.next = x
	} else {
		l.first = x
	}
	l.last = x
	l.n++
}

// leave takes an alarm out of the list that it is in, if it is in one.
func (x *alarm) leave() {
	l := x.in
	if l == nil {
		return
	}
	if x.prev != nil {
		x.prev.next = x.next
	} else {
		l.first = x.next
	}
	if x.next != nil {
		x.next.prev = x.prev
	} else {
		l.last = x.prev
	}
	l.n--
	x.in, x.prev, x.next = nil, nil, nil
}

// bell is a moment and the alarms that are set for it.
type bell struct {
	at time.Duration
	list
}

// alarms is what waits for its moment: all that the monitor waits for, under one timer, or a part of a lane. As moments lie on a grid, ten thousand repositories share a
// few hundred bells: setting and clearing an alarm touches its neighbour in a list, not the heap.
type alarms struct {
	bells []*bell // a heap by moment; some may have lost their alarms
	at    map[time.Duration]*bell
}

func (a *alarms) set(x *alarm, at time.Duration) {
	b := a.at[at]
	if b == nil {
		if a.at == nil {
			a.at = map[time.Duration]*bell{}
		}
		b = &bell{at: at}
		a.at[at] = b
		heap.Push(a, b)
	}
	x.at = at
	b.add(x)
}

// inOrder gives the bells, the first to ring first, in the room that into has.
func (a *alarms) inOrder(into []*bell) []*bell {
	into = append(into[:0], a.bells...)
	slices.SortFunc(into, func(a, b *bell) int { return cmp.Compare(a.at, b.at) })
	return into
}

// next gives the alarm that rings first, of several the one that was set first; nil when none is set.
func (a *alarms) next() *alarm {
	for len(a.bells) > 0 {
		if b := a.bells[0]; b.first != nil {
			return b.first
		}
		delete(a.at, heap.Pop(a).(*bell).at)
	}
	return nil
}

// moment is when the first alarm rings; forever when none is set.
func (a *alarms) moment() time.Duration {
	if x := a.next(); x != nil {
		return x.at
	}
	return forever
}

// Len, Less, Swap, Push and Pop are for container/heap.

func (a *alarms) Len() int           { return len(a.bells) }
func (a *alarms) Less(i, j int) bool { return a.bells[i].at < a.bells[j].at }
func (a *alarms) Swap(i, j int)      { a.bells[i], a.bells[j] = a.bells[j], a.bells[i] }
func (a *alarms) Push(x any)         { a.bells = append(a.bells, x.(*bell)) }

func (a *alarms) Pop() any {
	last := len(a.bells) - 1
	b := a.bells[last]
	a.bells[last], a.bells = nil, a.bells[:last]
	return b
}
