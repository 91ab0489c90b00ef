package token

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// vectors is testdata/vectors.json: the conformance kit of the offline rule, for every implementation of it.
type vectors struct {
	About string            `json:"about"`
	Roots map[string]string `json:"roots"` // SPKI PEM by name
	Cases []vector          `json:"cases"`

	AboutClock  string       `json:"about_clock_traces"`
	ClockTraces []clockTrace `json:"clock_traces"`
}

// vector is one token and what an app that expects the given must make of it.
type vector struct {
	Name        string          `json:"name"`
	Accept      bool            `json:"accept"`
	Reason      string          `json:"reason,omitempty"` // of a refusal: our sentinel in one word; implementations may name it otherwise
	Allows      map[string]bool `json:"allows,omitempty"` // by entitlement, at the same time
	At          int64           `json:"at"`
	Audience    string          `json:"audience"`
	Environment string          `json:"environment"`
	Subject     string          `json:"subject"`
	Nonce       string          `json:"nonce,omitempty"`
	Roots       []string        `json:"roots"`
	Token       string          `json:"token"`

	// Revocations are lists that the verifier was shown before the token, in this order, of which it takes what it may. Kept are the counters of the
	// newest lists that it holds after the token: of a root, of an issuing key; absent: it holds none.
	Revocations []string `json:"revocations,omitempty"`
	Kept        *kept    `json:"kept,omitempty"`
}

type kept struct {
	Root   int64 `json:"root"` // 0: none
	Issuer int64 `json:"issuer"`
}

const vectorsAbout = "Grace tokens, when and by whom they are looked at, and the verdict that every verifier must reach. " +
	"The procedure is in the package comment of pkg/token. revocations: lists of revoked keys that the verifier was shown before the token, in this order; " +
	"kept: the counters of the newest lists that it holds afterwards, of a root and of an issuing key. Generated: go test ./pkg/token -run TestVectors -update"

// reasons names the sentinels in the vectors. The first that matches counts: of a chain the reason inside is named, too.
var reasons = []struct {
	name string
	err  error
}{
	{"chain", ErrChain}, {"malformed", ErrMalformed}, {"signature", ErrSignature}, {"expired", ErrExpired}, {"revoked", ErrRevoked}, {"not-yet-valid", ErrNotYetValid},
	{"lifetime", ErrLifetime}, {"issuer", ErrIssuer}, {"audience", ErrAudience}, {"environment", ErrEnvironment}, {"subject", ErrSubject}, {"nonce", ErrNonce},
}

func reasonName(err error) string {
	var names []string
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			names = append(names, r.name)
		}
	}
	return strings.Join(names, " ")
}

// Our verifier reaches the expected verdict on every vector, and the file is what this test generates.
func TestVectors(t *testing.T) {
	kit := vectors{About: vectorsAbout, Roots: map[string]string{}, AboutClock: clockAbout, ClockTraces: clockTraces()}
	roots := map[string]*ecdsa.PublicKey{}
	for _, name := range []string{"root", "root-spare"} {
		pub := &fixedKey(t, name).PublicKey
		text, err := MarshalPublicKeyPEM(pub)
		if err != nil {
			t.Fatal(err)
		}
		kit.Roots[name], roots[name] = string(text), pub
	}
	seen := map[string]bool{}
	for _, tt := range vectorCases(t) {
		if seen[tt.name] {
			t.Fatalf("two cases are named %q", tt.name)
		}
		seen[tt.name] = true
		v := tt.build(t)
		kit.Cases = append(kit.Cases, v)
		t.Run(v.Name, func(t *testing.T) {
			var pinned Roots
			for _, name := range v.Roots {
				pinned = append(pinned, roots[name])
			}
			known := new(Revocations)
			for _, list := range v.Revocations {
				_, _ = known.Learn(list, pinned) // the case is about what it leaves behind
			}
			c, err := Verify(v.Token, Expect{Roots: pinned, Audience: v.Audience, Environment: v.Environment, Subject: v.Subject, Nonce: v.Nonce, At: time.Unix(v.At, 0), Revocations: known})
			if got := reasonName(err); (err == nil) != v.Accept || got != v.Reason {
				t.Fatalf("Verify = %v (%q), want accept %t, reason %q", err, got, v.Accept, v.Reason)
			}
			want := kept{}
			if v.Kept != nil {
				want = *v.Kept
			}
			if root, issuer := known.Counters(); root != want.Root || issuer != want.Issuer {
				t.Errorf("Counters() = %d, %d, want %d, %d", root, issuer, want.Root, want.Issuer)
			}
			for id, want := range v.Allows {
				if got := c.Allows(id, time.Unix(v.At, 0)); got != want {
					t.Errorf("Allows(%q) = %t, want %t", id, got, want)
				}
			}
		})
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(kit); err != nil {
		t.Fatal(err)
	}
	golden(t, "vectors.json", b.Bytes())
}

// golden compares got with testdata/name, or writes it under -update.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs from what is generated now; the formats are final, so ask why before -update", path)
	}
}

// vectorCase is a valid token and world, with what one case changes in them. Unset functions change nothing.
type vectorCase struct {
	name   string
	reason string // empty: accepted
	expect func(*vector)
	forge  func(*forgery)
	text   func(token string) string
	allows map[string]bool
}

// forgery is everything that a grace token is made of, before it is signed: what an edge, an issuer or a thief could choose.
type forgery struct {
	issuer, edge                         Certificate
	issuerJSON, edgeJSON                 func(string) string // changes the claims of the certificates
	issuerHeader, edgeHeader             string
	issuerSigner, edgeSigner, edgeSigned string // names of fixed keys; edgeSigned signs the token

	claims     GraceClaims
	claimsJSON func(string) string
	headerJSON func(string) string
	crt        func(edge, issuer string) string // the value of crt, JSON
	kid        string
	sign       func(key *ecdsa.PrivateKey, input string) []byte
}

func same(s string) string { return s }

func newForgery(t testing.TB) *forgery {
	const certificate = `{"alg":"ES256","typ":"latchkey-cert+jwt"}`
	c := *answer()
	c.Issuer, c.Audience, c.Environment, c.ExpiresAt, c.FreshUntil = cluster, audience, "production", now-1+day, now-1+60
	c.Entitlements[0].OfflineUntil = c.ExpiresAt
	kid, err := Thumbprint(&fixedKey(t, "edge").PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return &forgery{
		issuer: issuerClaims(t), edge: edgeClaims(t), issuerJSON: same, edgeJSON: same,
		issuerHeader: certificate, edgeHeader: certificate, issuerSigner: "root", edgeSigner: "issuer", edgeSigned: "edge",
		claims: c, claimsJSON: same, headerJSON: same, kid: kid,
		crt: func(edge, issuer string) string { return `["` + edge + `","` + issuer + `"]` },
		sign: func(key *ecdsa.PrivateKey, input string) []byte {
			r, s := rs(t, key, input)
			return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		},
	}
}

// token signs the forgery with deterministic signatures, so that the vectors are the same in every run.
func (f *forgery) token(t testing.TB) string {
	edge := rawJWS(t, fixedKey(t, f.edgeSigner), f.edgeHeader, f.edgeJSON(certificateJSON(t, f.edge)))
	issuer := rawJWS(t, fixedKey(t, f.issuerSigner), f.issuerHeader, f.issuerJSON(certificateJSON(t, f.issuer)))
	header := f.headerJSON(`{"alg":"ES256","typ":"latchkey-grace+jwt","kid":"` + f.kid + `","crt":` + f.crt(edge, issuer) + `}`)
	input := b64(header) + "." + b64(f.claimsJSON(string(AppendGraceClaims(nil, &f.claims))))
	return input + "." + b64(string(f.sign(fixedKey(t, f.edgeSigned), input)))
}

func (tt *vectorCase) build(t testing.TB) vector {
	f := newForgery(t)
	if tt.forge != nil {
		tt.forge(f)
	}
	v := vector{
		Name: tt.name, Accept: tt.reason == "", Reason: tt.reason, Allows: tt.allows, At: now, Audience: audience, Environment: "production",
		Subject: account, Nonce: "bm9uY2U", Roots: []string{"root", "root-spare"}, Token: f.token(t),
	}
	if tt.expect != nil {
		tt.expect(&v)
	}
	if tt.text != nil {
		v.Token = tt.text(v.Token)
	}
	return v
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func certificateJSON(t testing.TB, c Certificate) string {
	t.Helper()
	jwk, err := bareJWK(c.Key)
	if err != nil {
		t.Fatal(err)
	}
	return string(appendCertificate(nil, &c, jwk))
}

// rawJWS signs any header and payload.
func rawJWS(t testing.TB, key *ecdsa.PrivateKey, header, payload string) string {
	t.Helper()
	out, err := oneJWS(key, encodeHeader([]byte(header)), []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// rs returns the two numbers of a deterministic signature.
func rs(t testing.TB, key *ecdsa.PrivateKey, input string) (r, s *big.Int) {
	t.Helper()
	digest := sha256.Sum256([]byte(input))
	der := derSignature(t, key, digest[:])
	var raw [signatureBytes]byte
	if err := rawSignature(&raw, der); err != nil {
		t.Fatal(err)
	}
	return new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])
}

// replace is strings.Replace of one occurrence that must be there: a case that changes nothing would prove nothing.
func replace(old, new string) func(string) string {
	return func(s string) string {
		if strings.Count(s, old) != 1 {
			panic("the vector's text has " + old + " other than once: " + s)
		}
		return strings.Replace(s, old, new, 1)
	}
}

// part replaces one of the three parts of a token.
func part(i int, change func(string) string) func(string) string {
	return func(tok string) string {
		parts := strings.Split(tok, ".")
		parts[i] = change(parts[i])
		return strings.Join(parts, ".")
	}
}

// flip changes the lowest bit of one byte of a base64url part.
func flip(at int) func(string) string {
	return func(s string) string {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			panic(err)
		}
		b[(at+len(b))%len(b)] ^= 1
		return b64(string(b))
	}
}

// lastBits sets an unused low bit of the last character: another text for the same bytes.
func lastBits(s string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	if len(s)%4 == 0 {
		panic("the part has no unused bits")
	}
	i := strings.IndexByte(alphabet, s[len(s)-1])
	return s[:len(s)-1] + string(alphabet[i|1])
}

func vectorCases(t testing.TB) []vectorCase {
	cases := acceptedCases()
	for _, group := range [][]vectorCase{expectationCases(), timeCases(), chainCases(t), headerCases(t), signatureCases(t), textCases(), claimCases(), revocationCases(t)} {
		cases = append(cases, group...)
	}
	return cases
}

func pro(allowed bool) map[string]bool { return map[string]bool{"pro": allowed} }

func expectAt(at int64) func(*vector) { return func(v *vector) { v.At = at } }

func claimsEdit(edit func(string) string) func(*forgery) {
	return func(f *forgery) { f.claimsJSON = edit }
}

func headerEdit(old, new string) func(*forgery) {
	return func(f *forgery) { f.headerJSON = replace(old, new) }
}

func acceptedCases() []vectorCase {
	highS := func(f *forgery) {
		low := f.sign
		f.sign = func(key *ecdsa.PrivateKey, input string) []byte {
			raw := low(key, input)
			s := new(big.Int).SetBytes(raw[32:])
			s.Sub(elliptic.P256().Params().N, s)
			return append(raw[:32:32], s.FillBytes(make([]byte, 32))...)
		}
	}
	everyStatus := func(f *forgery) {
		f.claims.Entitlements = nil
		for _, status := range []string{"pending", "trialing", "active", "billing_grace", "billing_retry", "paused", "expired", "refunded", "revoked", "of_a_later_version"} {
			f.claims.Entitlements = append(f.claims.Entitlements, GraceEntitlement{ID: status, Status: status, OfflineUntil: f.claims.ExpiresAt})
		}
	}
	offlineUntil := func(until int64) func(*forgery) {
		return func(f *forgery) { f.claims.Entitlements[0].OfflineUntil = until }
	}
	return []vectorCase{
		{name: "a fresh token allows what is active", allows: map[string]bool{"pro": true, "extra": false, "PRO": false, "unknown": false}},
		{name: "a token without nonce when none was sent", expect: func(v *vector) { v.Nonce = "" }, forge: func(f *forgery) { f.claims.Nonce = "" }, allows: pro(true)},
		{name: "a token with a nonce when none was sent", expect: func(v *vector) { v.Nonce = "" }, allows: pro(true)},
		{name: "no device and no balances", forge: func(f *forgery) { f.claims.Device = ""; f.claimsJSON = replace(`"bal":{"coins":120,"gems":-3},`, ``) }, allows: pro(true)},
		{name: "no entitlements is a signed denial", forge: func(f *forgery) { f.claims.Entitlements = nil }, allows: pro(false)},
		{name: "only three statuses are active", forge: everyStatus, allows: map[string]bool{"pending": false, "trialing": true, "active": true, "billing_grace": true,
			"billing_retry": false, "paused": false, "expired": false, "refunded": false, "revoked": false, "of_a_later_version": false}},
		{name: "an issuer under the spare root", forge: func(f *forgery) { f.issuerSigner = "root-spare" }, allows: pro(true)},
		{name: "one pinned root is enough", expect: func(v *vector) { v.Roots = []string{"root"} }, allows: pro(true)},
		{name: "the last second before exp", expect: expectAt(now - 1 + day - 1), allows: pro(true)},
		{name: "the first second of the edge certificate", expect: expectAt(now - hour), allows: pro(true)},
		{name: "the last second of offline_until", forge: offlineUntil(now + 1), allows: pro(true)},
		{name: "offline_until itself is over", forge: offlineUntil(now), allows: pro(false)},
		{name: "an active entitlement without offline_until is never allowed offline", forge: offlineUntil(0), allows: pro(false)},
		{name: "offline_until beyond exp gives nothing more", forge: offlineUntil(now + 40*day), expect: expectAt(now - 1 + day - 1), allows: pro(true)},
		{name: "the end of the paid term is for display alone", forge: func(f *forgery) { f.claims.Entitlements[0].Until = now - hour }, allows: pro(true)},
		{name: "a lifetime has no until", forge: func(f *forgery) { f.claims.Entitlements[0].Until = 0 }, allows: pro(true)},
		{name: "exp at the end of the edge certificate", forge: func(f *forgery) { f.edge.ExpiresAt = now + hour; f.claims.ExpiresAt = now + hour }, allows: pro(true)},
		{name: "an edge certificate of exactly 72 h", forge: func(f *forgery) { f.edge.NotBefore = f.edge.ExpiresAt - 72*hour }, allows: pro(true)},
		{name: "an issuer certificate of exactly 400 days", forge: func(f *forgery) { f.issuer.NotBefore = f.issuer.ExpiresAt - 400*day }, allows: pro(true)},
		{name: "an nbf of the token that has come", forge: claimsEdit(replace(`"as_of"`, `"nbf":1795327200,"as_of"`)), allows: pro(true)},
		{name: "unknown claims and header parameters are ignored", forge: func(f *forgery) {
			f.claimsJSON = replace(`"as_of"`, `"later":{"a":[1,null,true]},"as_of"`)
			f.headerJSON = replace(`"crt"`, `"later":"x","crt"`)
		}, allows: pro(true)},
		{name: "a name that differs in case is another name", forge: claimsEdit(replace(`"as_of"`, `"EXP":1,"as_of"`)), allows: pro(true)},
		{name: "white space between JSON tokens", forge: claimsEdit(replace(`,"as_of":`, " ,\n\t\"as_of\" : ")), allows: pro(true)},
		{name: "escapes in JSON strings", forge: claimsEdit(replace(`"id":"pro"`, `"id":"\u0070ro"`)), allows: pro(true)},
		{name: "the greatest safe integer", forge: claimsEdit(replace(`"coins":120`, `"coins":9007199254740991`)), allows: pro(true)},
		{name: "a signature with a high s", forge: highS, allows: pro(true)},
		{name: "a sandbox token in sandbox", forge: func(f *forgery) {
			f.edge.Audience, f.claims.Audience = audience+"/sandbox", audience+"/sandbox"
			f.edge.Environment, f.claims.Environment = "sandbox", "sandbox"
		}, expect: func(v *vector) { v.Audience, v.Environment = audience+"/sandbox", "sandbox" }, allows: pro(true)},
	}
}

func expectationCases() []vectorCase {
	return []vectorCase{
		{name: "expected another app", reason: "audience", expect: func(v *vector) { v.Audience = "com.example.other" }},
		{name: "expected no app", reason: "audience", expect: func(v *vector) { v.Audience = "" }},
		{name: "expected sandbox", reason: "environment", expect: func(v *vector) { v.Environment = "sandbox" }},
		{name: "expected another account", reason: "subject", expect: func(v *vector) { v.Subject = "acc_other" }},
		{name: "expected another nonce", reason: "nonce", expect: func(v *vector) { v.Nonce = "other" }},
		{name: "a nonce was sent and none came back", reason: "nonce", forge: func(f *forgery) { f.claims.Nonce = "" }},
		{name: "no root is pinned", reason: "chain signature", expect: func(v *vector) { v.Roots = []string{} }},
		{name: "only the other root is pinned", reason: "chain signature", expect: func(v *vector) { v.Roots = []string{"root-spare"} }},
	}
}

func timeCases() []vectorCase {
	return []vectorCase{
		{name: "exp itself is over", reason: "expired", expect: expectAt(now - 1 + day)},
		{name: "years later", reason: "chain expired", expect: expectAt(now + 3000*day)},
		{name: "an nbf of the token that has not come", reason: "not-yet-valid", forge: claimsEdit(replace(`"as_of"`, `"nbf":1795327201,"as_of"`))},
		{name: "before the edge certificate", reason: "chain not-yet-valid", expect: expectAt(now - hour - 1)},
		{name: "before the issuer certificate", reason: "chain not-yet-valid", forge: func(f *forgery) { f.issuer.NotBefore = now + 1 }},
		{name: "the edge certificate has ended", reason: "chain expired", forge: func(f *forgery) { f.edge.NotBefore, f.edge.ExpiresAt = now-2*hour, now }},
		{name: "the issuer certificate has ended", reason: "chain expired", forge: func(f *forgery) { f.issuer.ExpiresAt = now }},
		{name: "exp 24 h and 1 s after as_of", reason: "lifetime", forge: func(f *forgery) { f.claims.ExpiresAt++ }},
		{name: "exp after the end of the edge certificate", reason: "lifetime", forge: func(f *forgery) { f.edge.ExpiresAt = now + hour }},
		{name: "exp after the end of the issuer certificate", reason: "lifetime", forge: func(f *forgery) { f.issuer.ExpiresAt = now + hour }},
		{name: "fresh_until 61 s after as_of", reason: "malformed", forge: func(f *forgery) { f.claims.FreshUntil++ }},
		{name: "an edge certificate of 72 h and 1 s", reason: "chain lifetime", forge: func(f *forgery) { f.edge.NotBefore = f.edge.ExpiresAt - 72*hour - 1 }},
		{name: "an edge certificate of 73 h", reason: "chain lifetime", forge: func(f *forgery) { f.edge.NotBefore = f.edge.ExpiresAt - 73*hour }},
		{name: "an issuer certificate of 401 days", reason: "chain lifetime", forge: func(f *forgery) { f.issuer.NotBefore = f.issuer.ExpiresAt - 401*day }},
	}
}

func chainCases(t testing.TB) []vectorCase {
	crt := func(format func(edge, issuer string) string) func(*forgery) {
		return func(f *forgery) { f.crt = format }
	}
	edgeEdit := func(old, new string) func(*forgery) {
		return func(f *forgery) { f.edgeJSON = replace(old, new) }
	}
	issuerEdit := func(old, new string) func(*forgery) {
		return func(f *forgery) { f.issuerJSON = replace(old, new) }
	}
	edgeJWK, err := bareJWK(&fixedKey(t, "edge").PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return []vectorCase{
		{name: "the certificates are swapped", reason: "chain signature", forge: crt(func(e, i string) string { return `["` + i + `","` + e + `"]` })},
		{name: "crt is missing", reason: "chain malformed", forge: func(f *forgery) { f.headerJSON = func(s string) string { return s[:strings.Index(s, `,"crt"`)] + "}" } }},
		{name: "crt is empty", reason: "chain malformed", forge: crt(func(_, _ string) string { return `[]` })},
		{name: "the issuer certificate is missing", reason: "chain malformed", forge: crt(func(e, _ string) string { return `["` + e + `"]` })},
		{name: "an extra certificate", reason: "chain malformed", forge: crt(func(e, i string) string { return `["` + e + `","` + i + `","` + i + `"]` })},
		{name: "crt is a string", reason: "malformed", forge: crt(func(e, _ string) string { return `"` + e + `"` })},
		{name: "crt holds a number", reason: "malformed", forge: crt(func(e, _ string) string { return `["` + e + `",1]` })},
		{name: "the issuer certificate twice", reason: "chain signature", forge: crt(func(_, i string) string { return `["` + i + `","` + i + `"]` })},
		{name: "the edge certificate twice", reason: "chain signature", forge: crt(func(e, _ string) string { return `["` + e + `","` + e + `"]` })},
		{name: "an issuer under an unknown root", reason: "chain signature", forge: func(f *forgery) { f.issuerSigner = "thief" }},
		{name: "an issuer signed by itself", reason: "chain signature", forge: func(f *forgery) { f.issuerSigner = "issuer" }},
		{name: "an edge certificate signed by another key than the issuer's", reason: "chain signature", forge: func(f *forgery) { f.edgeSigner = "thief" }},
		{name: "an edge certificate signed by the root", reason: "chain signature", forge: func(f *forgery) { f.edgeSigner = "root" }},
		{name: "an edge that certifies another edge", reason: "chain malformed", forge: func(f *forgery) {
			f.issuer.Role, f.issuer.Audience, f.issuer.Environment = RoleEdge, audience, "production"
			f.issuer.NotBefore, f.issuer.ExpiresAt = now-hour, now+71*hour
		}},
		{name: "a writer that certifies an edge", reason: "chain malformed", forge: func(f *forgery) { f.issuer.Role = RoleWriter }},
		{name: "a writer's certificate under a grace token", reason: "chain malformed", forge: func(f *forgery) { f.edge.Role, f.edge.Audience, f.edge.Environment = RoleWriter, "", "" }},
		{name: "an issuer's certificate as leaf", reason: "chain malformed", forge: func(f *forgery) { f.edge.Role, f.edge.Audience, f.edge.Environment = RoleIssuer, "", "" }},
		{name: "a role that nobody knows", reason: "chain malformed", forge: func(f *forgery) { f.edge.Role = "root" }},
		{name: "an edge certificate without audience", reason: "chain malformed", forge: func(f *forgery) { f.edge.Audience = "" }},
		{name: "an edge certificate without environment", reason: "chain malformed", forge: func(f *forgery) { f.edge.Environment = "" }},
		{name: "an issuer certificate with an audience", reason: "chain malformed", forge: func(f *forgery) { f.issuer.Audience = audience }},
		{name: "an issuer certificate with an empty audience", reason: "chain malformed", forge: issuerEdit(`"nbf"`, `"aud":"","nbf"`)},
		{name: "an issuer certificate with an environment", reason: "chain malformed", forge: func(f *forgery) { f.issuer.Environment = "production" }},
		{name: "certificates of two clusters", reason: "chain issuer", forge: func(f *forgery) { f.edge.Issuer = "other"; f.claims.Issuer = "other" }},
		{name: "a token of another cluster than its certificates", reason: "issuer", forge: func(f *forgery) { f.claims.Issuer = "other" }},
		{name: "a token for another app than its certificate", reason: "audience", expect: func(v *vector) { v.Audience = "com.example.other" }, forge: func(f *forgery) { f.claims.Audience = "com.example.other" }},
		{name: "a production token under a sandbox certificate", reason: "environment", forge: func(f *forgery) { f.edge.Environment = "sandbox" }},
		{name: "a certificate of another typ", reason: "chain malformed", forge: func(f *forgery) { f.edgeHeader = `{"alg":"ES256","typ":"JWT"}` }},
		{name: "a certificate without typ", reason: "chain malformed", forge: func(f *forgery) { f.issuerHeader = `{"alg":"ES256"}` }},
		{name: "a certificate of alg none", reason: "chain signature", forge: func(f *forgery) { f.edgeHeader = `{"alg":"none","typ":"latchkey-cert+jwt"}` }},
		{name: "a certificate with crit", reason: "chain malformed", forge: func(f *forgery) { f.edgeHeader = `{"alg":"ES256","typ":"latchkey-cert+jwt","crit":["x"],"x":1}` }},
		{name: "a certificate with a duplicate claim", reason: "chain malformed", forge: edgeEdit(`"role"`, `"role":"edge","role"`)},
		{name: "a certificate without sub", reason: "chain malformed", forge: edgeEdit(`"sub":"e1",`, ``)},
		{name: "a certificate without nbf", reason: "chain malformed", forge: edgeEdit(`"nbf":1795323600,`, ``)},
		{name: "a certificate without exp", reason: "chain malformed", forge: edgeEdit(`"exp":1795582800,`, ``)},
		{name: "a certificate without cnf", reason: "chain malformed", forge: edgeEdit(`"cnf"`, `"conf"`)},
		{name: "a certificate whose aud is a list", reason: "chain malformed", forge: edgeEdit(`"aud":"com.example.app"`, `"aud":["com.example.app"]`)},
		{name: "a certified key with a private part", reason: "chain malformed", forge: edgeEdit(`"crv"`, `"d":"AQ","crv"`)},
		{name: "a certified key for another use", reason: "chain malformed", forge: edgeEdit(`"crv"`, `"use":"enc","crv"`)},
		{name: "a certified key that names another curve", reason: "chain malformed", forge: edgeEdit(`"P-256"`, `"P-384"`)},
		{name: "a certified key of another type", reason: "chain malformed", forge: edgeEdit(`"EC"`, `"OKP"`)},
		{name: "a certified key that is not on the curve", reason: "chain malformed", forge: edgeEdit(edgeJWK.Y, edgeJWK.X)},
		{name: "a certified key with unused bits set in a coordinate", reason: "chain malformed", forge: edgeEdit(edgeJWK.Y, lastBits(edgeJWK.Y))},
		{name: "a certified key with a short coordinate", reason: "chain malformed", forge: edgeEdit(edgeJWK.Y, edgeJWK.Y[:40])},
	}
}

func headerCases(t testing.TB) []vectorCase {
	issuerKID, err := Thumbprint(&fixedKey(t, "issuer").PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	hs256 := func(f *forgery) {
		f.headerJSON = replace(`"alg":"ES256"`, `"alg":"HS256"`)
		f.sign = func(key *ecdsa.PrivateKey, input string) []byte {
			secret, err := MarshalPublicKeyPEM(&key.PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			mac := hmac.New(sha256.New, secret)
			mac.Write([]byte(input))
			return mac.Sum(nil)
		}
	}
	none := func(f *forgery) {
		f.headerJSON = replace(`"alg":"ES256"`, `"alg":"none"`)
		f.sign = func(*ecdsa.PrivateKey, string) []byte { return nil }
	}
	return []vectorCase{
		{name: "alg none without a signature", reason: "signature", forge: none},
		{name: "alg none with the signature left on", reason: "signature", forge: headerEdit(`"ES256"`, `"none"`)},
		{name: "alg HS256 with the public key as secret", reason: "signature", forge: hs256},
		{name: "alg ES384", reason: "signature", forge: headerEdit(`"ES256"`, `"ES384"`)},
		{name: "alg in lower case", reason: "signature", forge: headerEdit(`"ES256"`, `"es256"`)},
		{name: "alg is missing", reason: "signature", forge: headerEdit(`"alg":"ES256",`, ``)},
		{name: "typ JWT", reason: "malformed", forge: headerEdit(`"latchkey-grace+jwt"`, `"JWT"`)},
		{name: "typ of a session token", reason: "malformed", forge: headerEdit(`"latchkey-grace+jwt"`, `"latchkey-session+jwt"`)},
		{name: "typ of a certificate", reason: "malformed", forge: headerEdit(`"latchkey-grace+jwt"`, `"latchkey-cert+jwt"`)},
		{name: "typ of a position", reason: "malformed", forge: headerEdit(`"latchkey-grace+jwt"`, `"latchkey-position+jwt"`)},
		{name: "typ with a prefix", reason: "malformed", forge: headerEdit(`"latchkey-grace+jwt"`, `"application/latchkey-grace+jwt"`)},
		{name: "typ in upper case", reason: "malformed", forge: headerEdit(`"latchkey-grace+jwt"`, `"LATCHKEY-GRACE+JWT"`)},
		{name: "typ is missing", reason: "malformed", forge: headerEdit(`"typ":"latchkey-grace+jwt",`, ``)},
		{name: "an unknown critical parameter", reason: "malformed", forge: headerEdit(`"crt"`, `"crit":["later"],"later":1,"crt"`)},
		{name: "crit is empty", reason: "malformed", forge: headerEdit(`"crt"`, `"crit":[],"crt"`)},
		{name: "an encoded payload said to be critical", reason: "malformed", forge: headerEdit(`"crt"`, `"crit":["b64"],"b64":true,"crt"`)},
		{name: "kid of another key", reason: "chain", forge: func(f *forgery) { f.kid = issuerKID }},
		{name: "kid is missing", reason: "chain", forge: func(f *forgery) { f.headerJSON = replace(`"kid":"`+f.kid+`",`, ``) }},
		{name: "kid is a number", reason: "malformed", forge: func(f *forgery) { f.headerJSON = replace(`"kid":"`+f.kid+`"`, `"kid":1`) }},
		{name: "a duplicate header parameter", reason: "malformed", forge: headerEdit(`"crt"`, `"alg":"ES256","crt"`)},
		{name: "the header is a list", reason: "malformed", text: part(0, func(string) string { return b64(`["ES256"]`) })},
		{name: "the header is null", reason: "malformed", text: part(0, func(string) string { return b64(`null`) })},
	}
}

func signatureCases(t testing.TB) []vectorCase {
	other := newForgery(t)
	other.claims.Subject = "acc_other"
	otherSignature := strings.Split(other.token(t), ".")[2]
	signed := func(change func(raw []byte) []byte) func(*forgery) {
		return func(f *forgery) {
			sign := f.sign
			f.sign = func(key *ecdsa.PrivateKey, input string) []byte { return change(sign(key, input)) }
		}
	}
	der := func(f *forgery) {
		f.sign = func(key *ecdsa.PrivateKey, input string) []byte {
			digest := sha256.Sum256([]byte(input))
			return derSignature(t, key, digest[:])
		}
	}
	n := elliptic.P256().Params().N.Bytes()
	return []vectorCase{
		{name: "signed by another key than the certified one", reason: "signature", forge: func(f *forgery) { f.edgeSigned = "thief" }},
		{name: "signed by the issuer", reason: "signature", forge: func(f *forgery) { f.edgeSigned = "issuer" }},
		{name: "signed by the root", reason: "signature", forge: func(f *forgery) { f.edgeSigned = "root" }},
		{name: "the signature of another token", reason: "signature", text: part(2, func(string) string { return otherSignature })},
		{name: "an ASN.1 signature", reason: "signature", forge: der},
		{name: "a signature cut by a byte", reason: "signature", forge: signed(func(raw []byte) []byte { return raw[:63] })},
		{name: "a signature with a byte too many", reason: "signature", forge: signed(func(raw []byte) []byte { return append(raw, 0) })},
		{name: "r and s exchanged", reason: "signature", forge: signed(func(raw []byte) []byte { return append(raw[32:64:64], raw[:32]...) })},
		{name: "a signature of zeros", reason: "signature", forge: signed(func([]byte) []byte { return make([]byte, 64) })},
		{name: "r and s are the order of the curve", reason: "signature", forge: signed(func([]byte) []byte { return append(bytes.Clone(n), n...) })},
		{name: "the signature is empty", reason: "signature", text: part(2, func(string) string { return "" })},
		{name: "a bit of r is flipped", reason: "signature", text: part(2, flip(5))},
		{name: "a bit of s is flipped", reason: "signature", text: part(2, flip(-1))},
		{name: "a claim is changed after signing", reason: "signature", text: part(1, func(s string) string {
			b, err := base64.RawURLEncoding.DecodeString(s)
			if err != nil {
				panic(err)
			}
			return b64(replace(`"status":"expired"`, `"status":"active"`)(string(b)))
		})},
		{name: "the header is changed after signing", reason: "signature", text: part(0, func(s string) string {
			b, err := base64.RawURLEncoding.DecodeString(s)
			if err != nil {
				panic(err)
			}
			return b64(replace(`"crt"`, `"later":1,"crt"`)(string(b)))
		})},
	}
}

func textCases() []vectorCase {
	return []vectorCase{
		{name: "an empty text", reason: "malformed", text: func(string) string { return "" }},
		{name: "one dot", reason: "malformed", text: func(string) string { return "." }},
		{name: "two parts", reason: "malformed", text: func(s string) string { return s[:strings.LastIndexByte(s, '.')] }},
		{name: "four parts", reason: "malformed", text: func(s string) string { return s + ".AA" }},
		{name: "half a token", reason: "malformed", text: func(s string) string { return s[:len(s)/4] }},
		{name: "the JSON serialization of JWS", reason: "malformed", text: func(s string) string {
			p := strings.Split(s, ".")
			return `{"protected":"` + p[0] + `","payload":"` + p[1] + `","signature":"` + p[2] + `"}`
		}},
		{name: "a space before it", reason: "malformed", text: func(s string) string { return " " + s }},
		{name: "a line break behind it", reason: "malformed", text: func(s string) string { return s + "\n" }},
		{name: "a line break in the signature", reason: "malformed", text: part(2, func(s string) string { return s[:20] + "\n" + s[20:] })},
		{name: "a signature with padding", reason: "malformed", text: part(2, func(s string) string { return s + "==" })},
		{name: "a signature with unused bits set", reason: "malformed", text: part(2, lastBits)},
		{name: "a signature in the alphabet of base64", reason: "malformed", text: part(2, func(s string) string { return "+/" + s[2:] })},
		{name: "a token longer than 64 KiB", reason: "malformed", forge: claimsEdit(replace(`"as_of"`, `"later":"`+strings.Repeat("x", 48<<10)+`","as_of"`))},
	}
}

func claimCases() []vectorCase {
	tests := []struct{ name, old, new string }{
		{"a duplicate claim", `"as_of"`, `"exp":1795413599,"as_of"`},
		{"a duplicate claim whose name is escaped", `"as_of"`, `"\u0065xp":1795413599,"as_of"`},
		{"a duplicate member in an entitlement", `"id":"pro"`, `"id":"pro","id":"pro"`},
		{"a duplicate balance", `"coins":120`, `"coins":120,"coins":121`},
		{"an exp that is a fraction", `"exp":1795413599`, `"exp":1795413598.5`},
		{"an exp written as a fraction", `"exp":1795413599`, `"exp":1795413599.0`},
		{"an exp with an exponent", `"exp":1795413599`, `"exp":1.795413599e9`},
		{"an exp that is a string", `"exp":1795413599`, `"exp":"1795413599"`},
		{"an exp that is null", `"exp":1795413599`, `"exp":null`},
		{"a balance beyond the safe integers", `"coins":120`, `"coins":9007199254740992`},
		{"a balance that is a fraction", `"coins":120`, `"coins":120.5`},
		{"a balance that is a string", `"coins":120`, `"coins":"120"`},
		{"bal is a list", `"bal":{"coins":120,"gems":-3}`, `"bal":[]`},
		{"iss is missing", `"iss":"` + cluster + `",`, ``},
		{"aud is missing", `"aud":"com.example.app",`, ``},
		{"aud is a list", `"aud":"com.example.app"`, `"aud":["com.example.app"]`},
		{"sub is missing", `"sub":"` + account + `",`, ``},
		{"sub is empty", `"sub":"` + account + `"`, `"sub":""`},
		{"env is missing", `"env":"production",`, ``},
		{"iat is missing", `"iat":1795327200,`, ``},
		{"exp is missing", `"exp":1795413599,`, ``},
		{"exp is there in upper case only", `"exp":`, `"EXP":`},
		{"as_of is missing", `"as_of":1795327199,`, ``},
		{"fresh_until is missing", `"fresh_until":1795327259,`, ``},
		{"rev is missing", `"rev":"1-4711",`, ``},
		{"rev is a number", `"rev":"1-4711"`, `"rev":4711`},
		{"nonce is null", `"nonce":"bm9uY2U"`, `"nonce":null`},
		{"dev is a number", `"dev":"dev_1"`, `"dev":1`},
		{"ent is missing", `"ent":`, `"entitlements":`},
		{"ent is an object", `"ent":[`, `"ent":{},"x":[`},
		{"an entitlement is a string", `"ent":[`, `"ent":["pro",`},
		{"an entitlement without id", `"id":"pro",`, ``},
		{"an entitlement without status", `"status":"active",`, ``},
		{"two entitlements of one id", `"id":"extra"`, `"id":"pro"`},
		{"offline_until is null", `"offline_until":1795413599`, `"offline_until":null`},
		{"offline_until is true", `"offline_until":1795413599`, `"offline_until":true`},
		{"will_renew is a string", `"will_renew":true`, `"will_renew":"true"`},
		{"trial is a number", `"plan":"pro_monthly","trial":false`, `"plan":"pro_monthly","trial":0`},
		{"text behind the claims", `"plan":"extra_monthly","trial":false}]}`, `"plan":"extra_monthly","trial":false}]} {}`},
		{"bytes that are not UTF-8", `"dev":"dev_1"`, "\"dev\":\"\xff\""},
		{"a control character in a string", `"dev":"dev_1"`, "\"dev\":\"\x01\""},
		{"nested deeper than 8", `"as_of"`, `"later":` + strings.Repeat("[", 9) + strings.Repeat("]", 9) + `,"as_of"`},
	}
	cases := []vectorCase{
		{name: "nested 8 deep", forge: claimsEdit(replace(`"as_of"`, `"later":[[[[[[[[1]]]]]]]],"as_of"`)), allows: pro(true)},
		{name: "the claims are a list", reason: "malformed", forge: claimsEdit(func(s string) string { return "[" + s + "]" })},
		{name: "the claims are null", reason: "malformed", forge: claimsEdit(func(string) string { return "null" })},
		{name: "the claims are empty", reason: "malformed", forge: claimsEdit(func(string) string { return "" })},
		{name: "the claims begin with a byte order mark", reason: "malformed", forge: claimsEdit(func(s string) string { return "\ufeff" + s })},
	}
	for _, tt := range tests {
		cases = append(cases, vectorCase{name: tt.name, reason: "malformed", forge: claimsEdit(replace(tt.old, tt.new))})
	}
	return cases
}
