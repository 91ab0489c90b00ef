package token

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"pgregory.net/rapid"
)

func TestVerifyReturnsWhatWasSigned(t *testing.T) {
	c := answer()
	got, err := Verify(signGrace(t, c), expectation(t))
	if err != nil {
		t.Fatalf("Verify: %v", err)
	}
	got.notBefore = 0
	if !reflect.DeepEqual(got, c) {
		t.Errorf("Verify = %+v\nwant     %+v", got, c)
	}
}

// The formats are final: deterministic signatures make whole tokens comparable.
func TestGolden(t *testing.T) {
	head, manifest := position(), position()
	head.AsOf = now - 1
	manifest.Size, manifest.SHA256 = 4096, head.Chain
	session, err := NewSessionSigner(fixedKey(t, "session"))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	add := func(name, tok string, err error) {
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		fmt.Fprintf(&b, "%s\n%s\n", name, tok)
		for _, p := range strings.Split(tok, ".")[:2] {
			text, err := decodeSegment(p)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			fmt.Fprintf(&b, "%s\n", text)
		}
		b.WriteByte('\n')
	}
	add("issuer certificate", issuerCert(t), nil)
	add("edge certificate", edgeChain(t)[0], nil)
	add("writer certificate", writerChain(t)[0], nil)
	add("grace token", signGrace(t, answer()), nil)
	add("grace token without anything optional", signGrace(t, &GraceClaims{Subject: account, IssuedAt: now, AsOf: now, Revision: "1-1"}), nil)
	tok, err := session.Sign(sessionClaimsOf())
	add("session token", tok, err)
	for _, p := range []struct {
		name   string
		claims PositionClaims
	}{{"position", position()}, {"head", head}, {"snapshot manifest", manifest}} {
		tok, err := positionSigner(t).AppendSign(nil, p.claims)
		add(p.name, string(tok), err)
	}
	golden(t, "tokens.txt", b.Bytes())

	jwks, err := AppendJWKS(nil, &fixedKey(t, "edge").PublicKey, &fixedKey(t, "session").PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "jwks.json", jwks)
	golden(t, "describe.txt", []byte(describeAll(t)))
}

func describeAll(t *testing.T) string {
	c := answer()
	signGrace(t, c)
	c.notBefore = now - hour
	none := &GraceClaims{Subject: account, IssuedAt: now, AsOf: now, Revision: "1-1"}
	signGrace(t, none)
	return Describe(c, at) + "\n" + Describe(c, at.Add(24*time.Hour)) + "\n" + Describe(c, at.Add(-2*time.Hour)) + "\n" + Describe(none, at)
}

// I9: whatever an edge asks for, no token lives past as_of + 24 h or past a certificate, and none is signed that has already ended.
func TestNoTokenOutlivesWhatTheEdgeCanProve(t *testing.T) {
	s := graceSigner(t)
	rapid.Check(t, func(r *rapid.T) {
		c := answer()
		c.AsOf = now + rapid.Int64Range(-3*day, 3*day).Draw(r, "as_of")
		c.IssuedAt = c.AsOf + rapid.Int64Range(0, 2*day).Draw(r, "age")
		c.ExpiresAt = rapid.Int64Range(0, now+1000*day).Draw(r, "exp asked for")
		c.FreshUntil = c.ExpiresAt
		c.Entitlements[0].OfflineUntil = rapid.Int64Range(0, now+1000*day).Draw(r, "offline_until")
		limit := min(c.AsOf+24*hour, edgeClaims(t).ExpiresAt)
		tok, err := s.AppendSign(nil, c)
		if c.IssuedAt >= limit {
			if !errors.Is(err, ErrTooOld) || len(tok) != 0 {
				r.Fatalf("AppendSign(as_of %d, iat %d) = %d bytes, %v, want ErrTooOld", c.AsOf, c.IssuedAt, len(tok), err)
			}
			return
		}
		if err != nil {
			r.Fatalf("AppendSign: %v", err)
		}
		at := max(c.AsOf, edgeClaims(t).NotBefore)
		if at >= limit {
			return // signed for a time when its certificate was not valid yet: no app ever accepts it
		}
		got, err := Inspect(string(tok), fixedRoots(t), nil, time.Unix(at, 0))
		if err != nil {
			r.Fatalf("Inspect: %v", err)
		}
		if got.ExpiresAt != limit || got.FreshUntil != c.AsOf+60 || got.Entitlements[0].OfflineUntil > limit || s.ExpiresAt(c.AsOf) != limit {
			r.Fatalf("exp %d, fresh_until %d, offline_until %d, want exp %d", got.ExpiresAt, got.FreshUntil, got.Entitlements[0].OfflineUntil, limit)
		}
	})
}

// AppendGraceClaims builds by hand; encoding/json and golang-jwt are the judges of what it built.
func TestAppendedClaimsReadTheSameInEncodingJSON(t *testing.T) {
	s := graceSigner(t)
	type entry struct {
		ID           string `json:"id"`
		Status       string `json:"status"`
		Reason       string `json:"reason"`
		Until        int64  `json:"until"`
		OfflineUntil int64  `json:"offline_until"`
		WillRenew    bool   `json:"will_renew"`
		Plan         string `json:"plan"`
		Trial        bool   `json:"trial"`
	}
	type wire struct {
		jwt.RegisteredClaims
		Env        string           `json:"env"`
		AsOf       int64            `json:"as_of"`
		FreshUntil int64            `json:"fresh_until"`
		Rev        string           `json:"rev"`
		Nonce      string           `json:"nonce"`
		Dev        string           `json:"dev"`
		Bal        map[string]int64 `json:"bal"`
		Ent        []entry          `json:"ent"`
	}
	seconds := rapid.Int64Range(0, now+10*day)
	rapid.Check(t, func(r *rapid.T) {
		c := &GraceClaims{
			Subject: "acc_" + rapid.String().Draw(r, "sub"), IssuedAt: now, AsOf: now, Revision: "1-" + rapid.String().Draw(r, "rev"),
			Nonce: rapid.StringMatching(`[A-Za-z0-9_-]{0,64}`).Draw(r, "nonce"), Device: rapid.String().Draw(r, "dev"),
		}
		credits := rapid.MapOf(rapid.String(), rapid.Int64Range(-maxSafeInteger, maxSafeInteger)).Draw(r, "bal")
		for _, name := range slices.Sorted(maps.Keys(credits)) {
			c.Balances = append(c.Balances, Balance{name, credits[name]})
		}
		for _, id := range rapid.SliceOfNDistinct(rapid.StringN(1, 20, -1), 0, 5, rapid.ID).Draw(r, "ids") {
			c.Entitlements = append(c.Entitlements, GraceEntitlement{ID: id, Status: "active", Reason: rapid.String().Draw(r, "reason"), Until: seconds.Draw(r, "until"),
				OfflineUntil: seconds.Draw(r, "offline_until"), WillRenew: rapid.Bool().Draw(r, "renew"), Plan: rapid.String().Draw(r, "plan"), Trial: rapid.Bool().Draw(r, "trial")})
		}
		tok, err := s.AppendSign([]byte("before "), c)
		if err != nil {
			r.Fatal(err)
		}
		text := string(bytes.TrimPrefix(tok, []byte("before ")))

		var got wire
		if _, err := jwt.ParseWithClaims(text, &got, func(*jwt.Token) (any, error) { return &fixedKey(t, "edge").PublicKey, nil },
			jwt.WithTimeFunc(func() time.Time { return at })); err != nil {
			r.Fatalf("golang-jwt: %v", err)
		}
		want := wire{
			RegisteredClaims: jwt.RegisteredClaims{Issuer: cluster, Subject: c.Subject, Audience: jwt.ClaimStrings{audience},
				ExpiresAt: jwt.NewNumericDate(time.Unix(now+day, 0)), IssuedAt: jwt.NewNumericDate(at)},
			Env: "production", AsOf: now, FreshUntil: now + 60, Rev: c.Revision, Nonce: c.Nonce, Dev: c.Device, Bal: credits, Ent: []entry{},
		}
		for _, e := range c.Entitlements {
			want.Ent = append(want.Ent, entry(e))
		}
		gotJSON, _ := json.Marshal(got)
		wantJSON, _ := json.Marshal(want)
		if !bytes.Equal(gotJSON, wantJSON) {
			r.Fatalf("golang-jwt reads\n%s\nwant\n%s", gotJSON, wantJSON)
		}

		ours, err := Inspect(text, fixedRoots(t), nil, at)
		if err != nil {
			r.Fatalf("Inspect: %v", err)
		}
		ours.notBefore = 0
		if !reflect.DeepEqual(ours, c) {
			r.Fatalf("Inspect = %+v\nwant %+v", ours, c)
		}
	})
}

func TestGraceSignerRefuses(t *testing.T) {
	chain := edgeChain(t)
	claims := func(change func(*GraceClaims)) func(*GraceSigner) error {
		return func(s *GraceSigner) error {
			c := answer()
			change(c)
			_, err := s.AppendSign(nil, c)
			return err
		}
	}
	tests := []struct {
		name string
		sign func(*GraceSigner) error
		want error
	}{
		{"data of a day ago", claims(func(c *GraceClaims) { c.AsOf = c.IssuedAt - day }), ErrTooOld},
		{"a certificate that has ended", claims(func(c *GraceClaims) { c.IssuedAt = now + 71*hour; c.AsOf = c.IssuedAt }), ErrTooOld},
		{"no account", claims(func(c *GraceClaims) { c.Subject = "" }), ErrMalformed},
		{"no revision", claims(func(c *GraceClaims) { c.Revision = "" }), ErrMalformed},
		{"a nonce of 65 characters", claims(func(c *GraceClaims) { c.Nonce = strings.Repeat("n", 65) }), ErrMalformed},
		{"more than a token can hold", claims(func(c *GraceClaims) { c.Device = strings.Repeat("d", MaxTokenBytes) }), ErrMalformed},
		{"a key that is not certified", func(*GraceSigner) error {
			_, err := NewGraceSigner(fixedKey(t, "thief"), chain, fixedRoots(t), at)
			return err
		}, ErrKey},
		{"a writer's certificate", func(*GraceSigner) error {
			_, err := NewGraceSigner(fixedKey(t, "writer"), writerChain(t), fixedRoots(t), at)
			return err
		}, ErrChain},
		{"a chain that has ended", func(*GraceSigner) error {
			_, err := NewGraceSigner(fixedKey(t, "edge"), chain, fixedRoots(t), at.Add(72*time.Hour))
			return err
		}, ErrExpired},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.sign(graceSigner(t)); !errors.Is(err, tt.want) {
				t.Errorf("err = %v, want %v", err, tt.want)
			}
		})
	}
}

func TestIssueCertificateRefusesWhatNoVerifierAccepts(t *testing.T) {
	p384, err := ecdsa.ParseRawPrivateKey(elliptic.P384(), bytes.Repeat([]byte{1}, 48))
	if err != nil {
		t.Fatal(err)
	}
	edge := func(change func(*Certificate)) Certificate { c := edgeClaims(t); change(&c); return c }
	issuer := func(change func(*Certificate)) Certificate { c := issuerClaims(t); change(&c); return c }
	tests := []struct {
		name string
		cert Certificate
		want error
	}{
		{"an edge for 72 h", edge(func(c *Certificate) { c.ExpiresAt = c.NotBefore + 72*hour }), nil},
		{"an edge for a second more", edge(func(c *Certificate) { c.ExpiresAt = c.NotBefore + 72*hour + 1 }), ErrLifetime},
		{"an issuer for 400 days", issuer(func(c *Certificate) { c.ExpiresAt = c.NotBefore + 400*day }), nil},
		{"an issuer for a second more", issuer(func(c *Certificate) { c.ExpiresAt = c.NotBefore + 400*day + 1 }), ErrLifetime},
		{"one that never begins", edge(func(c *Certificate) { c.ExpiresAt = c.NotBefore }), ErrLifetime},
		{"an edge without audience", edge(func(c *Certificate) { c.Audience = "" }), ErrCertificate},
		{"an edge without environment", edge(func(c *Certificate) { c.Environment = "" }), ErrCertificate},
		{"a writer with an audience", edge(func(c *Certificate) { c.Role = RoleWriter }), ErrCertificate},
		{"an issuer with an environment", issuer(func(c *Certificate) { c.Environment = "sandbox" }), ErrCertificate},
		{"no role", edge(func(c *Certificate) { c.Role = "" }), ErrCertificate},
		{"no cluster", edge(func(c *Certificate) { c.Issuer = "" }), ErrCertificate},
		{"no subject", edge(func(c *Certificate) { c.Subject = "" }), ErrCertificate},
		{"no key", edge(func(c *Certificate) { c.Key = nil }), ErrKey},
		{"a key of another curve", edge(func(c *Certificate) { c.Key = &p384.PublicKey }), ErrKey},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cert, err := IssueCertificate(fixedKey(t, "issuer"), tt.cert)
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Fatalf("IssueCertificate = %v, want %v", err, tt.want)
			}
			if got, err := ParseCertificate(cert); tt.want == nil && (err != nil || !reflect.DeepEqual(got, tt.cert)) {
				t.Errorf("ParseCertificate = %+v, %v, want %+v", got, err, tt.cert)
			}
		})
	}
	if _, err := IssueCertificate(p384, edgeClaims(t)); !errors.Is(err, ErrKey) {
		t.Errorf("IssueCertificate under a P-384 key = %v, want ErrKey", err)
	}
}

func TestPositionRoundTrip(t *testing.T) {
	head, manifest := position(), position()
	head.AsOf = now - 1
	manifest.Size, manifest.SHA256 = 4096, head.Chain
	for name, want := range map[string]PositionClaims{"position": position(), "head": head, "manifest": manifest} {
		tok, err := positionSigner(t).AppendSign(nil, want)
		if err != nil {
			t.Fatalf("%s: AppendSign: %v", name, err)
		}
		v := PositionVerifier{Roots: fixedRoots(t), Cluster: cluster}
		for range 2 { // the second time from the cache
			got, err := v.Verify(string(tok))
			want.Cluster = cluster
			if err != nil || got != want {
				t.Errorf("%s: Verify = %+v, %v\nwant %+v", name, got, err, want)
			}
		}
		if len(v.chains) != 1 {
			t.Errorf("%s: %d chains are remembered, want 1", name, len(v.chains))
		}
	}
}

// Every refusal holds with an empty cache and with the genuine writer's chain in it; and what is refused is never remembered.
func TestPositionVerifierRefuses(t *testing.T) {
	genuine, err := positionSigner(t).AppendSign(nil, position())
	if err != nil {
		t.Fatal(err)
	}
	good := string(genuine)
	claims := position()
	claims.Cluster = cluster
	body := string(appendPosition(nil, &claims))
	header := func(typ string, key *ecdsa.PrivateKey, certs []string) string {
		h, _, err := chainHeader(key, typ, certs, nil, &Chain{Leaf: Certificate{Key: &key.PublicKey}})
		if err != nil {
			t.Fatal(err)
		}
		text, err := decodeSegment(strings.TrimSuffix(string(h), "."))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	writer, edge := fixedKey(t, "writer"), fixedKey(t, "edge")
	writerHeader := header(typPosition, writer, writerChain(t))
	atIssue := func(iat int64) string {
		c := claims
		c.IssuedAt = iat
		return string(appendPosition(nil, &c))
	}
	otherCluster := func() string {
		i, w := issuerClaims(t), writerClaims(t)
		i.Issuer, w.Issuer = "other", "other"
		certs := []string{issue(t, fixedKey(t, "issuer"), w), issue(t, fixedKey(t, "root"), i)}
		return rawJWS(t, writer, header(typPosition, writer, certs), strings.Replace(body, cluster, "other", 1))
	}
	tests := []struct {
		name string
		tok  string
		want error
	}{
		{"an edge's signature", rawJWS(t, edge, header(typPosition, edge, edgeChain(t)), body), ErrChain},
		{"an edge's certificate with a writer's signature", rawJWS(t, writer, header(typPosition, writer, edgeChain(t)), body), ErrChain},
		{"another key's signature", rawJWS(t, fixedKey(t, "thief"), writerHeader, body), ErrSignature},
		{"the typ of a grace token", rawJWS(t, writer, header(typGrace, writer, writerChain(t)), body), ErrMalformed},
		{"another cluster", otherCluster(), ErrIssuer},
		{"another cluster in the claims alone", rawJWS(t, writer, writerHeader, strings.Replace(body, cluster, "other", 1)), ErrIssuer},
		{"an iat before the certificate", rawJWS(t, writer, writerHeader, atIssue(now-hour-1)), ErrNotYetValid},
		{"an iat after the certificate", rawJWS(t, writer, writerHeader, atIssue(now+71*hour)), ErrExpired},
		{"a hash in upper case", rawJWS(t, writer, writerHeader, replace(`"hash":"`, `"hash":"A`)(body)), ErrMalformed},
		{"a negative revision", rawJWS(t, writer, writerHeader, replace(`"rev":4711`, `"rev":-1`)(body)), ErrMalformed},
		{"rules beyond 32 bits", rawJWS(t, writer, writerHeader, replace(`"rules":1`, `"rules":4294967296`)(body)), ErrMalformed},
		{"a size without sha256", rawJWS(t, writer, writerHeader, replace(`"rules":1`, `"rules":1,"size":1`)(body)), ErrMalformed},
		{"a duplicate claim", rawJWS(t, writer, writerHeader, replace(`"rules":1`, `"rules":1,"rev":9`)(body)), ErrMalformed},
		{"a changed claim", part(1, flip(20))(good), ErrSignature},
		{"a changed signature", part(2, flip(-1))(good), ErrSignature},
		{"a line break", good + "\n", ErrMalformed},
		{"two parts", good[:strings.LastIndexByte(good, '.')], ErrMalformed},
		{"nothing", "", ErrMalformed},
		{"too long", good + strings.Repeat("A", MaxTokenBytes), ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, warm := range []bool{false, true} {
				v := PositionVerifier{Roots: fixedRoots(t), Cluster: cluster}
				if warm {
					if _, err := v.Verify(good); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := v.Verify(tt.tok); !errors.Is(err, tt.want) {
					t.Errorf("Verify (warm %t) = %v, want %v", warm, err, tt.want)
				}
				if len(v.chains) > 1 {
					t.Errorf("warm %t: %d chains are remembered", warm, len(v.chains))
				}
			}
		})
	}
	if _, err := (&PositionVerifier{Cluster: cluster}).Verify(good); !errors.Is(err, ErrChain) {
		t.Errorf("Verify without roots = %v, want ErrChain", err)
	}
	if _, err := positionSigner(t).AppendSign(nil, PositionClaims{IssuedAt: now + 80*hour}); !errors.Is(err, ErrExpired) {
		t.Errorf("AppendSign after the certificate's end = %v, want ErrExpired", err)
	}
}

// I18: a verifier remembers a bounded number of chains, whatever writers come and go.
func TestPositionVerifierForgets(t *testing.T) {
	v := PositionVerifier{Roots: fixedRoots(t), Cluster: cluster}
	for i := range maxCachedHeaders + 3 {
		key := fixedKey(t, fmt.Sprint("writer ", i))
		c := writerClaims(t)
		c.Key = &key.PublicKey
		s, err := NewPositionSigner(key, []string{issue(t, fixedKey(t, "issuer"), c), issuerCert(t)}, fixedRoots(t), at)
		if err != nil {
			t.Fatal(err)
		}
		tok, err := s.AppendSign(nil, position())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(string(tok)); err != nil {
			t.Fatal(err)
		}
		if len(v.chains) > maxCachedHeaders {
			t.Fatalf("%d chains are remembered, want at most %d", len(v.chains), maxCachedHeaders)
		}
	}
}

func sessionVerifier(t testing.TB) *SessionVerifier {
	t.Helper()
	jwk, err := PublicJWK(&fixedKey(t, "session").PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	v := &SessionVerifier{Issuer: cluster, Audience: audience, Environment: "production"}
	if err := v.AddKey(jwk); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSessionTokens(t *testing.T) {
	sign := func(key string, change func(*SessionClaims)) string {
		s, err := NewSessionSigner(fixedKey(t, key))
		if err != nil {
			t.Fatal(err)
		}
		c := sessionClaimsOf()
		change(&c)
		tok, err := s.Sign(c)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	good := sign("session", func(*SessionClaims) {})
	if again := sign("session", func(*SessionClaims) {}); again != good {
		t.Error("the same claims signed again give another token")
	}
	kid, err := Thumbprint(&fixedKey(t, "session").PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	stolenKID := rawJWS(t, fixedKey(t, "thief"), `{"alg":"ES256","typ":"latchkey-session+jwt","kid":"`+kid+`"}`,
		`{"iss":"`+cluster+`","aud":"`+audience+`","env":"production","sub":"acc_any","iat":1795327200,"exp":1795330800,"rev":"1-1"}`)
	tests := []struct {
		name string
		tok  string
		at   time.Time
		want error
	}{
		{"as it was signed", good, at, nil},
		{"in its last second", good, at.Add(30*24*time.Hour - time.Second), nil},
		{"at its exp", good, at.Add(30 * 24 * time.Hour), ErrExpired},
		{"without a device", sign("session", func(c *SessionClaims) { c.Device = "" }), at, nil},
		{"of sandbox", sign("session", func(c *SessionClaims) { c.Environment = "sandbox" }), at, ErrEnvironment},
		{"of another app", sign("session", func(c *SessionClaims) { c.Audience = "com.example.app/sandbox" }), at, ErrAudience},
		{"of another cluster", sign("session", func(c *SessionClaims) { c.Issuer = "other" }), at, ErrIssuer},
		{"under an unknown key", sign("thief", func(*SessionClaims) {}), at, ErrUnknownKey},
		{"under a known kid by another key", stolenKID, at, ErrSignature},
		{"a grace token", signGrace(t, answer()), at, ErrMalformed},
		{"changed", part(1, flip(10))(good), at, ErrSignature},
		{"nothing", "", at, ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := sessionVerifier(t).Verify(tt.tok, tt.at); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("Verify = %v, want %v", err, tt.want)
			}
		})
	}
	if got, err := sessionVerifier(t).Verify(good, at); err != nil || got != sessionClaimsOf() {
		t.Errorf("Verify = %+v, %v, want %+v", got, err, sessionClaimsOf())
	}
	if _, err := new(SessionVerifier).Verify(good, at); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("the zero verifier: %v, want ErrUnknownKey", err)
	}
	s, err := NewSessionSigner(fixedKey(t, "session"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sign(SessionClaims{Subject: account}); !errors.Is(err, ErrMalformed) {
		t.Errorf("Sign without claims = %v, want ErrMalformed", err)
	}
}

func TestKeysSurviveTheirFiles(t *testing.T) {
	key, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	private, err := MarshalPrivateKeyPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := MarshalPublicKeyPEM(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParsePrivateKeyPEM(private); err != nil || !got.Equal(key) {
		t.Errorf("ParsePrivateKeyPEM = another key, %v", err)
	}
	if got, err := ParseRoots(public, public); err != nil || len(got) != 2 || !got[1].Equal(&key.PublicKey) {
		t.Errorf("ParseRoots = %v, %v", got, err)
	}
	for name, text := range map[string][]byte{
		"nothing": nil, "no PEM": []byte("key"), "the other kind": public, "two keys": append(bytes.Clone(private), private...),
		"garbage inside": []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
	} {
		if _, err := ParsePrivateKeyPEM(text); !errors.Is(err, ErrKey) {
			t.Errorf("ParsePrivateKeyPEM(%s) = %v, want ErrKey", name, err)
		}
	}
	if _, err := ParsePublicKeyPEM(private); !errors.Is(err, ErrKey) {
		t.Errorf("ParsePublicKeyPEM(private key) = %v, want ErrKey", err)
	}
}

// A signer may hold its key elsewhere (KMS); what comes back is checked for the one form that we can turn into r and s.
func TestRawSignatureRefusesWhatIsNoP256Signature(t *testing.T) {
	integer := func(n int) []byte { return append([]byte{2, byte(n)}, bytes.Repeat([]byte{1}, n)...) }
	sequence := func(parts ...[]byte) []byte {
		b := bytes.Join(parts, nil)
		return append([]byte{0x30, byte(len(b))}, b...)
	}
	tests := []struct {
		name string
		der  []byte
		ok   bool
	}{
		{"two integers of 32 bytes", sequence(integer(32), integer(32)), true},
		{"short integers", sequence(integer(1), integer(31)), true},
		{"a leading zero", sequence([]byte{2, 2, 0, 0x80}, integer(32)), true},
		{"an integer of 33 bytes", sequence(integer(33), integer(32)), false},
		{"one integer", sequence(integer(32)), false},
		{"three integers", sequence(integer(1), integer(1), integer(1)), false},
		{"no sequence", integer(32), false},
		{"a length too long", []byte{0x30, 9, 2, 1, 1, 2, 1, 1}, false},
		{"cut", sequence(integer(32), integer(32))[:40], false},
		{"nothing", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var raw [signatureBytes]byte
			if err := rawSignature(&raw, tt.der); (err == nil) != tt.ok {
				t.Errorf("rawSignature(%x) = %v, want ok %t", tt.der, err, tt.ok)
			}
		})
	}
}

// No error tells a token or a key: they are written to logs.
func TestErrorsQuoteNothing(t *testing.T) {
	for _, v := range readVectors(t).Cases {
		_, err := Verify(v.Token, Expect{Roots: fixedRoots(t), Audience: v.Audience, Environment: v.Environment, Subject: v.Subject, Nonce: v.Nonce, At: time.Unix(v.At, 0)})
		if err == nil {
			continue
		}
		for _, secret := range []string{account, "bm9uY2U", "dev_1", "eyJ"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: %q quotes %s", v.Name, err, secret)
			}
		}
		if len(err.Error()) > 200 {
			t.Errorf("%s: an error of %d bytes", v.Name, len(err.Error()))
		}
	}
}

// No text but one that an edge signed is ever accepted, whatever is done to it.
func FuzzVerify(f *testing.F) {
	signed := map[string]bool{}
	for _, tt := range vectorCases(f) {
		v := tt.build(f)
		if len(v.Token) < 8<<10 {
			f.Add(v.Token)
		}
		if v.Accept || v.Kept != nil { // refused for what else the case has, not for its text
			signed[v.Token] = true
		}
	}
	roots := fixedRoots(f)
	f.Fuzz(func(t *testing.T, tok string) {
		if _, err := Inspect(tok, roots, nil, at); err == nil && !signed[tok] {
			t.Errorf("accepted: %q", tok)
		}
	})
}

// One signer serves every request of an edge at once, and buffers are shared: no token may carry another's claims.
func TestConcurrentTokensDoNotMix(t *testing.T) {
	s, roots := graceSigner(t), fixedRoots(t)
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 20 {
				c := answer()
				c.Subject = fmt.Sprintf("acc_%d_%d", worker, i)
				tok, err := s.AppendSign(nil, c)
				if err != nil {
					t.Errorf("AppendSign: %v", err)
					return
				}
				if got, err := Inspect(string(tok), roots, nil, at); err != nil || got.Subject != c.Subject {
					t.Errorf("Inspect = %v, %v, want a token of %s", got, err, c.Subject)
				}
			}
		})
	}
	wg.Wait()
}

// An app verifies once and asks for as long as it holds the claims: the windows of token and certificates are judged at each question.
func TestAllowsAtLaterTimes(t *testing.T) {
	f := newForgery(t)
	f.claims.Entitlements[0].OfflineUntil = now + 40*day // an edge that does not cut it to exp
	c, err := Verify(f.token(t), expectation(t))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		at   time.Time
		want bool
	}{
		{"when it was verified", at, true},
		{"within the last second", time.Unix(c.ExpiresAt-1, 999_999_999), true},
		{"at exp", time.Unix(c.ExpiresAt, 0), false},
		{"long after exp", at.Add(30 * 24 * time.Hour), false},
		{"before the certificates", at.Add(-time.Hour - time.Second), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := c.Allows("pro", tt.at); got != tt.want {
				t.Errorf("Allows(pro, %s) = %t, want %t", tt.at, got, tt.want)
			}
		})
	}
}
