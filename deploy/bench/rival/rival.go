// Package rival is what a team would build in the edge's place from the usual parts: net/http, Redis, and golang-jwt with ES256. It gives the same answers and is
// given every advantage that costs no correctness: a session is verified once and then remembered, an account is one GET on a kept connection, what the account
// may use lies there ready as JSON, nothing is limited, counted or checked for damage. Start at Serve.
package rival

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Config is what Serve reads, as JSON.
type Config struct {
	Redis      string         // host:port
	SessionKey string         // public, of sessions: PKIX in base64
	Header     map[string]any // of the tokens: typ, kid and the certificates, as the edge's
	Issuer     string         // of the tokens, and of sessions
	Audience   string
}

// Answer is the answer to a check. What Redis holds of an account is one without times and token.
type Answer struct {
	Account      string           `json:"account_id"`
	Environment  string           `json:"environment"`
	Revision     string           `json:"revision"`
	ServerTime   time.Time        `json:"server_time"`
	AsOf         time.Time        `json:"as_of"`
	FreshUntil   time.Time        `json:"fresh_until"`
	Stale        bool             `json:"stale"`
	State        string           `json:"state"`
	Entitlements []Entitlement    `json:"entitlements"`
	Balances     map[string]int64 `json:"balances"`
	Purchase     json.RawMessage  `json:"purchase"`
	Trial        json.RawMessage  `json:"trial"`
	AppleToken   string           `json:"apple_app_account_token"`
	GraceToken   string           `json:"grace_token"`
}

// Entitlement is one entry of an answer.
type Entitlement struct {
	ID           string          `json:"id"`
	Active       bool            `json:"active"`
	Status       string          `json:"status"`
	Reason       string          `json:"reason"`
	ExpiresAt    time.Time       `json:"expires_at"`
	AccessUntil  time.Time       `json:"access_until"`
	OfflineUntil time.Time       `json:"offline_until"`
	WillRenew    bool            `json:"will_renew"`
	Trial        bool            `json:"trial"`
	Ownership    string          `json:"ownership"`
	Sandbox      bool            `json:"sandbox"`
	Plan         string          `json:"plan"`
	NextPlan     *string         `json:"next_plan"`
	Price        json.RawMessage `json:"price"`
	ManageURL    *string         `json:"manage_url"`
	Provider     string          `json:"provider"`
	Store        string          `json:"store"`
	Product      string          `json:"product_id"`
	Purchase     string          `json:"purchase_id"`
	Others       json.RawMessage `json:"other_purchases"`
}

// claims are those of the token.
type claims struct {
	jwt.RegisteredClaims
	Environment  string           `json:"env"`
	AsOf         int64            `json:"as_of"`
	FreshUntil   int64            `json:"fresh_until"`
	Revision     string           `json:"rev"`
	Nonce        string           `json:"nonce,omitempty"`
	Device       string           `json:"dev,omitempty"`
	Balances     map[string]int64 `json:"bal"`
	Entitlements []claimed        `json:"ent"`
}

type claimed struct {
	ID           string `json:"id"`
	Status       string `json:"status"`
	Reason       string `json:"reason"`
	Until        int64  `json:"until"`
	OfflineUntil int64  `json:"offline_until"`
	WillRenew    bool   `json:"will_renew"`
	Plan         string `json:"plan"`
	Trial        bool   `json:"trial"`
}

// sessionClaims are those of a session.
type sessionClaims struct {
	jwt.RegisteredClaims
	Device string `json:"dev"`
}

const (
	offline = 24 * time.Hour
	fresh   = time.Minute
)

type server struct {
	config   Config
	key      *ecdsa.PrivateKey
	sessions *ecdsa.PublicKey
	redis    Redis
	known    sync.Map // session's text to *sessionClaims
}

// Serve reads a Config from in, writes its address and its public key (PKIX in base64) to out, a line each, and answers until ctx ends.
func Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	s := &server{}
	if err := json.NewDecoder(in).Decode(&s.config); err != nil {
		return fmt.Errorf("rival: %w", err)
	}
	s.redis.Addr = s.config.Redis
	var err error
	if s.sessions, err = ParseKey(s.config.SessionKey); err != nil {
		return fmt.Errorf("rival: %w", err)
	}
	if s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return fmt.Errorf("rival: %w", err)
	}
	public, err := FormatKey(&s.key.PublicKey)
	if err != nil {
		return fmt.Errorf("rival: %w", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("rival: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/entitlements", s.check)
	h := &http.Server{Handler: mux, ReadHeaderTimeout: 3 * time.Second, IdleTimeout: 75 * time.Second}
	defer context.AfterFunc(ctx, func() { h.Close() })()
	if _, err := fmt.Fprintf(out, "%s\n%s\n", l.Addr(), public); err != nil {
		return fmt.Errorf("rival: %w", err)
	}
	if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("rival: %w", err)
	}
	return nil
}

// FormatKey writes a public key as a Config holds it.
func FormatKey(key *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	return base64.StdEncoding.EncodeToString(der), err
}

// ParseKey reads what FormatKey wrote.
func ParseKey(text string) (*ecdsa.PublicKey, error) {
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	public, ok := key.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("not an ECDSA key")
	}
	return public, nil
}

// Session makes a session of an account for an hour.
func Session(key *ecdsa.PrivateKey, issuer, audience, account, device string) (string, error) {
	now := time.Now()
	return jwt.NewWithClaims(jwt.SigningMethodES256, sessionClaims{Device: device, RegisteredClaims: jwt.RegisteredClaims{
		Issuer: issuer, Audience: jwt.ClaimStrings{audience}, Subject: account, IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(time.Hour)),
	}}).SignedString(key)
}

// Verify returns header and claims of a token that the rival has signed.
func Verify(token string, key *ecdsa.PublicKey) (header, claims map[string]any, err error) {
	parsed, err := jwt.Parse(token, func(*jwt.Token) (any, error) { return key, nil }, jwt.WithValidMethods([]string{"ES256"}), jwt.WithExpirationRequired(), jwt.WithStrictDecoding())
	if err != nil {
		return nil, nil, err
	}
	return parsed.Header, parsed.Claims.(jwt.MapClaims), nil
}

func (s *server) session(text string) (*sessionClaims, error) {
	if known, ok := s.known.Load(text); ok {
		return known.(*sessionClaims), nil
	}
	c := &sessionClaims{}
	_, err := jwt.ParseWithClaims(text, c, func(*jwt.Token) (any, error) { return s.sessions, nil },
		jwt.WithValidMethods([]string{"ES256"}), jwt.WithExpirationRequired(), jwt.WithIssuer(s.config.Issuer), jwt.WithAudience(s.config.Audience), jwt.WithStrictDecoding())
	if err != nil {
		return nil, err
	}
	s.known.Store(text, c)
	return c, nil
}

func (s *server) check(w http.ResponseWriter, r *http.Request) {
	bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	ses, err := s.session(bearer)
	now := time.Now().UTC().Truncate(time.Second)
	if err != nil || !now.Before(ses.ExpiresAt.Time) {
		http.Error(w, "The session is not valid.", http.StatusUnauthorized)
		return
	}
	record, err := s.redis.Get("account:" + ses.Subject)
	if err != nil {
		http.Error(w, "The account cannot be read.", http.StatusServiceUnavailable)
		return
	}
	var a Answer
	if err := json.Unmarshal(record, &a); err != nil {
		http.Error(w, "The account cannot be read.", http.StatusInternalServerError)
		return
	}
	a.ServerTime, a.AsOf, a.FreshUntil = now, now, now.Add(fresh)
	c := claims{RegisteredClaims: jwt.RegisteredClaims{Issuer: s.config.Issuer, Audience: jwt.ClaimStrings{s.config.Audience}, Subject: a.Account, IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(offline))},
		Environment: a.Environment, AsOf: now.Unix(), FreshUntil: a.FreshUntil.Unix(), Revision: a.Revision, Nonce: r.URL.Query().Get("nonce"), Device: ses.Device, Balances: a.Balances}
	for i := range a.Entitlements {
		e := &a.Entitlements[i]
		e.Active, e.OfflineUntil = now.Before(e.AccessUntil), now.Add(offline)
		if e.AccessUntil.Before(e.OfflineUntil) {
			e.OfflineUntil = e.AccessUntil
		}
		c.Entitlements = append(c.Entitlements, claimed{e.ID, e.Status, e.Reason, e.ExpiresAt.Unix(), e.OfflineUntil.Unix(), e.WillRenew, e.Plan, e.Trial})
	}
	token := jwt.NewWithClaims(jwt.SigningMethodES256, c)
	for name, value := range s.config.Header {
		token.Header[name] = value
	}
	if a.GraceToken, err = token.SignedString(s.key); err != nil {
		http.Error(w, "The answer cannot be signed.", http.StatusInternalServerError)
		return
	}
	body, err := json.Marshal(a)
	if err != nil {
		http.Error(w, "The answer cannot be written.", http.StatusInternalServerError)
		return
	}
	shown := fnv.New64a()
	shown.Write(record)
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "private, no-cache")
	h.Set("Vary", "Authorization, Accept")
	h.Set("ETag", fmt.Sprintf(`W/"%016x-%016x"`, now.Unix(), shown.Sum64()))
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.Write(body) // a client that is gone needs no answer
}
