package replica

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// TestNoPageIsLeftUnsealed: after any number of commits, splits included, every page that a search can come to is sealed as it is: a key that changes its bits
// on a page without a seal would hide its record from search, and nothing else would find it (I13).
func TestNoPageIsLeftUnsealed(t *testing.T) {
	r, err := OpenStill(Config{Dir: t.TempDir(), Rules: 1}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	random := rand.New(rand.NewPCG(1, 2))
	at := replication.Position{Cluster: "c", Epoch: 1, Rules: 1}
	var body bytes.Buffer
	info, err := replication.WriteSnapshot(&body, func(func(replication.Record) error) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.Build(t.Context(), replication.Manifest{Position: at, Size: info.Size, SHA256: info.SHA256}, &body)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Adopt(c); err != nil {
		t.Fatal(err)
	}
	values := map[string][]byte{}
	for step := range 400 {
		var changes [][]byte
		for range 1 + random.IntN(5) {
			rec := replication.Record{Env: entitlement.Sandbox, Kind: replication.KindAccount, Key: fmt.Sprint("acc_", random.IntN(2000)), Value: make([]byte, 20+random.IntN(400))}
			if old, ok := values[rec.Key]; ok {
				before := rec
				before.Value = old
				at.StateHash = at.StateHash.Sub(before.Hash())
			}
			values[rec.Key] = rec.Value
			at.N, at.StateHash = at.N+1, at.StateHash.Add(rec.Hash())
			encoded := replication.Change{N: at.N, Record: rec}.AppendBinary(nil)
			at.Chain = replication.NextChain(at.Chain, encoded)
			changes = append(changes, encoded)
		}
		if err := r.Apply(at, changes); err != nil {
			t.Fatal(err)
		}
		f := r.current.Load()
		pages, open := 0, 0
		visit := func(p page) {
			if cell := f.seals.cell(p.id); cell != nil {
				pages++
				if cell.Load() != sealOf(p) {
					open++
				}
			}
		}
		if err := f.live.tree.each(visit, func(_, _ []byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if open > 0 {
			t.Fatalf("after %d commits %d of %d pages are not sealed", step+1, open, pages)
		}
	}
}
