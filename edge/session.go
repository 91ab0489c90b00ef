package edge

import (
	"crypto/sha256"
	"errors"
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/latchkey/latchkey/edge/internal/replica"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
)

// session is what a verified session token says. It is immutable.
type session struct {
	env       entitlement.Environment
	account   entitlement.AccountID
	device    string
	issuedAt  int64
	expiresAt int64
	floor     replication.Revision // where the account existed
	signIn    bool                 // a token of an identity provider stands for it: signing a device out does not end it
	backend   bool                 // the customer's own backend asks, with an API key: nothing is signed
}

// maxSessionBytes bounds a session token: ours have about 500.
const maxSessionBytes = 4 << 10

// verifySession verifies text with the keys of whichever environment knows its key. The key decides the environment, and the claims must
// agree. Errors: those of token.SessionVerifier, replica.ErrUnproven.
func (s *state) verifySession(text string, now int64) (*session, error) {
	err := error(token.ErrUnknownKey)
	for _, e := range s.envs {
		if e.unproven != nil {
			continue
		}
		var c token.SessionClaims
		c, err = e.sessions.Verify(text, time.Unix(now, 0))
		if errors.Is(err, token.ErrUnknownKey) {
			continue
		}
		if err != nil {
			return nil, err
		}
		floor, err := replication.ParseRevision(c.Revision)
		if err != nil {
			return nil, token.ErrMalformed
		}
		return &session{env: e.env, account: entitlement.AccountID(c.Subject), device: c.Device, issuedAt: c.IssuedAt, expiresAt: c.ExpiresAt, floor: floor}, nil
	}
	if s.unproven != nil {
		return nil, s.unproven // it may be a session of the environment whose keys are not known yet
	}
	return nil, err
}

// Sizes of the caches, in entries. A session takes about 400 bytes and costs a verified signature when it does not fit, an account with its newest
// token takes about 4 KB and costs as much as reading its record. All of them full, the process stays below the 128 MiB that an edge may take
// (edge_memory_1m in deploy/bench).
const (
	maxSessions = 49_152
	maxRefusals = 8_192
	maxAccounts = 8_192
)

// cache is a bounded map for many readers: two generations, of which the older one is dropped when the younger is full. What is used
// often moves over.
type cache[K comparable, V any] struct {
	limit  int
	seed   maphash.Seed
	shards [16]shard[K, V]
}

type shard[K comparable, V any] struct {
	mu         sync.RWMutex
	young, old map[K]V
}

func newCache[K comparable, V any](limit int) *cache[K, V] {
	return &cache[K, V]{limit: limit / len(cache[K, V]{}.shards) / 2, seed: maphash.MakeSeed()}
}

func (c *cache[K, V]) shard(k K) *shard[K, V] {
	return &c.shards[maphash.Comparable(c.seed, k)%uint64(len(c.shards))]
}

func (c *cache[K, V]) get(k K) (V, bool) {
	s := c.shard(k)
	s.mu.RLock()
	v, ok := s.young[k]
	var again bool
	if !ok {
		v, again = s.old[k]
	}
	s.mu.RUnlock()
	if again {
		c.put(k, v)
	}
	return v, ok || again
}

func (c *cache[K, V]) put(k K, v V) {
	s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.young == nil || len(s.young) >= c.limit {
		s.young, s.old = make(map[K]V, 64), s.young
	}
	s.young[k] = v
}

// sessionCache remembers what tokens were verified, and which were not, under one set of keys. Refusals have a map of their own, so that
// garbage from the outside pushes out no session of a user.
type sessionCache struct {
	good    *cache[sessionKey, *session]
	refused *cache[sessionKey, error]
	seed    maphash.Seed
	hot     [hotSessions]hotSession
}

// hotSessions is how many sessions are known by their text: those that ask again and again over a kept connection. To hash a token with SHA-256 takes a third of
// the time of a 304; to compare it takes none.
const hotSessions = 1024

// hotSession is the place of the sessions with one hash. Whose text is kept there asked twice without another one between: a crowd of which each asks once leaves nothing
// behind.
type hotSession struct {
	last  atomic.Uint64 // hash of the text that was seen last
	known atomic.Pointer[hotText]
}

type hotText struct {
	text string
	*session
}

// place is where text's session is, if it is one that is known by its text.
func (c *sessionCache) place(text string) (h *hotSession, hash uint64) {
	hash = maphash.String(c.seed, text)
	return &c.hot[hash%hotSessions], hash
}

// get returns the session of text, or nil.
func (h *hotSession) get(text string) *session {
	if k := h.known.Load(); k != nil && k.text == text {
		return k.session
	}
	return nil
}

// saw notes that text, which may be a view of a request's buffer, is of ses.
func (h *hotSession) saw(text string, hash uint64, ses *session) {
	if h.last.Swap(hash) == hash {
		h.known.Store(&hotText{strings.Clone(text), ses})
	}
}

// sessionKey stands for a session token: the SHA-256 of its text, because that is longer than all that it says, and what is refused may be
// thousands of bytes of garbage.
type sessionKey [sha256.Size]byte

func newSessionCache() *sessionCache {
	return &sessionCache{seed: maphash.MakeSeed(), good: newCache[sessionKey, *session](maxSessions), refused: newCache[sessionKey, error](maxRefusals)}
}

// begins reports whether text may be a session of an environment whose keys are known, or of one whose keys are not known yet.
func (s *state) begins(text string) bool {
	for _, e := range s.envs {
		if e.unproven != nil || e.sessions.Begins(text) {
			return true
		}
	}
	return false
}

// ended reports whether the session of the account does not count any more.
func (s *session) ended(k *known) bool {
	if s.signIn || s.backend {
		return s.issuedAt < k.sessionsFrom
	}
	return entitlement.SessionEnded(k.sessionsFrom, k.signedOut, s.account, s.device, s.issuedAt)
}

// at returns the session unless it has expired. Error: token.ErrExpired.
func (s *session) at(now int64) (*session, error) {
	if now >= s.expiresAt {
		return nil, token.ErrExpired
	}
	return s, nil
}

// session returns the session of text, which may be a view of the request's buffer. Errors: those of token.SessionVerifier.
func (s *state) session(text string, now int64) (*session, error) {
	if !s.begins(text) {
		return nil, token.ErrUnknownKey // before anything is hashed, parsed or remembered
	}
	hot, hash := s.cache.place(text)
	if ses := hot.get(text); ses != nil {
		return ses.at(now)
	}
	key := sessionKey(sha256.Sum256(unsafe.Slice(unsafe.StringData(text), len(text))))
	if ses, ok := s.cache.good.get(key); ok {
		hot.saw(text, hash, ses)
		return ses.at(now)
	}
	if err, ok := s.cache.refused.get(key); ok {
		return nil, err
	}
	ses, err := s.verifySession(text, now)
	if err == nil {
		s.cache.good.put(key, ses)
		return ses, nil
	}
	if !errors.Is(err, token.ErrNotYetValid) && !errors.Is(err, replica.ErrUnproven) { // those change with time
		s.cache.refused.put(key, err)
	}
	return nil, err
}
