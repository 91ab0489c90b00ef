package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

func TestGrowth(t *testing.T) {
	tests := []struct {
		name string
		live uint64
		want int
	}{
		{"before the first collection as much as the runtime's own minimum allows", 0, 2200},
		{"hardly anything lives", 1 << 20, 2200},
		{"up to the floor", 8 << 20, 1000},
		{"half of the floor lives", 44 << 20, 100},
		{"nearly the floor lives", 84 << 20, 100},
		{"more than the floor lives", 100 << 20, 100},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := growth(tt.live); got != tt.want {
				t.Errorf("growth(%d MiB) = %d, want %d", tt.live>>20, got, tt.want)
			}
		})
	}
}

// TestHeapIsCollectedAtTheFloor shows what the runtime makes of it: the same heap goal whether little or more lives, and no endless work when
// much lives.
func TestHeapIsCollectedAtTheFloor(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Cleanup(func() { debug.SetGCPercent(100) })
	relaxGC()
	for _, tt := range []struct {
		name     string
		live     int
		from, to uint64 // the heap's goal
	}{
		{"8 MiB live", 8 << 20, heapFloor * 9 / 10, heapFloor * 11 / 10},
		{"24 MiB live", 24 << 20, heapFloor * 9 / 10, heapFloor * 11 / 10},
		{"100 MiB live", 100 << 20, 190 << 20, 220 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lives := make([]byte, tt.live)
			sample := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
			for deadline := time.Now().Add(30 * time.Second); ; {
				runtime.GC() // what follows a collection runs beside it
				metrics.Read(sample)
				if goal := sample[0].Value.Uint64(); goal >= tt.from && goal <= tt.to {
					break
				} else if time.Now().After(deadline) {
					t.Fatalf("the heap's goal is %d MiB, want %d to %d", goal>>20, tt.from>>20, tt.to>>20)
				}
			}
			runtime.KeepAlive(lives)
		})
	}
}
