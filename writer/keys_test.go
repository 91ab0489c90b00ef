package writer

import (
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/token"
)

// TestIssuingKeyIsChangedWriterByWriter replaces the issuing key of three writers as an operator does, each with a restart. All the way an edge believes
// every writer's heads and is certified by each, what the old key certified counts on, and writes are taken.
func TestIssuingKeyIsChangedWriterByWriter(t *testing.T) {
	configs := testConfigs(t, 3)
	keys := filepath.Dir(configs[0].Keys.IssuerKeyFile)
	next := filepath.Join(keys, "next")
	until, err := MakeIssuer(next, filepath.Join(keys, rootKeyFile), testCluster)
	if err != nil || time.Until(until) < 399*24*time.Hour {
		t.Fatalf("MakeIssuer until %s, %v", until, err)
	}
	var writers []*testWriter
	for _, cfg := range configs {
		writers = append(writers, startWriter(t, cfg))
	}
	for _, w := range writers {
		w.awaitReady()
	}
	key, err := token.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	first := certifiedBy(t, writers[0], key)
	believed := func(step string) {
		t.Helper()
		for _, w := range writers {
			client, verifier := edgeOf(t, w)
			await(t, step+": a head at "+w.cfg.Node.ID, func() bool {
				signed, err := client.Head(t.Context())
				if err != nil {
					return false
				}
				if _, err := verifier.Head(signed, 0); err != nil {
					t.Fatalf("%s: the head of %s: %v", step, w.cfg.Node.ID, err)
				}
				return true
			})
			if _, err := token.NewGraceSigner(key, certifiedBy(t, w, key), w.keys.roots, time.Now()); err != nil {
				t.Errorf("%s: a certificate of %s: %v", step, w.cfg.Node.ID, err)
			}
			if r := w.api("POST", "/v1/accounts", "{}"); r.status != http.StatusCreated {
				t.Errorf("%s: write at %s = %d %s", step, w.cfg.Node.ID, r.status, r.text)
			}
		}
		if _, err := token.NewGraceSigner(key, first, writers[0].keys.roots, time.Now()); err != nil {
			t.Errorf("%s: the first certificate: %v", step, err)
		}
	}
	believed("before")
	for i, cfg := range configs {
		writers[i].stop()
		cfg.listeners = listeners{} // the same addresses, taken anew
		cfg.Keys.IssuerKeyFile, cfg.Keys.IssuerCertFile = filepath.Join(next, issuerKeyFile), filepath.Join(next, issuerCertFile)
		writers[i] = startWriter(t, cfg)
		writers[i].awaitReady()
		believed(fmt.Sprintf("the new key at %d writers", i+1))
	}
	old, err := token.ParseCertificate(first[1])
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range writers {
		now, err := token.ParseCertificate(certifiedBy(t, w, key)[1])
		if err != nil || now.Key.Equal(old.Key) {
			t.Errorf("%s certifies with the old issuing key, %v", w.cfg.Node.ID, err)
		}
	}
}

// certifiedBy has a writer certify an edge's key for sandbox.
func certifiedBy(t *testing.T, w *testWriter, key *ecdsa.PrivateKey) []string {
	t.Helper()
	jwk, err := token.PublicJWK(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(certificateRequest{Node: "e1", Environment: entitlement.Sandbox, Audience: "com.example.app/sandbox", JWK: jwk})
	if err != nil {
		t.Fatal(err)
	}
	r := w.internal("POST", "/internal/v1/edge-certificates", string(body), nil)
	var answer certificateAnswer
	if err := json.Unmarshal([]byte(r.text), &answer); err != nil || r.status != http.StatusOK {
		t.Fatalf("POST edge-certificates at %s = %d %s, %v", w.cfg.Node.ID, r.status, r.text, err)
	}
	return answer.Certificates[:]
}
