package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	bolt "go.etcd.io/bbolt"

	"github.com/latchkey/latchkey/deploy/system"
)

// row is one row of a node's database, as its own reads find it.
type row struct{ bucket, key, value string }

func (r row) has(text string) bool {
	return strings.Contains(r.key, text) || strings.Contains(r.value, text)
}

// liveRows returns all rows of a node's database: what its reads find, which free pages and older files are not. The process is stopped meanwhile, so that the copy
// is one that a crash could have left: bbolt never writes over a page that its newest root leads to.
func (d *dev) liveRows(n system.Node) (rows []row) {
	d.t.Helper()
	files, err := filepath.Glob(filepath.Join(d.dir, n.ID, "*.db"))
	if err != nil {
		d.t.Fatal(err)
	}
	inner, err := filepath.Glob(filepath.Join(d.dir, n.ID, "replica", "*.db"))
	if files = append(files, inner...); err != nil || len(files) != 1 {
		d.t.Fatalf("%s has the databases %v, %v, want one", n.ID, files, err)
	}
	d.signal(syscall.SIGSTOP, n)
	content, err := os.ReadFile(files[0])
	d.signal(syscall.SIGCONT, n)
	path := filepath.Join(d.t.TempDir(), "copy.db")
	if err = errors.Join(err, os.WriteFile(path, content, 0o600)); err != nil {
		d.t.Fatal(err)
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err == nil {
		err = db.View(func(tx *bolt.Tx) error {
			return tx.ForEach(func(name []byte, bucket *bolt.Bucket) error {
				return bucket.ForEach(func(k, v []byte) error {
					rows = append(rows, row{string(name), string(k), string(v)})
					return nil
				})
			})
		})
		err = errors.Join(err, db.Close())
	}
	if err != nil {
		d.t.Fatalf("rows of %s: %v", n.ID, err)
	}
	return rows
}

// erasure is what shows that an erasure deletes: it finds what is kept of a person in the rows of every node before, and looks for the same afterwards.
type erasure struct {
	*dev
	ids    []string
	sealed map[string]bool // the texts of the person as writers keep them
}

// beforeErasure finds what every node has of the accounts. Each text is sealed with a nonce of its own, so that its bytes stand for this text alone.
func (d *dev) beforeErasure(texts int, ids ...string) *erasure {
	d.t.Helper()
	e := &erasure{d, ids, map[string]bool{}}
	for at, n := range d.info().Writers {
		sealed := 0
		for _, r := range d.liveRows(n) {
			if r.bucket == "personal" && e.names(r) {
				if sealed++; at > 0 && !e.sealed[r.value] {
					d.t.Errorf("%s has another text than %s", n.ID, d.info().Writers[0].ID)
				}
				e.sealed[r.value] = true
			}
		}
		if sealed != texts || len(e.sealed) != texts {
			d.t.Errorf("before the erasure %s has %d texts of the person, and %d different ones are known, want %d", n.ID, sealed, len(e.sealed), texts)
		}
	}
	for _, n := range d.info().Edges {
		for _, id := range ids {
			found := false
			for _, r := range d.liveRows(n) {
				found = found || r.has(id)
			}
			if !found {
				d.t.Errorf("before the erasure %s has nothing of %s", n.ID, id)
			}
		}
	}
	// Where the texts travel they are found too, so that this look finds them: raft/ has them until its log is trimmed, and the journal never.
	if in := e.filesWithTexts(); in["raft"] == 0 || in["journal"] != 0 {
		d.t.Errorf("files with a text of the person, by folder: %v, want some of raft/ and none of journal/", in)
	}
	return e
}

func (e *erasure) names(r row) bool {
	for _, id := range e.ids {
		if r.has(id) {
			return true
		}
	}
	return false
}

// keptOfErased are the buckets of a writer that may name an erased account: the tombstone, the audit trail, what providers said of its purchases, what makes a repeated
// request harmless for a day, changes for as long, and links to it, which lead nowhere.
var keptOfErased = map[string]bool{"erased": true, "erased_names": true, "events": true, "event_order": true, "subjects": true, "purchases": true, "links": true, "identities": true,
	"named": true, "idempotency": true, "changes": true, "link_tokens": true, "due": true}

// gone: no row of a node has a text of the person, and none but those of keptOfErased names them. What reads do not find may be on the disks for longer: sealed bytes in free
// pages of state.db, in raft/ and in snapshots/. docs/operations.md lists these, and for how long.
func (e *erasure) gone() {
	e.t.Helper()
	for _, n := range e.nodes() {
		edge := strings.HasPrefix(n.ID, "e")
		e.eventually(n.ID+" has nothing of the person in its rows", patience, func() error {
			for _, r := range e.liveRows(n) {
				for text := range e.sealed {
					if r.has(text) {
						return fmt.Errorf("bucket %s has a text of the person under %q", r.bucket, r.key)
					}
				}
				if e.names(r) && (edge || !keptOfErased[r.bucket]) {
					return fmt.Errorf("bucket %s names the person: %q", r.bucket, r.key)
				}
			}
			return nil
		})
	}
	if in := e.filesWithTexts(); in["journal"] != 0 {
		e.t.Errorf("%d files of journals have a text of the person", in["journal"])
	}
}

// filesWithTexts counts the writers' files that have one of the sealed texts, by the folder that they are in.
func (e *erasure) filesWithTexts() map[string]int {
	e.t.Helper()
	found := map[string]int{}
	for _, n := range e.info().Writers {
		root := filepath.Join(e.dir, n.ID)
		eachFile(e.t, root, func(path string, texts [][]byte) {
			for text := range e.sealed {
				if !slices.ContainsFunc(texts, func(part []byte) bool { return bytes.Contains(part, []byte(text)) }) {
					continue
				}
				inside, err := filepath.Rel(root, path)
				if err != nil {
					e.t.Fatal(err)
				}
				found[strings.Split(filepath.ToSlash(inside), "/")[0]]++
				return
			}
		})
	}
	return found
}
