package edge_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/token"
)

// request is a check as the server hands it to the handler.
func (r *rig) request(query string, header map[string]string) *fasthttp.RequestCtx {
	var req fasthttp.Request
	req.SetRequestURI("http://edge/v1/entitlements" + query)
	req.Header.Set("Authorization", "Bearer "+r.writer.Session(entitlement.Sandbox, alice))
	for k, v := range header {
		req.Header.Set(k, v)
	}
	ctx := new(fasthttp.RequestCtx)
	ctx.Init(&req, nil, nil)
	return ctx
}

func sign(t testing.TB, key *ecdsa.PrivateKey, digest []byte) {
	if _, err := key.Sign(nil, digest, crypto.SHA256); err != nil { // of RFC 6979, as ours
		t.Fatal(err)
	}
}

// TestAllocationsOfACheck: the hot path must not feed the garbage collector.
func TestAllocationsOfACheck(t *testing.T) {
	r := subscribed(t)
	_, _, header := r.check("", r.writer.Session(entitlement.Sandbox, alice), nil)
	for _, tt := range []struct {
		name   string
		ctx    *fasthttp.RequestCtx
		status int
		most   float64
	}{
		{"not modified", r.request("", map[string]string{"If-None-Match": header.Get("ETag")}), 304, 1},
		{"a token handed out again", r.request("", nil), 200, 5},
		{"a token of its own", r.request("?nonce=abc", nil), 200, 5},
	} {
		got := testing.AllocsPerRun(500, func() {
			tt.ctx.Response.Reset()
			r.edge.Handle(tt.ctx)
			if tt.ctx.Response.StatusCode() != tt.status {
				t.Fatalf("%s: %d %s", tt.name, tt.ctx.Response.StatusCode(), tt.ctx.Response.Body())
			}
		})
		t.Logf("%s: %.1f allocations", tt.name, got)
		if got > tt.most && !raceEnabled {
			t.Errorf("%s: %.1f allocations, want at most %.0f", tt.name, got, tt.most)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	r := subscribed(b)
	_, _, header := r.check("", r.writer.Session(entitlement.Sandbox, alice), nil)
	for name, ctx := range map[string]*fasthttp.RequestCtx{
		"fresh":        r.request("?nonce=abc", nil),
		"again":        r.request("", nil),
		"not_modified": r.request("", map[string]string{"If-None-Match": header.Get("ETag")}),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ctx.Response.Reset()
				r.edge.Handle(ctx)
			}
		})
	}
	b.Run("bare_signature", func(b *testing.B) {
		key, err := token.GenerateKey()
		if err != nil {
			b.Fatal(err)
		}
		digest := sha256.Sum256([]byte("x"))
		b.ReportAllocs()
		for b.Loop() {
			sign(b, key, digest[:])
		}
	})
}

// BenchmarkRefusal is what somebody costs whose credential is worth nothing.
func BenchmarkRefusal(b *testing.B) {
	r := subscribed(b)
	ctx := r.request("", map[string]string{"Authorization": "Bearer eyJhbGciOiJFUzI1NiIsInR5cCI6ImxhdGNoa2V5LXNlc3Npb24rand0Iiwia2lkIjoieCJ9.e30.stranger"})
	b.ReportAllocs()
	for b.Loop() {
		ctx.ResetUserValues()
		ctx.Response.Reset()
		r.edge.Handle(ctx)
	}
}
