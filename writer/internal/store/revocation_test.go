package store

import (
	"slices"
	"testing"

	"github.com/latchkey/latchkey/replication"
)

func revocations(byRoot bool, counter int64, text string, kids ...string) Command {
	l := replication.RevocationList{Text: []byte(text), ByRoot: byRoot, Counter: counter}
	for _, kid := range kids {
		l.Keys = append(l.Keys, replication.RevokedKey{ID: kid, Until: startTime + day})
	}
	return NewCommand(TypePutRevocations, sandbox, "", PutRevocations{List: l})
}

// The lists of a root and of an issuing key stand side by side beside the session keys; of each kind the newest stays, and none is lost when session keys change.
func TestRevocationsOnlyGetNewer(t *testing.T) {
	m := newMachine(t, 1<<20)
	keys := NewCommand(TypePutKeys, sandbox, "", &PutSessionKeys{JWKs: [][]byte{[]byte(`{"kty":"EC"}`)}})
	many := make([]string, 65)
	for i := range many {
		many[i] = string(rune('a' + i))
	}
	for _, step := range []struct {
		name    string
		command Command
		refused bool
		want    []string // the lists afterwards
	}{
		{"session keys before any list", keys, false, nil},
		{"the first list", revocations(false, 10, "issuer 10", "a"), false, []string{"issuer 10"}},
		{"a root's list comes first", revocations(true, 5, "root 5", "b"), false, []string{"root 5", "issuer 10"}},
		{"a newer one takes the place of its kind", revocations(false, 11, "issuer 11", "a", "c"), false, []string{"root 5", "issuer 11"}},
		{"an older one is refused", revocations(false, 10, "issuer 10"), true, []string{"root 5", "issuer 11"}},
		{"another one with the same counter is refused", revocations(false, 11, "other 11"), true, []string{"root 5", "issuer 11"}},
		{"the same one again changes nothing", revocations(false, 11, "issuer 11", "a", "c"), false, []string{"root 5", "issuer 11"}},
		{"session keys leave them alone", keys, false, []string{"root 5", "issuer 11"}},
		{"no counter", revocations(true, 0, "root 0"), true, []string{"root 5", "issuer 11"}},
		{"no text", revocations(true, 6, ""), true, []string{"root 5", "issuer 11"}},
		{"more keys than a list has", revocations(true, 6, "root 6", many...), true, []string{"root 5", "issuer 11"}},
	} {
		result := m.apply(step.command)
		if got := result.Rejection != nil; got != step.refused {
			t.Errorf("%s: %+v, want refused %t", step.name, result.Rejection, step.refused)
		}
		m.read(func(r *Reader) error {
			lists, err := r.Revocations(sandbox)
			var got []string
			for _, l := range lists {
				got = append(got, string(l.Text))
			}
			if !slices.Equal(got, step.want) {
				t.Errorf("%s: lists %q, want %q", step.name, got, step.want)
			}
			if present, err := r.SessionKeys(sandbox); err != nil || len(present) != 1 {
				t.Errorf("%s: %d session keys, %v", step.name, len(present), err)
			}
			return err
		})
		m.check()
	}
}

// A writer that does not know lists of revoked keys would end at one: none is proposed before all know them.
func TestRevocationsWaitForTheRules(t *testing.T) {
	if got := TypePutRevocations.since(); got != rulesAccounts || !TypePutRevocations.known() {
		t.Errorf("since = %d, known = %t", got, TypePutRevocations.known())
	}
}
