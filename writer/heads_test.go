package writer

import (
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkey/latchkey/replication"
)

// cutter stands before a listener until it is cut: then every connection ends and none is taken any more.
type cutter struct {
	front net.Listener
	mu    sync.Mutex
	open  []net.Conn
	cut   bool
	all   sync.WaitGroup
}

func newCutter(t *testing.T, behind string) *cutter {
	c := &cutter{front: loopback(t)}
	c.all.Go(func() {
		for {
			client, err := c.front.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", behind)
			if err != nil || !c.keep(client, server) {
				client.Close()
				continue
			}
			c.all.Go(func() { io.Copy(server, client); server.Close() })
			c.all.Go(func() { io.Copy(client, server); client.Close() })
		}
	})
	t.Cleanup(c.end)
	return c
}

func (c *cutter) keep(conns ...net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = append(c.open, conns...)
	return !c.cut
}

func (c *cutter) end() {
	c.front.Close()
	c.mu.Lock()
	c.cut = true
	for _, conn := range c.open {
		conn.Close()
	}
	c.mu.Unlock()
	c.all.Wait()
}

// TestACutOffWriterProvesNothingOfItself: a writer that the leader cannot reach does not learn of new writes. Whatever head it serves, every
// write that was acknowledged 2 s before its as_of is in it (I8).
// Heads go by the ticker that comes with another clock.
func TestHeadsGoByTheGivenTicker(t *testing.T) {
	cfg := testConfigs(t, 1)[0]
	ticks := make(chan time.Time)
	cfg.Tick = func(d time.Duration) (<-chan time.Time, func()) {
		if d != headInterval {
			t.Errorf("a ticker of %s", d)
		}
		return ticks, func() {}
	}
	base := time.Now()
	var leapt atomic.Int64
	cfg.Now = func() time.Time { return base.Add(time.Duration(leapt.Load())) }
	w := startWriter(t, cfg)
	await(t, "a first head", func() bool { return w.newestHead() != nil })
	leapt.Store(int64(100 * time.Hour)) // its certificate has ended by then
	ticks <- base
	await(t, "a head of now", func() bool { return w.newestHead().AsOf == base.Add(100*time.Hour).Unix() })
}

func TestACutOffWriterProvesNothingOfItself(t *testing.T) {
	t.Parallel() // it mostly waits
	configs := testConfigs(t, 3)
	voters := append([]VoterConfig{}, configs[0].Cluster.Voters...)
	ways := map[string]*cutter{}
	for i, v := range voters {
		ways[v.ID] = newCutter(t, v.Raft)
		voters[i].Raft = ways[v.ID].front.Addr().String()
	}
	var all []*testWriter
	for _, cfg := range configs {
		cfg.Cluster.Voters = voters
		all = append(all, startWriter(t, cfg))
	}
	for _, w := range all {
		w.awaitReady()
	}
	other, followers := roles(t, all)
	alone := followers[0]
	ways[alone.cfg.Node.ID].end()
	var revision replication.Revision
	acknowledged := time.Now()
	await(t, "a write that the writer does not have", func() bool {
		r := other.do("POST", "/v1/accounts", `{"aliases": [], "attributes": {}}`, auth(serverKey))
		if r.status != http.StatusCreated {
			return false
		}
		var err error
		if revision, err = replication.ParseRevision(r.json["revision"].(string)); err != nil {
			t.Fatal(err)
		}
		acknowledged = time.Now()
		return alone.store.Position().Revision().Compare(revision) < 0
	})
	verifier := replication.NewVerifier(alone.keys.roots, testCluster)
	heads := 0
	for deadline := acknowledged.Add(5 * time.Second); time.Now().Before(deadline); {
		res, err := http.Get("http://" + alone.InternalAddr().String() + replication.HeadPath)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode == http.StatusOK {
			h, err := verifier.Head(string(signed), 0)
			if err != nil {
				t.Fatal(err)
			}
			heads++
			if h.Revision().Compare(revision) < 0 && time.Unix(h.AsOf, 0).After(acknowledged.Add(2*time.Second)) {
				t.Fatalf("a head proves %s as of %d; %s had been acknowledged at %d", h.Revision(), h.AsOf, revision, acknowledged.Unix())
			}
		}
		<-time.After(50 * time.Millisecond)
	}
	if p := alone.store.Position().Revision(); p.Compare(revision) >= 0 {
		t.Errorf("the writer that was cut off is at %s: it was not", p)
	}
	if heads == 0 {
		t.Error("no head was looked at")
	}
}
