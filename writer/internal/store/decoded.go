package store

import (
	"bytes"
	"sync"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// keptRows keeps what reads begin with as it was last decoded: the state's row, the API keys that were used, of which an operator makes few, and what was asked for
// lately of accounts. Each counts only for the very bytes that it was decoded from, so that none is ever older than the state that is read.
type keptRows struct {
	last      atomic.Pointer[decodedState]
	keys      sync.Map                         // SHA-256 of the key -> *decodedKey
	accounts  decodedRows[entitlement.Account] // by key of the bucket records
	policies  decodedRows[entitlement.Policy]  // by key of the bucket records
	details   decodedRows[accountRow]          // by key of the bucket accounts
	purchases decodedRows[purchaseRow]         // by key of the bucket purchases
}

type decodedState struct {
	row []byte
	st  state
}

type decodedKey struct {
	row []byte
	key APIKey
}

func (c *keptRows) state(row []byte, tx *bolt.Tx) (state, error) {
	if last := c.last.Load(); last != nil && row != nil && bytes.Equal(last.row, row) {
		return last.st, nil
	}
	st, err := stateOf(tx)
	if err == nil {
		c.last.Store(&decodedState{bytes.Clone(row), st})
	}
	return st, err
}

// maxDecodedBytes is how much of one bucket's rows is kept decoded, and as much again of what was asked for before those: some thousand accounts that are asked for
// again and again, in a few megabytes.
const maxDecodedBytes = 2 << 20

// decodedRows keeps rows of one bucket decoded. Its values are shared by all who read: nobody may change them. The zero value is empty.
type decodedRows[T any] struct {
	mu    sync.Mutex
	young map[string]*decodedRow[T] // by the row's key
	old   map[string]*decodedRow[T] // young as it was when it was full: what nobody asks for meanwhile goes
	size  int                       // of the rows in young
}

type decodedRow[T any] struct {
	row   []byte
	value *T
}

// get returns what the row under a key means; decode says what a row that is not known does, and may keep parts of it.
func (c *decodedRows[T]) get(key, row []byte, decode func(row []byte, into *T) error) (*T, error) {
	c.mu.Lock()
	known, young := c.young[string(key)]
	if !young {
		known = c.old[string(key)]
	}
	c.mu.Unlock()
	if known == nil || !bytes.Equal(known.row, row) {
		known, young = &decodedRow[T]{row: bytes.Clone(row), value: new(T)}, false
		if err := decode(known.row, known.value); err != nil {
			return nil, err
		}
	}
	if !young {
		c.keep(string(key), known)
	}
	return known.value, nil
}

func (c *decodedRows[T]) keep(key string, r *decodedRow[T]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.young == nil || c.size > maxDecodedBytes {
		c.young, c.old, c.size = map[string]*decodedRow[T]{}, c.young, 0
	}
	c.young[key] = r
	c.size += len(r.row)
}
