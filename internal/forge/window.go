package forge

import "time"

// window is what one purse has. All times are ours; the other side's clock was allowed for.
type window struct {
	limit     int // 0: not known
	remaining int
	reset     time.Time
	until     time.Time // a refusal said that it is empty until then; answers that were under way may tell of more
	length    time.Duration
	out       int       // requests under way, of which it is not known whether remaining has them
	used      int       // by us, since the window began
	tokens    float64   // what may be spent at once
	filled    time.Time // when tokens was right
	spent     []spent
}

type spent struct {
	at     time.Time
	points int
}

func newWindow(limit int, length time.Duration, now time.Time) *window {
	return &window{limit: limit, remaining: limit, reset: now.Add(length), length: length, filled: now, tokens: burst(limit, length)}
}

// burst is what may be spent at once of a budget that would last for a time.
func burst(left int, lasting time.Duration) float64 {
	return max(minBurst, float64(left)*min(1, float64(burstTime)/float64(max(lasting, 1))))
}

// turn begins the next window where the last has ended.
func (w *window) turn(now time.Time) {
	if w.limit == 0 || w.length <= 0 || now.Before(w.reset.Add(margin)) {
		return
	}
	gone := now.Sub(w.reset)/w.length + 1
	w.reset = w.reset.Add(gone * w.length)
	w.remaining, w.used = w.limit, 0
}

// free is what may still be used, without the reserve for who does not report.
func (w *window) free(c class) int {
	left := w.remaining - w.out
	if c != reporting {
		left -= w.limit / reservePart
	}
	return left
}

// fill adds what has become due since the last time.
func (w *window) fill(now time.Time) (rate float64) {
	w.turn(now)
	left := max(time.Second, w.reset.Sub(now))
	rate = max(0, float64(w.free(asking))) / left.Seconds()
	w.tokens = min(burst(w.free(asking), left), w.tokens+rate*now.Sub(w.filled).Seconds())
	w.filled = now
	return rate
}

// moment is when n requests have their turn. out tells that they wait for the next window.
func (w *window) moment(c class, n int, now time.Time) (at time.Time, out bool) {
	if w.limit == 0 {
		return now, false
	}
	rate := w.fill(now)
	switch {
	case now.Before(w.until):
		return w.until, true
	case w.free(c) < n:
		return w.reset.Add(margin), true
	case c == reporting || w.tokens >= float64(n):
		return now, false
	}
	wait := time.Duration((float64(n) - w.tokens) / rate * float64(time.Second))
	return now.Add(wait + time.Millisecond), false // later by what rounding could take
}

func (w *window) take(now time.Time) {
	w.out++
	w.used++
	if w.limit > 0 {
		w.fill(now)
		w.tokens--
	}
}

// minute is when points may be spent of those of a minute; 0 allowed: any.
func (w *window) minute(points, allowed int, now time.Time) time.Time {
	if allowed <= 0 {
		return now
	}
	for len(w.spent) > 0 && now.Sub(w.spent[0].at) >= time.Minute+margin {
		w.spent = w.spent[1:]
	}
	sum := points
	for i := len(w.spent) - 1; i >= 0; i-- {
		if sum += w.spent[i].points; sum > allowed {
			return w.spent[i].at.Add(time.Minute + margin)
		}
	}
	return now
}

// drain notes that a purse is empty until its next window, by the word of a refusal. It gives how long that is.
func (w *window) drain(now time.Time) time.Duration {
	w.until = later(w.until, w.reset.Add(margin))
	return w.until.Sub(now)
}
