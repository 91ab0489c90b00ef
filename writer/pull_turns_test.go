package writer

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// These tests show in which order, with what pauses and within what bounds the leader asks: whose turn it is.

// TestWhenToAsk shows the order, the pauses and the bounds of asking, by the scheduler's own word: what is not asked cannot be seen from outside.
func TestWhenToAsk(t *testing.T) {
	w := oneWriter(t) // without a key: nobody else asks
	s := startStripe(t)
	cfg := s.asking(testConfigs(t, 1)[0])
	api, err := cfg.Pullers()
	if err != nil {
		t.Fatal(err)
	}
	p := newPulling(w.Writer, entitlement.Sandbox, api[entitlement.Sandbox])
	scan := func(at time.Time) string {
		t.Helper()
		due, _, err := p.scan(at)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, pull := range due {
			ids = append(ids, strings.TrimPrefix(string(pull.ID), "stripe:"))
		}
		return strings.Join(ids, " ")
	}
	for _, id := range []string{"in_1", "in_2"} {
		w.send(thinEvent("evt_"+id, "v1.invoice.paid", "invoice", id, time.Now()))
	}
	rows := map[entitlement.PurchaseID]store.Pull{}
	for _, pull := range w.pulls() {
		rows[pull.ID] = pull
	}
	now := time.Now()
	if got := scan(now); got != "in_1 in_2" {
		t.Fatalf("due are %q, want both", got)
	}
	p.setBusy("stripe:in_1", true)
	if got := scan(now); got != "in_2" {
		t.Errorf("due are %q while in_1 is being asked about", got)
	}
	p.setBusy("stripe:in_1", false)
	p.later(rows["stripe:in_1"], 0)
	if got := scan(now); got != "in_2" {
		t.Errorf("due are %q just after in_1 was asked about", got)
	}
	if got := scan(time.Now().Add(2 * time.Second)); got != "in_2 in_1" {
		t.Errorf("due are %q 2 s later, want the new one first", got)
	}
	w.send(thinEvent("evt_in_1b", "v1.invoice.voided", "invoice", "in_1", time.Now().Add(time.Millisecond)))
	p.later(rows["stripe:in_2"], 0)
	if got := scan(now); got != "in_1" {
		t.Errorf("due are %q after new doubt about in_1, want it at once", got)
	}
	p.pauseAll(entitlement.Stripe, time.Minute)
	if got := scan(now); got != "" {
		t.Errorf("due are %q while the provider wants patience", got)
	}
	clear(p.pausedUntil)

	for _, tt := range []struct {
		failure  provider.PullError
		outcome  string
		pause    time.Duration // of the purchase
		everyone time.Duration // that all of the environment waits
	}{
		{provider.PullError{Reason: provider.ErrGone, Status: 404}, pullGone, pullGonePause, 0},
		{provider.PullError{Reason: provider.ErrCredential, Status: 403}, pullCredential, pullPauseMax, 0},
		{provider.PullError{Reason: provider.ErrCredential, Status: 401}, pullCredential, pullPauseMax, pullRefusedPause},
		{provider.PullError{Reason: provider.ErrLimited, Status: 429, RetryAfter: 7 * time.Second}, pullLimited, 7 * time.Second, 7 * time.Second},
		{provider.PullError{Reason: provider.ErrLimited, Status: 429}, pullLimited, pullPauseMin, pullPauseMin},
		{provider.PullError{Reason: provider.ErrUnavailable, Status: 503, RetryAfter: 5 * time.Second}, pullUnavailable, 5 * time.Second, 5 * time.Second},
		{provider.PullError{Reason: provider.ErrUnavailable}, pullUnavailable, pullPauseMin, 0},
		{provider.PullError{Reason: provider.ErrOtherEnvironment}, pullOther, pullPauseMax, 0},
		{provider.PullError{Reason: provider.ErrAnswer}, pullAnswer, pullPauseMin, 0},
	} {
		clear(p.pausedUntil)
		before := time.Now()
		outcome, pause := p.failed(entitlement.Stripe, &tt.failure)
		until, waits := p.pausedUntil[entitlement.Stripe]
		if outcome != tt.outcome || pause != tt.pause || waits != (tt.everyone > 0) || waits && (until.Sub(before) < tt.everyone || time.Until(until) > tt.everyone*5/4+time.Millisecond) {
			t.Errorf("%v is %s, waits %s, and everyone until %s (%t) from %s; want %s, %s, %s", &tt.failure, outcome, pause, until, waits, before, tt.outcome, tt.pause, tt.everyone)
		}
	}
	clear(p.pausedUntil)

	pull := store.Pull{ID: "stripe:in_9", Asks: "x"}
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900} {
		before := time.Now()
		p.later(pull, 0)
		if next := p.tried[pull.ID].next; next.Sub(before) < want*time.Second*3/4 || time.Until(next) > want*time.Second*5/4 {
			t.Errorf("pause %d is %s, want about %d s", i, next.Sub(before), want)
		}
	}
	scan(now)
	if p.tried[pull.ID] != nil {
		t.Error("a purchase that is in doubt no more is remembered")
	}
	for i := range maxPullMemory + 100 {
		p.later(store.Pull{ID: entitlement.PurchaseID(fmt.Sprintf("stripe:x_%d", i))}, 0)
	}
	if n := len(p.tried); n != maxPullMemory {
		t.Errorf("%d purchases are remembered, want %d at most", n, maxPullMemory)
	}
}

// TestASaleOfNowDoesNotWaitBehindABacklog: an import leaves thousands of doubts open. What came since is asked about before them, also if it had to wait for its
// second, was turned away at a busy provider, or was asked about in vain before.
func TestASaleOfNowDoesNotWaitBehindABacklog(t *testing.T) {
	fresh, old := store.Pull{ID: "stripe:sub_now", Asks: "x", Since: 2000}, int64(1000)
	again := store.Pull{ID: "stripe:sub_old", Asks: "y", Since: old, ConflictAt: 2000}
	tests := []struct {
		name string
		pull store.Pull
		try  func(p *pulling)
	}{
		{"not asked about before", fresh, func(*pulling) {}},
		{"after the wait for its second", fresh, func(p *pulling) { p.firstWait(fresh, time.Millisecond) }},
		{"turned away", fresh, func(p *pulling) { p.soon(fresh, entitlement.Google, time.Millisecond) }},
		{"asked about in vain", fresh, func(p *pulling) { p.later(fresh, time.Millisecond) }},
		{"an old one about which messages contradict each other now", again, func(p *pulling) { p.soon(again, entitlement.Google, time.Millisecond) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPulling(nil, entitlement.Sandbox, nil)
			tt.try(p)
			var due []store.Pull
			for i := range 3 * pullQueue {
				if i == 2*pullQueue {
					due = p.pick(due, tt.pull)
				}
				due = p.pick(due, store.Pull{ID: entitlement.PurchaseID(fmt.Sprintf("apple:%03d", i)), Asks: "z", Since: old})
			}
			if len(due) != pullQueue || due[0].ID != tt.pull.ID {
				t.Errorf("%d are due, %s first; want %d, %s first", len(due), due[0].ID, pullQueue, tt.pull.ID)
			}
		})
	}
}

// TestManyDoubts shows that each purchase is asked about once, that a new one does not wait behind those that fail, and that memory has a bound.
func TestManyDoubts(t *testing.T) {
	const many = 60
	s := startStripe(t)
	w := pullingWriter(t, s)
	acc := w.account()
	for i := range many { // none of which Stripe has
		w.send(thinEvent(fmt.Sprintf("evt_%d", i), "v1.invoice.paid", "invoice", fmt.Sprintf("in_%d", i), time.Now()))
	}
	session := checkout("cs_1", acc)
	s.put("/v1/checkout/sessions/cs_1", with(session, "line_items", lineItems(lineItem("li_1", "price_life", 1))))
	began := time.Now()
	w.send(event("evt_cs", "checkout.session.completed", session))
	await(t, "pro", func() bool { return w.pro(acc)["active"] == true })
	t.Logf("%d in doubt before it: pro after %s", many, time.Since(began))
	await(t, "every one asked for", func() bool { return w.metric(outcomeSeries(pullGone)) == fmt.Sprint(many) })
	for i := range many {
		if n := s.count(fmt.Sprintf("/v1/invoices/in_%d", i)); n != 1 {
			t.Errorf("in_%d was asked for %d times", i, n)
		}
	}
	if n := len(w.pulls()); n != many {
		t.Errorf("%d stay marked, want %d", n, many)
	}
}

// slowPuller is a provider that answers when it is told to.
type slowPuller struct {
	name   entitlement.Provider
	asked  chan struct{}
	answer chan struct{}
}

func (s *slowPuller) Provider() entitlement.Provider { return s.name }

func (s *slowPuller) Targets(_ entitlement.Evidence, doubts []entitlement.Doubt) []entitlement.Doubt {
	return doubts
}

func (s *slowPuller) Pull(ctx context.Context, _ entitlement.ObjectKind, _ string) (entitlement.Event, error) {
	s.asked <- struct{}{}
	select {
	case <-s.answer:
	case <-ctx.Done():
	}
	return entitlement.Event{}, &provider.PullError{Reason: provider.ErrGone}
}

// A provider that keeps all of its workers waiting leaves those of the others alone.
func TestASlowProviderHoldsUpNoOther(t *testing.T) {
	w := oneWriter(t)
	slow := &slowPuller{entitlement.Web2Wave, make(chan struct{}), make(chan struct{})}
	quick := &slowPuller{entitlement.Google, make(chan struct{}), make(chan struct{})}
	close(quick.answer)
	p := newPulling(w.Writer, entitlement.Sandbox, map[entitlement.Provider]provider.Puller{slow.name: slow, quick.name: quick})
	doubt := func(by entitlement.Provider) []entitlement.Doubt {
		return []entitlement.Doubt{{Kind: entitlement.KindCustomer, ID: "1", By: by}}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	for range pullWorkers {
		asking.Go(func() { p.askAll(ctx, store.PurchaseDetail{}, doubt(slow.name)) })
		<-slow.asked
	}
	if _, _, busy, complete := p.askAll(ctx, store.PurchaseDetail{}, doubt(slow.name)); busy != slow.name || complete {
		t.Errorf("one more of the slow provider: busy %q, complete %v", busy, complete)
	}
	asking.Go(func() { <-quick.asked })
	if _, _, busy, _ := p.askAll(ctx, store.PurchaseDetail{}, doubt(quick.name)); busy != "" {
		t.Error("the other provider is held up")
	}
	if cap(p.slots) < 2*pullWorkers {
		t.Errorf("%d slots for two providers", cap(p.slots))
	}
}

// Who was turned away because a provider had no worker left is next as soon as it has one, not only after a pause.
func TestWhoWasTurnedAwayIsNextAtAFreeWorker(t *testing.T) {
	w := oneWriter(t)
	slow := &slowPuller{entitlement.Web2Wave, make(chan struct{}), make(chan struct{})}
	p := newPulling(w.Writer, entitlement.Sandbox, map[entitlement.Provider]provider.Puller{slow.name: slow})
	doubt := []entitlement.Doubt{{Kind: entitlement.KindCustomer, ID: "1", By: slow.name}}
	var asking sync.WaitGroup
	for range pullWorkers {
		asking.Go(func() { p.askAll(t.Context(), store.PurchaseDetail{}, doubt) })
		<-slow.asked
	}
	_, _, busy, _ := p.askAll(t.Context(), store.PurchaseDetail{}, doubt)
	waits := store.Pull{ID: "turned away"}
	p.soon(waits, busy, time.Hour)
	if next := p.tried[waits.ID].next; !p.crowded() || !next.After(time.Now()) {
		t.Fatalf("while all workers ask: crowded %v, its turn is at %s", p.crowded(), next)
	}
	close(slow.answer)
	asking.Wait()
	if next := p.tried[waits.ID].next; p.crowded() || next.After(time.Now()) {
		t.Errorf("once a worker is free: crowded %v, its turn is at %s", p.crowded(), next)
	}
	p.soon(waits, busy, time.Hour)
	if next := p.tried[waits.ID].next; p.crowded() || next.After(time.Now()) {
		t.Errorf("turned away just before a worker was free: crowded %v, its turn is at %s", p.crowded(), next)
	}
}
