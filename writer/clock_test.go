package writer

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// What is shown here: a clock that is wrong dates nothing, takes the lead from nobody who is right, and does no harm; where nobody can know
// whose clock is wrong, nothing happens.

// wrongClock is a clock that is off by what a test says.
type wrongClock struct{ off atomic.Int64 }

func (c *wrongClock) set(off time.Duration) { c.off.Store(int64(off)) }
func (c *wrongClock) now() time.Time        { return time.Now().Add(time.Duration(c.off.Load())) }

// about reports whether read returns a time that is d from now, however long the test is kept waiting meanwhile.
func about(read func() time.Time, d time.Duration) bool {
	const within = 100 * time.Millisecond
	before := time.Now()
	t := read().Add(-d)
	return t.After(before.Add(-within)) && t.Before(time.Now().Add(within))
}

func TestWhoseClockIsWrong(t *testing.T) {
	const unknown = time.Duration(1<<63 - 1)
	tests := []struct {
		name   string
		others []time.Duration // ahead of the own clock
		off    time.Duration   // of the own clock as judged; 0 is none
		good   []bool          // of others: may lead
	}{
		{"a writer without others is right", nil, 0, nil},
		{"three that agree", []time.Duration{300 * time.Millisecond, -900 * time.Millisecond}, 0, []bool{true, true}},
		{"one of the others is ahead", []time.Duration{10 * time.Minute, 0}, 0, []bool{false, true}},
		{"the own one is behind both others", []time.Duration{10 * time.Minute, 10 * time.Minute}, 10 * time.Minute, []bool{true, true}},
		{"the own one is ahead of both others", []time.Duration{-10 * time.Minute, -10 * time.Minute}, -10 * time.Minute, []bool{true, true}},
		{"of three times the middle one is right", []time.Duration{-10 * time.Minute, 10 * time.Minute}, 0, []bool{false, false}},
		{"of three times the middle one is another's", []time.Duration{10 * time.Minute, 20 * time.Minute}, 10 * time.Minute, []bool{true, false}},
		{"of two nobody knows", []time.Duration{10 * time.Minute}, 0, []bool{true}},
		{"of three with one away nobody knows", []time.Duration{10 * time.Minute, unknown}, 0, []bool{true}},
		{"two against two", []time.Duration{0, 10 * time.Minute, 10 * time.Minute}, 0, []bool{true, true, true}},
		{"three against one of four", []time.Duration{10 * time.Minute, 10 * time.Minute, 10 * time.Minute}, 10 * time.Minute, []bool{true, true, true}},
		{"a minority of five is off alike", []time.Duration{0, 0, 10 * time.Minute, 10 * time.Minute}, 0, []bool{true, true, false, false}},
		{"in a minority of five", []time.Duration{0, -10 * time.Minute, -10 * time.Minute, -10 * time.Minute}, -10 * time.Minute, []bool{false, true, true, true}},
		{"hardly off is not off", []time.Duration{950 * time.Millisecond, 950 * time.Millisecond}, 0, []bool{true, true}},
		{"somewhat off is off", []time.Duration{1100 * time.Millisecond, 1100 * time.Millisecond}, 1100 * time.Millisecond, []bool{true, true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			voters := []string{"self"}
			c := newClock(time.Now, len(tt.others)+1)
			round := c.begin()
			for i, d := range tt.others {
				id := fmt.Sprint("w", i)
				voters = append(voters, id)
				if d != unknown {
					now := time.Now()
					c.measured(id, now.Add(d), now, 0)
				}
			}
			c.judge(round, "self", voters)
			if got := c.line.Load(); got.off != (tt.off != 0) || got.off && (got.deviation-tt.off).Abs() > 50*time.Millisecond {
				t.Errorf("judged off %t by %s, want %s", got.off, got.deviation, tt.off)
			}
			if !about(c.now, tt.off) {
				t.Errorf("now is %s off the own clock, want %s", time.Until(c.now()), tt.off)
			}
			if wrong := c.wrong(); wrong != (tt.off != 0) {
				t.Errorf("wrong = %t", wrong)
			}
			good := c.good("self", voters)
			for i, want := range tt.good {
				if id := fmt.Sprint("w", i); good[id] != want {
					t.Errorf("good[%s] = %t, want %t", id, good[id], want)
				}
			}
		})
	}
}

// TestAClockThatIsSet: time goes on as before until a majority confirms the new one.
func TestAClockThatIsSet(t *testing.T) {
	start := func(n int) (c *clock, own *wrongClock, voters []string, others func(ahead time.Duration, ids ...string)) {
		own = &wrongClock{}
		for i := range n {
			voters = append(voters, fmt.Sprint("w", i))
		}
		c = newClock(own.now, n)
		others = func(ahead time.Duration, ids ...string) {
			round := c.begin()
			for _, id := range ids {
				now := time.Now()
				c.measured(id, now.Add(ahead), now, 0)
			}
			c.judge(round, "w0", voters)
		}
		others(0, voters[1:]...)
		if err := c.believed(); err != nil {
			t.Fatalf("not believed at first: %v", err)
		}
		return c, own, voters, others
	}
	check := func(t *testing.T, c *clock, ahead time.Duration, believed bool) {
		t.Helper()
		var err error
		read := func() (now time.Time) {
			now, err = c.read()
			return now
		}
		if !about(read, ahead) || (err == nil) != believed {
			t.Errorf("time is %s off, %v; want %s off, believed: %t", time.Until(c.now()).Round(time.Millisecond), err, ahead, believed)
		}
	}
	const tenMinutes = 10 * time.Minute
	for _, step := range []time.Duration{tenMinutes, -tenMinutes} {
		t.Run("alone it is believed", func(t *testing.T) {
			c, own, _, _ := start(1)
			own.set(step)
			check(t, c, step, true)
		})
		t.Run("a majority does not confirm it", func(t *testing.T) {
			c, own, _, others := start(3)
			own.set(step)
			check(t, c, 0, false)
			if len(c.kick) != 1 {
				t.Error("the others are not asked at once")
			}
			others(0, "w1", "w2")
			check(t, c, 0, false)
			if !c.wrong() {
				t.Error("it is not judged wrong")
			}
			own.set(0)
			check(t, c, 0, false) // until it is judged
			others(0, "w1", "w2")
			check(t, c, 0, true)
		})
		t.Run("a majority confirms it", func(t *testing.T) {
			c, own, _, others := start(3)
			own.set(step)
			others(step, "w1")
			check(t, c, step, true)
		})
		t.Run("of two the one that was set is wrong", func(t *testing.T) {
			c, own, _, others := start(2)
			own.set(step)
			others(0, "w1")
			check(t, c, 0, false)
			if !c.wrong() || !c.good("w0", []string{"w0", "w1"})["w1"] {
				t.Error("the other one is not preferred")
			}
			others(step, "w1")
			check(t, c, step, true)
		})
		t.Run("of two the one that was not set goes on", func(t *testing.T) {
			c, _, _, others := start(2)
			others(step, "w1")
			check(t, c, 0, true)
		})
		t.Run("with nobody to ask it stays as it was", func(t *testing.T) {
			c, own, voters, _ := start(3)
			c.peers = map[string]reading{}
			own.set(step)
			c.judge(c.begin(), "w0", voters)
			check(t, c, 0, false)
		})
	}
	t.Run("what was measured before it was set does not count against it", func(t *testing.T) {
		c, own, voters, _ := start(3)
		round := c.begin()
		for _, id := range voters[1:] {
			now := time.Now()
			c.measured(id, now, now, 0)
		}
		own.set(tenMinutes)
		c.judge(round, "w0", voters) // set in the middle of a round
		if c.line.Load().off {
			t.Error("judged off by what the others showed before")
		}
		c.judge(c.begin(), "w0", voters) // nobody answers in the next one
		if c.line.Load().off {
			t.Error("judged off by what the others showed in the round before")
		}
		check(t, c, 0, false)
	})
	t.Run("slewing is not setting", func(t *testing.T) {
		c, own, _, others := start(3)
		for i := range 20 {
			own.set(time.Duration(i) * 100 * time.Millisecond)
			others(time.Duration(i)*100*time.Millisecond, "w1", "w2")
			check(t, c, time.Duration(i)*100*time.Millisecond, true)
		}
	})
	t.Run("a machine that pauses while it reads its clock has not set it", func(t *testing.T) {
		c, own, _, _ := start(3)
		pauses := 0
		c.raw = func() time.Time {
			if pauses--; pauses >= 0 {
				<-time.After(clockStep + clockStep/4)
			}
			return own.now()
		}
		for pauses = range 3 {
			check(t, c, 0, true)
		}
	})
	t.Run("off is not left at the limit", func(t *testing.T) {
		c, _, _, others := start(3)
		others(1100*time.Millisecond, "w1", "w2")
		check(t, c, 1100*time.Millisecond, false)
		others(900*time.Millisecond, "w1", "w2")
		check(t, c, 900*time.Millisecond, false)
		others(400*time.Millisecond, "w1", "w2")
		check(t, c, 0, true)
	})
}

func TestAMeasurementOfAClock(t *testing.T) {
	c := newClock(time.Now, 2)
	asked := time.Now()
	c.measured("slow", asked, asked, vitalsRoundTrip+time.Millisecond)
	if _, known := c.peers["slow"]; known {
		t.Error("an answer that took too long counts")
	}
	// The answer was 400 ms under way in all. Whether the way there or the way back took it, the error is within its half.
	for name, read := range map[string]time.Time{"there": asked.Add(400 * time.Millisecond), "back": asked} {
		c.measured(name, read.Add(10*time.Minute), asked, 400*time.Millisecond)
		r := c.peers[name]
		zero, _ := c.own()
		if wrong := r.zero.Sub(zero) - 10*time.Minute; wrong.Abs() > r.err+time.Millisecond || r.err != 200*time.Millisecond {
			t.Errorf("all of the time on the way %s: wrong by %s, said to be within %s", name, wrong, r.err)
		}
	}
	t.Run("nothing is dated before the first comparison, for a while", func(t *testing.T) {
		if c.believed() == nil {
			t.Error("believed before anything was compared")
		}
		c.base = c.base.Add(-clockGrace)
		zero, _ := c.own()
		c.line.Store(&timeline{zero: zero})
		if err := c.believed(); err != nil {
			t.Errorf("after %s: %v", clockGrace, err)
		}
	})
}

// TestPatience: a lead that comes back again and again is handed over ever more rarely.
func TestPatience(t *testing.T) {
	var p patience
	var took []time.Duration
	start := time.Now()
	for now := start; now.Before(start.Add(time.Hour)); now = now.Add(vitalsInterval) {
		if p.due(now) {
			took = append(took, now.Sub(start))
		}
	}
	want := []time.Duration{0, 5 * time.Second, 15 * time.Second, 35 * time.Second}
	if !slices.Equal(took[:4], want) || len(took) > 20 {
		t.Errorf("%d attempts in an hour, at %v", len(took), took)
	}
	p.rest(start.Add(time.Hour)) // too soon to forget
	if p.pause == 0 {
		t.Error("forgotten at once")
	}
	if p.rest(start.Add(2 * time.Hour)); !p.due(start.Add(2 * time.Hour)) {
		t.Error("after an hour of rest it still waits")
	}
}

// clockCluster starts three writers, each with a clock of its own.
func clockCluster(t *testing.T) ([]*testWriter, []*wrongClock) {
	t.Helper()
	var writers []*testWriter
	var clocks []*wrongClock
	for _, cfg := range testConfigs(t, 3) {
		c := &wrongClock{}
		cfg.Now = c.now
		clocks = append(clocks, c)
		writers = append(writers, startWriter(t, cfg))
	}
	for _, w := range writers {
		w.awaitReady()
	}
	return writers, clocks
}

func clockOf(w *testWriter, writers []*testWriter, clocks []*wrongClock) *wrongClock {
	return clocks[slices.Index(writers, w)]
}

// TestALeaderWhoseClockIsSet sets the leader's clock by 10 min under load. It loses the lead and does no harm: every write is
// acknowledged, no stamp and no head is dated by the wrong clock (I8), and the node goes on as a follower by the others' time.
func TestALeaderWhoseClockIsSet(t *testing.T) {
	for _, step := range []time.Duration{10 * time.Minute, -10 * time.Minute} {
		t.Run(step.String(), func(t *testing.T) {
			writers, clocks := clockCluster(t)
			leader, followers := roles(t, writers)
			acc := leader.account()
			var load sync.WaitGroup
			stop := make(chan struct{})
			for _, w := range writers {
				load.Go(func() {
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						default:
						}
						if r, _, err := w.stripePatiently(event(unique("evt_"), "customer.subscription.created", subscription(unique("sub_"), acc, "price_pro"))); err != nil || r.status != http.StatusOK {
							t.Errorf("a write at %s = %d %s, %v", w.cfg.Node.ID, r.status, r.text, err)
							return
						}
						for _, v := range writers {
							if s := time.Unix(v.store.Stats().Stamp, 0); time.Until(s).Abs() > time.Minute { // it may be some time ago, on a busy machine
								t.Errorf("%s: the last stamp is %s off", v.cfg.Node.ID, time.Until(s))
								return
							}
							if h := v.newestHead(); h != nil && time.Until(time.Unix(h.AsOf, 0)) > time.Second {
								t.Errorf("%s: a head is dated %s ahead", v.cfg.Node.ID, time.Until(time.Unix(h.AsOf, 0)))
								return
							}
						}
					}
				})
			}
			clockOf(leader, writers, clocks).set(step)
			await(t, "another leader", func() bool { return followers[0].store.IsLeader() || followers[1].store.IsLeader() })
			await(t, "the reason in /readyz", func() bool {
				r := leader.readiness()
				return !r.Ready && r.Role == roleFollower && slices.Contains(r.Reasons, reasonClock)
			})
			await(t, fmt.Sprintf("clock status of %s against a majority of two", -step), func() bool {
				s := leader.ClockStatus()
				return !s.Believed && s.Reason != "" && len(s.Offsets) == 2 && time.Duration(s.OffsetSeconds*1e9+float64(step)).Abs() < time.Second
			})
			// Its own time is the others'.
			if r := leader.stripe(event(unique("evt_"), "customer.subscription.created", subscription(unique("sub_"), acc, "price_pro"))); r.status != http.StatusOK {
				t.Errorf("a message at the follower with the wrong clock = %d %s", r.status, r.text)
			}
			await(t, "the others' time in use", func() bool { return about(leader.now, 0) }) // each measurement is as good as its round trip was quick
			// It does not take the lead back, and nobody else loses it.
			leadStaysElsewhere(t, writers, leader)
			clockOf(leader, writers, clocks).set(0)
			await(t, "ready again", func() bool { return leader.readiness().Ready })
			close(stop)
			load.Wait()
			sameState(t, writers)
		})
	}
}

// TestAWriterThatStartsWithAWrongClock never dates anything, even if it is elected first.
func TestAWriterThatStartsWithAWrongClock(t *testing.T) {
	t.Parallel() // it mostly waits
	var writers []*testWriter
	for i, cfg := range testConfigs(t, 3) {
		c := &wrongClock{}
		if i == 0 {
			c.set(10 * time.Minute)
		}
		cfg.Now = c.now
		writers = append(writers, startWriter(t, cfg))
	}
	await(t, "two ready writers", func() bool { return writers[1].readiness().Ready && writers[2].readiness().Ready })
	if err := writers[1].store.TransferLeadershipTo("w1"); err != nil { // or it is w3 that leads
		_ = writers[2].store.TransferLeadershipTo("w1")
	}
	await(t, "a write", func() bool {
		return writers[1].do("POST", "/v1/accounts", `{}`, auth(serverKey)).status == http.StatusCreated
	})
	for _, w := range writers[1:] { // w1 may lead for a moment, and stamps nothing
		if stamp := time.Unix(w.store.Stats().Stamp, 0); time.Until(stamp) > time.Minute {
			t.Errorf("%s: the writer with the wrong clock took a write as the leader: it is stamped %s", w.cfg.Node.ID, stamp)
		}
	}
	for _, w := range writers {
		await(t, "a head at "+w.cfg.Node.ID, func() bool { return w.newestHead() != nil })
		if h := w.newestHead(); time.Until(time.Unix(h.AsOf, 0)) > time.Second {
			t.Errorf("%s: head %+v", w.cfg.Node.ID, h)
		}
	}
}

// TestAllClocksAreSetAlike: nobody loses the lead. Ahead, all goes on. Behind the last stamp, every write is refused at once, reads go
// on, and all is well when the clocks have caught up.
func TestAllClocksAreSetAlike(t *testing.T) {
	var writers []*testWriter
	all := &wrongClock{}
	for _, cfg := range testConfigs(t, 3) {
		cfg.Now = all.now
		writers = append(writers, startWriter(t, cfg))
	}
	for _, w := range writers {
		w.awaitReady()
	}
	leader, followers := roles(t, writers)
	acc := leader.account()
	all.set(10 * time.Minute)
	for _, w := range writers {
		await(t, w.cfg.Node.ID+" ready at the new time", func() bool {
			return w.readiness().Ready && time.Until(time.Unix(w.newestHead().AsOf, 0)) > 9*time.Minute
		})
		if r := w.api("PATCH", "/v1/accounts/"+acc, `{"attributes": {"n": "1"}}`); r.status != http.StatusOK {
			t.Errorf("a write at %s = %d %s", w.cfg.Node.ID, r.status, r.text)
		}
	}
	all.set(0)
	for _, w := range []*testWriter{leader, followers[0]} {
		await(t, w.cfg.Node.ID+" refuses writes", func() bool {
			began := time.Now()
			r := w.api("PATCH", "/v1/accounts/"+acc, `{"attributes": {"n": "2"}}`)
			return r.status == http.StatusServiceUnavailable && r.slug() == "unavailable" && r.header.Get("Retry-After") != "" && time.Since(began) < proposeTimeout/2
		})
		if r := w.api("GET", "/v1/accounts/"+acc, ""); r.status != http.StatusOK {
			t.Errorf("a read at %s = %d %s", w.cfg.Node.ID, r.status, r.text)
		}
	}
	await(t, "the leader's reason in /readyz", func() bool {
		leader, _ := roles(t, writers)
		r := leader.readiness()
		return !r.Ready && slices.Contains(r.Reasons, reasonClock)
	})
	all.set(10 * time.Minute)
	await(t, "writes again", func() bool {
		return followers[0].api("PATCH", "/v1/accounts/"+acc, `{"attributes": {"n": "3"}}`).status == http.StatusOK
	})
	for _, w := range writers {
		if r := w.get("/metrics"); !strings.Contains(r.text, `latchkey_writer_hand_overs_total{reason="clock"} 0`) {
			t.Errorf("%s handed the lead over", w.cfg.Node.ID)
		}
	}
}

// TestClocksAreSetOneAfterTheOther to the same time, as by an operator's loop: the first of them is wrong for a moment, and nobody loses the lead.
func TestClocksAreSetOneAfterTheOther(t *testing.T) {
	writers, clocks := clockCluster(t)
	acc := writers[0].account()
	for i := range clocks {
		clocks[i].set(10 * time.Minute)
	}
	for _, w := range writers {
		await(t, w.cfg.Node.ID+" ready at the new time", func() bool {
			return w.readiness().Ready && time.Until(time.Unix(w.newestHead().AsOf, 0)) > 9*time.Minute
		})
		if r := w.api("PATCH", "/v1/accounts/"+acc, `{"attributes": {"n": "1"}}`); r.status != http.StatusOK {
			t.Errorf("a write at %s = %d %s", w.cfg.Node.ID, r.status, r.text)
		}
		if r := w.get("/metrics"); !strings.Contains(r.text, `latchkey_writer_hand_overs_total{reason="clock"} 0`) {
			t.Errorf("%s handed the lead over", w.cfg.Node.ID)
		}
	}
}
