package daemon

import (
	"os"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// spareHeap is what a heap may grow by before it is collected, in bytes; leastGrowth and mostGrowth bound it, in percent
	// of what is live. mostGrowth is the runtime's own.
	spareHeap               = 8 << 20
	leastGrowth, mostGrowth = 25, 100
	// largeHeap is from which size on it is worth a collection to give back what a start or a new configuration has left.
	largeHeap = 16 << 20
)

// settleHeap is for when what stays is there: it says how much garbage may gather from now on. The runtime lets a heap
// double, which suits one that changes. Most of ours is the configuration and the heads, and a question leaves little: a
// large heap may grow by a part of itself only. Whoever has set GOGC knows better.
func settleHeap() {
	live := liveHeap()
	if live > largeHeap {
		debug.FreeOSMemory()
		live = liveHeap()
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(heapGrowth(live))
	}
}

// liveHeap is what the last collection has left, in bytes.
func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}

// heapGrowth is by how much a heap with so many live bytes may grow, in percent.
func heapGrowth(live uint64) int {
	return int(min(mostGrowth, max(leastGrowth, 100*spareHeap/max(1, live))))
}
