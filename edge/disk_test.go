package edge_test

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/latchkey/latchkey/edge"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// TestANearlyFullDisk: the edge takes nothing new, neither changes nor a snapshot, and goes on answering with what it holds. It is up to date by
// itself when there is room again.
func TestANearlyFullDisk(t *testing.T) {
	var free atomic.Int64
	free.Store(50 << 30)
	r := newRig(t)
	r.writer.PutCatalog(entitlement.Sandbox, catalog)
	now := r.clock.Now().Unix()
	r.writer.PutAccount(entitlement.Sandbox, subscriber(alice, now, now+30*86400))
	r.startWith(func(c *edge.Config) {
		c.StatFS = func(string) (int64, int64, error) { return free.Load(), 100 << 30, nil }
	})
	r.ready()
	session := r.writer.Session(entitlement.Sandbox, alice)
	answers := func(revision replication.Revision) {
		t.Helper()
		if status, a, _ := r.check("?nonce=n", session, nil); status != http.StatusOK || a.Revision != revision.String() || !a.Entitlements[0].Active || a.GraceToken == "" {
			t.Errorf("check = %d at %s with %+v, want pro active at %s", status, a.Revision, a.Entitlements, revision)
		}
	}
	low := func(want bool) {
		t.Helper()
		until(t, "what /readyz says of the disk", func() bool {
			resp, body := r.get("/readyz", nil)
			return strings.Contains(string(body), `"disk"`) == want && (resp.StatusCode == http.StatusOK) != want
		})
	}
	notApplied := func() {
		t.Helper()
		until(t, "the reason in /status", func() bool {
			return slices.ContainsFunc(r.edge.Status().Reasons, func(s string) bool { return strings.Contains(s, "disk nearly full") })
		})
	}
	held := r.writer.Position().Revision()
	free.Store(1 << 30)
	low(true)
	next := r.writer.PutAccount(entitlement.Sandbox, subscriber("acc_01BOB", now, now+86400)).Revision()
	notApplied()
	answers(held)
	free.Store(50 << 30)
	low(false)
	until(t, "the change", func() bool { return r.edge.Status().Revision == next.N })
	answers(next)

	free.Store(1 << 30)
	low(true)
	r.writer.RaiseEpoch() // only a snapshot helps
	until(t, "a snapshot refused", func() bool {
		return slices.ContainsFunc(r.edge.Status().Reasons, func(s string) bool {
			return strings.HasPrefix(s, "snapshot:") && strings.Contains(s, "disk nearly full")
		})
	})
	answers(next)
	free.Store(50 << 30)
	until(t, "the snapshot", func() bool { return r.edge.Status().Epoch == r.writer.Position().Epoch })
	low(false)
}
