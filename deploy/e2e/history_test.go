package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	judges "github.com/latchkey/latchkey/deploy/e2e/history"
	"github.com/latchkey/latchkey/deploy/system"
)

// TestHistories: clients link aliases, grant, revoke and read at random writers, and apps hop from edge to edge, while whoever leads is
// killed, frozen or hands over, and edges are killed. Some order of the operations explains every answer of the server API (I10), and
// no answer of an edge is older than was asked for, goes back, lies about its age, or holds what was not written (I6, I7, I8, I11).
//
// E2E_FOR is how long the clients work (default 8s), E2E_SEED what the choices are drawn from.
func TestHistories(t *testing.T) {
	lasts, seed := 8*time.Second, uint64(1)
	if text := os.Getenv("E2E_FOR"); text != "" {
		var err error
		if lasts, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	if text := os.Getenv("E2E_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	d := start(t, t.TempDir(), threeWriters...)
	lives := make([]atomic.Int64, len(d.info().Edges))
	clients := judges.NewClients(judges.Target{
		ServerKey: d.info().Environments["sandbox"].ServerKey,
		Transport: d.client.Transport,
		Writers: func() (urls []string) {
			for _, n := range d.info().Writers {
				urls = append(urls, n.URL)
			}
			return urls
		},
		Edges: func() (edges []judges.EdgeNode) {
			for i, n := range d.info().Edges {
				edges = append(edges, judges.EdgeNode{ID: n.ID, URL: n.URL, Life: int(lives[i].Load())})
			}
			return edges
		},
	}, seed)
	ctx, cancel := context.WithTimeout(t.Context(), lasts+2*patience)
	defer cancel()
	const few = 100
	var enough func()
	enough = func() { // on a busy machine clients get less done
		switch writes, checks := clients.Answers.Counts(); {
		case writes >= few && checks >= few:
			cancel()
		case ctx.Err() == nil:
			time.AfterFunc(time.Second, enough)
		}
	}
	time.AfterFunc(lasts, enough)
	done := make(chan struct{})
	go func() {
		defer close(done)
		clients.Run(ctx, 8, 4)
	}()
	lot := rand.New(rand.NewPCG(seed, 0))
	did := map[string]int{}
	for n := lot.IntN(3); ctx.Err() == nil; n++ { // in turn, so that a short run has each
		select {
		case <-ctx.Done():
			continue
		case <-time.After(time.Duration(500+lot.IntN(1000)) * time.Millisecond):
		}
		switch n % 4 {
		case 0:
			did["leaders killed"]++
			d.kill(d.leader())
		case 1:
			did["leaders frozen"]++
			frozen := d.leader()
			d.signal(syscall.SIGSTOP, frozen)
			<-time.After(time.Duration(1500+lot.IntN(1500)) * time.Millisecond) // longer than an election takes
			d.signal(syscall.SIGCONT, frozen)
		case 2:
			did["hand-overs"]++
			d.transfer(d.leader())
		case 3:
			did["edges killed"]++
			edge := lot.IntN(len(lives))
			lives[edge].Add(1)
			d.kill(d.info().Edges[edge])
		}
	}
	<-done
	page := filepath.Join(os.TempDir(), fmt.Sprintf("latchkey-history-%d.html", seed))
	verdict, err := clients.Operations.Check(max(2*time.Minute, lasts), page)
	if err != nil {
		t.Errorf("the server API: %v", err)
	}
	for i, v := range clients.Answers.Check(0) {
		if i == 10 {
			t.Error("and more")
			break
		}
		t.Errorf("an edge: %s", v)
	}
	for _, s := range clients.Strange() {
		t.Errorf("strange: %s", s)
	}
	writes, checks := clients.Answers.Counts()
	if verdict.Operations < few || checks < few {
		t.Errorf("only %s and %d checks: that shows nothing", verdict, checks)
	}
	t.Logf("%s; %d writes and %d checks of sessions; %v", verdict, writes, checks, did)
}

// transfer has the leader hand over, which it may refuse where another change is under way.
func (d *dev) transfer(leader system.Node) {
	d.t.Helper()
	config := filepath.Join(d.dir, "config", leader.ID+".yaml")
	if out, err := exec.Command(filepath.Join(bin, "latchkey-writer"), "transfer", "--config", config).CombinedOutput(); err != nil {
		d.t.Logf("transfer from %s: %v: %s", leader.ID, err, out)
	}
}
