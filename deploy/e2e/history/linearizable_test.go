package history

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// step is one operation of a fabricated history, with the instants at which it was asked and answered; no answer: 0.
type step struct {
	call           Call
	answer         Answer
	asked, replied int64
}

func recorded(steps []step) *Recorder {
	r := &Recorder{began: time.Now().Add(-time.Hour), open: map[*Pending]bool{}}
	for _, s := range steps {
		o := operation(s)
		if s.replied == 0 {
			r.open[&Pending{r, o}] = true
			continue
		}
		r.done = append(r.done, o)
	}
	return r
}

// TestLinearizability: histories that one order explains pass; each of the ways in which a store can lie is found.
func TestLinearizability(t *testing.T) {
	link := func(account, alias string) Call { return Call{Link, account, alias} }
	grant := func(name string) Call { return Call{Grant, "a", name} }
	revoke := func(name string) Call { return Call{Revoke, "a", name} }
	read := Call{Op: Read, Account: "a"}
	shows := func(grants ...string) Answer { return Answer{Grants: grants} }
	refused, done := Answer{Refused: true}, Answer{}
	taken := func(owner string) Answer { return Answer{Refused: true, Owner: owner} }
	tests := []struct {
		name  string
		steps []step
		wrong string // the object, empty: none
	}{
		{"a read sees what was acknowledged", []step{{grant("g"), done, 1, 2}, {read, shows("g"), 3, 4}}, ""},
		{"a read that overlaps a write may see it or not", []step{{grant("g"), done, 1, 9}, {read, shows("g"), 2, 3}, {read, shows("g"), 4, 5}}, ""},
		{"a stale read", []step{{grant("g"), done, 1, 2}, {read, shows(), 3, 4}}, "account a"},
		{"two reads that go back", []step{{grant("g"), done, 1, 9}, {read, shows("g"), 2, 3}, {read, shows(), 4, 5}}, "account a"},
		{"a read of what nobody wrote", []step{{read, shows("g"), 3, 4}}, "account a"},
		{"a write that is lost later", []step{{grant("g"), done, 1, 2}, {read, shows("g"), 3, 4}, {read, shows(), 5, 6}}, "account a"},
		{"a write that was taken back", []step{{grant("g"), done, 1, 2}, {revoke("g"), done, 3, 4}, {read, shows(), 5, 6}}, ""},
		{"a write that came back", []step{{grant("g"), done, 1, 2}, {revoke("g"), done, 3, 4}, {read, shows("g"), 5, 6}}, "account a"},
		{"a revocation that finds nothing", []step{{grant("g"), done, 1, 2}, {revoke("g"), refused, 3, 4}}, "account a"},
		{"a revocation that succeeds twice", []step{{grant("g"), done, 1, 2}, {revoke("g"), done, 3, 4}, {revoke("g"), done, 5, 6}}, "account a"},
		{"an unknown write that was done", []step{{call: grant("g"), asked: 1}, {read, shows(), 2, 3}, {read, shows("g"), 4, 5}}, ""},
		{"an unknown write that never was", []step{{call: grant("g"), asked: 1}, {read, shows(), 2, 3}, {read, shows(), 4, 5}}, ""},
		{"an unknown write that comes and goes", []step{{call: grant("g"), asked: 1}, {read, shows("g"), 2, 3}, {read, shows(), 4, 5}}, "account a"},
		{"an unknown write seen before it was asked for", []step{{read, shows("g"), 1, 2}, {call: grant("g"), asked: 3}}, "account a"},
		{"an unknown revocation", []step{{grant("g"), done, 1, 2}, {call: revoke("g"), asked: 3}, {read, shows("g"), 4, 5}, {read, shows(), 6, 7}}, ""},
		{"an alias has one owner", []step{{link("a", "x"), done, 1, 2}, {link("b", "x"), taken("a"), 3, 4}, {link("a", "x"), done, 5, 6}}, ""},
		{"an alias given to two", []step{{link("a", "x"), done, 1, 4}, {link("b", "x"), done, 2, 5}}, "alias x"},
		{"an alias refused for nobody", []step{{link("a", "x"), taken("b"), 1, 2}}, "alias x"},
		{"an alias shown before it was linked", []step{{Call{Op: Lookup, Name: "x"}, Answer{Owner: "a"}, 1, 2}, {link("a", "x"), done, 3, 4}}, "alias x"},
		{"an alias lost", []step{{link("a", "x"), done, 1, 2}, {Call{Op: Lookup, Name: "x"}, Answer{}, 3, 4}}, "alias x"},
		{"an unknown link may win or lose", []step{{call: link("a", "x"), asked: 1}, {link("b", "x"), done, 2, 3}, {Call{Op: Lookup, Name: "x"}, Answer{Owner: "b"}, 4, 5}}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			page := filepath.Join(t.TempDir(), "history.html")
			verdict, err := recorded(tt.steps).Check(10*time.Second, page)
			if tt.wrong == "" {
				if err != nil {
					t.Errorf("Check = %v, want it explained", err)
				}
				if verdict.Operations+verdict.Unknown != len(tt.steps) {
					t.Errorf("Check looked at %s, want all %d", verdict, len(tt.steps))
				}
				return
			}
			if !errors.Is(err, ErrNotLinearizable) || !strings.Contains(err.Error(), tt.wrong) {
				t.Fatalf("Check = %v, want %v: %s", err, ErrNotLinearizable, tt.wrong)
			}
			if drawn, err := os.ReadFile(page); err != nil || !strings.Contains(string(drawn), "<html") {
				t.Errorf("the page is %.50q, %v, want the history as HTML", drawn, err)
			}
		})
	}
}

// TestARecorderKeepsWhatIsOpen: an operation that never ends counts as unknown; one that was taken back does not count.
func TestARecorderKeepsWhatIsOpen(t *testing.T) {
	var r Recorder
	r.Begin(Call{Grant, "a", "g"}).Done(Answer{Unknown: true})
	r.Begin(Call{Grant, "a", "h"})
	r.Begin(Call{Op: Read, Account: "a"}).Forget()
	r.Begin(Call{Op: Read, Account: "a"}).Done(Answer{Grants: []string{"g"}})
	got, err := r.Check(10*time.Second, filepath.Join(t.TempDir(), "history.html"))
	if want := (Verdict{Operations: 1, Unknown: 2, Objects: 1}); err != nil || got != want {
		t.Errorf("Check = %+v, %v, want %+v", got, err, want)
	}
}
