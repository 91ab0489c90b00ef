package writer

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/latchkey/latchkey/writer/internal/store"
)

// TestADivergedWriterStops: some bytes of one writer's state file change on the disk, where no checksum of a record covers them. Once that
// shows in its state, it stops and says why; the others, and what they answer, are untouched (I3).
func TestADivergedWriterStops(t *testing.T) {
	configs := testConfigs(t, 3)
	faults := map[string]chan error{}
	var all []*testWriter
	for _, cfg := range configs {
		fault := make(chan error, 1)
		faults[cfg.Node.ID] = fault
		cfg.fatal = func(err error) { fault <- err }
		all = append(all, startWriter(t, cfg))
	}
	for _, w := range all {
		w.awaitReady()
	}
	made := all[0].do("POST", "/v1/accounts", `{"aliases": [{"kind": "adapty_profile", "value": "canary-of-this-test"}]}`, auth(serverKey))
	if made.status != http.StatusCreated {
		t.Fatalf("POST accounts: %+v", made)
	}
	account := "/v1/accounts/" + made.json["account_id"].(string)
	for _, w := range all {
		if r := w.do("GET", account, "", auth(serverKey)); r.status != http.StatusOK {
			t.Fatalf("GET account at %s: %+v", w.cfg.Node.ID, r)
		}
	}
	_, followers := roles(t, all)
	odd := followers[0]
	rewrite(t, filepath.Join(odd.cfg.Node.DataDir, "state.db"), "canary-of-this-test", "cAnary-of-this-test")
	others := without(all, odd)
	for _, w := range others {
		await(t, "before the change shows the states are compared", func() bool { // who does not answer within a second is left out
			same, err := w.store.Compare(w.othersMarks(t.Context()))
			if err != nil {
				t.Fatalf("%s: before the change shows the states differ: %v", w.cfg.Node.ID, err)
			}
			return same > 0
		})
	}
	// The row is read and written again: from now on the sums differ.
	if r := others[0].do("POST", account+"/aliases", `{"kind": "adapty_profile", "value": "large"}`, auth(serverKey)); r.status != http.StatusOK {
		t.Fatalf("POST alias: %+v", r)
	}
	select {
	case err := <-faults[odd.cfg.Node.ID]:
		if !errors.Is(err, store.ErrDiverged) {
			t.Errorf("%s ended with %v, want %v", odd.cfg.Node.ID, err, store.ErrDiverged)
		}
	case <-time.After(awaitTimeout):
		t.Fatalf("%s goes on with a state of its own", odd.cfg.Node.ID)
	}
	if r := odd.do("GET", account, "", auth(serverKey)); r.status == http.StatusOK {
		t.Errorf("%s still answers: %+v", odd.cfg.Node.ID, r)
	}
	for _, w := range others {
		r := w.do("GET", account, "", auth(serverKey))
		if r.status != http.StatusOK || fmt.Sprint(r.json["aliases"]) != "[map[kind:adapty_profile value:canary-of-this-test] map[kind:adapty_profile value:large]]" {
			t.Errorf("GET account at %s: %+v, want what was written", w.cfg.Node.ID, r)
		}
		select {
		case err := <-faults[w.cfg.Node.ID]:
			t.Errorf("%s ended too: %v", w.cfg.Node.ID, err)
		default:
		}
	}
}

// TestWritersThatAgreeGoOn: whatever is written, each writer finds its state to be the others' at the newest index (I3).
func TestWritersThatAgreeGoOn(t *testing.T) {
	var all []*testWriter
	for _, cfg := range testConfigs(t, 3) {
		all = append(all, startWriter(t, cfg))
	}
	for _, w := range all {
		await(t, "ready", func() bool { return w.get("/readyz").status == http.StatusOK })
	}
	for n := range 6 {
		var index uint64
		await(t, "a write", func() bool {
			r := all[n%3].do("POST", "/v1/accounts", `{"aliases": [], "attributes": {}}`, auth(serverKey))
			index = all[n%3].store.Stats().AppliedIndex
			return r.status == http.StatusCreated
		})
		for _, w := range all {
			await(t, "the others at that index", func() bool {
				same, err := w.store.Compare(w.othersMarks(t.Context()))
				if err != nil {
					t.Fatalf("%s: %v", w.cfg.Node.ID, err)
				}
				return same >= index
			})
		}
	}
}

func without(all []*testWriter, odd *testWriter) (others []*testWriter) {
	for _, w := range all {
		if w != odd {
			others = append(others, w)
		}
	}
	return others
}

// rewrite replaces every occurrence of some bytes in a file that another process may have open.
func rewrite(t *testing.T, path, from, to string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	found := 0
	for at := 0; ; found++ {
		next := bytes.Index(content[at:], []byte(from))
		if next < 0 {
			break
		}
		at += next
		if _, err := file.WriteAt([]byte(to), int64(at)); err != nil {
			t.Fatal(err)
		}
		at += len(from)
	}
	if found == 0 {
		t.Fatalf("%s does not hold %q", path, from)
	}
}
