package replica

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"go.etcd.io/bbolt"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/fault"
	"github.com/latchkey/latchkey/replication"
)

const (
	// mapAhead is how much address space is reserved beyond the file, so that growing never has to remap, which would wait for all
	// readers. It costs nothing until it is used. A file that outgrows it is opened anew.
	mapAhead = 16 << 30
	// mapReserve is what one batch may add at most, with room for bbolt's own pages and copies.
	mapReserve = 256 << 20

	lockTimeout = 5 * time.Second
)

// positionKey holds the position and as_of. It sorts before every record's key, since environments are lower-case words.
var positionKey = []byte("\x00position")

// errOutgrown means that the file needs a larger mapping: open it again.
var errOutgrown = errors.New("file has outgrown its mapping")

// file is one bbolt file with all records at one position. Reading goes through view; writing has one caller at a time (Replica.writing,
// or the builder of a copy that nobody reads yet).
type file struct {
	path  string
	db    *bbolt.DB
	seals seals
	limit int64 // bytes that the mapping holds

	// known is the highest rules version that may be applied.
	known uint32
	now   func() time.Time // time.Now, or that of Config

	mu   sync.RWMutex
	live *view // nil when closed

	txid     int              // of the last commit: a lower one means that a meta page was lost
	head     replication.Head // what live holds; changed with live, under mu
	gen      uint64           // names the records that live holds: equal numbers, equal records
	savedAt  time.Time        // when as_of was last written
	saved    int64            // the as_of that was written then
	unsynced atomic.Bool      // commits since the last sync

	verified atomic.Bool // the whole state hash was recomputed in this process, or built here
	bad      atomic.Bool // damage was found; nothing of it is used any more
}

// view is one published read transaction. It lives until the next commit and its last reader are done.
type view struct {
	tree tree
	tx   *bbolt.Tx
	refs atomic.Int32
}

func (v *view) release() {
	if v.refs.Add(-1) == 0 {
		_ = v.tx.Rollback()
	}
}

// guard runs f such that a fault in the mapping (a truncated file, an unreadable sector) or a panic inside bbolt becomes
// replication.ErrCorrupt.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v: %w", p, replication.ErrCorrupt)
		}
	}()
	return f()
}

// openFile opens a file that holds a position, without looking at more than a few pages. Errors: replication.ErrCorrupt, replication.ErrNoData.
func openFile(path string, rules uint32) (*file, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	f := &file{path: path, known: rules, now: time.Now, limit: info.Size() + mapAhead}
	err = guard(func() error {
		f.db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout:      lockTimeout,
			NoSync:       true, // the writers have everything: what a power loss takes is pulled again, see guardFile
			NoStatistics: true,
			// The freelist is written with each commit: without it bbolt would read the whole file at open, in a goroutine of its own whose panic
			// on damage nothing could catch.
			NoFreelistSync:  false,
			FreelistType:    bbolt.FreelistMapType,
			InitialMmapSize: int(f.limit),
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open replica: %w", err)
	}
	if err := guard(func() error { return f.publish(generations.Add(1)) }); err != nil {
		f.abandon()
		return nil, fmt.Errorf("open replica: %w", err)
	}
	return f, nil
}

// intact checks what bbolt would pass over in silence. Error: replication.ErrCorrupt.
func (f *file) intact() error { return guard(func() error { return f.live.tree.metas() }) }

// generations numbers record states within this process, over all files.
var generations atomic.Uint64

// publish makes the newest committed state the one that readers get.
func (f *file) publish(gen uint64) error {
	tx, err := f.db.Begin(false)
	if err != nil {
		return err
	}
	v := &view{tx: tx}
	v.refs.Store(1)
	ok := false
	defer func() {
		if !ok {
			v.release()
		}
	}()
	if tx.ID() < f.txid {
		return fmt.Errorf("meta page lost: %w", replication.ErrCorrupt)
	}
	info := f.db.Info()
	if tx.Size() > f.limit {
		return errOutgrown
	}
	f.seals.grow(int(tx.Size()) / info.PageSize)
	v.tree = tree{
		// The mapping stays where it is while the transaction lives.
		data:     unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&info.Data))), tx.Size()),
		pageSize: info.PageSize,
		top:      uint64(tx.Cursor().Bucket().Root()),
		seals:    &f.seals,
	}
	if !f.verified.Load() {
		if v.tree.free, err = v.tree.readFree(tx.ID()); err != nil {
			return err
		}
	}
	stored, found, err := v.tree.get(positionKey)
	if err != nil {
		return err
	}
	if !found {
		return replication.ErrNoData
	}
	head, err := decodeHead(stored)
	if err != nil {
		return err
	}
	ok = true
	f.txid = tx.ID()
	f.mu.Lock()
	old := f.live
	f.live, f.head, f.gen = v, head, gen
	f.mu.Unlock()
	if old != nil {
		old.release()
	}
	return nil
}

// acquire returns the published view with its head and generation. The caller releases the view.
func (f *file) acquire() (*view, replication.Head, uint64, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.live == nil || f.bad.Load() {
		return nil, replication.Head{}, 0, replication.ErrNoData
	}
	f.live.refs.Add(1)
	return f.live, f.head, f.gen, nil
}

// Head returns what the file holds, or nothing once it is bad.
func (f *file) Head() replication.Head {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.bad.Load() {
		return replication.Head{}
	}
	return f.head
}

// row is one key's new stored bytes, nil to delete it.
type row struct {
	key    []byte
	stored []byte
}

// Apply implements replication.Moving.
func (f *file) Apply(to replication.Position, changes [][]byte) error {
	v, head, _, err := f.acquire()
	if err != nil {
		return err
	}
	defer v.release()
	if to.Rules > f.known {
		return fmt.Errorf("rules %d, this program knows %d: %w", to.Rules, f.known, replication.ErrRules)
	}
	var rows []row
	err = guard(func() error {
		rows, err = f.prepare(&v.tree, head.Position, to, changes)
		return err
	})
	if err != nil {
		return err
	}
	fault.Point("replica-apply")
	if err := f.commit(rows, replication.Head{Position: to, AsOf: head.AsOf}); err != nil {
		return err
	}
	fault.Point("replica-applied")
	return nil
}

// prepare computes what changes lead to and returns the rows to write, sorted by key, if that is exactly the position to.
// Nothing has been written then. Errors: replication.ErrDiverged, replication.ErrFrame, replication.ErrCorrupt.
func (f *file) prepare(t *tree, from, to replication.Position, changes [][]byte) ([]row, error) {
	chain, sum, n := from.Chain, from.StateHash, from.N
	newest := make(map[string]int, len(changes)) // key to index in rows: a batch may change a record twice
	hashes := make([]replication.Hash, 0, len(changes))
	rows := make([]row, 0, len(changes))
	for _, encoded := range changes {
		c, rest, err := replication.ParseChange(encoded)
		if err != nil {
			return nil, err
		}
		if len(rest) != 0 || c.N != n+1 || !c.Env.Valid() {
			return nil, fmt.Errorf("change %d after %d: %w", c.N, n, replication.ErrFrame)
		}
		n, chain = c.N, replication.NextChain(chain, encoded)
		key := c.DBKey()
		at, again := newest[string(key)]
		switch {
		case !again:
			old, found, err := t.get(key)
			if err != nil {
				return nil, err
			}
			if err := t.checkLeaf(key); err != nil {
				return nil, err
			}
			if found {
				r, err := replication.FromStored(c.Env, c.Kind, c.Key, old)
				if err != nil {
					return nil, err
				}
				sum = sum.Sub(r.Hash())
			}
			at = len(rows)
			newest[string(key)] = at
			rows, hashes = append(rows, row{key: key}), append(hashes, replication.Hash{})
		case rows[at].stored != nil:
			sum = sum.Sub(hashes[at])
		}
		if c.Value == nil {
			rows[at].stored = nil
			continue
		}
		hashes[at] = c.Record.Hash()
		rows[at].stored = c.Record.StoredWithHash(hashes[at])
		sum = sum.Add(hashes[at])
	}
	if fault.Planted("edge-skips-hash") {
		chain, sum = to.Chain, to.StateHash
	}
	if n != to.N || from.Epoch != to.Epoch || from.Cluster != to.Cluster || chain != to.Chain || sum != to.StateHash {
		return nil, fmt.Errorf("at revision %s: %w", to.Revision(), replication.ErrDiverged)
	}
	slices.SortFunc(rows, func(a, b row) int { return slices.Compare(a.key, b.key) })
	return rows, nil
}

// commit writes rows and head in one transaction and publishes it.
func (f *file) commit(rows []row, head replication.Head) error {
	err := guard(func() error {
		v := f.live // only the writer changes it, and the writer is here
		if v.tx.Size() > f.limit-mapReserve {
			return errOutgrown
		}
		keys := make([][]byte, 0, len(rows)+1)
		for _, r := range rows {
			keys = append(keys, r.key)
			if r.stored == nil {
				f.seals.freeAll() // deleting merges neighbours that are on nobody's path
			}
		}
		keys = append(keys, positionKey)
		// The rows' pages were checked when they were prepared. That of the position is copied, with the records that share it, and sealed anew: damage
		// there would be sealed as if it were right.
		if err := v.tree.checkLeaf(positionKey); err != nil {
			return err
		}
		for _, key := range keys {
			if err := v.tree.path(key, f.seals.free); err != nil {
				return err
			}
		}
		if err := f.write(rows, head); err != nil {
			return err
		}
		fault.Point("replica-committed")
		f.unsynced.Store(true)
		gen := f.gen
		if len(rows) > 0 {
			gen = generations.Add(1)
		}
		if err := f.publish(gen); err != nil {
			return err
		}
		for _, key := range keys {
			if err := f.live.tree.path(key, f.reseal); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		f.savedAt, f.saved = f.now(), head.AsOf
	}
	return err
}

// reseal seals a page that was just written and, below it, those without a seal: where a page was split, what went to its new neighbour is on nobody's
// path. A page that nobody has proven yet is left to the proof.
func (f *file) reseal(p page) {
	f.seals.set(p)
	if p.leaf {
		return
	}
	proven := f.verified.Load()
	for i := range p.count {
		_, _, _, child, err := p.element(i)
		if err != nil || !f.seals.open(child, proven) {
			continue
		}
		if below, err := f.live.tree.page(child); err == nil {
			f.seals.set(below)
		}
	}
}

func (f *file) write(rows []row, head replication.Head) error {
	tx, err := f.db.Begin(true)
	if err != nil {
		return err
	}
	done := false
	defer func() {
		if !done {
			_ = tx.Rollback()
		}
	}()
	if tx.ID() != f.txid+1 {
		return fmt.Errorf("meta page lost: %w", replication.ErrCorrupt)
	}
	b := tx.Bucket(bucketName)
	if b == nil {
		return errNoBucket
	}
	if fault.Planted("replica-drops-a-change") && head.N%5 == 0 {
		rows = nil
	}
	for _, r := range rows {
		if r.stored == nil {
			err = b.Delete(r.key)
		} else {
			err = b.Put(r.key, r.stored)
		}
		if err != nil {
			return err
		}
	}
	if err := b.Put(positionKey, encodeHead(head)); err != nil {
		return err
	}
	fault.Point("replica-commit")
	done = true // Commit rolls back by itself when it fails
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// Advance implements replication.Moving. The as_of in memory moves at once, that on the disk now and then: losing it makes us older, never
// newer.
func (f *file) Advance(h replication.Head) error {
	f.mu.Lock()
	if f.live == nil || f.bad.Load() {
		f.mu.Unlock()
		return replication.ErrNoData
	}
	f.head.AsOf = max(f.head.AsOf, h.AsOf)
	behind := time.Duration(f.head.AsOf-f.saved) * time.Second // it leaps when heads that came late are followed by one that did not
	f.mu.Unlock()
	if f.now().Sub(f.savedAt) < saveEvery && behind < saveEvery {
		return nil
	}
	return f.save()
}

// saveEvery is how far the as_of on the disk may be behind that in memory, and how old it may be, while the edge runs. A restart while cut off shortens grace by so much.
const saveEvery = 3 * time.Second

// save writes the head that is held in memory.
func (f *file) save() error {
	f.mu.RLock()
	head := f.head
	f.mu.RUnlock()
	return f.commit(nil, head)
}

// Discard implements replication.Copy: a copy that is not wanted is deleted.
func (f *file) Discard() {
	f.abandon()
	_ = os.Remove(f.path)
}

// abandon closes the file without waiting: damage may have left a lock inside bbolt that nobody will free.
func (f *file) abandon() {
	f.bad.Store(true)
	go func() { _ = f.close() }()
}

// close ends the published view, writes what is unsynced, and closes the file once the last reader is done.
func (f *file) close() error {
	f.mu.Lock()
	v := f.live
	f.live = nil
	f.mu.Unlock()
	if v != nil {
		v.release()
	}
	return guard(func() error {
		if f.db == nil {
			return nil
		}
		return f.db.Close()
	})
}

// sync makes what was committed survive a power loss.
func (f *file) sync() error {
	if !f.unsynced.Swap(false) {
		return nil
	}
	if err := f.db.Sync(); err != nil {
		f.unsynced.Store(true)
		return fmt.Errorf("sync replica: %w", err)
	}
	return nil
}

// verify recomputes the state hash over every record of the published view. stop ends it early. Error: replication.ErrCorrupt.
func (f *file) verify(stop func() error) error {
	v, head, _, err := f.acquire()
	if err != nil {
		return err
	}
	defer v.release()
	err = guard(func() error {
		var sum replication.Hash
		n := 0
		err := v.tree.each(f.seals.learn, func(key, stored []byte) error {
			if n++; n%1024 == 0 {
				if err := stop(); err != nil {
					return err
				}
			}
			if string(key) == string(positionKey) {
				return nil
			}
			env, kind, k, ok := replication.SplitDBKey(key)
			if !ok {
				return errPage
			}
			r, err := replication.FromStored(env, kind, k, stored)
			if err != nil {
				return err
			}
			sum = sum.Add(r.Hash())
			return nil
		})
		if err != nil {
			return err
		}
		if sum != head.StateHash {
			return fmt.Errorf("state hash is not that of %s: %w", head.Revision(), replication.ErrCorrupt)
		}
		return nil
	})
	if err == nil {
		f.verified.Store(true)
	}
	return err
}

// The position is kept as a record of its own, so that it has a checksum like all others.
const positionKind replication.Kind = "position"

type storedHead struct {
	Cluster   string           `cbor:"1,keyasint"`
	Epoch     uint64           `cbor:"2,keyasint"`
	N         uint64           `cbor:"3,keyasint"`
	Chain     replication.Hash `cbor:"4,keyasint"`
	StateHash replication.Hash `cbor:"5,keyasint"`
	Rules     uint32           `cbor:"6,keyasint"`
	AsOf      int64            `cbor:"7,keyasint,omitempty"`
}

func encodeHead(h replication.Head) []byte {
	value := entitlement.Encode(storedHead{h.Cluster, h.Epoch, h.N, h.Chain, h.StateHash, h.Rules, h.AsOf})
	return replication.Record{Kind: positionKind, Value: value}.Stored()
}

func decodeHead(stored []byte) (replication.Head, error) {
	r, err := replication.FromStored("", positionKind, "", stored)
	if err != nil {
		return replication.Head{}, err
	}
	var s storedHead
	if err := entitlement.Decode(r.Value, &s); err != nil {
		return replication.Head{}, fmt.Errorf("position: %w: %w", err, replication.ErrCorrupt)
	}
	return replication.Head{Position: replication.Position{Cluster: s.Cluster, Epoch: s.Epoch, N: s.N, Chain: s.Chain, StateHash: s.StateHash, Rules: s.Rules}, AsOf: s.AsOf}, nil
}
