package store

import (
	"context"
	"errors"
	"os"
	"testing"
)

// This file shows that a node which has lost its disk never votes again under its old id (I1, I4): to Raft it looks like one that founds.

// TestAFounderThatLostItsDiskNeverTakesPart: it is refused at each start, and has by then neither voted nor taken one entry, though the others lead and
// want to give it theirs. The others go on, and under a new id it comes in.
func TestAFounderThatLostItsDiskNeverTakesPart(t *testing.T) {
	r := newRoster(t)
	nodes := r.cluster(3, nil)
	for _, n := range nodes {
		if err := atLeader(t, nodes, func(leader *node) error { return leader.PutMember(testContext(t), n.member()) }); err != nil {
			t.Fatal(err)
		}
	}
	catchUp(t, nodes...) // each of the others can say by itself that it knows the lost one
	lost, rest := nodes[2], nodes[:2]
	r.close(lost)
	if err := os.RemoveAll(lost.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		fatal := make(chan error, 1)
		lost.cfg.Fatal = func(err error) { fatal <- err }
		r.open(lost)
		select {
		case err := <-fatal:
			if !errors.Is(err, ErrLostDisk) {
				t.Fatalf("it ends with %v, want ErrLostDisk", err)
			}
		case <-testContext(t).Done():
			t.Fatal("it goes on")
		}
		if last, err := lost.disk.LastIndex(); err != nil || last > 1 {
			t.Errorf("its log ends at %d, %v; want only what it founded with", last, err)
		}
		if vote, err := lost.disk.Get([]byte("LastVoteCand")); err != nil || len(vote) > 0 && string(vote) != string(lost.ownAddr) {
			t.Errorf("it has voted for %q, %v", vote, err)
		}
		r.close(lost)
	}
	if err := atLeader(t, rest, func(leader *node) error { return leader.PutMember(testContext(t), rest[0].member()) }); err != nil {
		t.Errorf("the others do not go on: %v", err)
	}
}

// TestWhoMayFound: what the others say decides. One that says nothing counts for nothing.
func TestWhoMayFound(t *testing.T) {
	empty, state, knows := &Standing{Empty: true}, &Standing{Announced: []string{"w2"}}, &Standing{Announced: []string{"w2", "w1"}}
	tests := []struct {
		name   string
		others []*Standing // w2, w3, ...
		may    bool
		lost   bool
	}{
		{"nobody answers", []*Standing{nil, nil}, false, false},
		{"one of two others is empty too: a majority founds", []*Standing{empty, nil}, true, false},
		{"all are empty", []*Standing{empty, empty}, true, false},
		{"both others run without it: it comes for the first time", []*Standing{state, state}, true, false},
		{"one runs, of the other nobody knows: that one may know it", []*Standing{state, nil}, false, false},
		{"one runs, the other is as new: a third may have known it, but there is none", []*Standing{state, empty}, true, false},
		{"one knows it", []*Standing{nil, knows}, false, true},
		{"one knows it and the other does not yet", []*Standing{state, knows}, false, true},
		{"of four others two run: the two that are silent may know it", []*Standing{state, state, nil, nil}, false, false},
		{"of four others three run", []*Standing{state, state, state, nil}, true, false},
		{"of four others two are empty: a majority founds", []*Standing{empty, empty, nil, nil}, true, false},
		{"of four others one is empty", []*Standing{empty, nil, nil, nil}, false, false},
		{"the only other one does not know it", []*Standing{state}, true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &Store{log: quiet(), cfg: Config{ID: "w1", Voters: []Voter{{ID: "w1"}}}}
			by := map[string]*Standing{}
			for i, standing := range tt.others {
				id := string(rune('2' + i))
				s.cfg.Voters = append(s.cfg.Voters, Voter{ID: "w" + id})
				by["w"+id] = standing
			}
			s.cfg.Ask = func(_ context.Context, id string) (Standing, error) {
				if by[id] == nil {
					return Standing{}, errAway
				}
				return *by[id], nil
			}
			may, err := s.mayFound(t.Context())
			if may != tt.may || errors.Is(err, ErrLostDisk) != tt.lost || !tt.lost && err != nil {
				t.Errorf("mayFound() = %t, %v; want %t, refused %t", may, err, tt.may, tt.lost)
			}
		})
	}
}
