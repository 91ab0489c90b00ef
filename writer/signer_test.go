package writer

import (
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/replication"
)

// A writer certifies its position key by its own clock. What it signs is good whenever that clock was wrong meanwhile, and becomes right.
func TestSignerOutlivesAWrongClock(t *testing.T) {
	cfg := testConfigs(t, 1)[0]
	var mistakes config.Mistakes
	keys := cfg.loadKeys(&mistakes)
	if err := mistakes.Err(); err != nil {
		t.Fatal(err)
	}
	verifier := replication.NewVerifier(keys.roots, testCluster)
	now := time.Now()
	tests := []struct {
		name    string
		started time.Time // as its clock had it
	}{
		{"right", now},
		{"ahead by ten minutes", now.Add(10 * time.Minute)},
		{"ahead by a week", now.Add(7 * 24 * time.Hour)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := newSigner(keys, testCluster, "w1", tt.started)
			if err != nil {
				t.Fatal(err)
			}
			p := replication.Position{Cluster: testCluster, Epoch: 1, N: 7}
			signed, err := s.sign(p.Claims(now.Unix()), now)
			if err != nil {
				t.Fatalf("sign: %v", err)
			}
			if got, err := verifier.Position(signed, 0); err != nil || got.N != p.N {
				t.Errorf("Position = %+v, %v, want %+v", got, err, p)
			}
		})
	}
}
