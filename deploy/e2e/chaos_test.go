package e2e

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/latchkey/latchkey/deploy/e2e/chaos"
	"github.com/latchkey/latchkey/pkg/openapi/openapitest"
)

// TestChaosForAWhile: a few rounds of what `make chaos` does for as long as one likes. Nothing acknowledged is lost, and no answer is wrong.
func TestChaosForAWhile(t *testing.T) {
	programs := t.TempDir()
	build := exec.Command("go", "build", "-tags", "faults", "-o", programs+string(filepath.Separator), "./writer/cmd/...", "./edge/cmd/...")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the programs: %v\n%s", err, out)
	}
	dir, err := os.MkdirTemp("", "latchkey-chaos-")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	const fewFaults, fewAcks = 3, 100
	result, err := chaos.Run(t.Context(), chaos.Config{For: 12 * time.Second, AtLeast: fewFaults, Busy: beside, Seed: 89, Programs: programs, Dir: dir, Edges: 2, Out: &out,
		Judge: func(base http.RoundTripper, writers, edges []string) http.RoundTripper {
			describe(t, writers, edges)
			return openapitest.Transport(base)
		}})
	if err != nil {
		t.Errorf("Run: %v, see %s", err, dir)
	} else if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
	if result.Faults < fewFaults || result.Acked < fewAcks {
		t.Errorf("%d faults and %d acknowledgements, want %d and %d at least: a run in which nothing happens shows nothing", result.Faults, result.Acked, fewFaults, fewAcks)
	}
	t.Logf("\n%s", &out)
}
