package replication_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/replication/natsd"
	"github.com/latchkey/latchkey/replication/replicationtest"
)

// The servers that replication works over: ours, inside a writer, and Debian's nats-server, which knows nothing of Latchkey. Each starts one at an
// address and returns what ends it.
var natsServers = map[string]func(t *testing.T, address string) (stop func()){
	"embedded": func(t *testing.T, address string) func() {
		s, err := natsd.Start(natsd.Config{Name: "w1", Cluster: "cluster", Listen: address, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return s.Close
	},
	"outside": func(t *testing.T, address string) func() {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("nats-server", "--addr", host, "--port", port)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // killed
		}
	},
}

// broadcast is a writer that publishes, and an edge that follows it, with a NATS server of some make between them.
type broadcast struct {
	t       *testing.T
	w       *replicationtest.Writer
	m       *memory
	f       *replication.Follower
	address string
	start   func(*testing.T, string) func()
	stop    func()
	speaker *replication.NATS
}

func newBroadcast(t *testing.T, start func(*testing.T, string) func()) *broadcast {
	t.Helper()
	address, err := replicationtest.Address()
	if err != nil {
		t.Fatal(err)
	}
	b := &broadcast{t: t, w: newWriter(t), m: newMemory(), address: address, start: start}
	b.stop = start(t, b.address)
	t.Cleanup(func() { b.stop() })
	connect := func(name string) *replication.NATS {
		n, err := replication.ConnectNATS([]string{"nats://" + b.address}, name, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.Close)
		return n
	}
	b.speaker = connect("w1")
	b.f = follow(t, b.w, b.m, connect("e1"), serve(t, b.w))
	b.m.at(t, b.w)
	ctx, cancel := context.WithCancel(context.Background())
	var heads sync.WaitGroup
	heads.Go(func() {
		every := time.NewTicker(100 * time.Millisecond) // as_of has whole seconds; more heads than one a second find a server sooner
		defer every.Stop()
		for {
			_ = b.speaker.PublishHead(b.w.SignedHead()) // lost is lost
			select {
			case <-ctx.Done():
				return
			case <-every.C:
			}
		}
	})
	t.Cleanup(heads.Wait)
	t.Cleanup(cancel)
	return b
}

// put makes a change and publishes it.
func (b *broadcast) put(value string) {
	b.t.Helper()
	after := b.w.Position().N
	b.w.Put(record("a", value))
	batch, err := b.w.Batch(after, 1000)
	if err != nil {
		b.t.Fatal(err)
	}
	_ = b.speaker.PublishBatch(batch.AppendBinary(nil)) // lost is lost
}

// comesBy goes on with changes until one of them came in the given way.
func (b *broadcast) comesBy(source string) {
	b.t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for i := 0; ; i++ {
		b.put(fmt.Sprint(source, i))
		b.m.at(b.t, b.w)
		if b.f.Status().Source == source {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("no change came by %s within 15 s: %+v", source, b.f.Status())
		}
		<-time.After(20 * time.Millisecond)
	}
}

// TestWithoutNATSThePullGoesOn is I12: the server dies, and another one without a memory takes its place; changes come meanwhile, as_of goes on, no snapshot is needed.
func TestWithoutNATSThePullGoesOn(t *testing.T) {
	for name, start := range natsServers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroadcast(t, start)
			b.comesBy(replication.FromNATS)
			b.stop()
			b.stop = func() {}
			b.comesBy(replication.FromPull)
			now := time.Now().Unix() + 1
			b.m.wait(t, "as_of of now without NATS", func(h replication.Head) bool { return h.AsOf >= now })
			b.stop = start(t, b.address)
			b.comesBy(replication.FromNATS)
			if b.m.built() != 1 {
				t.Errorf("%d snapshots, want 1", b.m.built())
			}
		})
	}
}

// TestALiarOnNATSChangesNothing is I12: somebody else publishes on the writers' subjects what is forged, altered, old or none of it. The replica is at none but the
// writers' positions, hears them all the same, and takes no snapshot for it.
func TestALiarOnNATSChangesNothing(t *testing.T) {
	stranger, err := replicationtest.New("cluster")
	if err != nil {
		t.Fatal(err)
	}
	stranger.Put(record("a", "forged"))
	forged, err := stranger.Batch(0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for name, start := range natsServers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroadcast(t, start)
			b.comesBy(replication.FromNATS)
			liar, err := nats.Connect("nats://" + b.address)
			if err != nil {
				t.Fatal(err)
			}
			defer liar.Close()
			old, err := b.w.Batch(0, 1000)
			if err != nil {
				t.Fatal(err)
			}
			oldHead := b.w.SignedHead()
			random := rand.New(rand.NewPCG(12, 12))
			been := map[replication.Position]bool{b.w.Position(): true}
			for i := range 200 {
				after := b.w.Position().N
				b.w.Put(record("a", fmt.Sprint(i)))
				been[b.w.Position()] = true
				genuine, err := b.w.Batch(after, 1000)
				if err != nil {
					t.Fatal(err)
				}
				frame := genuine.AppendBinary(nil)
				lies := [][2]string{
					{replication.SubjectChanges, string(alter(frame, random.IntN(len(frame))))},
					{replication.SubjectChanges, string(frame[:random.IntN(len(frame))])},
					{replication.SubjectChanges, string(forged.AppendBinary(nil))},
					{replication.SubjectChanges, string(old.AppendBinary(nil))},
					{replication.SubjectHead, stranger.SignedHead()},
					{replication.SubjectHead, oldHead},
					{replication.SubjectHead, "garbage"},
				}
				for range 3 {
					lie := lies[random.IntN(len(lies))]
					if err := liar.Publish(lie[0], []byte(lie[1])); err != nil {
						t.Fatal(err)
					}
				}
				if random.IntN(2) == 0 { // the truth, or nothing
					_ = b.speaker.PublishBatch(frame)
				}
				if p := b.m.Head().Position; !been[p] {
					t.Fatalf("the replica is at %+v, where the writer never was", p)
				}
			}
			if err := liar.Flush(); err != nil {
				t.Fatal(err)
			}
			b.m.at(t, b.w)
			b.comesBy(replication.FromNATS)
			if b.m.built() != 1 {
				t.Errorf("%d snapshots, want 1", b.m.built())
			}
		})
	}
}
