package monitor

import (
	"container/heap"
	"math"
	"time"
)

// Moments are durations since the monitor was made, by the monotonic clock: a jump of the wall clock moves none of
// them, and one takes 8 bytes where a time.Time takes 24.
const (
	never   = time.Duration(-1)            // a moment that has not been
	forever = time.Duration(math.MaxInt64) // a moment that will not be
)

// alarm wakes the monitor for a repository.
type alarm struct {
	at         time.Duration
	bell       *bell // nil when it is not set
	prev, next *alarm
	repository *repository // due then; nil for an alarm that only wakes
}

// bell is a moment and the alarms that are set for it.
type bell struct {
	at          time.Duration
	first, last *alarm
}

// alarms is all that the monitor waits for, under one timer. As moments lie on a grid, ten thousand repositories share a
// few hundred bells: setting and clearing an alarm touches its neighbour in a list, not the heap.
type alarms struct {
	bells []*bell // a heap by moment; some may have lost their alarms
	at    map[time.Duration]*bell
}

func newAlarms() alarms { return alarms{at: map[time.Duration]*bell{}} }

func (a *alarms) set(x *alarm, at time.Duration) {
	a.clear(x)
	b := a.at[at]
	if b == nil {
		b = &bell{at: at}
		a.at[at] = b
		heap.Push(a, b)
	}
	x.at, x.bell = at, b
	x.prev, x.next = b.last, nil
	if b.last != nil {
		b.last.next = x
	} else {
		b.first = x
	}
	b.last = x
}

func (a *alarms) clear(x *alarm) {
	if x.bell == nil {
		return
	}
	if x.prev != nil {
		x.prev.next = x.next
	} else {
		x.bell.first = x.next
	}
	if x.next != nil {
		x.next.prev = x.prev
	} else {
		x.bell.last = x.prev
	}
	x.bell, x.prev, x.next = nil, nil, nil
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
