package token

import (
	"fmt"
	"strings"
	"testing"
)

// listForgery is everything that a list of revoked keys is made of, before it is signed.
type listForgery struct {
	claims     RevocationClaims
	claimsJSON func(string) string
	header     string      // JSON; %s is the issuer's certificate
	signer     string      // name of a fixed key
	issuer     Certificate // what crt holds
	certifier  string      // name of the fixed key that signed it
}

const (
	rootListHeader   = `{"alg":"ES256","typ":"latchkey-revocations+jwt"}`
	issuerListHeader = `{"alg":"ES256","typ":"latchkey-revocations+jwt","crt":["%s"]}`
)

func rootList(revoked ...string) *listForgery {
	return &listForgery{claims: RevocationClaims{Issuer: cluster, IssuedAt: now, Counter: now, Revoked: revoked}, claimsJSON: same, header: rootListHeader, signer: "root"}
}

func issuerList(t testing.TB, revoked ...string) *listForgery {
	l := rootList(revoked...)
	l.header, l.signer, l.issuer, l.certifier = issuerListHeader, "issuer", issuerClaims(t), "root"
	return l
}

// with returns l after a change.
func (l *listForgery) with(change func(*listForgery)) *listForgery {
	change(l)
	return l
}

func (l *listForgery) counter(n int64) *listForgery {
	l.claims.Counter = n
	return l
}

func (l *listForgery) text(t testing.TB) string {
	t.Helper()
	header := l.header
	if strings.Contains(header, "%s") {
		header = fmt.Sprintf(header, rawJWS(t, fixedKey(t, l.certifier), `{"alg":"ES256","typ":"latchkey-cert+jwt"}`, certificateJSON(t, l.issuer)))
	}
	return rawJWS(t, fixedKey(t, l.signer), header, l.claimsJSON(string(appendRevocations(nil, &l.claims))))
}

func kidOf(t testing.TB, name string) string {
	t.Helper()
	kid, err := Thumbprint(&fixedKey(t, name).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return kid
}

// nextIssuer makes l one of the issuing key that follows, which the spare root has certified.
func (l *listForgery) nextIssuer(t testing.TB) *listForgery {
	l.signer, l.certifier = "issuer-2", "root-spare"
	l.issuer.Subject, l.issuer.Key = "issuer-2", &fixedKey(t, "issuer-2").PublicKey
	return l
}

// shown has the verifier see lists before the token, and says which it holds after it.
func shown(t testing.TB, after kept, lists ...*listForgery) func(*vector) {
	return func(v *vector) {
		for _, l := range lists {
			v.Revocations = append(v.Revocations, l.text(t))
		}
		if after != (kept{}) {
			v.Kept = &after
		}
	}
}

// carried puts lists into the token's header.
func carried(t testing.TB, lists ...*listForgery) func(*forgery) {
	return func(f *forgery) {
		var texts []string
		for _, l := range lists {
			texts = append(texts, `"`+l.text(t)+`"`)
		}
		f.headerJSON = replace(`"crt"`, `"rvk":[`+strings.Join(texts, ",")+`],"crt"`)
	}
}

func revocationCases(t testing.TB) []vectorCase {
	edge, issuer := kidOf(t, "edge"), kidOf(t, "issuer")
	const revoked = "chain revoked"
	byRoot := func(n int64) kept { return kept{Root: n} }
	byIssuer := func(n int64) kept { return kept{Issuer: n} }
	underNext := func(f *forgery) {
		f.issuer.Subject, f.issuer.Key = "issuer-2", &fixedKey(t, "issuer-2").PublicKey
		f.issuerSigner, f.edgeSigner = "root-spare", "issuer-2"
	}
	const greatest = maxSafeInteger
	cases := []vectorCase{
		{name: "a list that names other keys takes nothing", expect: shown(t, byIssuer(now), issuerList(t, "other")), allows: pro(true)},
		{name: "an empty list takes nothing", expect: shown(t, byIssuer(now), issuerList(t)), allows: pro(true)},
		{name: "an edge key revoked by an issuing key", reason: revoked, expect: shown(t, byIssuer(now), issuerList(t, "other", edge))},
		{name: "an edge key revoked by a root", reason: revoked, expect: shown(t, byRoot(now), rootList(edge))},
		{name: "an edge key revoked by the spare root", reason: revoked, expect: shown(t, byRoot(now), rootList(edge).with(func(l *listForgery) { l.signer = "root-spare" }))},
		{name: "an edge key revoked by another issuing key than its own", reason: revoked, expect: shown(t, byIssuer(now), issuerList(t, edge).nextIssuer(t))},
		{name: "an issuing key revoked by a root", reason: revoked, expect: shown(t, byRoot(now), rootList(issuer))},
		{name: "an issuing key cannot revoke an issuing key", expect: shown(t, byIssuer(now), issuerList(t, issuer).nextIssuer(t)), allows: pro(true)},
		{name: "what another issuing key certified stays when one is revoked", expect: shown(t, byRoot(now), rootList(issuer)), forge: underNext, allows: pro(true)},
		{name: "a list in the token's header counts against the token", reason: revoked, forge: carried(t, issuerList(t, edge)), expect: shown(t, byIssuer(now))},
		{name: "a list in the token's header is kept", forge: carried(t, rootList("other"), issuerList(t, "other").counter(7)), expect: shown(t, kept{Root: now, Issuer: 7}), allows: pro(true)},
		{name: "a list in the header of a token that is refused is kept", reason: "chain expired", forge: carried(t, issuerList(t, "other")), expect: func(v *vector) {
			v.At = now + 3000*day
			v.Kept = &kept{Issuer: now}
		}},
		{name: "an older list does not stand in the place of a newer one", reason: revoked, expect: shown(t, byIssuer(8), issuerList(t, edge).counter(8), issuerList(t).counter(7))},
		{name: "a list with the same counter changes nothing", reason: revoked, expect: shown(t, byIssuer(8), issuerList(t, edge).counter(8), issuerList(t).counter(8))},
		{name: "an older list in the token's header changes nothing", reason: revoked, forge: carried(t, issuerList(t).counter(7)), expect: shown(t, byIssuer(8), issuerList(t, edge).counter(8))},
		{name: "a newer list says again what still counts", expect: shown(t, byIssuer(9), issuerList(t, edge).counter(8), issuerList(t, "other").counter(9)), allows: pro(true)},
		{name: "an issuing key's list takes nothing from a root's, whatever its counter", reason: revoked, expect: shown(t, kept{Root: 7, Issuer: 9}, rootList(edge).counter(7), issuerList(t).counter(9))},
		{name: "a root's list takes nothing from an issuing key's, whatever its counter", reason: revoked, expect: shown(t, kept{Root: 9, Issuer: 7}, issuerList(t, edge).counter(7), rootList().counter(9))},
		{name: "a list of a revoked issuing key is dropped", forge: underNext, expect: shown(t, byRoot(9), issuerList(t, edge).counter(greatest), rootList(issuer).counter(9)), allows: pro(true)},
		{name: "a list of a revoked issuing key is not taken", forge: underNext, expect: shown(t, byRoot(9), rootList(issuer).counter(9), issuerList(t, edge).counter(greatest)), allows: pro(true)},
		{name: "the next issuing key's list follows that of a revoked one", reason: revoked, forge: underNext,
			expect: shown(t, kept{Root: 9, Issuer: 10}, issuerList(t).counter(greatest), rootList(issuer).counter(9), issuerList(t, edge).nextIssuer(t).counter(10))},
		{name: "a list is judged at its own iat", reason: revoked, expect: shown(t, byIssuer(now), issuerList(t, edge).with(func(l *listForgery) {
			l.claims.IssuedAt, l.issuer.NotBefore, l.issuer.ExpiresAt = now-300*day, now-300*day, now-299*day
		}))},
		{name: "a list may name 64 keys", reason: revoked, expect: shown(t, byIssuer(now), issuerList(t, append(names(63), edge)...))},
		{name: "rvk is a string", reason: "malformed", forge: headerEdit(`"crt"`, `"rvk":"x","crt"`)},
		{name: "rvk is null", reason: "malformed", forge: headerEdit(`"crt"`, `"rvk":null,"crt"`)},
		{name: "rvk holds a number", reason: "malformed", forge: headerEdit(`"crt"`, `"rvk":[1],"crt"`)},
		{name: "rvk holds three lists", reason: "malformed", forge: headerEdit(`"crt"`, `"rvk":["a","b","c"],"crt"`)},
		{name: "rvk holds no list", forge: headerEdit(`"crt"`, `"rvk":[],"crt"`), allows: pro(true)},
		{name: "rvk holds what is no list", forge: headerEdit(`"crt"`, `"rvk":["x"],"crt"`), allows: pro(true)},
	}
	// A list that is not genuine takes access from nobody: the token stays accepted, and nothing is kept.
	edited := func(l *listForgery, old, new string) *listForgery {
		l.claimsJSON = replace(old, new)
		return l
	}
	headed := func(l *listForgery, old, new string) *listForgery {
		l.header = replace(old, new)(l.header)
		return l
	}
	text := func(l *listForgery) string { return l.text(t) }
	other := issuerList(t, "other").text(t)
	for _, tt := range []struct{ name, list string }{
		{"signed by a thief", text(rootList(edge).with(func(l *listForgery) { l.signer = "thief" }))},
		{"signed by an edge", text(rootList(edge).with(func(l *listForgery) { l.signer = "edge" }))},
		{"of an issuing key without its certificate", text(rootList(edge).with(func(l *listForgery) { l.signer = "issuer" }))},
		{"of an issuing key signed by a thief", text(issuerList(t, edge).with(func(l *listForgery) { l.signer = "thief" }))},
		{"under a certificate of a thief", text(issuerList(t, edge).with(func(l *listForgery) { l.certifier = "thief" }))},
		{"under an edge's certificate", text(issuerList(t, edge).with(func(l *listForgery) { l.issuer, l.certifier, l.signer = edgeClaims(t), "issuer", "edge" }))},
		{"under a certificate of the role edge", text(issuerList(t, edge).with(func(l *listForgery) { l.issuer.Role = RoleEdge }))},
		{"under two certificates", text(headed(issuerList(t, edge), `["%s"]`, `["%s","x"]`))},
		{"under no certificate", text(headed(issuerList(t, edge), `["%s"]`, `[]`))},
		{"made before its certificate", text(issuerList(t, edge).with(func(l *listForgery) { l.issuer.NotBefore = now + 1 }))},
		{"made after its certificate", text(issuerList(t, edge).with(func(l *listForgery) { l.issuer.ExpiresAt = now }))},
		{"of another cluster than its certificate", text(issuerList(t, edge).with(func(l *listForgery) { l.claims.Issuer = "other" }))},
		{"of another typ", text(headed(rootList(edge), `latchkey-revocations+jwt`, `latchkey-cert+jwt`))},
		{"of alg none", text(headed(rootList(edge), `ES256`, `none`))},
		{"with crit", text(headed(rootList(edge), `"typ"`, `"crit":["x"],"x":1,"typ"`))},
		{"without iss", text(edited(rootList(edge), `"iss":"`+cluster+`",`, ``))},
		{"without iat", text(edited(rootList(edge), `"iat":1795327200,`, ``))},
		{"without counter", text(edited(rootList(edge), `"counter":1795327200,`, ``))},
		{"without revoked", text(edited(rootList(edge), `"revoked"`, `"kids"`))},
		{"with the counter 0", text(rootList(edge).counter(0))},
		{"with a counter below 0", text(rootList(edge).counter(-1))},
		{"with a counter beyond the safe integers", text(rootList(edge).counter(maxSafeInteger + 1))},
		{"whose counter is a string", text(edited(rootList(edge), `"counter":1795327200`, `"counter":"1795327200"`))},
		{"with the counter twice", text(edited(rootList(edge), `"counter"`, `"counter":1,"counter"`))},
		{"that names a key twice", text(rootList(edge, edge))},
		{"that names 65 keys", text(rootList(append(names(64), edge)...))},
		{"that names a number", text(edited(rootList(edge), `"revoked":[`, `"revoked":[1,`))},
		{"that names an empty text", text(edited(rootList(edge), `"revoked":[`, `"revoked":["",`))},
		{"whose revoked is an object", text(edited(rootList(edge), `"revoked":[`, `"revoked":{},"x":[`))},
		{"that is longer than 64 KiB", text(edited(rootList(edge), `"iat"`, `"later":"`+strings.Repeat("x", 48<<10)+`","iat"`))},
		{"whose certificate lives 401 days", text(issuerList(t, edge).with(func(l *listForgery) { l.issuer.NotBefore = l.issuer.ExpiresAt - 401*day }))},
		{"whose certificate is of an issuing key with a scope", text(issuerList(t, edge).with(func(l *listForgery) { l.issuer.Audience, l.issuer.Environment = audience, "production" }))},
		{"whose claims were changed after signing", part(1, func(string) string { return strings.Split(issuerList(t, edge).text(t), ".")[1] })(other)},
		{"whose signature is cut off", part(2, func(string) string { return "" })(rootList(edge).text(t))},
		{"that is a grace token", newForgery(t).token(t)},
	} {
		cases = append(cases, vectorCase{name: "a list " + tt.name, allows: pro(true), expect: func(v *vector) { v.Revocations = []string{tt.list} }})
	}
	return cases
}

// names returns n kids that nobody has.
func names(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("other-%d", i))
	}
	return out
}
