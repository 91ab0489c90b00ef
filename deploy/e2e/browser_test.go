package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/latchkey/latchkey/deploy/system"
)

// TestSampleAppInABrowser: what a user of an app with the SDK sees, in Chromium before a real edge and the simulated stores (R5, R85, R87, R88, R93, R133, R142): a purchase
// shows; a refund locks within a second, by stream; without a network it works for 24 hours and not longer, whatever the page's clock is set to; answers
// that are not signed as they must be change nothing and are warned of. Screenshots go to build/screenshots of the SDK.
func TestSampleAppInABrowser(t *testing.T) {
	t.Parallel()
	sdk := filepath.Join("..", "..", "pkg", "sdk", "js")
	run := func(args ...string) string {
		t.Helper()
		node := exec.CommandContext(t.Context(), "node", args...)
		node.Dir = sdk
		out, err := node.CombinedOutput()
		if err != nil {
			t.Fatalf("node %s: %v\n%s", args[0], err, out)
		}
		return string(out)
	}
	run("build.mjs")
	d := start(t, t.TempDir(), "--storesim")
	out := run(filepath.Join("build", "browser.mjs"), filepath.Join(d.dir, system.InfoFile), filepath.Join("build", "screenshots"))
	if !strings.Contains(out, "browser: 8 stories held\n") {
		t.Errorf("the browser's stories:\n%s", out)
	}
}
