package token

import (
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"testing"

	"github.com/c2sp/wycheproof"
	"github.com/golang-jwt/jwt/v5"
)

func readWycheproof(t *testing.T, name string, into any) {
	t.Helper()
	text, err := fs.ReadFile(wycheproof.TestVectors, name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}

// Wycheproof's P-256 signatures in the form of JWS: r and s of 32 bytes each. Nothing of the file is out of scope: all its groups are
// secp256r1 with SHA-256, and a result is valid or invalid. The messages are arbitrary bytes, hence the primitive below JSON and base64.
func TestWycheproofECDSA(t *testing.T) {
	const least = 262
	var file struct {
		TestGroups []struct {
			PublicKeyPEM string `json:"publicKeyPem"`
			PublicKeyJWK *JWK   `json:"publicKeyJwk"`
			Tests        []struct {
				TcID                      int
				Comment, Msg, Sig, Result string
			}
		}
	}
	readWycheproof(t, "ecdsa_secp256r1_sha256_p1363_test.json", &file)
	ran := 0
	for _, g := range file.TestGroups {
		key, err := ParsePublicKeyPEM([]byte(g.PublicKeyPEM))
		if err != nil {
			t.Fatalf("ParsePublicKeyPEM(%s): %v", g.PublicKeyPEM, err)
		}
		if g.PublicKeyJWK != nil {
			if fromJWK, err := g.PublicKeyJWK.PublicKey(); err != nil || !fromJWK.Equal(key) {
				t.Fatalf("PublicKey(%+v) = %v, %v, want that of the PEM text", g.PublicKeyJWK, fromJWK, err)
			}
		}
		for _, tt := range g.Tests {
			msg, err := hex.DecodeString(tt.Msg)
			if err != nil {
				t.Fatal(err)
			}
			sig, err := hex.DecodeString(tt.Sig)
			if err != nil {
				t.Fatal(err)
			}
			ran++
			err = jwt.SigningMethodES256.Verify(string(msg), sig, key)
			if got := err == nil; got != (tt.Result == "valid") {
				t.Errorf("%d (%s): verified = %t, want %s", tt.TcID, tt.Comment, got, tt.Result)
			}
		}
	}
	if ran < least {
		t.Errorf("%d vectors ran, want at least %d", ran, least)
	}
}

// Wycheproof's JSON web signatures, against header and signature without claims, because their payloads are not JSON objects. All run.
// Out of scope is every algorithm but ES256 and every key but P-256: there our verdict is a refusal, whatever the file says, and the valid
// ones are counted to show that the file was read as it was meant.
func TestWycheproofJWS(t *testing.T) {
	const least, leastES256 = 401, 39
	var file struct {
		TestGroups []struct {
			Public json.RawMessage
			Tests  []struct {
				TcID                 int
				Comment, JWS, Result string
			}
		}
	}
	readWycheproof(t, "json_web_signature_test.json", &file)
	ran, es256, accepted := 0, 0, 0
	for _, g := range file.TestGroups {
		key, ours := &fixedKey(t, "edge").PublicKey, false
		var j struct {
			JWK
			KeyOps []string `json:"key_ops"` // a certificate's cnf.jwk can have none
		}
		if json.Unmarshal(g.Public, &j) == nil && j.KeyOps == nil {
			if parsed, err := j.PublicKey(); err == nil {
				key, ours = parsed, true
			}
		}
		for _, tt := range g.Tests {
			ran++
			if ours {
				es256++
			}
			_, err := parseHeader(tt.JWS)
			if err == nil {
				_, err = verifySignature(tt.JWS, key)
			}
			if got, want := err == nil, ours && tt.Result == "valid"; got != want {
				t.Errorf("%d (%s): verified = %t (%v), want %t", tt.TcID, tt.Comment, got, err, want)
			}
			if err == nil {
				accepted++
			}
		}
	}
	if ran < least || es256 < leastES256 || accepted == 0 {
		t.Errorf("%d vectors ran, %d with a P-256 key, %d accepted, want at least %d, %d, 1", ran, es256, accepted, least, leastES256)
	}
}

// The one ES256 example of RFC 7515.
func TestRFC7515AppendixA3(t *testing.T) {
	key, err := JWK{KeyType: "EC", Curve: "P-256", X: "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", Y: "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	const tok = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ." +
		"DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
	if _, err := parseHeader(tok); err != nil {
		t.Errorf("parseHeader: %v", err)
	}
	if _, err := verifySignature(tok, key); err != nil {
		t.Errorf("verifySignature: %v", err)
	}
}
