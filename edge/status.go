package edge

import (
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/latchkey/latchkey/pkg/token"
)

// Status is what /status says and `latchkey-edge status` prints.
type Status struct {
	ID           string              `json:"id"`
	Role         string              `json:"role"`
	Cluster      string              `json:"cluster"`
	Version      string              `json:"version"`
	Epoch        uint64              `json:"epoch"`    // 0: no data
	Revision     uint64              `json:"revision"` // within the epoch
	AsOf         string              `json:"as_of,omitempty"`
	StateHash    string              `json:"state_hash"`
	Chain        string              `json:"chain"`
	Rules        uint32              `json:"rules"`
	Source       string              `json:"source"`      // how the newest data came: disk, nats, pull, snapshot
	LagSeconds   int64               `json:"lag_seconds"` // the age of as_of; -1 without data
	Proven       bool                `json:"proven"`      // the whole file was read and agrees with the state hash
	Writer       string              `json:"writer,omitempty"`
	RoundTrips   map[string]float64  `json:"writer_round_trips_ms,omitempty"` // of each writer that is known, by its address
	NATS         *bool               `json:"nats_connected,omitempty"`
	Certificates []CertificateStatus `json:"certificates"`
	Revocations  RevocationStatus    `json:"revocations"`
	Reasons      []string            `json:"reasons"` // what is wrong; empty when all is well
}

// Version says what was built: the module's version, or the commit.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	version := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (version == "" || version == "(devel)") {
			version = s.Value
		}
	}
	if version == "" {
		version = "unknown"
	}
	return version
}

// CertificateStatus is one environment's certificate.
type CertificateStatus struct {
	Environment string `json:"environment"`
	KeyID       string `json:"kid,omitempty"`
	ExpiresAt   string `json:"expires_at,omitempty"` // absent: not certified yet
}

// RevocationStatus are the counters of the newest lists of revoked keys that the edge has: of a root, and of an issuing key. 0: none.
type RevocationStatus struct {
	Root   int64 `json:"root"`
	Issuer int64 `json:"issuer"`
}

// lagMax is how old as_of may be for the edge to call itself ready. Older data is still served, marked stale.
const lagMax = token.FreshSeconds * time.Second

// Status says how the edge fares now.
func (e *Edge) Status() Status {
	head, now := e.replica.Head(), e.now()
	follow := e.follower.Status()
	s := Status{
		ID: e.cfg.Node.ID, Role: "edge", Cluster: e.cfg.Node.Cluster, Version: Version(),
		Epoch: head.Epoch, Revision: head.N, StateHash: head.StateHash.String(), Chain: head.Chain.String(), Rules: head.Rules,
		Source: follow.Source, LagSeconds: -1, Proven: e.replica.Proven(), Writer: follow.Writer, Certificates: []CertificateStatus{},
		Reasons: e.disturbances(),
	}
	for writer, took := range follow.RoundTrips {
		if s.RoundTrips == nil {
			s.RoundTrips = map[string]float64{}
		}
		s.RoundTrips[writer] = float64(took.Microseconds()) / 1000
	}
	if head.AsOf > 0 {
		s.AsOf, s.LagSeconds = formatTime(head.AsOf), now-head.AsOf
	}
	if e.nats != nil {
		connected := e.nats.Connected()
		s.NATS = &connected
	}
	s.Revocations.Root, s.Revocations.Issuer = e.revoked.known.Counters()
	for _, k := range e.keys {
		c := CertificateStatus{Environment: string(k.env)}
		if signer := k.signer.Load(); signer != nil {
			c.KeyID, c.ExpiresAt = signer.KeyID(), formatTime(signer.Certificate().ExpiresAt)
		}
		s.Certificates = append(s.Certificates, c)
	}
	return s
}

// disturbances says what is wrong at present without making answers wrong or old, in words for operators; never nil.
func (e *Edge) disturbances() []string {
	reasons := append([]string{}, e.follower.Status().Reasons...)
	if e.nats != nil && !e.nats.Connected() {
		reasons = append(reasons, "nats: no server answers")
	}
	if e.identity != nil {
		if err := e.identity.Check(); err != nil {
			reasons = append(reasons, "tls.cert_file: "+err.Error())
		}
	}
	if e.https != nil {
		if err := e.https.check(); err != nil {
			reasons = append(reasons, "https.cert_file: "+err.Error())
		}
	}
	return reasons
}

// unready lists what keeps the edge from being ready: from giving answers that are fresh and signed.
func (e *Edge) unready() []string {
	head, now := e.replica.Head(), e.now()
	reasons := []string{}
	switch age := now - head.AsOf; {
	case head.Epoch == 0:
		reasons = append(reasons, "no data")
	case head.AsOf == 0:
		reasons = append(reasons, "no head yet")
	case age > int64(lagMax/time.Second):
		reasons = append(reasons, fmt.Sprintf("as_of is %d s old", age))
	}
	if e.room.Status().Low {
		reasons = append(reasons, "disk")
	}
	if e.replica.Doubted() {
		reasons = append(reasons, "replica is being proven")
	}
	for _, k := range e.keys {
		if signer := k.signer.Load(); signer == nil || now >= signer.Certificate().ExpiresAt {
			reasons = append(reasons, "not certified for "+string(k.env))
		}
	}
	if e.draining.Load() {
		reasons = append(reasons, "stopping")
	}
	return reasons
}

func (e *Edge) handleReady(ctx *fasthttp.RequestCtx) error {
	reasons := e.unready()
	ready := len(reasons) == 0
	if !ready {
		ctx.SetStatusCode(fasthttp.StatusServiceUnavailable)
	}
	// What does not keep it from being ready is said all the same.
	return sendJSON(ctx, map[string]any{"ready": ready, "role": "edge", "reasons": append(reasons, e.disturbances()...)})
}

func (e *Edge) handleStatus(ctx *fasthttp.RequestCtx) error { return sendJSON(ctx, e.Status()) }

// handleJWKS serves the public keys of this edge's tokens, for servers that verify without the chain in the token's header.
func (e *Edge) handleJWKS(ctx *fasthttp.RequestCtx) error {
	var keys []*ecdsa.PublicKey
	for _, k := range e.keys {
		if k.signer.Load() != nil {
			keys = append(keys, &k.key.Load().PublicKey)
		}
	}
	body, err := token.AppendJWKS(nil, keys...)
	if err != nil {
		return err
	}
	ctx.Response.Header.Set(fasthttp.HeaderCacheControl, "public, max-age=300")
	ctx.SetContentType("application/jwk-set+json")
	ctx.SetBody(body)
	return nil
}

func sendJSON(ctx *fasthttp.RequestCtx, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	ctx.Response.Header.Set(fasthttp.HeaderCacheControl, "no-store")
	ctx.SetContentType("application/json")
	ctx.SetBody(append(body, '\n'))
	return nil
}

func formatTime(t int64) string { return time.Unix(t, 0).UTC().Format(time.RFC3339) }
