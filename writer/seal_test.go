package writer

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
)

func testSealer(t *testing.T, key string) *sealer {
	t.Helper()
	s, err := newSealer(ContactsConfig{Key: config.Secret(key)})
	if err != nil || s == nil {
		t.Fatalf("newSealer = %v, %v", s, err)
	}
	return s
}

// TestSealedTextOpensInItsPlaceAlone: with the same key, for the same environment and place, unchanged.
func TestSealedTextOpensInItsPlaceAlone(t *testing.T) {
	const text = "ann@example.com"
	s := testSealer(t, strings.Repeat("0a", 32))
	sealed := s.seal(entitlement.Sandbox, "acc_1", text)
	if bytes.Contains(sealed, []byte("ann")) || bytes.Equal(sealed, s.seal(entitlement.Sandbox, "acc_1", text)) {
		t.Error("what is sealed can be read, or recognised")
	}
	changed := bytes.Clone(sealed)
	changed[len(changed)-1] ^= 1
	tests := []struct {
		name   string
		sealer *sealer
		env    entitlement.Environment
		place  string
		sealed []byte
		opens  bool
	}{
		{"where it belongs", s, entitlement.Sandbox, "acc_1", sealed, true},
		{"another account", s, entitlement.Sandbox, "acc_2", sealed, false},
		{"another environment", s, entitlement.Production, "acc_1", sealed, false},
		{"another key", testSealer(t, strings.Repeat("0b", 32)), entitlement.Sandbox, "acc_1", sealed, false},
		{"no key", nil, entitlement.Sandbox, "acc_1", sealed, false},
		{"a bit changed", s, entitlement.Sandbox, "acc_1", changed, false},
		{"another version", s, entitlement.Sandbox, "acc_1", append([]byte{2}, sealed[1:]...), false},
		{"cut off", s, entitlement.Sandbox, "acc_1", sealed[:12], false},
		{"nothing", s, entitlement.Sandbox, "acc_1", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.sealer.open(tt.env, tt.place, tt.sealed)
			if (err == nil) != tt.opens || (got == text) != tt.opens || err != nil && !errors.Is(err, errUnsealed) {
				t.Errorf("open = %q, %v, want it to open: %t", got, err, tt.opens)
			}
		})
	}
}

// TestOneAddressHasOneIndex: however it is written; and nobody without the key can make it.
func TestOneAddressHasOneIndex(t *testing.T) {
	s := testSealer(t, strings.Repeat("0a", 32))
	index := s.emailIndex(entitlement.Sandbox, "ann@example.com")
	if !bytes.Equal(index, s.emailIndex(entitlement.Sandbox, "Ann@Example.COM")) {
		t.Error("one address in two spellings has two indexes")
	}
	for name, other := range map[string][]byte{
		"another address":     s.emailIndex(entitlement.Sandbox, "bob@example.com"),
		"another environment": s.emailIndex(entitlement.Production, "ann@example.com"),
		"another key":         testSealer(t, strings.Repeat("0b", 32)).emailIndex(entitlement.Sandbox, "ann@example.com"),
		"another use":         s.mac(entitlement.Sandbox, "body", []byte("ann@example.com")),
	} {
		if bytes.Equal(index, other) {
			t.Errorf("%s has the same index", name)
		}
	}
}

func TestAContactKeyIs64HexadecimalDigits(t *testing.T) {
	for key, ok := range map[string]bool{"": true, strings.Repeat("0a", 32): true, strings.Repeat("0a", 31): false, strings.Repeat("0g", 32): false} {
		var m config.Mistakes
		(&ContactsConfig{Key: config.Secret(key)}).validate(&m)
		if (m.Err() == nil) != ok {
			t.Errorf("a key of %d characters: %v, want ok %t", len(key), m.Err(), ok)
		}
		if err := m.Err(); err != nil && strings.Contains(err.Error(), key) {
			t.Error("the mistake quotes the key")
		}
	}
}
