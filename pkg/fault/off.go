//go:build !faults

package fault

import "time"

// Enabled tells whether this build can be broken on purpose.
const Enabled = false

// Point is an instruction at which a test may kill the process.
func Point(string) {}

// Planted reports whether this process carries the named fault: never, in this build.
func Planted(string) bool { return false }

// Clock returns now: in this build no clock is off.
func Clock(now func() time.Time) func() time.Time { return now }
