// Package replicationtest is a writer's side of replication inside one process, for tests and benchmarks: real records, real
// frames, real signatures, and none of the rest. It can be told to misbehave.
package replicationtest

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
)

// Address returns host:port on this machine where nobody listens, and where nobody else comes to listen or to speak from until a server does that is started there, or
// while it is away: others use 127.0.0.1, and the loopback network has sixteen million addresses.
func Address() (string, error) {
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+rand.N(254), rand.N(256), 1+rand.N(254)))
	if err != nil { // a system with one loopback address
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// Audience is what edge certificates and sessions of an environment are made for.
func Audience(env entitlement.Environment) string { return "com.example.test/" + string(env) }

// Writer is the writers' side. Make one with New.
type Writer struct {
	Cluster string
	Now     func() time.Time // the clock that signs; time.Now at first

	roots     token.Roots
	root      *ecdsa.PrivateKey
	issuer    *ecdsa.PrivateKey
	issuerJWT string
	position  *token.PositionSigner
	sessions  map[entitlement.Environment]*token.SessionSigner
	jwks      map[entitlement.Environment][]byte // of sessions

	snapshots sync.Mutex // over the two below, and taken before mu
	body      []byte
	snapshot  replication.Manifest

	mu          sync.Mutex
	records     map[string]replication.Record
	changes     [][]byte // from floor+1 on
	floor       uint64
	pos         replication.Position
	updated     chan struct{}
	revocations int64 // counter of the newest list

	frozen int64 // as_of that heads stand still at; 0: they do not
	down   bool
	spoil  func(path string, body []byte) []byte
	calls  map[string]int
}

// New makes a cluster of its own, at revision 1-0, without records.
func New(cluster string) (*Writer, error) {
	w := &Writer{Cluster: cluster, Now: time.Now, records: map[string]replication.Record{}, updated: make(chan struct{}), calls: map[string]int{},
		sessions: map[entitlement.Environment]*token.SessionSigner{}, jwks: map[entitlement.Environment][]byte{}, pos: replication.Position{Cluster: cluster, Epoch: 1, Rules: 1}}
	var keys [5]*ecdsa.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = token.GenerateKey(); err != nil {
			return nil, err
		}
	}
	w.root, w.issuer = keys[0], keys[1]
	w.roots = token.Roots{&w.root.PublicKey}
	now := time.Now().Unix()
	var err error
	w.issuerJWT, err = token.IssueCertificate(w.root, token.Certificate{Issuer: cluster, Subject: "issuer", Role: token.RoleIssuer, NotBefore: now - 86400*30, ExpiresAt: now + 86400*300, Key: &w.issuer.PublicKey})
	if err != nil {
		return nil, err
	}
	cert, err := token.IssueCertificate(w.issuer, token.Certificate{Issuer: cluster, Subject: "w1", Role: token.RoleWriter, NotBefore: now - 3600, ExpiresAt: now - 3600 + token.MaxLeafSeconds, Key: &keys[2].PublicKey})
	if err != nil {
		return nil, err
	}
	if w.position, err = token.NewPositionSigner(keys[2], []string{cert, w.issuerJWT}, w.roots, time.Unix(now, 0)); err != nil {
		return nil, err
	}
	for i, env := range entitlement.Environments {
		signer, err := token.NewSessionSigner(keys[3+i])
		if err != nil {
			return nil, err
		}
		w.sessions[env] = signer
		jwk, err := token.PublicJWK(&keys[3+i].PublicKey)
		if err != nil {
			return nil, err
		}
		text, err := json.Marshal(jwk)
		if err != nil {
			return nil, err
		}
		w.jwks[env] = text
		w.Put(replication.Record{Env: env, Kind: replication.KindKeys, Key: replication.CurrentKey, Value: entitlement.Encode(replication.SessionKeys{JWKs: [][]byte{text}})})
	}
	return w, nil
}

// Roots are the pinned keys.
func (w *Writer) Roots() token.Roots { return w.roots }

// RootKey is the private root, for tests that forge.
func (w *Writer) RootKey() *ecdsa.PrivateKey { return w.root }

// SignRevocations signs a list of revoked keys that is newer than all before: with the root's key, or with the issuing key.
func (w *Writer) SignRevocations(byRoot bool, kids ...string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.Now().Unix()
	w.revocations = max(w.revocations+1, now)
	c := token.RevocationClaims{Issuer: w.Cluster, IssuedAt: now, Counter: w.revocations, Revoked: kids}
	if byRoot {
		return token.SignRevocations(w.root, "", c)
	}
	return token.SignRevocations(w.issuer, w.issuerJWT, c)
}

// PutRevocations makes lists those of every environment. Their keys count until the given second.
func (w *Writer) PutRevocations(until int64, lists ...string) error {
	keys := replication.SessionKeys{}
	for _, l := range lists {
		c, byRoot, err := token.ReadRevocations(l, w.roots)
		if err != nil {
			return err
		}
		r := replication.RevocationList{Text: []byte(l), ByRoot: byRoot, Counter: c.Counter}
		for _, kid := range c.Revoked {
			r.Keys = append(r.Keys, replication.RevokedKey{ID: kid, Until: until})
		}
		keys.Revocations = append(keys.Revocations, r)
	}
	for _, env := range entitlement.Environments {
		keys.JWKs = [][]byte{w.jwks[env]}
		w.Put(replication.Record{Env: env, Kind: replication.KindKeys, Key: replication.CurrentKey, Value: entitlement.Encode(keys)})
	}
	return nil
}

// Put makes one change for each record; a nil Value deletes. It returns the position after the last.
func (w *Writer) Put(records ...replication.Record) replication.Position {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range records {
		w.pos.N++
		encoded := replication.Change{N: w.pos.N, Record: r}.AppendBinary(nil)
		w.pos.Chain = replication.NextChain(w.pos.Chain, encoded)
		key := string(r.DBKey())
		if old, ok := w.records[key]; ok {
			w.pos.StateHash = w.pos.StateHash.Sub(old.Hash())
		}
		delete(w.records, key)
		if r.Value != nil {
			w.records[key] = r
			w.pos.StateHash = w.pos.StateHash.Add(r.Hash())
		}
		w.changes = append(w.changes, encoded)
	}
	w.wake()
	return w.pos
}

// PutAccount makes a change of an account's record.
func (w *Writer) PutAccount(env entitlement.Environment, a entitlement.Account) replication.Position {
	return w.Put(replication.Record{Env: env, Kind: replication.KindAccount, Key: string(a.ID), Value: entitlement.Encode(a)})
}

// PutCatalog makes a change of an environment's catalog.
func (w *Writer) PutCatalog(env entitlement.Environment, c entitlement.Catalog) replication.Position {
	return w.Put(replication.Record{Env: env, Kind: replication.KindCatalog, Key: replication.CurrentKey, Value: entitlement.Encode(c)})
}

func (w *Writer) wake() {
	close(w.updated)
	w.updated = make(chan struct{})
}

// Position is that after the last change.
func (w *Writer) Position() replication.Position {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pos
}

// Records returns every record in key order.
func (w *Writer) Records() []replication.Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sorted()
}

func (w *Writer) sorted() []replication.Record {
	records := make([]replication.Record, 0, len(w.records))
	for _, key := range slices.Sorted(maps.Keys(w.records)) {
		records = append(records, w.records[key])
	}
	return records
}

// Trim drops all changes from the log: who needs them gets below-floor.
func (w *Writer) Trim() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changes, w.floor = nil, w.pos.N
}

// RaiseEpoch begins a new history with the present records.
func (w *Writer) RaiseEpoch() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pos.Epoch++
	w.changes, w.floor = nil, w.pos.N
	w.wake()
}

// Fork returns a writer of the same cluster, with the same keys, records and epoch: what each changes from now on, the other one knows nothing of. So do
// two restores of one backup whose epochs began in the same second.
func (w *Writer) Fork() *Writer {
	w.mu.Lock()
	defer w.mu.Unlock()
	return &Writer{Cluster: w.Cluster, Now: w.Now, roots: w.roots, root: w.root, issuer: w.issuer, issuerJWT: w.issuerJWT, position: w.position, sessions: w.sessions,
		records: maps.Clone(w.records), changes: slices.Clone(w.changes), floor: w.floor, pos: w.pos, updated: make(chan struct{}), revocations: w.revocations, calls: map[string]int{}}
}

// SetRules changes the rules version of all positions from now on.
func (w *Writer) SetRules(rules uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pos.Rules = rules
}

// SetDown makes the handler answer 503 to everything.
func (w *Writer) SetDown(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = down
	w.wake()
}

// Freeze makes heads stand still at asOf, as those of a writer that is cut off from its cluster; 0 ends it.
func (w *Writer) Freeze(asOf int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frozen = asOf
}

// Spoil changes what the handler sends. Nil ends it.
func (w *Writer) Spoil(f func(path string, body []byte) []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spoil = f
}

// Calls says how often a path was asked for.
func (w *Writer) Calls(path string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls[path]
}

// Sign signs any claims as this writer.
func (w *Writer) Sign(c token.PositionClaims) string {
	signed, err := w.position.AppendSign(nil, c)
	if err != nil {
		panic(err) // a test that outlives its certificates
	}
	return string(signed)
}

// SignedHead is a head as of now.
func (w *Writer) SignedHead() string {
	now := w.Now().Unix()
	w.mu.Lock()
	h := replication.Head{Position: w.pos, AsOf: cmp.Or(w.frozen, now)}
	w.mu.Unlock()
	return w.Sign(h.Claims(now))
}

// Batch is what /changes answers.
func (w *Writer) Batch(after uint64, limit int) (replication.Batch, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if after < w.floor {
		return replication.Batch{}, replication.ErrBelowFloor
	}
	if after > w.pos.N {
		return replication.Batch{}, replication.ErrOtherHistory
	}
	changes := w.changes[after-w.floor:]
	if len(changes) <= limit {
		return replication.Batch{Signed: w.Sign(w.pos.Claims(w.Now().Unix())), Changes: changes}, nil
	}
	return replication.Batch{}, fmt.Errorf("more than %d changes at once: positions in the middle are not kept", limit)
}

// Snapshot returns a snapshot's body and its signed manifest. It is made once for each position.
func (w *Writer) Snapshot() (body []byte, m replication.Manifest, signed string, err error) {
	w.snapshots.Lock()
	defer w.snapshots.Unlock()
	w.mu.Lock()
	if pos := w.pos; pos == w.snapshot.Position {
		w.mu.Unlock()
		return w.body, w.snapshot, w.Sign(w.snapshot.Claims(w.Now().Unix())), nil
	}
	records, pos := w.sorted(), w.pos
	w.mu.Unlock()
	var b bytes.Buffer
	info, err := replication.WriteSnapshot(&b, func(yield func(replication.Record) error) error {
		for _, r := range records {
			if err := yield(r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, m, "", err
	}
	m = replication.Manifest{Position: pos, Size: info.Size, SHA256: info.SHA256}
	w.body, w.snapshot = b.Bytes(), m
	return w.body, m, w.Sign(m.Claims(w.Now().Unix())), nil
}

// Session signs a session token for an account of env, good for an hour, at the present revision.
func (w *Writer) Session(env entitlement.Environment, account entitlement.AccountID, change ...func(*token.SessionClaims)) string {
	now := w.Now().Unix()
	c := token.SessionClaims{Issuer: w.Cluster, Audience: Audience(env), Environment: string(env), Subject: string(account), Device: "phone-1",
		IssuedAt: now, ExpiresAt: now + 3600, Revision: w.Position().Revision().String()}
	for _, f := range change {
		f(&c)
	}
	s, err := w.sessions[env].Sign(c)
	if err != nil {
		panic(err) // a test's mistake
	}
	return s
}

// ServeHTTP answers the internal API of a writer.
func (w *Writer) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	down := w.down
	w.calls[r.URL.Path]++
	w.mu.Unlock()
	if down {
		rw.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	spoiled := func(body []byte) []byte {
		w.mu.Lock()
		spoil := w.spoil
		w.mu.Unlock()
		if spoil == nil {
			return body
		}
		return spoil(r.URL.Path, body)
	}
	send := func(body []byte) { _, _ = rw.Write(spoiled(body)) }
	switch r.URL.Path {
	case replication.HeadPath:
		send([]byte(w.SignedHead()))
	case replication.ChangesPath:
		w.serveChanges(rw, r, send)
	case replication.SnapshotPath:
		body, m, signed, err := w.Snapshot()
		if err != nil {
			rw.WriteHeader(http.StatusInternalServerError)
			return
		}
		rw.Header().Set(replication.ManifestHeader, signed)
		rw.Header().Set("ETag", `"`+m.SHA256.String()+`"`)
		http.ServeContent(rw, r, "", time.Time{}, bytes.NewReader(spoiled(body)))
	case "/internal/v1/edge-certificates":
		w.serveCertificate(rw, r)
	default:
		rw.WriteHeader(http.StatusNotFound)
	}
}

func (w *Writer) serveChanges(rw http.ResponseWriter, r *http.Request, send func([]byte)) {
	q := r.URL.Query()
	number := func(name string) uint64 {
		n, _ := strconv.ParseUint(q.Get(name), 10, 64)
		return n
	}
	deadline := time.NewTimer(time.Duration(number("wait")) * time.Second)
	defer deadline.Stop()
	for over := false; ; {
		w.mu.Lock()
		pos, updated, down := w.pos, w.updated, w.down
		w.mu.Unlock()
		switch {
		case down:
			rw.WriteHeader(http.StatusServiceUnavailable)
			return
		case pos.Epoch != number("epoch"):
			rw.WriteHeader(http.StatusConflict)
			return
		}
		if over || pos.N > number("after") {
			break
		}
		select {
		case <-updated:
		case <-deadline.C:
			over = true
		case <-r.Context().Done():
			return
		}
	}
	batch, err := w.Batch(number("after"), int(number("limit")))
	switch {
	case errors.Is(err, replication.ErrBelowFloor):
		rw.WriteHeader(http.StatusGone)
	case errors.Is(err, replication.ErrOtherHistory):
		rw.WriteHeader(http.StatusConflict)
	case err != nil:
		rw.WriteHeader(http.StatusInternalServerError)
	default:
		send(batch.AppendBinary(nil))
	}
}

func (w *Writer) serveCertificate(rw http.ResponseWriter, r *http.Request) {
	var req struct {
		Node        string
		Environment entitlement.Environment
		Audience    string
		JWK         token.JWK
	}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil || req.Audience != Audience(req.Environment) {
		rw.WriteHeader(http.StatusBadRequest)
		return
	}
	certs, err := w.CertifyEdge(req.Node, req.Environment, req.JWK)
	if err != nil {
		rw.WriteHeader(http.StatusBadRequest)
		return
	}
	_ = json.NewEncoder(rw).Encode(map[string]any{"certificates": certs})
}

// CertifyEdge issues an edge's certificate, good for 72 h, and returns it with the issuer's.
func (w *Writer) CertifyEdge(node string, env entitlement.Environment, jwk token.JWK) ([]string, error) {
	key, err := jwk.PublicKey()
	if err != nil {
		return nil, err
	}
	now := w.Now().Unix()
	cert, err := token.IssueCertificate(w.issuer, token.Certificate{Issuer: w.Cluster, Subject: node, Role: token.RoleEdge, Audience: Audience(env), Environment: string(env),
		NotBefore: now - 60, ExpiresAt: now - 60 + token.MaxLeafSeconds, Key: key})
	return []string{cert, w.issuerJWT}, err
}
