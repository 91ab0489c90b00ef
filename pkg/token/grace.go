package token

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/latchkey/latchkey/pkg/fault"
)

const (
	// GraceSeconds is how long a grace token lives at most, from the as_of that its edge can prove (I9).
	GraceSeconds = 24 * 3600

	// FreshSeconds is how long an app that is online may keep an answer, from the same as_of.
	FreshSeconds = 60

	// MaxNonceBytes bounds the nonce that an app may send. 64 base64url characters hold 384 bits, more than any nonce needs.
	MaxNonceBytes = 64
)

// ErrTooOld means that what the replica proves, or the edge's certificate, is so old that a token would have expired before it
// is signed. Answer without one.
var ErrTooOld = errors.New("no grace token can be signed on data this old")

// GraceClaims are the claims of a grace token: the signed copy of one answer. All times are Unix seconds, UTC.
type GraceClaims struct {
	Issuer      string // iss: the cluster's id. GraceSigner sets it.
	Audience    string // aud: the app. GraceSigner sets it.
	Subject     string // sub: the account's id
	Environment string // env: production or sandbox. GraceSigner sets it.

	IssuedAt   int64 // iat: the edge's now when it signed
	ExpiresAt  int64 // exp, exclusive: at most AsOf + GraceSeconds and the ends of the certificates. GraceSigner sets it.
	AsOf       int64 // as_of: every write acknowledged 2 s before it is in here (I8)
	FreshUntil int64 // fresh_until: AsOf + FreshSeconds. GraceSigner sets it.

	Revision string // rev: "<epoch>-<revision>", as in the answer
	Nonce    string // nonce: what the app sent; empty when it sent none
	Device   string // dev: the session's device; empty when it has none

	Balances     []Balance          // bal: names ascending and unique
	Entitlements []GraceEntitlement // ent: ids unique; those that are not active too, so that a denial is signed as well

	notBefore int64 // the later nbf of the certificates, in claims that Verify returned
}

// Balance is what an account has of one credit.
type Balance struct {
	Credit string
	Amount int64 // at most 2^53 - 1 either way, what JSON carries exactly
}

// GraceEntitlement is one entry of ent.
type GraceEntitlement struct {
	ID           string // the key that the app asks about
	Status       string // contract: pending trialing active billing_grace billing_retry paused expired refunded revoked
	Reason       string // why; empty when none is given
	Until        int64  // the end of the paid term, for display. Zero: never ends.
	OfflineUntil int64  // access without a newer answer ends here, exclusive. Zero: never allowed. GraceSigner cuts it to ExpiresAt.
	WillRenew    bool
	Plan         string // empty when the product has none
	Trial        bool
}

// Allows reports whether the token gives the entitlement at time t, which must be a time that the app trusts: the latest it has seen in
// any answer, advanced by the monotonic clock. It is the whole offline rule, for claims that Verify returned.
func (c *GraceClaims) Allows(entitlement string, t time.Time) bool {
	at := t.Unix()
	if at < c.notBefore || at >= c.ExpiresAt {
		return false
	}
	for i := range c.Entitlements {
		if e := &c.Entitlements[i]; e.ID == entitlement {
			return e.active() && at < e.OfflineUntil
		}
	}
	return false
}

func (e *GraceEntitlement) active() bool {
	return e.Status == "trialing" || e.Status == "active" || e.Status == "billing_grace"
}

// AppendGraceClaims appends c as the JSON object that a grace token carries. It checks nothing: use GraceSigner.
func AppendGraceClaims(dst []byte, c *GraceClaims) []byte {
	dst = append(dst, `{"iss":`...)
	dst = AppendString(dst, c.Issuer)
	dst = appendText(dst, "aud", c.Audience)
	dst = appendText(dst, "sub", c.Subject)
	dst = appendText(dst, "env", c.Environment)
	dst = appendInteger(dst, "iat", c.IssuedAt)
	dst = appendInteger(dst, "exp", c.ExpiresAt)
	dst = appendInteger(dst, "as_of", c.AsOf)
	dst = appendInteger(dst, "fresh_until", c.FreshUntil)
	dst = appendText(dst, "rev", c.Revision)
	if c.Nonce != "" {
		dst = appendText(dst, "nonce", c.Nonce)
	}
	if c.Device != "" {
		dst = appendText(dst, "dev", c.Device)
	}
	dst = append(dst, `,"bal":{`...)
	for i, b := range c.Balances {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendString(dst, b.Credit)
		dst = append(dst, ':')
		dst = strconv.AppendInt(dst, b.Amount, 10)
	}
	dst = append(dst, `},"ent":[`...)
	for i := range c.Entitlements {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendEntitlement(dst, &c.Entitlements[i])
	}
	return append(dst, `]}`...)
}

func appendEntitlement(dst []byte, e *GraceEntitlement) []byte {
	dst = append(dst, `{"id":`...)
	dst = AppendString(dst, e.ID)
	dst = appendText(dst, "status", e.Status)
	if e.Reason != "" {
		dst = appendText(dst, "reason", e.Reason)
	}
	if e.Until != 0 {
		dst = appendInteger(dst, "until", e.Until)
	}
	if e.OfflineUntil != 0 {
		dst = appendInteger(dst, "offline_until", e.OfflineUntil)
	}
	dst = appendBool(dst, "will_renew", e.WillRenew)
	if e.Plan != "" {
		dst = appendText(dst, "plan", e.Plan)
	}
	dst = appendBool(dst, "trial", e.Trial)
	return append(dst, '}')
}

// GraceSigner signs grace tokens with one edge's key. It is immutable and safe for concurrent use: an edge whose certificate is
// renewed makes a new one. The zero value signs nothing.
type GraceSigner struct {
	key    *ecdsa.PrivateKey
	signer rawSigner // of key
	header []byte    // encoded, with the dot
	certs  []string
	chain  Chain
	keyID  string
}

// NewGraceSigner returns a signer for key under certs, leaf first and issuer second, as a writer answered them. It verifies them up to
// roots at time at, so that an edge never hands out tokens that every app refuses. Errors: ErrChain (with the reason inside), ErrKey
// (the leaf certifies another key).
func NewGraceSigner(key *ecdsa.PrivateKey, certs []string, roots Roots, at time.Time) (*GraceSigner, error) {
	chain, err := VerifyChain(certs, RoleEdge, roots, at)
	if err != nil {
		return nil, fmt.Errorf("grace signer: %w", err)
	}
	header, keyID, err := chainHeader(key, typGrace, certs, nil, chain)
	if err != nil {
		return nil, fmt.Errorf("grace signer: %w", err)
	}
	signer, err := newRawSigner(key)
	if err != nil {
		return nil, fmt.Errorf("grace signer: %w", err)
	}
	return &GraceSigner{key: key, signer: signer, header: header, certs: slices.Clone(certs), chain: *chain, keyID: keyID}, nil
}

// WithRevocations returns a signer whose tokens carry the lists, those of Revocations.Lists, in place of the ones that s's carry. It costs a token its length
// and nothing else: the header is made here. Errors: ErrChain with ErrRevoked: apps that see the lists refuse what s signs.
func (s *GraceSigner) WithRevocations(r *Revocations) (*GraceSigner, error) {
	if err := s.RefusedBy(r); err != nil {
		return nil, err
	}
	return s.WithLists(r.Lists())
}

// RefusedBy says why whoever knows r refuses what s signs, or nil. Errors: ErrChain with ErrRevoked.
func (s *GraceSigner) RefusedBy(r *Revocations) error {
	if err := r.refuse(&s.chain); err != nil {
		return fmt.Errorf("grace signer: %w", err)
	}
	return nil
}

// WithLists is WithRevocations for a caller that chooses which lists tokens carry: one that names nothing which could still be believed only makes them longer.
func (s *GraceSigner) WithLists(lists []string) (*GraceSigner, error) {
	header, _, err := chainHeader(s.key, typGrace, s.certs, lists, &s.chain)
	if err != nil {
		return nil, fmt.Errorf("grace signer: %w", err)
	}
	next := *s
	next.header = header
	return &next, nil
}

// Certificate returns the leaf: what the signer may sign and until when.
func (s *GraceSigner) Certificate() Certificate { return s.chain.Leaf }

// KeyID returns the thumbprint of the signer's key.
func (s *GraceSigner) KeyID() string { return s.keyID }

// ExpiresAt returns the exp of every token signed on data as of asOf: min(asOf + 24 h, the ends of the certificates). It is also the
// upper bound of each offline_until.
func (s *GraceSigner) ExpiresAt(asOf int64) int64 {
	if fault.Planted("long-grace") {
		return asOf + 2*GraceSeconds
	}
	return min(asOf+GraceSeconds, s.chain.expiresAt())
}

// AppendSign appends the token of c to dst. It sets in c what no caller may choose: Issuer, Audience, Environment, FreshUntil, ExpiresAt,
// and cuts each OfflineUntil to ExpiresAt, so that the answer beside the token can show the same values. Where dst has room,
// it allocates nothing. Errors: ErrTooOld; ErrMalformed for claims that every app would refuse.
func (s *GraceSigner) AppendSign(dst []byte, c *GraceClaims) ([]byte, error) {
	c.Issuer, c.Audience, c.Environment = s.chain.Leaf.Issuer, s.chain.Leaf.Audience, s.chain.Leaf.Environment
	c.FreshUntil, c.ExpiresAt = c.AsOf+FreshSeconds, s.ExpiresAt(c.AsOf)
	for i := range c.Entitlements {
		c.Entitlements[i].OfflineUntil = min(c.Entitlements[i].OfflineUntil, c.ExpiresAt)
	}
	if c.IssuedAt >= c.ExpiresAt {
		return dst, ErrTooOld
	}
	if c.Subject == "" || c.Revision == "" || len(c.Nonce) > MaxNonceBytes {
		return dst, fmt.Errorf("%w: a grace token needs a subject and a revision, and a nonce of at most %d bytes", ErrMalformed, MaxNonceBytes)
	}
	work := scratches.Get().(*scratch)
	defer scratches.Put(work)
	work.payload = AppendGraceClaims(work.payload[:0], c)
	out, err := appendJWS(dst, s.signer, s.header, work)
	if err != nil {
		return dst, err
	}
	if len(out)-len(dst) > MaxTokenBytes {
		return dst, fmt.Errorf("%w: the token would be longer than %d bytes", ErrMalformed, MaxTokenBytes)
	}
	return out, nil
}

// chainHeader returns the encoded header of everything that key signs under certs, with the lists of revoked keys if there are any, and its kid.
func chainHeader(key *ecdsa.PrivateKey, typ string, certs, lists []string, chain *Chain) ([]byte, string, error) {
	if key == nil || !key.PublicKey.Equal(chain.Leaf.Key) {
		return nil, "", fmt.Errorf("%w: the certificate is for another key", ErrKey)
	}
	kid, err := Thumbprint(&key.PublicKey)
	if err != nil {
		return nil, "", err
	}
	b := []byte(`{"alg":"ES256"`)
	b = appendText(b, "typ", typ)
	b = appendText(b, "kid", kid)
	b = append(b, `,"crt":[`...)
	b = AppendString(b, certs[0])
	b = append(b, ',')
	b = append(AppendString(b, certs[1]), ']')
	for i, list := range lists {
		if i == 0 {
			b = append(b, `,"rvk":[`...)
		} else {
			b = append(b, ',')
		}
		b = AppendString(b, list)
	}
	if len(lists) > 0 {
		b = append(b, ']')
	}
	return encodeHeader(append(b, '}')), kid, nil
}

// Expect is what an app knows without the token. Roots, Audience, Environment and Subject must be given: an empty one matches nothing.
type Expect struct {
	Roots       Roots
	Audience    string
	Environment string
	Subject     string    // the account that the app believes to be signed in
	Nonce       string    // what the app sent with the request; empty accepts a token with or without one
	At          time.Time // the time that the app trusts

	// Revocations is what the app knows of revoked keys. Lists in the token's header are added to it, be the token accepted or not. Nil: only those count.
	Revocations *Revocations
}

// Verify verifies a grace token by the procedure in the package's comment and returns its claims. Errors: ErrMalformed, ErrSignature, ErrChain
// (with the reason inside), ErrExpired, ErrNotYetValid, ErrLifetime, ErrIssuer, ErrAudience, ErrEnvironment, ErrSubject, ErrNonce.
func Verify(token string, expect Expect) (*GraceClaims, error) {
	c, err := Inspect(token, expect.Roots, expect.Revocations, expect.At)
	if err != nil {
		return nil, err
	}
	switch {
	case c.Audience != expect.Audience:
		return nil, fmt.Errorf("grace token: %w", ErrAudience)
	case c.Environment != expect.Environment:
		return nil, fmt.Errorf("grace token: %w", ErrEnvironment)
	case c.Subject != expect.Subject:
		return nil, fmt.Errorf("grace token: %w", ErrSubject)
	case expect.Nonce != "" && c.Nonce != expect.Nonce:
		return nil, fmt.Errorf("grace token: %w", ErrNonce)
	}
	return c, nil
}

// Inspect is Verify for tools that only look: for any audience, environment and account. No app may decide by it, because a token
// of another account or of sandbox passes.
func Inspect(token string, roots Roots, known *Revocations, at time.Time) (*GraceClaims, error) {
	if known == nil {
		known = new(Revocations)
	}
	var (
		c     graceClaims
		chain *Chain
	)
	err := verifyJWS(token, typGrace, &c, judgedAt(at), func(h header) (*ecdsa.PublicKey, error) {
		for _, list := range h.rvk {
			// One that is not genuine takes nothing from anybody: the token is judged by what is known.
			_, _ = known.Learn(list, roots)
		}
		var err error
		if chain, err = VerifyChain(h.crt, RoleEdge, roots, at); err != nil {
			return nil, err
		}
		if err := known.refuse(chain); err != nil {
			return nil, err
		}
		return chain.keyFor(h)
	})
	if err == nil {
		err = c.check(chain)
	}
	if err != nil {
		return nil, fmt.Errorf("grace token: %w", err)
	}
	return &c.GraceClaims, nil
}

// keyFor returns the leaf's key if it is the one that h names.
func (c *Chain) keyFor(h header) (*ecdsa.PublicKey, error) {
	kid, err := Thumbprint(c.Leaf.Key)
	if err != nil {
		return nil, err
	}
	if h.kid != kid {
		return nil, fmt.Errorf("%w: kid is not the thumbprint of the certified key", ErrChain)
	}
	return c.Leaf.Key, nil
}

type graceClaims struct {
	registered
	GraceClaims
}

// check compares the claims with the chain that they were signed under and with each other.
func (c *graceClaims) check(chain *Chain) error {
	switch leaf := &chain.Leaf; {
	case c.Issuer != leaf.Issuer:
		return ErrIssuer
	case c.Audience != leaf.Audience:
		return fmt.Errorf("%w than the certificate's", ErrAudience)
	case c.Environment != leaf.Environment:
		return fmt.Errorf("%w than the certificate's", ErrEnvironment)
	case c.ExpiresAt > c.AsOf+GraceSeconds:
		return fmt.Errorf("%w: more than 24 h after as_of", ErrLifetime)
	case c.ExpiresAt > chain.expiresAt():
		return fmt.Errorf("%w: longer than a certificate", ErrLifetime)
	case c.FreshUntil != c.AsOf+FreshSeconds:
		return fmt.Errorf("%w: fresh_until is not as_of + 60 s", ErrMalformed)
	}
	c.notBefore = max(chain.Leaf.NotBefore, chain.Issuer.NotBefore)
	return nil
}

func (c *graceClaims) fromObject(o object) error {
	m := members{object: o}
	c.judge(&m)
	c.GraceClaims = GraceClaims{
		Issuer:      m.text("iss"),
		Audience:    m.text("aud"),
		Subject:     m.text("sub"),
		Environment: m.text("env"),
		IssuedAt:    m.integer("iat"),
		ExpiresAt:   m.integer("exp"),
		AsOf:        m.integer("as_of"),
		FreshUntil:  m.integer("fresh_until"),
		Revision:    m.text("rev"),
		Nonce:       m.optionalText("nonce"),
		Device:      m.optionalText("dev"),
	}
	if m.has("bal") {
		c.Balances = balances(&m)
	}
	seen := map[string]bool{}
	for _, v := range m.list("ent") {
		e := entitlement(&m, v)
		if seen[e.ID] {
			m.fail("ent", "a list of unique ids")
		}
		seen[e.ID] = true
		c.Entitlements = append(c.Entitlements, e)
	}
	return m.err
}

func entitlement(m *members, v any) GraceEntitlement {
	o, _ := v.(object)
	e := members{object: o}
	out := GraceEntitlement{
		ID:           e.text("id"),
		Status:       e.text("status"),
		Reason:       e.optionalText("reason"),
		Until:        e.optionalInteger("until"),
		OfflineUntil: e.optionalInteger("offline_until"),
		WillRenew:    e.optionalBool("will_renew"),
		Plan:         e.optionalText("plan"),
		Trial:        e.optionalBool("trial"),
	}
	if e.err != nil && m.err == nil {
		m.err = e.err
	}
	return out
}

// balances returns bal in ascending order of names, whatever order it came in.
func balances(m *members) []Balance {
	b := members{object: m.nested("bal")}
	var out []Balance
	for _, name := range b.names() {
		out = append(out, Balance{Credit: name, Amount: b.integer(name)})
	}
	if b.err != nil && m.err == nil {
		m.err = b.err
	}
	return out
}
