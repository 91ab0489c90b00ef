package store

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// checkKept decodes what readers share anew: nobody may have changed it.
func checkKept(t testing.TB, f *fsm) {
	t.Helper()
	compare := func(row []byte, kept, anew any) {
		t.Helper()
		if err := entitlement.Decode(row, anew); err != nil || !reflect.DeepEqual(kept, anew) {
			t.Fatalf("somebody changed what readers share:\n%+v\nin the state it is\n%+v, %v", kept, anew, err)
		}
	}
	for _, r := range keptIn(&f.decodedRows.accounts) {
		compare(valueOf(r.row), r.value, &entitlement.Account{})
	}
	for _, r := range keptIn(&f.decodedRows.policies) {
		compare(valueOf(r.row), r.value, &entitlement.Policy{})
	}
	for _, r := range keptIn(&f.decodedRows.details) {
		compare(r.row, r.value, &accountRow{})
	}
	for _, r := range keptIn(&f.decodedRows.purchases) {
		compare(r.row, r.value, &purchaseRow{})
	}
}

// valueOf is a record's value behind its checksum.
func valueOf(stored []byte) []byte {
	empty := replication.Record{}.Stored()
	return stored[len(empty):]
}

func keptIn[T any](c *decodedRows[T]) []*decodedRow[T] {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append(slices.Collect(maps.Values(c.young)), slices.Collect(maps.Values(c.old))...)
}

// What is kept decoded counts for its own bytes alone, and is bounded.
func TestAKeptRowCountsForItsOwnBytesAlone(t *testing.T) {
	var kept decodedRows[string]
	decoded := 0
	get := func(key, row string) string {
		t.Helper()
		buffer := []byte(row)
		v, err := kept.get([]byte(key), buffer, func(row []byte, into *string) error {
			decoded++
			*into = "decoded " + string(row)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		clear(buffer) // the page of the state file is another's after the transaction
		return *v
	}
	for i, step := range []struct {
		name, key, row string
		decoded        int
	}{
		{"a row that nobody asked for is decoded", "a", "1", 1},
		{"the same bytes again are not", "a", "1", 1},
		{"another key is another row", "b", "1", 2},
		{"other bytes under a key are decoded", "a", "2", 3},
		{"and those that it had before are decoded again", "a", "1", 4},
		{"the other key is still known", "b", "1", 4},
		{"an empty row is one too", "c", "", 5},
		{"again", "c", "", 5},
	} {
		if got := get(step.key, step.row); got != "decoded "+step.row || decoded != step.decoded {
			t.Fatalf("step %d, %s: got %q after %d decodings, want %q after %d", i, step.name, got, decoded, "decoded "+step.row, step.decoded)
		}
	}
	if _, err := kept.get([]byte("d"), []byte("damaged"), func([]byte, *string) error { return replication.ErrCorrupt }); !errors.Is(err, replication.ErrCorrupt) {
		t.Errorf("a row that does not decode: %v", err)
	}
	if get("d", "damaged"); decoded != 6 {
		t.Errorf("a row that did not decode was kept")
	}
	large := string(bytes.Repeat([]byte("x"), 64<<10))
	for i := range 5 * maxDecodedBytes / len(large) {
		get(fmt.Sprint("large ", i), large)
		if get("b", "1"); decoded != 7+i {
			t.Fatalf("after %d large rows one that is asked for all the time was decoded again", i+1)
		}
		size := 0
		for _, r := range keptIn(&kept) {
			size += len(r.row)
		}
		if size > 2*maxDecodedBytes+2*len(large) {
			t.Fatalf("%d bytes of rows are kept, want %d at most", size, 2*maxDecodedBytes)
		}
	}
}

// A reader gets what its own transaction has, whatever others were given before.
func TestEveryReaderGetsTheRowsOfItsOwnState(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(create("acc_1"))
	see := func(r *Reader) string {
		t.Helper()
		d, ok, err := r.AccountDetail(sandbox, "acc_1")
		if !ok || err != nil {
			t.Fatalf("AccountDetail = %t, %v", ok, err)
		}
		seen := fmt.Sprintf("%d aliases, tester %t", len(d.Aliases), d.Account.Tester)
		for _, p := range d.Purchases {
			seen += fmt.Sprintf(", %s %d", p.ID, p.Evidence.Objects[0].At/1e9)
		}
		return seen
	}
	yes := true
	const first = "0 aliases, tester false"
	m.read(func(before *Reader) error {
		if got := see(before); got != first {
			t.Errorf("at first: %s", got)
		}
		for i, step := range []struct {
			c    Command
			want string
		}{
			{record(event("evt_1", subscription("sub_1", 1, entitlement.Active, "acc_1"))), "0 aliases, tester false, stripe:sub_1 1"},
			{NewCommand(TypePatch, sandbox, "", &PatchAccount{Account: "acc_1", Tester: &yes}), "0 aliases, tester true, stripe:sub_1 1"},
			{record(event("evt_2", subscription("sub_1", 2, entitlement.Active, "acc_1"))), "0 aliases, tester true, stripe:sub_1 2"},
			{NewCommand(TypeAddAlias, sandbox, "", &AddAlias{Account: "acc_1", Alias: customer("cus_1")}), "1 aliases, tester true, stripe:sub_1 2"},
		} {
			if r := m.apply(step.c); r.Rejection != nil {
				t.Fatalf("step %d: %+v", i, r.Rejection)
			}
			m.read(func(after *Reader) error {
				for range 2 {
					if got := see(after); got != step.want {
						t.Errorf("step %d: %s, want %s", i, got, step.want)
					}
				}
				return nil
			})
			if got := see(before); got != first {
				t.Errorf("step %d, in a transaction from before: %s, want %s", i, got, first)
			}
		}
		return nil
	})
	m.check()
}
