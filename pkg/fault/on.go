//go:build faults

package fault

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Enabled tells whether this build can be broken on purpose.
const Enabled = true

var (
	crashAt, crashTime = crash(os.Getenv("LATCHKEY_FAULT_CRASH"))
	crashed            atomic.Int64
	planted            = strings.Split(os.Getenv("LATCHKEY_FAULT_PLANT"), ",")
	clockFile          = os.Getenv("LATCHKEY_FAULT_CLOCK")
)

func crash(spec string) (name string, times int64) {
	name, count, counted := strings.Cut(spec, ":")
	times = 1
	if counted {
		n, err := strconv.ParseInt(count, 10, 64)
		if err != nil {
			panic("LATCHKEY_FAULT_CRASH: " + err.Error())
		}
		times = n
	}
	return name, times
}

// Point is an instruction at which a test may kill the process, as kill -9 does: nothing is flushed, no deferred call runs.
func Point(name string) {
	if name != crashAt || crashed.Add(1) != crashTime {
		return
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		panic(err)
	}
	select {} // until the signal is here
}

// Planted reports whether this process carries the named fault.
func Planted(name string) bool { return slices.Contains(planted, name) }

// clockAge is for how long a reading of the clock's file is used.
const clockAge = 20 * time.Millisecond

// Clock returns now as a clock shows it that is off by the duration in the file of LATCHKEY_FAULT_CLOCK. Its readings carry no
// monotonic time: differences of two of them jump as those of a wall clock do.
func Clock(now func() time.Time) func() time.Time {
	if clockFile == "" {
		return now
	}
	var (
		mu   sync.Mutex
		read time.Time
		off  time.Duration
	)
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(read) > clockAge {
			read = time.Now()
			if text, err := os.ReadFile(clockFile); err == nil {
				if d, err := time.ParseDuration(strings.TrimSpace(string(text))); err == nil {
					off = d
				}
			}
		}
		return now().Round(0).Add(off)
	}
}
