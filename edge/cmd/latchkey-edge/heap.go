package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// heapFloor is what the heap may grow to before it is collected, however little of it lives. What lives is some megabytes, because the
	// records lie in a mapped file, while each signature leaves 4 KB behind: in proportion to what lives, a busy edge would collect several times
	// a second, and every collection takes a part of the cores from checks for some milliseconds. Together with what else a Go process takes it
	// stays below the 128 MiB that an edge may have.
	heapFloor = 88 << 20

	// heapGrowth is how much the heap may grow, in percent of what lives, where that is more than heapFloor.
	heapGrowth = 100
)

// runtimeMinimum is the heap that the runtime never collects at a proportion of 100, and in proportion at others.
const runtimeMinimum = 4 << 20

// relaxGC has the heap collected when it reaches heapFloor, or when it has grown by heapGrowth. The runtime knows the proportion
// alone, so that it is set anew after each collection. GOGC goes before all of it.
func relaxGC() {
	if os.Getenv("GOGC") != "" {
		return
	}
	percent := growth(liveHeap())
	debug.SetGCPercent(percent)
	afterCollection(percent)
}

// afterCollection sets the proportion again once the next collection is over, and then after each.
func afterCollection(percent int) {
	type witness struct{ _ *int } // with a pointer, or it would share its memory with other small things and outlive the collection
	runtime.AddCleanup(new(witness), func(percent int) {
		if now := growth(liveHeap()); now != percent {
			debug.SetGCPercent(now)
			percent = now
		}
		afterCollection(percent)
	}, percent)
}

// growth is the proportion, in percent, by which a heap may grow of which live bytes live.
func growth(live uint64) int {
	const most = 100 * heapFloor / runtimeMinimum // beyond it the runtime's minimum would be above heapFloor
	if live >= heapFloor {
		return heapGrowth
	}
	return int(min(max(heapGrowth, (heapFloor-live)*100/max(live, 1)), most))
}

// liveHeap is what lived at the last collection; 0 before the first.
func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
