package edge_test

import (
	"crypto/sha256"
	"encoding/json"
	"strings"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// TestABackendReadsWithItsKey: with a key that a writer made known an edge answers about any account of the key's environment, unsigned; with any other it
// does not, and with a key that was revoked no more.
func TestABackendReadsWithItsKey(t *testing.T) {
	t.Parallel()
	r := subscribed(t)
	const key = "lk_sandbox_rk_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	record := replication.Record{Env: entitlement.Sandbox, Kind: replication.KindKeys, Key: replication.ReadKey(sha256.Sum256([]byte(key))), Value: replication.ReadKeyValue()}
	r.writer.Put(record)
	r.writer.Put(replication.Record{Env: entitlement.Sandbox, Kind: replication.KindPointer, Key: "acc_01MERGED", Value: entitlement.Encode(&entitlement.Pointer{Account: alice})})
	r.atRevision()
	at := r.writer.Position().Revision()
	next := replication.Revision{Epoch: at.Epoch, N: at.N + 1}
	tests := []struct {
		name, path, credential string
		status                 int
		slug                   string
	}{
		{"an account", "/v1/accounts/acc_01ALICE/entitlements", key, 200, ""},
		{"at a revision", "/v1/accounts/acc_01ALICE/entitlements?min_revision=" + at.String(), key, 200, ""},
		{"at one to come", "/v1/accounts/acc_01ALICE/entitlements?wait=0&min_revision=" + next.String(), key, 503, "not-yet"},
		{"an account that was merged", "/v1/accounts/acc_01MERGED/entitlements", key, 200, ""},
		{"no account", "/v1/accounts/acc_00000000000000000000000000/entitlements", key, 404, "not-found"},
		{"an alias", "/v1/accounts/custom:u-7/entitlements", key, 404, "invalid-id"},
		{"an id of a wrong form", "/v1/accounts/acc_01alice/entitlements", key, 404, "invalid-id"},
		{"another address", "/v1/accounts/acc_01ALICE", key, 404, "not-found"},
		{"no key", "/v1/accounts/acc_01ALICE/entitlements", "", 401, "invalid-credential"},
		{"a session", "/v1/accounts/acc_01ALICE/entitlements", r.writer.Session(entitlement.Sandbox, alice), 401, "invalid-credential"},
		{"a key that nobody made", "/v1/accounts/acc_01ALICE/entitlements", strings.Replace(key, "aaaa", "aaab", 1), 401, "invalid-credential"},
		{"a key of another environment", "/v1/accounts/acc_01ALICE/entitlements", strings.Replace(key, "sandbox", "production", 1), 401, "invalid-credential"},
		{"a key that may write", "/v1/accounts/acc_01ALICE/entitlements", strings.Replace(key, "_rk_", "_sk_", 1), 403, "forbidden"},
		{"a key for an app's own check", "/v1/entitlements", key, 401, "invalid-credential"},
	}
	for _, tt := range tests {
		header := map[string]string{"Authorization": "Bearer " + tt.credential}
		if tt.credential == "" {
			header = nil
		}
		resp, body := r.get(tt.path, header)
		var a answer
		if err := json.Unmarshal(body, &a); err != nil {
			t.Fatalf("%s: %s: %v", tt.name, body, err)
		}
		if resp.StatusCode != tt.status || slug(a) != tt.slug {
			t.Errorf("%s: %d %s, want %d %s", tt.name, resp.StatusCode, body, tt.status, tt.slug)
		}
		if tt.status == 200 && (a.GraceToken != "" || len(a.Entitlements) != 1 || a.Entitlements[0].Status != "active" || a.Entitlements[0].OfflineUntil.IsZero() || a.Revision != at.String()) {
			t.Errorf("%s: %s, want pro without a token at %s", tt.name, body, at)
		}
	}
	resp, _ := r.get("/v1/accounts/acc_01ALICE/entitlements", map[string]string{"Authorization": "Bearer " + key})
	if again, _ := r.get("/v1/accounts/acc_01ALICE/entitlements", map[string]string{"Authorization": "Bearer " + key, "If-None-Match": resp.Header.Get("ETag")}); again.StatusCode != 304 {
		t.Errorf("with the answer's tag: %d, want 304", again.StatusCode)
	}
	record.Value = nil
	r.writer.Put(record)
	r.atRevision()
	if resp, body := r.get("/v1/accounts/acc_01ALICE/entitlements", map[string]string{"Authorization": "Bearer " + key}); resp.StatusCode != 401 {
		t.Errorf("with a revoked key: %d %s", resp.StatusCode, body)
	}
}
