package storesim

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"time"
)

// object is a JSON object.
type object = map[string]any

// encode returns JSON. What is rendered here always encodes.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// signES256 returns a compact JWS as RFC 7515 has it, the same for the same input (RFC 6979): equal seeds give equal messages.
func signES256(key *ecdsa.PrivateKey, header, payload object) string {
	header["alg"] = "ES256"
	input := base64url(encode(header)) + "." + base64url(encode(payload))
	digest := sha256.Sum256([]byte(input))
	der, err := key.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		panic(err) // of a key that cannot sign
	}
	var signature struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &signature); err != nil {
		panic(err)
	}
	return input + "." + base64url(append(signature.R.FillBytes(make([]byte, 32)), signature.S.FillBytes(make([]byte, 32))...))
}

// signRS256 is signES256 with RSA.
func signRS256(key *rsa.PrivateKey, header, payload object) string {
	header["alg"] = "RS256"
	input := base64url(encode(header)) + "." + base64url(encode(payload))
	digest := sha256.Sum256([]byte(input))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		panic(err)
	}
	return input + "." + base64url(signature)
}

// claims returns the payload of a JWS whose signature holds under key, an *ecdsa.PublicKey (ES256) or an *rsa.PublicKey (RS256).
func claims(token string, key crypto.PublicKey) (object, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, false
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	payload, payloadErr := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || payloadErr != nil {
		return nil, false
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	holds := false
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		holds = len(signature) == 64 && ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
	case *rsa.PublicKey:
		holds = rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature) == nil
	}
	var said object
	return said, holds && json.Unmarshal(payload, &said) == nil
}

// hmacHex is the signature of Stripe's kind, and of RevenueCat's.
func hmacHex(secret string, at time.Time, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%d.", at.Unix())
	mac.Write(body)
	return fmt.Sprintf("t=%d,v1=%s", at.Unix(), hex.EncodeToString(mac.Sum(nil)))
}

// oidcKeyID names the key of the simulated Google.
const oidcKeyID = "simulated-google-1"

// sign returns the headers of a message that is posted at a time. What is signed inside of its body was signed when it was made.
func (s *Sim) sign(m *Message, at time.Time) http.Header {
	c := s.config.Credentials[m.Env]
	h := http.Header{"Content-Type": {"application/json; charset=utf-8"}}
	switch m.Provider {
	case Stripe:
		h.Set("Stripe-Signature", hmacHex(c.Stripe.WebhookSecret, at, m.Body))
	case Google:
		h.Set("Authorization", "Bearer "+signRS256(c.Google.key, object{"kid": oidcKeyID, "typ": "JWT"}, object{
			"iss": "https://accounts.google.com", "aud": c.Google.Audience, "azp": "113774000000000000001", "sub": "113774000000000000001",
			"email": c.Google.Email, "email_verified": true, "iat": at.Unix(), "exp": at.Add(time.Hour).Unix(),
		}))
	case RevenueCat:
		h.Set("Authorization", c.RevenueCat.Authorization)
		if c.RevenueCat.SigningSecret != "" {
			h.Set("X-RevenueCat-Webhook-Signature", hmacHex(c.RevenueCat.SigningSecret, at, m.Body))
		}
	case Adapty:
		h.Set("Authorization", c.Adapty.Authorization)
	case Web2Wave:
		h.Set("Webhooks-Token", c.Web2Wave.Token)
	}
	return h
}
