package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/latchkey/latchkey/deploy/stripemsg"
)

// spentPastAKilledLeader: 200 coins are spent one by one at all writers, by more requests than there are coins, while whoever leads is killed. A request that is not answered, or
// with 503, is sent again to another writer under its Idempotency-Key. Each coin is spent once: no two spends were answered with one balance, nobody is refused while there is
// a coin, and a repeat of what was answered gets the same answer, byte for byte (R70).
func (d *dev) spentPastAKilledLeader() {
	d.t.Helper()
	const coins, spends, clients, killAfter = 200, 240, 8, 60
	a := d.account("sandbox")
	revision := ""
	for _, purchase := range []string{"coins-1", "coins-2"} {
		d.simulate("buy", map[string]any{"provider": "apple", "product": "com.example.coins_100", "account": a.id, "as": purchase})
		_, revision = d.showReceipt(a, 0, purchase)
	}
	d.balances(a, revision, coins)

	// send asks a writer to take a coin, under a key, until one answers.
	var retries, next atomic.Int64
	send := func(id, key string) (got answer, err error) {
		body := fmt.Appendf(nil, `{"credit": "coins", "amount": 1, "consumption_id": %q}`, id)
		header := http.Header{"Authorization": {"Bearer " + d.info().Environments["sandbox"].ServerKey}, "Content-Type": {"application/json"}, "Idempotency-Key": {key}}
		err = poll(patience, func() error {
			got, err = d.do(context.Background(), http.MethodPost, d.writer(int(next.Add(1)))+"/v1/accounts/"+a.id+"/consumptions", header.Clone(), body)
			if err == nil && got.status == http.StatusServiceUnavailable {
				err = fmt.Errorf("%s", got)
			}
			if err != nil {
				retries.Add(1)
			}
			return err
		})
		return got, err
	}
	var mu sync.Mutex
	var left []int64 // of every spend that was answered with 200
	var refused int
	var revisions []string
	enough := make(chan struct{})
	spend := func(n int) error {
		id, key := fmt.Sprintf("spend-%d", n), stripemsg.ID("key")
		got, err := send(id, key)
		if err != nil {
			return err
		}
		var took struct {
			Balance  int64
			Revision string
		}
		switch {
		case got.status == http.StatusOK:
			err = got.into(&took)
		case got.problem() != "insufficient-balance":
			err = fmt.Errorf("spend %d: %s", n, got)
		}
		if err != nil {
			return err
		}
		if got.status == http.StatusOK && n%4 == 0 {
			if again, err := send(id, key); err != nil || again.status != got.status || !bytes.Equal(again.body, got.body) {
				return fmt.Errorf("the repeat of spend %d: %s, %v, want %s", n, again, err, got)
			}
			var other struct{ Balance int64 }
			if again, err := send(id, stripemsg.ID("key")); err != nil || again.into(&other) != nil || other.Balance != took.Balance {
				return fmt.Errorf("spend %d under another key: %s, %v, want the balance %d", n, again, err, took.Balance)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if got.status != http.StatusOK {
			refused++
			return nil
		}
		revisions = append(revisions, took.Revision)
		if left = append(left, took.Balance); len(left) == killAfter {
			close(enough)
		}
		return nil
	}
	began := time.Now()
	var asked atomic.Int64
	var spending sync.WaitGroup
	for range clients {
		spending.Go(func() {
			for n := asked.Add(1); n <= spends; n = asked.Add(1) {
				if err := spend(int(n)); err != nil {
					d.t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { spending.Wait(); close(done) }()
	select {
	case <-enough:
		d.kill(d.leader())
	case <-done:
	}
	<-done
	slices.Sort(left)
	want := make([]int64, coins)
	for i := range want {
		want[i] = int64(i)
	}
	if !slices.Equal(left, want) || refused != spends-coins {
		d.t.Errorf("%d spends were answered with the balances %v and %d refused, want each of 0 to %d once and %d refused", len(left), left, refused, coins-1, spends-coins)
	}
	if retries.Load() == 0 {
		d.t.Error("no request had to be sent again: the kill was no test")
	}
	for _, of := range revisions {
		revision = newest(d.t, revision, of)
	}
	d.balances(a, revision, 0)
	d.t.Logf("%d coins spent in %s, %d requests sent again", coins, time.Since(began).Round(time.Millisecond), retries.Load())
}

// balances holds every writer and every edge to what is left of an account's coins.
func (d *dev) balances(a account, revision string, want int64) {
	d.t.Helper()
	for i, n := range d.nodes() {
		ask := func() (answer, error) {
			return d.api(a.env, i, http.MethodGet, "/v1/accounts/"+a.id+"/entitlements", nil)
		}
		if at := i - len(d.info().Writers); at >= 0 {
			ask = func() (answer, error) { return d.ask(a, at, "?wait=10&min_revision="+revision) }
		}
		var shown struct{ Balances map[string]json.Number }
		got, err := untilTaken(ask)
		if err == nil {
			err = got.into(&shown)
		}
		if n64, _ := shown.Balances["coins"].Int64(); err != nil || got.status != http.StatusOK || n64 != want {
			d.t.Errorf("%s says that %v coins are left, want %d: %s, %v", n.ID, shown.Balances["coins"], want, got, err)
		}
	}
}
