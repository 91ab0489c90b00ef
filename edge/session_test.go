package edge

import (
	"errors"
	"fmt"
	"testing"

	"github.com/latchkey/latchkey/pkg/token"
)

// TestHotSessions: a session is known by its text once it has asked twice in a row, and by no other text, whoever shares its place; what it was read from may change.
func TestHotSessions(t *testing.T) {
	c := newSessionCache()
	ours := &session{account: "ours", expiresAt: 100}
	buffer := []byte("session of ours")
	text := view(buffer)
	place, hash := c.place(text)
	for seen, want := range []*session{nil, nil, ours} {
		if got := place.get(text); got != want {
			t.Errorf("seen %d times: %v, want %v", seen, got, want)
		}
		place.saw(text, hash, ours)
	}
	clear(buffer)
	if place.get("session of ours") != ours {
		t.Error("the session changed with the buffer that it was read from")
	}
	for n := range 50 * hotSessions {
		other := fmt.Sprintf("session of others %d", n)
		shared, hash := c.place(other)
		if ses := shared.get(other); ses != nil {
			t.Fatalf("%q is known as %v before it was seen", other, ses)
		}
		shared.saw(other, hash, &session{account: "others"})
	}
	if place.get("session of ours") != ours {
		t.Error("sessions that were seen once push out one that is known")
	}
	if _, err := ours.at(99); err != nil {
		t.Errorf("a second before its end: %v", err)
	}
	if _, err := ours.at(100); !errors.Is(err, token.ErrExpired) {
		t.Errorf("at its end: %v, want %v", err, token.ErrExpired)
	}
}
