package e2e

import (
	"testing"
	"time"

	"github.com/latchkey/latchkey/deploy/herd"
)

// TestAHerdThatLosesEverythingDoesNoHarm: forty edges lose their data at the same moment and want snapshots, while webhooks come in. Each webhook is answered
// with 200, nobody else leads, and all edges are back. The 100 ms that webhooks may take meanwhile are a figure of the benchmark: here other tests may be running.
func TestAHerdThatLosesEverythingDoesNoHarm(t *testing.T) {
	d := start(t, t.TempDir(), threeWriters...)
	var accounts []string
	for range 50 {
		accounts = append(accounts, d.account("sandbox").id)
	}
	const edges = 40
	out, err := herd.Trial{Edges: edges, Accounts: accounts, Rate: 20, For: 3 * time.Second}.Run(t.Context(), d.info())
	if err != nil {
		t.Fatalf("Run = %+v, %v", out, err)
	}
	if out.LeaderChanges != 0 || out.Snapshots < edges || out.Webhooks < 30 {
		t.Errorf("Run = %+v, want no leader change, at least %d snapshots, at least 30 webhooks", out, edges)
	}
	if out.Beside > time.Second {
		t.Errorf("the 99th percentile of webhooks was %s beside the herd, %s before", out.Beside, out.Alone)
	}
	t.Logf("%+v", out)
}
