package replica_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/latchkey/latchkey/edge/internal/replica"
)

// openUnproven opens a replica whose proof does not begin: what it says is what any edge says in the first moment after its start.
func openUnproven(t *testing.T, dir string) *replica.Replica {
	t.Helper()
	r, err := replica.OpenUnproven(replica.Config{Dir: dir, Rules: rules})
	if err != nil {
		t.Fatalf("Open(%s): %v", dir, err)
	}
	return r
}

func write(t *testing.T, path string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// TestAnOlderCopyIsNotBelievedBeforeTheProof is I13 in the first second after a start: an inner page that was changed while nobody had the file open, such
// that it leads to an older copy of a page, whose records have right checksums, gives no answer, although nothing has been proven yet.
func TestAnOlderCopyIsNotBelievedBeforeTheProof(t *testing.T) {
	dir, w := used(t)
	original := takeImage(t, dir)
	content := original[filepath.Base(dataFile(t, dir))]
	records := w.Records()
	tried := 0
	for _, at := range replica.ChildPointers(content) {
		for _, older := range replica.OlderCopies(content, at) {
			if tried++; tried%3 != 0 {
				continue // each costs a file; a third shows as much
			}
			copied := original.restore(t)
			write(t, dataFile(t, copied), int64(at), binary.NativeEndian.AppendUint64(nil, older))
			r := openUnproven(t, copied)
			honest(t, r, records, fmt.Sprintf("child pointer at %d leads to %d", at, older))
			_ = r.Close() // it may have been given up
		}
	}
	if tried < 60 {
		t.Errorf("%d older copies tried: the file has too little of a past to show anything", tried)
	}
}

// TestADamagedStructureIsFoundAtTheStart: a bit flipped in a meta page or a freelist while nobody had the file open. bbolt goes back to the older of its meta
// pages without a word, and writes over what a freelist calls free; here the replica is the writers' state or nothing (I6, I7, I13), also after the next batch.
func TestADamagedStructureIsFoundAtTheStart(t *testing.T) {
	dir, w := used(t)
	original := takeImage(t, dir)
	content := original[filepath.Base(dataFile(t, dir))]
	before, records := w.Position(), w.Records()
	for i := range 40 {
		w.Put(account(i*10, 2000+i))
	}
	batch, after := mustBatch(t, w, before.N), w.Position()
	noticed := 0
	for _, part := range replica.Structures(content) {
		part[1] = min(part[1], part[0]+100) // of a freelist the first ids say as much as all
		for bit := part[0] * 8; bit < part[1]*8; bit += 13 {
			copied := original.restore(t)
			flip(t, dataFile(t, copied), int64(bit))
			r := open(t, copied)
			what := fmt.Sprintf("bit %d", bit)
			damaged := honest(t, r, records, what)
			if head := r.Head(); head.Epoch != 0 && head.Position != before {
				t.Fatalf("%s: Head() = %+v, want %+v or none", what, head, before)
			}
			if err := r.Apply(after, batch.Changes); err != nil {
				damaged = true
			} else {
				damaged = honest(t, r, w.Records(), what+", after a batch") || damaged
			}
			if damaged {
				noticed++
			}
			_ = r.Close() // it may have been given up
		}
	}
	if noticed == 0 {
		t.Error("no damage was noticed")
	}
}

// TestALostCURRENTIsNoLostReplica: CURRENT is a small file that a disk may lose. What it named is found and proven before it answers; nothing usable is deleted.
func TestALostCURRENTIsNoLostReplica(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"gone":                    os.Remove,
		"empty":                   func(path string) error { return os.Truncate(path, 0) },
		"garbage":                 func(path string) error { return os.WriteFile(path, []byte("\x00\xff/.."), 0o600) },
		"names what is not there": func(path string) error { return os.WriteFile(path, []byte("replica-9-9-build-1.db\n"), 0o600) },
		"names another file":      func(path string) error { return os.WriteFile(path, []byte("FLOOR\n"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWriter(t, 50)
			dir := t.TempDir()
			r := open(t, dir)
			bootstrap(t, r, w)
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			if err := spoil(filepath.Join(dir, "CURRENT")); err != nil {
				t.Fatal(err)
			}
			r = openUnproven(t, dir)
			if x, err := r.Read(); err == nil {
				x.Close()
				t.Error("answered before the file was proven")
			}
			if !r.Doubted() {
				t.Error("Doubted() = false while nothing is answered")
			}
			_ = r.Close()
			for range 2 { // the next start finds its name again
				r = open(t, dir)
				waitProven(t, r)
				same(t, r, w)
				if err := r.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := os.Stat(filepath.Join(dir, "CURRENT")); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAfterDamageFoundAtTheStartNothingOlderIsTaken is I7: also a file that cannot even be opened leaves a revision below which no snapshot is adopted; and one that
// was built and not adopted, because the process was killed, is not what the next process begins with.
func TestAfterDamageFoundAtTheStartNothingOlderIsTaken(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, path string){
		"one meta page":     func(t *testing.T, path string) { write(t, path, 20, []byte{0xff}) },
		"both meta pages":   func(t *testing.T, path string) { write(t, path, 0, bytes.Repeat([]byte{0xff}, 2*4096)) },
		"the file is empty": func(t *testing.T, path string) { _ = os.Truncate(path, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWriter(t, 50)
			body, older, _, err := w.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			w.Put(account(1, 1))
			dir := t.TempDir()
			r := open(t, dir)
			bootstrap(t, r, w)
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			spoil(t, dataFile(t, dir))
			r = open(t, dir)
			defer r.Close()
			if _, _, _, err := r.Lookup(account(1, 0).Env, account(1, 0).Kind, account(1, 0).Key); err == nil {
				t.Error("the damage was not noticed")
			}
			if r.Damages() != 1 {
				t.Errorf("Damages() = %d, want 1", r.Damages())
			}
			c, err := r.Build(t.Context(), older, bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			killed := open(t, takeImage(t, dir).restore(t))
			if head := killed.Head(); head.Epoch != 0 {
				t.Errorf("killed before %s was adopted, the next process serves it", head.Revision())
			}
			_ = killed.Close()
			if err := r.Adopt(c); err == nil {
				t.Errorf("Adopt of %s after %s was served: no error", older.Revision(), w.Position().Revision())
			}
			c.Discard()
			bootstrap(t, r, w)
			same(t, r, w)
		})
	}
}
