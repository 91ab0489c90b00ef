package edge

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
)

// TestACrowdIsHeldToItsShare: until half of the places are taken, everybody may have as many streams as they like; then an account and an address get
// their share and no more, and when all are taken nobody gets one. A place that is given back counts at once.
func TestACrowdIsHeldToItsShare(t *testing.T) {
	h := newStreams(&Edge{})
	address := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}) }
	join := func(account, from int) (*stream, error) {
		id := entitlement.AccountID(fmt.Sprintf("acc_%d", account))
		st := &stream{session: &session{env: entitlement.Sandbox, account: id, expiresAt: 1 << 40}, address: address(from), wake: make(chan struct{}, 1), joined: time.Unix(1000, 0)}
		return st, h.join(st)
	}
	refused := func(name string, account, from int) {
		t.Helper()
		var p *problem.Problem
		if _, err := join(account, from); !errors.As(err, &p) || p.Slug != problem.TooManyRequests || p.RetryAfter == 0 {
			t.Errorf("%s: %v, want too-many-requests with a time", name, err)
		}
	}
	let := func(name string, account, from int) *stream {
		t.Helper()
		st, err := join(account, from)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return st
	}
	var first []*stream
	for range crowded {
		first = append(first, let("while there is room", 0, 0))
	}
	refused("the account that has most", 0, 1)
	refused("the address that has most", 1, 0)
	for n := range maxAccountStreams {
		let("an account's share", 1, 1+n)
	}
	refused("more than an account's share", 1, 99)
	for n := range maxAddressStreams {
		let("an address's share", 2+n, 1000)
	}
	refused("more than an address's share", 9999, 1000)
	for n := h.open.Load(); n < maxStreams; n++ {
		let("everybody's", 10_000+int(n), 10_000+int(n))
	}
	refused("more than there is room for", 99_999, 99_999)
	h.leave(first[0])
	h.leave(first[0]) // gives back one place, not two
	let("a place given back", 99_999, 99_999)
	refused("after it", 99_998, 99_998)

	h.sweep(0, time.Unix(1000, 0).Add(2*writeTimeout)) // none of them ever got its connection
	if h.open.Load() != 0 || len(h.subjects) != 0 || len(h.addresses) != 0 {
		t.Errorf("%d streams, %d accounts, %d addresses are left", h.open.Load(), len(h.subjects), len(h.addresses))
	}
	if h.begin(first[1]) {
		t.Error("a stream begins that was given up")
	}
	h.stop()
	if _, err := join(1, 1); !errors.Is(err, problem.New(problem.Unavailable, "")) {
		t.Errorf("on an edge that stops: %v, want unavailable", err)
	}
}
