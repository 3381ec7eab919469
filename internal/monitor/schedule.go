package monitor

import (
	"math/bits"
	"time"
)

// The bounds of the schedule. I is the interval configured for a repository, u a draw that is uniform over 0 … 1.
//
//	what                             the wait until the next question          bounds
//	first question, few new          none                                      at most 64 new at once
//	first question, many new         u × min(I, 10 s)                          0 … 10 s
//	second question of these         I × (0.1 + 0.9 u)                         I/10 … I, so that they do not stay in step;
//	                                                                           as usual where one question covers them
//	as usual                         I ± 10 %
//	n-th question after a change     I/4 × 1.25ⁿ ± 10 %                        1 s … I, or I where I < 1 s
//	quiet for d days, d ≥ 1          I × d ± 10 %                              0.9 I … 2 I
//	an answer is doubted             I/4, the last at I after the doubt began  1 s … I: every answer meanwhile must agree
//	n-th failure in a row            f + u × I/4 × 2ⁿ⁻¹                        f … 1.5 I, with f = min(1 s, I/4)
//	credentials refused              as after a failure                        at least 1 min, hints included
//	hot: after a hint, for 30 s,     20 ms at first, then 1/50 of the time     20 ms … 0.6 s, each from where the last
//	until something has moved        since                                     question began, and never before its answer
//	… and while its group is         the same, on and on                       20 ms … as if it were not hot
//	rolled out
//	… and for 5 s after a change,    as if it had been hot for 25 s            0.5 s … 0.6 s
//	or a rollout of its group
//	hot, T of the server's time      T × 12 s / what is left of it             at least, see below
//	was taken by the last question
//	one says Retry-After             what it says                              1 s … 1 h, for all of the lane
//	… and does not say how long      1 min × 2ⁿ⁻¹ for the n-th in a row        1 min … 15 min
//	the lane's breaker is open       the shortest I of its repositories        1 s … 30 s, then one question at a time
//	going on after a lane's pause    u × min(I, 250 ms × its repositories)     0 … I: no stampede
//	there is room in a batch         what is due next in its lane comes along  up to I/4 early; all of it in a sweep
//
// At most 32 repositories are hot, the newest of them. What is asked because of it takes at most 2 % of a server's time,
// which are saved for up to ten minutes: 12 s. Whatever is beyond that waits as if there were no hint, and so do all while
// their lane has a pause, an open breaker or a probation; none is asked within the minute after its credentials were refused,
// nor hot after a failure. So a hint hastens, and any number of them costs no more than that.
//
// Nothing waits longer than 2 I, the pauses of a lane aside: so a head that is quiet is known within two intervals.
const (
	few        = 64 // new repositories that are asked at once
	startSpan  = 10 * time.Second
	briskFloor = time.Second
	refusedGap = time.Minute
	pauseGap   = 250 * time.Millisecond

	quietAfter = 24 * time.Hour

	patienceFloor = time.Second
	patienceCap   = time.Hour
	unsaidFloor   = time.Minute // where it does not say how long
	unsaidCap     = 15 * time.Minute

	openFloor = time.Second
	openCap   = 30 * time.Second

	cold = 255 // questions since the last change when there was none

	maxHot   = 32 // repositories
	hotFirst = 20 * time.Millisecond
	hotDecay = 50 // the wait is one part in so many of the time that it has been hot
	hotSpan  = 30 * time.Second
	hotLater = hotSpan * 5 / 6 // so long ago it seems to have become hot, once what it was hot for has come
	hotShare = 50              // one part in so many of a server's time
	hotSaved = 10 * time.Minute / hotShare
	hotLeast = hotSaved / hotShare // when there is nothing left, so much is saved up before the next
)

// hotWait is the wait of a hot repository from the beginning of one question to that of the next: age is how long it has
// been hot, took the last question, left (above 0) what is left of the allowance. The less that is, the smaller is the part
// of it that is spent: a storm makes everybody slower, and nobody wait for the end of it.
func hotWait(age, took, left time.Duration) time.Duration {
	return max(hotFirst, age/hotDecay, time.Duration(float64(took)*float64(hotSaved)/float64(left)))
}

// floored is at least floor, except that nothing waits longer than the interval.
func floored(wait, floor, interval time.Duration) time.Duration {
	return min(interval, max(floor, wait))
}

// brisk is the wait right after a change, when it is no longer hot.
func brisk(interval time.Duration) time.Duration { return floored(interval/4, briskFloor, interval) }

// usual is the wait after an answer in which nothing moved; the last change was polls questions and quiet time ago.
func usual(interval, quiet time.Duration, polls uint8, u float64) time.Duration {
	jitter := 0.9 + 0.2*u
	wait := float64(brisk(interval))
	for ; polls > 0 && wait < float64(interval); polls-- {
		wait *= 1.25
	}
	if wait < float64(interval) {
		return floored(time.Duration(wait*jitter), briskFloor, interval)
	}
	stretch := 1.0
	if quiet > quietAfter {
		stretch = min(2, float64(quiet)/float64(quietAfter))
	}
	return min(2*interval, time.Duration(float64(interval)*stretch*jitter))
}

// doubting is the wait while an answer is doubted that was first given at since. It ends at the moment from which the
// doubt can be settled, or before.
func doubting(interval, since, now time.Duration) time.Duration {
	return max(0, min(brisk(interval), since+interval-now))
}

// first is the wait of one of n new repositories for its first question.
func first(interval time.Duration, n int, u float64) time.Duration {
	if n <= few {
		return 0
	}
	return time.Duration(u * float64(min(interval, startSpan)))
}

// second is the wait after the first answer of one of many repositories.
func second(interval time.Duration, u float64) time.Duration {
	return time.Duration((0.1 + 0.9*u) * float64(interval))
}

// retry is the wait after the n-th failure in a row: full jitter under a ceiling that doubles.
func retry(interval time.Duration, n int, u float64) time.Duration {
	floor := min(briskFloor, interval/4)
	ceiling := interval + interval/2 - floor
	if n < 4 { // from the fourth on, I/4 × 2ⁿ⁻¹ is over it anyway
		ceiling = min(ceiling, interval/4<<(n-1))
	}
	return floor + time.Duration(u*float64(ceiling))
}

// ahead is how much earlier than planned a repository may be asked along with others.
func ahead(interval time.Duration) time.Duration { return interval / 4 }

// patience is how long a lane is left alone that asked for it: said is what it told, 0 where it told nothing, n how
// often it has asked in a row. One that says "until the year 9999", or a moment in the past, is asked again all the
// same, and not at once.
func patience(said time.Duration, n int) time.Duration {
	if said > 0 {
		return min(patienceCap, max(patienceFloor, said))
	}
	return min(unsaidCap, unsaidFloor<<min(n-1, 8))
}

// openFor is how long a lane that does not answer is left alone: shortest is the shortest interval of its repositories.
func openFor(shortest time.Duration) time.Duration { return min(openCap, max(openFloor, shortest)) }

// afterPause spreads the repositories of a lane over some time after a pause of it.
func afterPause(interval time.Duration, members int, u float64) time.Duration {
	return time.Duration(u * float64(min(interval, time.Duration(members)*pauseGap)))
}

// fineness says what part of a wait a moment may be off by. Waking up is what an idle monitor mostly pays for: with 32 in
// place of 16 it takes a fifth more processor time to ask 10,000 repositories once a minute. It may not be much below: a
// wait is to stay what the table says, and a server should not get all its questions at once.
const fineness = 16

// grid is what moments are rounded to, so that many repositories share one waking: a power of two of nanoseconds, so that
// the grids of different intervals meet, and at most 1/fineness of the wait. 60 s wait on a grid of 2.1 s.
func grid(wait time.Duration) time.Duration {
	if wait < fineness {
		return 1
	}
	return 1 << (bits.Len64(uint64(wait/fineness)) - 1)
}

// early is a moment about wait from now, and not after that.
func early(now, wait time.Duration) time.Duration {
	at := now + wait
	return at - at%grid(wait)
}

// late is a moment about wait from now, and not before that.
func late(now, wait time.Duration) time.Duration {
	step := grid(wait)
	return (now + wait + step - 1) / step * step
}
