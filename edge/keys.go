package edge

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
)

const (
	certificatesPath = "/internal/v1/edge-certificates"

	// renewBelow is how much of a certificate's 72 h must be left. A token of 24 h then always fits, and writers may be away for a day
	// before any token is cut short.
	renewBelow = 48 * time.Hour
	// renewEvery is how often that is looked at, and how long after a failure it is tried again at first.
	renewEvery   = time.Minute
	certTimeout  = 5 * time.Second
	maxCertReply = 16 << 10
)

// signingKey is the edge's key for one environment. The private key is made here and never leaves the data folder.
type signingKey struct {
	env      entitlement.Environment
	audience string
	key      atomic.Pointer[ecdsa.PrivateKey]
	keyFile  string
	certFile string
	signer   atomic.Pointer[token.GraceSigner] // nil until certified, and while what it has is revoked
}

// loadKey reads the environment's key and certificates from dir, making the key if there is none.
func loadKey(dir string, env entitlement.Environment, audience string, cfg *Config) (*signingKey, error) {
	k := &signingKey{env: env, audience: audience, keyFile: filepath.Join(dir, "edge-"+string(env)+".key.pem"), certFile: filepath.Join(dir, "edge-"+string(env)+".certs.json")}
	text, err := os.ReadFile(k.keyFile)
	if errors.Is(err, os.ErrNotExist) {
		return k, k.replace()
	}
	if err != nil {
		return nil, fmt.Errorf("edge key: %w", err)
	}
	key, err := token.ParsePrivateKeyPEM(text)
	if err != nil {
		return nil, fmt.Errorf("edge key %s: %w", k.keyFile, err)
	}
	k.key.Store(key)
	certs, err := k.readCertificates()
	if err != nil {
		return k, nil // asked for anew
	}
	// Judged at their own beginning: whether they still count is seen at each signature, by the time that the edge can prove.
	leaf, err := token.ParseCertificate(certs[0])
	if err != nil {
		return k, nil
	}
	signer, err := token.NewGraceSigner(key, certs, cfg.roots, time.Unix(leaf.NotBefore, 0))
	if err == nil && k.fits(signer, cfg) {
		k.signer.Store(signer)
	}
	return k, nil
}

// replace makes another key, which is not certified yet.
func (k *signingKey) replace() error {
	key, err := token.GenerateKey()
	if err != nil {
		return err
	}
	text, err := token.MarshalPrivateKeyPEM(key)
	if err != nil {
		return err
	}
	if err := writePrivate(k.keyFile, text); err != nil {
		return err
	}
	k.signer.Store(nil)
	k.key.Store(key)
	return nil
}

// fits reports whether the certificate is for what the edge is configured to be now.
func (k *signingKey) fits(s *token.GraceSigner, cfg *Config) bool {
	c := s.Certificate()
	return c.Issuer == cfg.Node.Cluster && c.Audience == k.audience && c.Environment == string(k.env) && c.Subject == cfg.Node.ID
}

func (k *signingKey) readCertificates() ([]string, error) {
	text, err := os.ReadFile(k.certFile)
	if err != nil {
		return nil, err
	}
	var certs []string
	if err := json.Unmarshal(text, &certs); err != nil || len(certs) != 2 {
		return nil, fmt.Errorf("%s: not two certificates", k.certFile)
	}
	return certs, nil
}

// due reports whether the certificate should be renewed at now, Unix seconds.
func (k *signingKey) due(now int64) bool {
	s := k.signer.Load()
	return s == nil || s.Certificate().ExpiresAt-now < int64(renewBelow/time.Second)
}

// ends is when the certificate ends, in Unix seconds; 0 without one.
func (k *signingKey) ends() float64 {
	if s := k.signer.Load(); s != nil {
		return float64(s.Certificate().ExpiresAt)
	}
	return 0
}

// identityEnds is when the edge's certificate among the nodes ends, in Unix seconds; infinity when it has none.
func (e *Edge) identityEnds() float64 {
	if e.identity == nil {
		return math.Inf(1)
	}
	return float64(e.identity.Expires().Unix())
}

// httpsEnds is when the certificate that apps see ends, in Unix seconds; infinity when a proxy shows one.
func (e *Edge) httpsEnds() float64 {
	if e.https == nil {
		return math.Inf(1)
	}
	return float64(e.https.ends().Unix())
}

// renew has a writer certify the key.
func (k *signingKey) renew(ctx context.Context, client *replication.Client, cfg *Config, known *revocations, now int64) error {
	key := k.key.Load()
	jwk, err := token.PublicJWK(&key.PublicKey)
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{"node": cfg.Node.ID, "environment": k.env, "audience": k.audience, "jwk": jwk})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, certTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, client.Base()+certificatesPath, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.HTTP().Do(req)
	if err != nil {
		return fmt.Errorf("ask for a certificate: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask for a certificate of %s: status %d", k.env, resp.StatusCode)
	}
	reply, err := io.ReadAll(io.LimitReader(resp.Body, maxCertReply))
	if err != nil {
		return fmt.Errorf("ask for a certificate: %w", err)
	}
	var answer struct {
		Certificates []string `json:"certificates"`
	}
	if err := json.Unmarshal(reply, &answer); err != nil {
		return fmt.Errorf("certificate of %s: %w", k.env, err)
	}
	signer, err := token.NewGraceSigner(key, answer.Certificates, cfg.roots, time.Unix(now, 0))
	if err != nil {
		return fmt.Errorf("certificate of %s: %w", k.env, err)
	}
	if !k.fits(signer, cfg) {
		return fmt.Errorf("certificate of %s is for another edge", k.env)
	}
	if signer, err = known.carriedBy(signer); err != nil {
		return fmt.Errorf("certificate of %s: %w", k.env, err)
	}
	text, err := json.Marshal(answer.Certificates)
	if err != nil {
		return err
	}
	if err := writePrivate(k.certFile, text); err != nil {
		return err
	}
	k.signer.Store(signer)
	return nil
}

// certifiedFor is how long the edge may still sign for all of its environments; 0 when one has no certificate, or it is over.
func (e *Edge) certifiedFor() time.Duration {
	least, now := int64(token.MaxLeafSeconds), e.now()
	for _, k := range e.keys {
		s := k.signer.Load()
		if s == nil {
			return 0
		}
		least = min(least, s.Certificate().ExpiresAt-now)
	}
	return time.Duration(max(0, least)) * time.Second
}

// keepCertified renews the keys' certificates until ctx ends.
func (e *Edge) keepCertified(ctx context.Context) {
	delays := replication.NewBackoff()
	delays.MaxInterval = renewEvery / 2
	failing := false
	var retryAt time.Time
	for {
		changed := e.replica.Updated()
		e.learnRevocations()
		wait := renewEvery
		for _, k := range e.keys {
			if client := e.follower.Client(); k.due(e.now()) && client != nil && !time.Now().Before(retryAt) {
				err := k.renew(ctx, client, &e.cfg, &e.revoked, e.now())
				if ctx.Err() != nil {
					return
				}
				if err != nil {
					if !failing {
						e.log.LogAttrs(ctx, slog.LevelWarn, "certificate not renewed", slog.String("environment", string(k.env)), slog.Any("error", err))
					}
					// A change of the replica must not make who was refused ask at once again.
					failing, wait = true, delays.NextBackOff()
					retryAt = time.Now().Add(wait)
					continue
				}
				failing = false
				delays.Reset()
				e.log.LogAttrs(ctx, slog.LevelInfo, "edge key certified", slog.String("environment", string(k.env)), slog.Int64("expires_at", k.signer.Load().Certificate().ExpiresAt))
			}
		}
		if pause(ctx, revocationsLook) != nil || awaitFor(ctx, changed, wait-revocationsLook) != nil {
			return
		}
	}
}

// awaitFor returns after d at the latest, and before when changed is closed. Error: ctx.Err.
func awaitFor(ctx context.Context, changed <-chan struct{}, d time.Duration) error {
	timer := time.NewTimer(max(0, d))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-changed:
	case <-timer.C:
	}
	return nil
}

// pause waits for d. Error: ctx.Err.
func pause(ctx context.Context, d time.Duration) error { return awaitFor(ctx, nil, d) }

// writePrivate replaces a file that only this user may read.
func writePrivate(path string, content []byte) error {
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}
