package writer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// What is shown here: what happens at the limits of the page for operators ("Limits"), and that peers who are stuck cost no more than those allow (I18).

// TestABodyAtTheLimit of one MiB is read; one byte more is not.
func TestABodyAtTheLimit(t *testing.T) {
	w := oneWriter(t)
	for size, want := range map[int]int{maxWebhookBytes: http.StatusUnauthorized, maxWebhookBytes + 1: http.StatusRequestEntityTooLarge} {
		body := strings.Repeat("x", size)
		if r := w.do("POST", "/v1/webhooks/sandbox/stripe", body, signed([]byte(body), "whsec_wrong", time.Now())); r.status != want {
			t.Errorf("%d bytes with a wrong signature = %d %s, want %d", size, r.status, r.text, want)
		}
	}
}

// bigSnapshot puts a file of so many bytes into the place of the newest snapshot.
func bigSnapshot(t *testing.T, w *testWriter, size int64) {
	t.Helper()
	path := filepath.Join(w.spool.dir, "big")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	w.spool.mu.Lock()
	defer w.spool.mu.Unlock()
	w.spool.current = &spooled{path: path, manifest: replication.Manifest{Position: w.store.Position(), Size: size}, signed: "x", built: time.Now()}
}

// stuckRequest sends a request and reads nothing of the answer.
func stuckRequest(t *testing.T, w *testWriter, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", w.InternalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, w.InternalAddr()); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestStuckReaders: edges that take nothing of a snapshot hold the places that there are and no more memory, others are told when to come back, requests
// that wait for changes are bounded, and everything comes back when they are gone.
func TestStuckReaders(t *testing.T) {
	w := oneWriter(t)
	bigSnapshot(t, w, 64<<20)
	measure := func() (goroutines int, heap uint64) {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return runtime.NumGoroutine(), m.HeapAlloc
	}
	http.DefaultClient.CloseIdleConnections()
	goroutines, heap := measure()
	var stuck []net.Conn
	for range maxSnapshotReaders {
		stuck = append(stuck, stuckRequest(t, w, replication.SnapshotPath))
	}
	await(t, "all places taken", func() bool { return len(w.snapshotReaders) == maxSnapshotReaders })
	if r := w.internal("GET", replication.SnapshotPath, "", nil); r.status != http.StatusServiceUnavailable || r.slug() != "unavailable" || r.header.Get("Retry-After") == "" {
		t.Errorf("one edge more = %d %s", r.status, r.text)
	}
	const polls = 300
	at := w.store.Position()
	for range polls {
		stuck = append(stuck, stuckRequest(t, w, fmt.Sprintf("%s?epoch=%d&after=%d&wait=20", replication.ChangesPath, at.Epoch, at.N)))
	}
	await(t, "all requests wait", func() bool { return len(w.polls) == polls })
	if r := w.stripe(event(unique("evt_"), "customer.subscription.created", subscription(unique("sub_"), w.account(), "price_pro"))); r.status != http.StatusOK {
		t.Errorf("a message beside them = %d %s", r.status, r.text)
	}
	if _, now := measure(); now > heap+64<<20 {
		t.Errorf("the heap has grown from %d to %d bytes", heap, now)
	}
	for _, c := range stuck {
		c.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	await(t, "all places free again", func() bool { return len(w.snapshotReaders) == 0 && len(w.polls) == 0 })
	await(t, "the goroutines are gone", func() bool {
		http.DefaultClient.CloseIdleConnections()
		n, _ := measure()
		return n <= goroutines+5
	})
	if _, now := measure(); now > heap+16<<20 {
		t.Errorf("the heap has %d bytes when all are gone, %d before", now, heap)
	}
	if r := w.internal("GET", replication.SnapshotPath, "", nil); r.status != http.StatusOK {
		t.Errorf("a snapshot afterwards = %d", r.status)
	}
}

// TestAnEdgeThatHardlyReads is cut off when its time for the whole is over, however little it takes now and then.
func TestAnEdgeThatHardlyReads(t *testing.T) {
	done := make(chan error, 1)
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		b := &boundedWriter{rw, time.Now().Add(50 * time.Millisecond)}
		for piece := make([]byte, 1<<20); ; {
			if _, err := b.Write(piece); err != nil {
				done <- err
				return
			}
		}
	}))
	defer s.Close()
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("cut off with %v", err)
		}
	case <-time.After(awaitTimeout):
		t.Error("an edge that does not read is served for ever")
	}
}

// TestOneBuilderOfSnapshots: a crowd that finds none gets the same one.
func TestOneBuilderOfSnapshots(t *testing.T) {
	w := oneWriter(t)
	var crowd sync.WaitGroup
	for range 50 {
		crowd.Go(func() {
			s, err := w.spool.get(context.Background(), w.store.Position(), 0)
			if err != nil || s.manifest.N == 0 {
				t.Errorf("get: %+v, %v", s, err)
			}
		})
	}
	crowd.Wait()
	if w.spool.number != 1 {
		t.Errorf("%d snapshots were built for a crowd, want 1", w.spool.number)
	}
}

func TestRequestsForChangesAreBounded(t *testing.T) {
	w := oneWriter(t)
	for range maxPolls {
		w.polls <- struct{}{}
	}
	if r := w.internal("GET", replication.ChangesPath+"?epoch=1&after=0", "", nil); r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" {
		t.Errorf("one more = %d %s", r.status, r.text)
	}
	for range maxPolls {
		<-w.polls
	}
	if r := w.internal("GET", replication.ChangesPath+"?epoch=1&after=0", "", nil); r.status != http.StatusOK {
		t.Errorf("when they are gone = %d %s", r.status, r.text)
	}
}

func TestCommandsThatWaitForTheLeaderAreBounded(t *testing.T) {
	r := newRelay(nil) // nothing is passed on
	for range relayWaiting {
		r.waiting <- &passing{}
	}
	if _, err := r.propose(t.Context(), nil); !errors.Is(err, store.ErrBusy) {
		t.Errorf("one more: %v, want ErrBusy", err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	l := limitListener(loopback(t), 2)
	defer l.Close()
	accepted := make(chan net.Conn, 3)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	for range 3 { // the third waits in the kernel
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	first := <-accepted
	<-accepted
	if n := len(l.(*limitedListener).slots); n != 2 {
		t.Errorf("%d connections are open, want 2", n)
	}
	select {
	case <-accepted:
		t.Error("a third connection was accepted")
	default:
	}
	first.Close()
	first.Close() // twice frees one place
	<-accepted
	if n := len(l.(*limitedListener).slots); n != 2 {
		t.Errorf("%d connections are open, want 2", n)
	}
}

func TestWhatIsRememberedOfEdgesIsBounded(t *testing.T) {
	w := oneWriter(t)
	for i := range maxEdges + 10 {
		w.sawEdge(fmt.Sprint("e", i), replication.Revision{Epoch: 1, N: 1})
	}
	w.sawEdge("no such name, as it has spaces", replication.Revision{})
	if n := len(w.edges); n != maxEdges {
		t.Errorf("%d edges are remembered, want %d", n, maxEdges)
	}
	for after := range uint64(3 * maxFrames) {
		if _, err := w.frames.get(frameKey{epoch: 1, after: after}); err == nil && len(w.frames.calls) > maxFrames {
			t.Errorf("%d answers are kept, want %d at most", len(w.frames.calls), maxFrames)
		}
	}
}
