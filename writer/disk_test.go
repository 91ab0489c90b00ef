package writer

import (
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/room"
	"github.com/latchkey/latchkey/replication"
)

// What is shown here: before a disk is full, writes are refused and reads go on; one full disk of three changes nothing for anybody, whoever leads.

// testDisk is a disk with as much room as a test says.
type testDisk struct{ free atomic.Int64 }

func newTestDisk(free int64) *testDisk {
	d := &testDisk{}
	d.free.Store(free)
	return d
}

func (d *testDisk) stat(string) (free, size int64, err error) { return d.free.Load(), 100 << 30, nil }

func TestWhoTakesTheLead(t *testing.T) {
	at := func(applied uint64, low bool) vitals { return vitals{Applied: applied, Low: low} }
	tests := []struct {
		name     string
		low      bool // this writer, one of voters
		voters   int
		peers    map[string]vitals
		badClock string
		reason   string
		want     string
		room     bool
	}{
		{"alone, with room", false, 1, nil, "", "", "", true},
		{"alone, without", true, 1, nil, "", reasonDisk, "", false},
		{"one of three is low: the most advanced other", true, 3, map[string]vitals{"w2": at(7, false), "w3": at(9, false)}, "", reasonDisk, "w3", true},
		{"a follower is low", false, 3, map[string]vitals{"w2": at(7, true), "w3": at(9, false)}, "", "", "w3", true},
		{"two of three are low: the one with room leads, but nothing is written", true, 3, map[string]vitals{"w2": at(9, true), "w3": at(7, false)}, "", reasonDisk, "w3", false},
		{"all are low: nobody is better", true, 3, map[string]vitals{"w2": at(9, true), "w3": at(9, true)}, "", reasonDisk, "", false},
		{"one is low and one does not answer: those with room are no majority", true, 3, map[string]vitals{"w2": at(9, false)}, "", reasonDisk, "w2", false},
		{"one does not answer, nobody is low", false, 3, map[string]vitals{"w2": at(9, false)}, "", "", "w2", true},
		{"nobody answers, nobody is low", false, 3, nil, "", "", "", true},
		{"never to a wrong clock", true, 3, map[string]vitals{"w2": at(7, false), "w3": at(9, false)}, "w3", reasonDisk, "w2", true},
		{"for a clock, rather with room", false, 3, map[string]vitals{"w2": at(9, true), "w3": at(7, false)}, "", reasonClock, "w3", true},
		{"for a clock, also without room", false, 3, map[string]vitals{"w2": at(7, true), "w3": at(9, true)}, "", reasonClock, "w3", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			good := map[string]bool{"w2": true, "w3": true}
			delete(good, tt.badClock)
			if got := successor(tt.peers, good, tt.reason); got != tt.want {
				t.Errorf("successor = %q, want %q", got, tt.want)
			}
			if got := roomFor(tt.voters, tt.low, tt.peers); got != tt.room {
				t.Errorf("roomFor = %t, want %t", got, tt.room)
			}
		})
	}
}

// diskCluster starts n writers, each with a disk of its own.
func diskCluster(t *testing.T, n int) (writers []*testWriter, disks []*testDisk) {
	t.Helper()
	for _, cfg := range testConfigs(t, n) {
		d := newTestDisk(50 << 30)
		cfg.statFS = d.stat
		disks = append(disks, d)
		writers = append(writers, startWriter(t, cfg))
	}
	for _, w := range writers {
		w.awaitReady()
	}
	return writers, disks
}

func hasReason(w *testWriter, reason string) bool {
	return slices.Contains(w.readiness().Reasons, reason)
}

// TestALeaderWithoutRoomHandsOver under load: every write is acknowledged, and the lead stays where there is room.
func TestALeaderWithoutRoomHandsOver(t *testing.T) {
	writers, disks := diskCluster(t, 3)
	leader, followers := roles(t, writers)
	acc := leader.account()
	var load sync.WaitGroup
	stop := make(chan struct{})
	for _, w := range writers {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if r, _, err := w.stripePatiently(event(unique("evt_"), "customer.subscription.created", subscription(unique("sub_"), acc, "price_pro"))); err != nil || r.status != http.StatusOK {
					t.Errorf("a write at %s = %d %s, %v", w.cfg.Node.ID, r.status, r.text, err)
					return
				}
			}
		})
	}
	disks[slices.Index(writers, leader)].free.Store(3 << 29) // of a reserve of 2 GiB
	await(t, "another leader", func() bool { return followers[0].store.IsLeader() || followers[1].store.IsLeader() })
	await(t, "the reason in /readyz", func() bool { return leader.readiness().Role == roleFollower && hasReason(leader, reasonDisk) })
	next := leadStaysElsewhere(t, writers, leader)
	await(t, "the new leader is ready", func() bool { return next.readiness().Ready })
	close(stop)
	load.Wait()
	sameState(t, writers) // the follower without room still takes part
}

// TestDisksOfAMajorityAreNearlyFull: every write is refused at once at every node, every read goes on, and all is well by itself when there is
// room again.
func TestDisksOfAMajorityAreNearlyFull(t *testing.T) {
	for _, n := range []int{1, 3} {
		writers, disks := diskCluster(t, n)
		acc := writers[0].account()
		for _, d := range disks[:n/2+1] {
			d.free.Store(1 << 20)
		}
		for i, w := range writers {
			await(t, "writes are refused at "+w.cfg.Node.ID+" until there is room", func() bool {
				r := w.stripe(event(unique("evt_"), "customer.subscription.created", subscription(unique("sub_"), acc, "price_pro")))
				return r.status == http.StatusServiceUnavailable && r.slug() == "unavailable" && r.header.Get("Retry-After") == "10"
			})
			if r := w.api("GET", "/v1/accounts/"+acc, ""); r.status != http.StatusOK {
				t.Errorf("a read at %s = %d %s", w.cfg.Node.ID, r.status, r.text)
			}
			await(t, "what "+w.cfg.Node.ID+" says of its own disk", func() bool { // it looks once a second
				full := i < n/2+1
				return w.DiskStatus().Low == full && hasReason(w, reasonDisk) == full && (!full || w.get("/readyz").status == http.StatusServiceUnavailable)
			})
		}
		for _, d := range disks {
			d.free.Store(50 << 30)
		}
		for _, w := range writers {
			await(t, "writes again at "+w.cfg.Node.ID, func() bool {
				return w.stripe(event(unique("evt_"), "customer.subscription.created", subscription(unique("sub_"), acc, "price_pro"))).status == http.StatusOK
			})
			await(t, "ready again", func() bool { return w.readiness().Ready })
		}
		for _, w := range writers {
			w.stop()
		}
	}
}

// TestNoSnapshotsAreBuiltOnAFullDisk: an older one is served for as long as an edge can go on from it.
func TestNoSnapshotsAreBuiltOnAFullDisk(t *testing.T) {
	writers, disks := diskCluster(t, 1)
	w := writers[0]
	get := func() reply { return w.internal("GET", replication.SnapshotPath, "", nil) }
	disks[0].free.Store(1 << 20)
	await(t, "low", func() bool { return w.disk.full.Load() })
	if r := get(); r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" {
		t.Errorf("a snapshot without room = %d %s", r.status, r.text)
	}
	disks[0].free.Store(50 << 30)
	await(t, "room", func() bool { return !w.disk.full.Load() })
	first := get()
	if first.status != http.StatusOK {
		t.Fatalf("a snapshot = %d %s", first.status, first.text)
	}
	w.account()
	w.spool.mu.Lock()
	w.spool.current.built = time.Now().Add(-snapshotUnchanged) // old by any measure
	w.spool.mu.Unlock()
	disks[0].free.Store(1 << 20)
	await(t, "low", func() bool { return w.DiskStatus().Low })
	if r := get(); r.status != http.StatusOK || r.header.Get("ETag") != first.header.Get("ETag") {
		t.Errorf("the older snapshot = %d %s", r.status, r.header.Get("ETag"))
	}
}

// TestARealDiskNearlyFull fills a small file system, where one can be made; elsewhere the same is played with a disk that a test tells its room.
func TestARealDiskNearlyFull(t *testing.T) {
	cfg := testConfigs(t, 1)[0]
	const size, reserve = 256 << 20, 64 << 20
	cfg.Node.DiskReserveBytes = reserve
	mount := filepath.Join(filepath.Dir(cfg.Node.DataDir), "disk")
	if err := os.Mkdir(mount, 0o700); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(mount, "filler")
	var fill, empty func() error
	if err := mountTmpfs(mount, size); err == nil {
		t.Cleanup(func() {
			if err := unmount(mount); err != nil {
				t.Error(err)
			}
		})
		cfg.Node.DataDir = filepath.Join(mount, "w1")
		fill = func() error {
			free, _, err := room.Disk(mount)
			if err != nil {
				return err
			}
			return os.WriteFile(filler, make([]byte, free-reserve/2), 0o600)
		}
		empty = func() error { return os.Remove(filler) }
	} else {
		t.Logf("%s: %v; played instead", runtime.GOOS, err)
		d := newTestDisk(size)
		cfg.statFS = d.stat
		fill = func() error { d.free.Store(reserve / 2); return nil }
		empty = func() error { d.free.Store(size); return nil }
	}
	w := startWriter(t, cfg)
	w.awaitReady()
	acc := w.account()
	if err := fill(); err != nil {
		t.Fatal(err)
	}
	write := func() int { return w.api("PATCH", "/v1/accounts/"+acc, `{"attributes": {"n": "1"}}`).status }
	await(t, "writes are refused", func() bool { return write() == http.StatusServiceUnavailable })
	if r := w.api("GET", "/v1/accounts/"+acc, ""); r.status != http.StatusOK {
		t.Errorf("a read = %d %s", r.status, r.text)
	}
	if s := w.DiskStatus(); !s.Low || s.FreeBytes >= reserve || !hasReason(w, reasonDisk) {
		t.Errorf("disk %+v, /readyz %+v", s, w.readiness())
	}
	if err := empty(); err != nil {
		t.Fatal(err)
	}
	await(t, "writes again", func() bool { return write() == http.StatusOK })
}
