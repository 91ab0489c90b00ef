package token

import "testing"

// Trusted time, as an SDK keeps it on a device whose clock may be wrong. The state machine lives in the SDKs; here is a second, shorter one, so that the
// traces in vectors.json are not the opinion of one implementation. All times are seconds.

const clockAbout = "Traces of a device's clocks. monotonic counts within one boot and is never set, wall is the device's clock; all times are Unix seconds. begin: the process starts with what " +
	"the last keep wrote (absent: nothing was ever kept) and with built_at as the least possible time. learn: an accepted answer, signed at issued_at, proven if it carries a nonce that was sent just before; " +
	"from then on it is the answer that is held, over restarts too. keep: a checkpoint writes the trusted time. look: nothing happens. After each step the trusted time and the status of the held answer are as given."

// clockTrace is a story of one device.
type clockTrace struct {
	Name  string      `json:"name"`
	Steps []clockStep `json:"steps"`
}

// clockStep is one thing that happens, and what is so afterwards.
type clockStep struct {
	Do        string `json:"do"` // begin, learn, keep, look
	Boot      string `json:"boot"`
	Monotonic int64  `json:"monotonic"`
	Wall      int64  `json:"wall"`

	BuiltAt    int64 `json:"built_at,omitempty"`    // of begin
	IssuedAt   int64 `json:"issued_at,omitempty"`   // of learn
	FreshUntil int64 `json:"fresh_until,omitempty"` // of learn
	ExpiresAt  int64 `json:"expires_at,omitempty"`  // of learn
	Proven     bool  `json:"proven,omitempty"`      // of learn

	Trusted int64  `json:"trusted"`
	Status  string `json:"status"` // verified verified_offline clock_suspect grace_expired unverified
}

// trustedClock is what an SDK knows of the time: at the monotonic reading of boot it was at least time.
type trustedClock struct {
	time, monotonic int64
	boot            string
}

const clockTolerance = 300

func (c trustedClock) at(s clockStep) int64 { return c.time + max(0, s.Monotonic-c.monotonic) }

func beginClock(kept *trustedClock, s clockStep) trustedClock {
	switch {
	case kept == nil:
		return trustedClock{time: s.BuiltAt, monotonic: s.Monotonic, boot: s.Boot}
	case kept.boot == s.Boot && kept.monotonic <= s.Monotonic:
		return trustedClock{time: max(kept.time, s.BuiltAt), monotonic: kept.monotonic, boot: s.Boot}
	}
	return trustedClock{time: max(kept.time, s.BuiltAt), monotonic: s.Monotonic, boot: s.Boot}
}

func (c trustedClock) learn(s clockStep) trustedClock {
	at := max(c.at(s), s.IssuedAt)
	if s.Proven && (at-s.IssuedAt <= clockTolerance || max(s.Wall-s.IssuedAt, s.IssuedAt-s.Wall) <= clockTolerance) {
		at = s.IssuedAt
	}
	return trustedClock{time: at, monotonic: max(c.monotonic, s.Monotonic), boot: s.Boot}
}

func (c trustedClock) status(s clockStep, held *clockStep) string {
	at := c.at(s)
	switch {
	case held == nil:
		return "unverified"
	case at >= held.ExpiresAt:
		return "grace_expired"
	case at < held.FreshUntil:
		return "verified"
	case s.Wall < at-clockTolerance, s.Wall >= held.ExpiresAt+clockTolerance:
		return "clock_suspect"
	}
	return "verified_offline"
}

// TestClockTraces: the expected results, which are written by hand, are what the rules give. TestVectors writes them to vectors.json.
func TestClockTraces(t *testing.T) {
	for _, trace := range clockTraces() {
		t.Run(trace.Name, func(t *testing.T) {
			var (
				clock trustedClock
				kept  *trustedClock
				held  *clockStep
			)
			for i, s := range trace.Steps {
				switch s.Do {
				case "begin":
					clock = beginClock(kept, s)
				case "learn":
					clock = clock.learn(s)
					held = &trace.Steps[i]
				case "keep":
					kept = &trustedClock{time: clock.at(s), monotonic: max(clock.monotonic, s.Monotonic), boot: s.Boot}
				case "look":
				default:
					t.Fatalf("step %d does %q", i+1, s.Do)
				}
				if got := clock.at(s); got != s.Trusted {
					t.Errorf("step %d, %s: trusted time %d, want %d", i+1, s.Do, got-now, s.Trusted-now)
				}
				if got := clock.status(s, held); got != s.Status {
					t.Errorf("step %d, %s: %s, want %s", i+1, s.Do, got, s.Status)
				}
			}
		})
	}
}

// device writes a trace down: its clocks run, and each step says what is so then.
type device struct {
	boot            string
	true, monotonic int64
	wallOff         int64 // how far the device's clock is ahead
	steps           []clockStep
}

// newDevice has a monotonic clock at 1,000 s and a right clock at now.
func newDevice() *device { return &device{boot: "boot-1", true: now, monotonic: 1000} }

// runs lets both clocks go on.
func (d *device) runs(seconds int64) *device {
	d.true, d.monotonic = d.true+seconds, d.monotonic+seconds
	return d
}

// stands is sleep on a platform whose monotonic clock stands still meanwhile.
func (d *device) stands(seconds int64) *device {
	d.true += seconds
	return d
}

// reboots begins a new count of the monotonic clock.
func (d *device) reboots(off int64) *device {
	d.true, d.monotonic, d.boot = d.true+off, 7, "boot-2"
	return d
}

// sets sets the device's clock to be ahead by so much, or behind.
func (d *device) sets(ahead int64) *device {
	d.wallOff = ahead
	return d
}

func (d *device) step(s clockStep, trusted int64, status string) *device {
	s.Boot, s.Monotonic, s.Wall, s.Trusted, s.Status = d.boot, d.monotonic, d.true+d.wallOff, now+trusted, status
	d.steps = append(d.steps, s)
	return d
}

// Trusted times are given relative to now, the time of the first answer.
func (d *device) begin(trusted int64, status string) *device {
	return d.step(clockStep{Do: "begin"}, trusted, status)
}
func (d *device) looks(trusted int64, status string) *device {
	return d.step(clockStep{Do: "look"}, trusted, status)
}
func (d *device) keeps(trusted int64, status string) *device {
	return d.step(clockStep{Do: "keep"}, trusted, status)
}

// learns takes an answer that was signed ago seconds before.
func (d *device) learns(ago int64, proven bool, trusted int64, status string) *device {
	at := d.true - ago
	return d.step(clockStep{Do: "learn", IssuedAt: at, FreshUntil: at + FreshSeconds, ExpiresAt: at + GraceSeconds, Proven: proven}, trusted, status)
}

// opened is an app that has asked for the first time and kept the answer.
func opened() *device {
	d := newDevice()
	d.step(clockStep{Do: "begin"}, -now, "unverified")
	return d.learns(0, true, 0, "verified").keeps(0, "verified")
}

func (d *device) trace(name string) clockTrace { return clockTrace{Name: name, Steps: d.steps} }

func clockTraces() []clockTrace {
	const (
		verified, offline, suspect, expired = "verified", "verified_offline", "clock_suspect", "grace_expired"
		year                                = 365 * day
	)
	built := newDevice()
	built.step(clockStep{Do: "begin", BuiltAt: now - day}, -day, "unverified")
	backwards := opened()
	backwards.monotonic = 10
	ahead, alone := opened(), opened().sets(-hour)
	ahead.monotonic, alone.monotonic = ahead.monotonic+2*day, alone.monotonic+2*day
	return []clockTrace{
		opened().runs(59).looks(59, verified).runs(1).looks(60, offline).runs(day-61).looks(day-1, offline).runs(1).looks(day, expired).trace("offline for 24 hours and not longer"),
		opened().sets(-10*day).runs(hour).looks(hour, suspect).runs(23*hour-1).looks(day-1, suspect).runs(1).looks(day, expired).trace("a clock set back extends nothing"),
		opened().sets(year).runs(hour).looks(hour, suspect).runs(23*hour-1).looks(day-1, suspect).runs(1).looks(day, expired).trace("a clock set forward takes nothing, and extends nothing"),
		opened().sets(-300).runs(60).looks(60, offline).sets(-301).looks(60, suspect).trace("5 minutes behind is no suspicion"),
		opened().runs(hour).sets(day-hour+299).looks(hour, offline).sets(day-hour+300).looks(hour, suspect).trace("a clock that is ahead is suspected when it contradicts the grace"),
		opened().sets(-year).runs(30).looks(30, verified).runs(30).learns(0, true, 60, verified).trace("online, a wrong clock does not matter"),
		opened().runs(hour).keeps(hour, offline).runs(30).reboots(600).begin(hour, offline).runs(60).looks(hour+60, offline).trace("a reboot goes on from the last checkpoint"),
		opened().runs(hour).keeps(hour, offline).reboots(600).sets(-year).begin(hour, suspect).runs(23*hour).looks(day, expired).trace("a reboot and a clock set back extend nothing"),
		opened().runs(hour).keeps(hour, offline).reboots(0).sets(year).begin(hour, suspect).runs(23*hour-1).looks(day-1, suspect).trace("a reboot and a clock set forward take nothing"),
		opened().runs(hour).keeps(hour, offline).reboots(3*day).begin(hour, suspect).learns(0, true, 3*day+hour, verified).trace("off for three days: counted as running time, suspected, and settled by an answer"),
		opened().runs(20*hour).begin(20*hour, offline).runs(4*hour).looks(day, expired).trace("a closed app on a running device is counted"),
		opened().stands(10*hour).looks(0, verified).runs(60).looks(60, offline).stands(20*hour).looks(60, suspect).trace("sleep on a platform whose monotonic clock stands still"),
		opened().runs(23*hour).keeps(23*hour, offline).runs(hour).looks(day, expired).begin(day, expired).trace("storage that was put back within a boot gives nothing back"),
		opened().runs(hour).learns(2*hour, false, hour, offline).trace("an answer without proof does not set time back"),
		opened().runs(400).learns(300, true, 100, verified).trace("a monotonic clock that is 5 minutes too fast is set right by a proven answer"),
		opened().runs(400).learns(301, true, 400, offline).trace("by more than 5 minutes it is not"),
		ahead.looks(2*day, expired).learns(0, true, 0, verified).trace("unless the device's clock agrees with the edge: a trusted time that is days ahead comes back"),
		alone.looks(2*day, expired).learns(0, true, 2*day, expired).trace("against both other clocks it does not come back"),
		opened().runs(400).learns(-600, false, 1000, verified).trace("an answer from ahead moves time on"),
		built.learns(0, true, 0, verified).trace("the build of the app is the least time"),
		backwards.begin(0, verified).runs(100).looks(100, offline).trace("a monotonic clock that went back is another boot"),
	}
}
