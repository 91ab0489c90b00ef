package edge

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/latchkey/latchkey/edge/internal/replica"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
)

// state is what answers need besides the account's record: per environment the catalog and the session keys, as of one generation of the
// replica. It is immutable but for its caches, and replaced when one of those records changes.
type state struct {
	generation atomic.Uint64 // of the records that it was last compared with
	envs       []*environment
	cache      *sessionCache
	unproven   error // that of any environment
}

// environment is one environment's part of the state.
type environment struct {
	env         entitlement.Environment
	key         *signingKey
	sessions    token.SessionVerifier
	catalog     *entitlement.CatalogIndex
	catalogText []byte // the records, to see whether they have changed
	keysText    []byte
	accounts    *cache[entitlement.AccountID, *known]

	// unproven is why the environment cannot be answered for yet: one of its records was not found in a file that is not proven. Without the
	// catalog everything would look unmapped, and a signed denial of what was paid for would follow.
	unproven error
}

func (s *state) environment(env entitlement.Environment) *environment {
	for _, e := range s.envs {
		if e.env == env {
			return e
		}
	}
	return nil
}

// stateOf returns the state that belongs to x's records. Errors: those of replica.Reading.Get.
func (e *Edge) stateOf(x *replica.Reading) (*state, error) {
	s := e.state.Load()
	if s != nil && s.generation.Load() == x.Generation {
		return s, nil
	}
	e.stateMu.Lock()
	defer e.stateMu.Unlock()
	old := e.state.Load()
	if old != nil && old.generation.Load() == x.Generation {
		return old, nil
	}
	fresh := &state{}
	same, sameKeys := old != nil, old != nil
	for i, k := range e.keys {
		var before *environment
		if old != nil {
			before = old.envs[i]
		}
		env, err := e.readEnvironment(x, k, before)
		if errors.Is(err, replica.ErrUnproven) {
			env, err = &environment{env: k.env, key: k, unproven: err}, nil
			fresh.unproven = env.unproven
		}
		if err != nil {
			return nil, err
		}
		same = same && env == before
		sameKeys = sameKeys && env.unproven == nil && bytes.Equal(env.keysText, before.keysText)
		fresh.envs = append(fresh.envs, env)
	}
	if same {
		// A request that still holds an older reading may set the generation back; the next one puts it right.
		old.generation.Store(x.Generation)
		return old, nil
	}
	if fresh.unproven == nil {
		fresh.generation.Store(x.Generation) // else it is looked at again by the next request
	}
	if fresh.cache = newSessionCache(); sameKeys {
		fresh.cache = old.cache
	}
	e.state.Store(fresh)
	return fresh, nil
}

// readEnvironment reads an environment's catalog and keys; it returns before if they are the same. No record of either is an empty one.
func (e *Edge) readEnvironment(x *replica.Reading, k *signingKey, before *environment) (*environment, error) {
	catalogText, _, err := x.Get(nil, k.env, replication.KindCatalog, replication.CurrentKey)
	if err != nil {
		return nil, err
	}
	keysText, _, err := x.Get(nil, k.env, replication.KindKeys, replication.CurrentKey)
	if err != nil {
		return nil, err
	}
	if before != nil && before.unproven == nil && bytes.Equal(catalogText, before.catalogText) && bytes.Equal(keysText, before.keysText) {
		return before, nil
	}
	env := &environment{env: k.env, key: k, catalogText: catalogText, keysText: keysText,
		sessions: token.SessionVerifier{Issuer: e.cfg.Node.Cluster, Audience: k.audience, Environment: string(k.env)},
		accounts: newCache[entitlement.AccountID, *known](maxAccounts)}
	var catalog entitlement.Catalog
	if len(catalogText) > 0 {
		if err := entitlement.Decode(catalogText, &catalog); err != nil {
			return nil, fmt.Errorf("catalog of %s: %w", k.env, err)
		}
	}
	env.catalog = entitlement.NewCatalogIndex(&catalog)
	if len(keysText) > 0 {
		keys, err := replication.DecodeSessionKeys(keysText)
		if err != nil {
			return nil, fmt.Errorf("keys of %s: %w", k.env, err)
		}
		for _, jwk := range keys {
			if err := env.sessions.AddKey(jwk); err != nil {
				return nil, fmt.Errorf("keys of %s: %w", k.env, err)
			}
		}
	}
	return env, nil
}

// known is an account as computed at one time. It is immutable but for what says how long it holds, and for the newest token.
type known struct {
	generation atomic.Uint64         // of the records that the value was last compared with
	value      uint64                // hash of the record's bytes
	owner      entitlement.AccountID // the survivor, where id was merged
	appleToken string

	sessionsFrom int64 // session tokens issued before are refused
	signedOut    []entitlement.SignedOut

	from, until int64 // the view holds from <= now < until
	view        entitlement.View
	digest      uint64 // of everything shown that does not move with as_of

	newest atomic.Pointer[signedToken]
}

// signedToken is a token that may be handed out again.
type signedToken struct {
	asOf     int64
	revision replication.Revision
	device   string
	exp      int64
	signer   *token.GraceSigner
	token    []byte

	body atomic.Pointer[sentBody] // of the last answer that handed the token out again
}

// sentBody is the JSON of an answer, which is the same for all in one second: it shows server_time.
type sentBody struct {
	now   int64
	bytes []byte
}

// keep offers a token to be handed out again. Of two that were signed at the same time the newer stays: after the answer with the newer
// one, none may come with the older (I7).
func (k *known) keep(fresh *signedToken) {
	for {
		old := k.newest.Load()
		if old != nil && (old.revision.Compare(fresh.revision) > 0 || old.revision == fresh.revision && old.asOf > fresh.asOf) {
			return
		}
		if k.newest.CompareAndSwap(old, fresh) {
			return
		}
	}
}

var valueSeed = maphash.MakeSeed()

// recordBytes is what nearly every account's record has room in.
const recordBytes = 2048

// records are buffers that records are read into: with each change of any account, all others are read again to see that they are the same.
var records = sync.Pool{New: func() any { return new([recordBytes]byte) }}

// account returns the account as of x at now. found is false when there is no record. Errors: those of replica.Reading.Get.
func (env *environment) account(x *replica.Reading, id entitlement.AccountID, now int64, urls entitlement.ManageURLs) (k *known, found bool, err error) {
	k, _ = env.accounts.get(id)
	if k != nil && k.generation.Load() == x.Generation && k.from <= now && now < k.until {
		return k, true, nil
	}
	room := records.Get().(*[recordBytes]byte)
	defer records.Put(room)
	value, pointer, found, err := env.read(x, room[:0], id)
	if err != nil || !found {
		return nil, false, err
	}
	sum := maphash.Bytes(valueSeed, value) + uint64(pointer.SessionsFrom)
	for _, o := range pointer.SignedOut {
		sum += maphash.String(valueSeed, o.Device) ^ uint64(o.From)
	}
	if k != nil && k.value == sum && k.from <= now && now < k.until {
		k.generation.Store(x.Generation)
		return k, true, nil
	}
	fresh := &known{value: sum, from: now}
	fresh.generation.Store(x.Generation)
	// What of the account nobody shows is not kept: the collector would look at it again and again.
	var account entitlement.Account
	if err := entitlement.Decode(value, &account); err != nil {
		return nil, false, fmt.Errorf("account record: %w", err)
	}
	fresh.owner, fresh.appleToken = account.ID, id.AppleAppAccountToken()
	if fresh.sessionsFrom, fresh.signedOut = account.SessionsFrom, account.SignedOut; pointer.Account != "" {
		fresh.sessionsFrom, fresh.signedOut = pointer.SessionsFrom, pointer.SignedOut
	}
	fresh.view = account.View(env.catalog, now, urls)
	if fresh.until = fresh.view.NextChangeAt; fresh.until == 0 {
		fresh.until = 1<<63 - 1
	}
	var shown [4096]byte
	h := sha256.Sum256(fresh.view.AppendJSON(append(append(shown[:0], id...), fresh.view.State()...), env.env, 0))
	fresh.digest = binary.BigEndian.Uint64(h[:])
	env.accounts.put(id, fresh)
	return fresh, true, nil
}

// read returns the bytes of the record that answers for id: its own or, for one that was merged, the survivor's, to which pointer leads.
func (env *environment) read(x *replica.Reading, dst []byte, id entitlement.AccountID) (value []byte, pointer entitlement.Pointer, found bool, err error) {
	if value, found, err = x.Get(dst, env.env, replication.KindAccount, string(id)); found || err != nil {
		return value, pointer, found, err
	}
	if value, found, err = x.Get(dst, env.env, replication.KindPointer, string(id)); !found || err != nil {
		return nil, pointer, false, err
	}
	if err := entitlement.Decode(value, &pointer); err != nil {
		return nil, pointer, false, fmt.Errorf("pointer: %w", err)
	}
	value, found, err = x.Get(dst, env.env, replication.KindAccount, string(pointer.Account))
	return value, pointer, found, err
}
