package edge

import (
	"testing"

	"github.com/latchkey/latchkey/replication"
)

// TestOfTwoTokensTheNewerIsKept: checks that sign at the same time may end in any order; what is handed out again is never older than
// what was answered (I7).
func TestOfTwoTokensTheNewerIsKept(t *testing.T) {
	at := func(n uint64, asOf int64) *signedToken {
		return &signedToken{revision: replication.Revision{Epoch: 1, N: n}, asOf: asOf}
	}
	restored := &signedToken{revision: replication.Revision{Epoch: 2, N: 1}, asOf: 90}
	tests := []struct {
		name         string
		first, later *signedToken
		kept         int // 1 or 2
	}{
		{"a newer revision", at(5, 100), at(6, 100), 2},
		{"an older revision", at(6, 100), at(5, 100), 1},
		{"a newer as_of", at(5, 100), at(5, 101), 2},
		{"an older as_of", at(5, 101), at(5, 100), 1},
		{"the same again, for another device", at(5, 100), at(5, 100), 2},
		{"a newer epoch", at(5, 100), restored, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var k known
			k.keep(tt.first)
			k.keep(tt.later)
			if want := []*signedToken{tt.first, tt.later}[tt.kept-1]; k.newest.Load() != want {
				t.Errorf("kept %+v, want %+v", k.newest.Load(), want)
			}
		})
	}
}
