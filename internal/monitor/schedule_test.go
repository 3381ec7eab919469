package monitor

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

const almost1 = 1 - 1e-12

func TestUsual(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		name            string
		interval, quiet time.Duration
		polls           uint8
		low, high       time.Duration
	}{
		{"never moved", time.Minute, time.Hour, cold, 54 * time.Second, 66 * time.Second},
		{"just moved", time.Minute, 0, 0, 13500 * time.Millisecond, 16500 * time.Millisecond},
		{"one question after", time.Minute, 0, 1, 16875 * time.Millisecond, 20625 * time.Millisecond},
		{"six questions after", time.Minute, 0, 6, 51498413085, time.Minute},
		{"seven questions after", time.Minute, 0, 7, 54 * time.Second, 66 * time.Second},
		{"just moved, short interval", 2 * time.Second, 0, 0, time.Second, 1100 * time.Millisecond},
		{"just moved, very short interval", 100 * time.Millisecond, 0, 0, 90 * time.Millisecond, 110 * time.Millisecond},
		{"quiet for a day", time.Minute, day, cold, 54 * time.Second, 66 * time.Second},
		{"quiet for a day and a half", time.Minute, day + day/2, cold, 81 * time.Second, 99 * time.Second},
		{"quiet for a year", time.Minute, 365 * day, cold, 108 * time.Second, 2 * time.Minute},
		{"long interval", 24 * time.Hour, 365 * day, cold, 43*time.Hour + 12*time.Minute, 48 * time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			low, high := usual(c.interval, c.quiet, c.polls, 0), usual(c.interval, c.quiet, c.polls, almost1)
			if !near(low, c.low) || !near(high, c.high) {
				t.Errorf("%v … %v, want %v … %v", low, high, c.low, c.high)
			}
		})
	}
}

func near(a, b time.Duration) bool { return (a - b).Abs() <= time.Microsecond }

func TestRetry(t *testing.T) {
	for _, c := range []struct {
		interval time.Duration
		n        int
		low      time.Duration
		high     time.Duration
	}{
		{time.Minute, 1, time.Second, 16 * time.Second},
		{time.Minute, 2, time.Second, 31 * time.Second},
		{time.Minute, 3, time.Second, 61 * time.Second},
		{time.Minute, 4, time.Second, 90 * time.Second},
		{time.Minute, 1 << 40, time.Second, 90 * time.Second},
		{time.Second, 1, 250 * time.Millisecond, 500 * time.Millisecond},
		{time.Second, 9, 250 * time.Millisecond, 1500 * time.Millisecond},
	} {
		if low, high := retry(c.interval, c.n, 0), retry(c.interval, c.n, almost1); !near(low, c.low) || !near(high, c.high) {
			t.Errorf("interval %v, failure %d: %v … %v, want %v … %v", c.interval, c.n, low, high, c.low, c.high)
		}
	}
}

func TestPatience(t *testing.T) {
	for _, c := range []struct {
		said time.Duration
		n    int
		want time.Duration
	}{
		{time.Nanosecond, 1, time.Second},
		{30 * time.Second, 7, 30 * time.Second},
		{200 * 365 * 24 * time.Hour, 1, time.Hour},
		{1<<63 - 1, 1, time.Hour},
		{0, 1, time.Minute},
		{0, 2, 2 * time.Minute},
		{0, 4, 8 * time.Minute},
		{0, 5, 15 * time.Minute},
		{0, 1 << 40, 15 * time.Minute},
		{-time.Hour, 1, time.Minute},
	} {
		if got := patience(c.said, c.n); got != c.want {
			t.Errorf("said %v for the %d. time: %v, want %v", c.said, c.n, got, c.want)
		}
	}
}

func TestOtherWaits(t *testing.T) {
	for _, c := range []struct {
		what      string
		got, want time.Duration
	}{
		{"first of few", first(time.Minute, few, almost1), 0},
		{"first of many", first(time.Minute, few+1, almost1), 10 * time.Second},
		{"first of many, short interval", first(time.Second, few+1, almost1), time.Second},
		{"second, soonest", second(time.Minute, 0), 6 * time.Second},
		{"second, latest", second(time.Minute, almost1), time.Minute},
		{"open, short", openFor(10 * time.Millisecond), time.Second},
		{"open", openFor(12 * time.Second), 12 * time.Second},
		{"open, long", openFor(time.Hour), 30 * time.Second},
		{"after a pause, one", afterPause(time.Minute, 1, almost1), 250 * time.Millisecond},
		{"after a pause, many", afterPause(time.Minute, 10_000, almost1), time.Minute},
		{"doubting, at first", doubting(time.Minute, 100*time.Second, 100*time.Second), 15 * time.Second},
		{"doubting, at last", doubting(time.Minute, 100*time.Second, 155*time.Second), 5 * time.Second},
		{"doubting, over", doubting(time.Minute, 100*time.Second, 500*time.Second), 0},
	} {
		if !near(c.got, c.want) {
			t.Errorf("%s: %v, want %v", c.what, c.got, c.want)
		}
	}
}

// Whatever is drawn: nothing waits longer than two intervals, nor not at all, and the grid rounds to the side it promises.
func TestScheduleBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		duration := func(name string, low, high time.Duration) time.Duration {
			return time.Duration(rapid.Int64Range(int64(low), int64(high)).Draw(t, name))
		}
		interval := duration("interval", time.Millisecond, 1000*time.Hour)
		now := duration("now", 0, 100_000*time.Hour)
		u := rapid.Float64Range(0, almost1).Draw(t, "u")
		wait := usual(interval, duration("quiet", 0, 100_000*time.Hour), rapid.Uint8().Draw(t, "polls"), u)
		if wait < min(interval, briskFloor)/2 || wait > 2*interval {
			t.Fatalf("usual waits %v at an interval of %v", wait, interval)
		}
		if again := retry(interval, rapid.IntRange(1, 1000).Draw(t, "n"), u); again < min(interval/4, briskFloor) || again > 2*interval {
			t.Fatalf("retry waits %v at an interval of %v", again, interval)
		}
		if at := early(now, wait); at > now+wait || at <= now || at < now+wait-wait/fineness {
			t.Fatalf("early(%d, %d) = %d", now, wait, at)
		}
		if at := late(now, wait); at < now+wait || at > now+wait+wait/fineness {
			t.Fatalf("late(%d, %d) = %d", now, wait, at)
		}
	})
}
