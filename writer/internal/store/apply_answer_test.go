package store

import (
	"testing"
)

func keepAnswer(key, asked, answer string) Command {
	return NewCommand(TypeKeepAnswer, sandbox, "", &KeepAnswer{Account: "acc_1", Answer: []byte(answer), Idempotency: &Idempotency{Scope: []byte(key), Body: []byte(asked)}})
}

// TestAnAnswerIsKeptForADayUnderItsKey: the first one that stays, bound to what was asked for from the first request on.
func TestAnAnswerIsKeptForADayUnderItsKey(t *testing.T) {
	m := newMachine(t, 1<<20)
	m.apply(create("acc_1"))
	before := m.state.N
	steps := []struct {
		name     string
		command  Command
		slug     string
		existing bool
		kept     string // under the key "k" afterwards
	}{
		{"asked, and not answered for good", keepAnswer("k", "a", ""), "", false, ""},
		{"asked once more", keepAnswer("k", "a", ""), "", true, ""},
		{"another request under the key", keepAnswer("k", "b", "of b"), SlugIdempotencyMismatch, false, ""},
		{"answered", keepAnswer("k", "a", "of a"), "", false, "of a"},
		{"answered by two at once", keepAnswer("k", "a", "later"), "", true, "of a"},
		{"another request under the key that was answered", keepAnswer("k", "b", "of b"), SlugIdempotencyMismatch, false, "of a"},
		{"another key", keepAnswer("l", "b", "of b"), "", false, "of a"},
		{"no key", NewCommand(TypeKeepAnswer, sandbox, "", &KeepAnswer{Account: "acc_1", Answer: []byte("x")}), SlugInvalidRequest, false, "of a"},
		{"too long", keepAnswer("m", "a", string(make([]byte, MaxKeptAnswerBytes+1))), SlugInvalidRequest, false, "of a"},
	}
	kept := func() string {
		var answer string
		m.read(func(r *Reader) error {
			k, _, err := r.KeptAnswer([]byte("k"), m.now)
			answer = string(k.Answer)
			return err
		})
		return answer
	}
	for _, s := range steps {
		r := m.apply(s.command)
		slug := ""
		if r.Rejection != nil {
			slug = r.Rejection.Slug
		}
		if slug != s.slug || r.Existing != s.existing || kept() != s.kept {
			t.Errorf("%s: %+v and %q is kept, want rejection %q, existing %t, %q", s.name, r, kept(), s.slug, s.existing, s.kept)
		}
		m.check()
	}
	if m.state.N != before {
		t.Errorf("an answer that is kept is a change: revision %d after %d", m.state.N, before)
	}
	m.now += day
	if got := kept(); got != "" {
		t.Errorf("after a day %q is kept", got)
	}
	if r := m.apply(keepAnswer("k", "b", "of b")); r.Rejection != nil || kept() != "of b" {
		t.Errorf("after a day the key cannot be used again: %+v, %q is kept", r, kept())
	}
}
