package main

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/oklog/ulid/v2"
)

// errGoogleSigns says what to do instead: nobody but Google has the key, and no API of it sends a test.
var errGoogleSigns = errors.New("only Google can sign its messages: use \"Send test notification\" in the Play Console (Monetization setup); where google.jwks_file " +
	"holds a key of your own, give its private key with --google-key")

// googleTestMessage is a test notification as Pub/Sub pushes it, under an identity token by the key of a file.
func googleTestMessage(o testOrder) (header []string, body []byte, err error) {
	google := o.cfg.Google
	if google == nil {
		return nil, nil, errNotConfigured
	}
	if o.googleKey == "" {
		return nil, nil, errGoogleSigns
	}
	key, err := readRSAKey(o.googleKey)
	if err != nil {
		return nil, nil, err
	}
	type object = map[string]any
	notification, err := json.Marshal(object{"version": "1.0", "packageName": google.Package, "eventTimeMillis": fmt.Sprint(o.now.UnixMilli()),
		"testNotification": object{"version": "1.0"}})
	if err != nil {
		return nil, nil, err
	}
	id := "test-" + ulid.Make().String()
	if body, err = json.Marshal(object{"message": object{"data": base64.StdEncoding.EncodeToString(notification), "messageId": id, "publishTime": o.now.UTC().Format(time.RFC3339)},
		"subscription": "projects/test/subscriptions/test"}); err != nil {
		return nil, nil, err
	}
	claims, err := json.Marshal(object{"iss": "https://accounts.google.com", "aud": google.Audience, "email": google.Email, "email_verified": true,
		"iat": o.now.Unix(), "exp": o.now.Add(5 * time.Minute).Unix()})
	if err != nil {
		return nil, nil, err
	}
	signed := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(claims)
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	return []string{"Authorization: Bearer " + signed + "." + base64.RawURLEncoding.EncodeToString(signature)}, body, err
}

func readRSAKey(path string) (*rsa.PrivateKey, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s is no PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s is no RSA key", path)
	}
	return key, nil
}
