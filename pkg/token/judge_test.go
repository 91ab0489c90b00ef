package token

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// I14: an independent JOSE library, by the procedure in the package comment, accepts and refuses exactly what our verifier does. The
// expectations in vectors.json are those of TestVectors.
func TestJoseReachesTheSameVerdicts(t *testing.T) {
	out, err := judge(t, filepath.Join("..", "testdata", "vectors.json"))
	kit := readVectors(t)
	want := fmt.Sprintf("judge: %d cases, %d clock traces, 0 differ\n", len(kit.Cases), len(kit.ClockTraces))
	if err != nil || string(out) != want {
		t.Errorf("judge: %v\n%s\nwant %s", err, out, want)
	}
}

// The judge is judged: one wrong expectation of either kind makes it fail.
func TestTheJudgeFindsAWrongVerdict(t *testing.T) {
	plants := map[string]func(*vectors){
		"an accepted token expected to be refused":     func(kit *vectors) { kit.Cases[0].Accept = false },
		"an allowed entitlement expected to be denied": func(kit *vectors) { kit.Cases[0].Allows["pro"] = false },
		"a trusted time that is a second off":          func(kit *vectors) { kit.ClockTraces[0].Steps[1].Trusted++ },
		"another status of the held answer":            func(kit *vectors) { kit.ClockTraces[0].Steps[1].Status = "unverified" },
	}
	for name, plant := range plants {
		t.Run(name, func(t *testing.T) {
			kit := readVectors(t)
			kit.Cases, kit.ClockTraces = kit.Cases[:1], kit.ClockTraces[:1]
			plant(&kit)
			text, err := json.Marshal(kit)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "planted.json")
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := judge(t, path); err == nil || !bytes.Contains(out, []byte("1 differ")) {
				t.Errorf("judge: %v\n%s\nwant one difference", err, out)
			}
		})
	}
}

func readVectors(t *testing.T) vectors {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "vectors.json"))
	if err != nil {
		t.Fatal(err)
	}
	var kit vectors
	if err := json.Unmarshal(text, &kit); err != nil {
		t.Fatal(err)
	}
	return kit
}

// judge runs judge.mjs, after `npm ci` where its one dependency is missing. package-lock.json holds that dependency's hash.
func judge(t *testing.T, path string) ([]byte, error) {
	t.Helper()
	if _, err := os.Stat(filepath.Join("judge", "node_modules", "jose")); err != nil {
		ci := exec.Command("npm", "ci", "--no-audit", "--no-fund")
		ci.Dir = "judge"
		if out, err := ci.CombinedOutput(); err != nil {
			t.Fatalf("npm ci: %v\n%s", err, out)
		}
	}
	node := exec.Command("node", "judge.mjs", path)
	node.Dir = "judge"
	return node.CombinedOutput()
}
