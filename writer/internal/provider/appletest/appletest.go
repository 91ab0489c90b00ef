// Package appletest signs what the App Store signs, with an authority of the test's own. Start at New.
package appletest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"testing"
	"time"
)

// Object is a JSON object.
type Object = map[string]any

// The marks of what may sign for the App Store.
var (
	LeafMark         = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 6, 11, 1}
	IntermediateMark = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 6, 2, 1}
)

// When the certificates of an authority are valid, unless a test says otherwise.
var (
	ValidFrom = time.Date(2020, time.January, 1, 0, 0, 0, 0, time.UTC)
	ValidTo   = time.Date(2045, time.January, 1, 0, 0, 0, 0, time.UTC)
)

// Authority signs: a root, an intermediate and a leaf, P-256.
type Authority struct {
	Root  []byte // DER
	Chain [][]byte
	Key   *ecdsa.PrivateKey // the leaf's
}

// New makes an authority. Each edit may change the templates of leaf, intermediate and root.
func New(t testing.TB, edit ...func(certificates [3]*x509.Certificate)) *Authority {
	t.Helper()
	template := func(name string, ca bool, mark asn1.ObjectIdentifier) *x509.Certificate {
		c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: ValidFrom, NotAfter: ValidTo,
			BasicConstraintsValid: true, IsCA: ca, KeyUsage: x509.KeyUsageDigitalSignature}
		if ca {
			c.KeyUsage = x509.KeyUsageCertSign
		}
		if mark != nil {
			c.ExtraExtensions = []pkix.Extension{{Id: mark, Value: asn1.NullBytes}}
		}
		return c
	}
	templates := [3]*x509.Certificate{template("leaf", false, LeafMark), template("intermediate", true, IntermediateMark), template("root", true, nil)}
	for _, e := range edit {
		e(templates)
	}
	a := &Authority{Chain: make([][]byte, 3)}
	parent := templates[2]
	var parentKey *ecdsa.PrivateKey
	for i := 2; i >= 0; i-- {
		key := NewKey(t)
		if parentKey == nil {
			parentKey = key
		}
		der, err := x509.CreateCertificate(rand.Reader, templates[i], parent, key.Public(), parentKey)
		if err != nil {
			t.Fatal(err)
		}
		a.Chain[i] = der
		if parent, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		parentKey = key
	}
	a.Root, a.Key = a.Chain[2], parentKey
	return a
}

// NewKey makes a key of P-256.
func NewKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Sign returns a payload as compact JWS. A payload that is a string is signed as it stands, anything else as its JSON. Each edit may change
// the header before.
func (a *Authority) Sign(t testing.TB, payload any, edit ...func(header Object)) string {
	t.Helper()
	var x5c []string
	for _, der := range a.Chain {
		x5c = append(x5c, base64.StdEncoding.EncodeToString(der))
	}
	header := Object{"alg": "ES256", "x5c": x5c}
	for _, e := range edit {
		e(header)
	}
	text, isText := payload.(string)
	if !isText {
		text = string(marshal(t, payload))
	}
	input := base64.RawURLEncoding.EncodeToString(marshal(t, header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(text))
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, a.Key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return input + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// Notification returns the body of a webhook. In a payload's data and appData what is signed on its own may be an Object: it is signed here.
func (a *Authority) Notification(t testing.TB, payload Object) []byte {
	t.Helper()
	outer := copied(payload)
	for _, name := range []string{"data", "appData"} {
		content, ok := outer[name].(Object)
		if !ok {
			continue
		}
		content = copied(content)
		for _, nested := range []string{"signedTransactionInfo", "signedRenewalInfo", "signedAppTransactionInfo"} {
			if o, ok := content[nested].(Object); ok {
				content[nested] = a.Sign(t, o)
			}
		}
		outer[name] = content
	}
	return marshal(t, Object{"signedPayload": a.Sign(t, outer)})
}

func copied(o Object) Object {
	out := make(Object, len(o))
	for name, value := range o {
		out[name] = value
	}
	return out
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
