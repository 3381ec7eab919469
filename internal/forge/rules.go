package forge

import "time"

// rules are what an API documents of its limits.
type rules struct {
	// window is how long a budget lasts; 0: the API has none, or tells.
	window time.Duration
	// limit is what a purse has before the first answer has told; 0: not known.
	limit int
	// perMinute are the points that a purse may spend in any minute, whatever its budget has left; 0: any. A request that
	// reads costs one, one that writes writePoints.
	perMinute   map[purse]int
	writePoints int
	// busy is how much time the requests of a minute may take the other side, by purse; "" is for all together. 0: any.
	busy map[purse]time.Duration
	// betweenWrites is the time from one request that changes something to the next, writesPerHour how many there may be.
	betweenWrites time.Duration
	writesPerHour int
	// concurrency is how many requests may be out at once.
	concurrency int
}

// Politeness: how much of what the other side would allow is used.
const (
	reservePart  = 20               // one in so many requests of a budget is kept for statuses
	burstTime    = time.Minute      // what was saved up may be spent at once, but no more than of so much time
	minBurst     = 8                // and always this much
	minuteShare  = 0.8              // of the points of a minute
	unsaidPause  = time.Minute      // where the other side wants a pause but does not say how long; doubled each time
	maxPause     = time.Hour        // nobody is left alone for longer, whatever they say
	margin       = time.Second      // clocks differ: what begins again at 12:00:00 is asked at 12:00:01
	patience     = 15 * time.Second // longer than this nobody who can ask otherwise waits
	longestQueue = time.Minute      // who has no deadline waits no longer than this
	maxQuiet     = 1000             // addresses that are remembered for being asked less often
)
