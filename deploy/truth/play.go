package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/latchkey/latchkey/deploy/storesim"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/writertest"
)

// start is when every history begins.
var start = time.Date(2026, 1, 5, 9, 30, 17, 0, time.UTC)

const (
	minSteps, moreSteps = 4, 14
	maxPurchases        = 4
	// A step between two checks is long enough for whatever happens in it to have a second of its own: an answer has the version of one.
	shortStep = 2 * time.Second
	longStep  = 45 * 24 * time.Hour
	// settleFor is longer than any message is held.
	settleFor = 8 * 24 * time.Hour
)

// promises are Latchkey's where every store can be asked: the grace of a card that fails is then that of the store, whoever tells of the sale.
var promises = storesim.Promises{Leeway: storesim.DefaultPromises.Leeway, Grace: storesim.DefaultPromises.Grace,
	StoreGrace: map[storesim.Store]time.Duration{storesim.StripeStore: storesim.DefaultPromises.Grace[storesim.Stripe]}}

// policy has the stores' own graces, as a merchant sets them for an aggregator that shows none: iaptic says that a card is retried, and not until when access
// goes on. What a store says itself goes before it.
var policy = func() entitlement.Policy {
	p := entitlement.Policy{BillingGrace: maps.Clone(entitlement.DefaultPolicy.BillingGrace)}
	for provider, store := range map[entitlement.Provider]storesim.Store{entitlement.Apple: storesim.AppStore, entitlement.Google: storesim.PlayStore} {
		p.BillingGrace[provider] = int64(storesim.DefaultRules.Grace[store].Seconds())
	}
	return p
}()

// heard is what a writer was told in a history.
type heard struct {
	events int // messages and answers
	resent int // of these, lost messages that were sent again, because no question finds what they told
}

// play plays the history of a seed and returns what is wrong with it, or nil, and what there was to hear.
func (s *stage) play(ctx context.Context, seed uint64) (h heard, err error) {
	if err := s.renewMachines(); err != nil {
		return h, err
	}
	w := &world{stage: s, seed: seed, rand: rand.New(rand.NewPCG(seed, 7)), env: entitlement.Sandbox, asked: map[string]bool{}}
	if w.chance(2) {
		w.env = entitlement.Production
	}
	w.sim = storesim.New(storesim.Config{Seed: seed, Start: start, Credentials: s.credentials, Writers: []string{"http://writer"},
		Client: &http.Client{Transport: w}, Logger: slog.New(slog.DiscardHandler)})
	w.apis = w.sim.Stores(storesim.Environment(w.env))
	s.present.Store(w)
	if w.punctual = w.chance(2); !w.punctual {
		w.sim.SetChaos(storesim.Chaos{Delay: storesim.Duration(3 * 24 * time.Hour), Reorder: 0.3, Repeat: 0.3, Loss: 0.1})
	}
	w.shares = w.chance(2)
	accounts := w.open()
	if err := w.live(ctx, accounts); err != nil {
		return w.heard(), fmt.Errorf("%w\nhistory:%s", err, w.story())
	}
	if err := w.shuffled(accounts); err != nil {
		return w.heard(), fmt.Errorf("%w\nhistory:%s", err, w.story())
	}
	return w.heard(), nil
}

func (w *world) heard() heard { return heard{len(w.events), w.resent} }

func (w *world) chance(n int) bool { return w.rand.IntN(n) == 0 }

func (w *world) between(from, to time.Duration) time.Duration {
	return from + time.Duration(w.rand.Int64N(int64(to-from)+1)).Truncate(time.Second)
}

func (w *world) note(format string, args ...any) {
	w.told = append(w.told, w.sim.Now().Format("2006-01-02T15:04:05 ")+fmt.Sprintf(format, args...))
}

func (w *world) story() string {
	var b bytes.Buffer
	for _, line := range w.told {
		fmt.Fprintf(&b, "\n  %s", line)
	}
	for _, f := range w.sim.Facts() {
		fmt.Fprintf(&b, "\n  fact %s %s %s term %d until %s full %v %s%s%s", f.At.Format(time.RFC3339), f.Purchase, f.Kind, f.Term, f.Until.Format(time.RFC3339), f.Full, f.Reason, f.From, f.To)
	}
	return b.String()
}

// open makes the accounts of the history, in both machines.
func (w *world) open() []entitlement.AccountID {
	var accounts []entitlement.AccountID
	for i := range 2 + w.rand.IntN(2) {
		accounts = append(accounts, entitlement.AccountID(fmt.Sprintf("acc_%019d%07d", w.seed, i)))
	}
	commands := make([]writertest.Command, len(accounts))
	for i, id := range accounts {
		commands[i] = writertest.NewCommand(writertest.TypeCreate, w.env, "create "+string(id), &writertest.CreateAccount{ID: id})
	}
	for machine := range w.machines {
		w.fault = errors.Join(w.fault, w.apply(machine, start.Unix(), commands...))
	}
	return accounts
}

// live plays the history. A punctual one is held against the oracle at every step, one with late and lost messages at its end.
func (w *world) live(ctx context.Context, accounts []entitlement.AccountID) error {
	for range minSteps + w.rand.IntN(moreSteps) {
		w.act(ctx, accounts)
		step := w.between(shortStep, longStep)
		if w.chance(2) {
			step = w.between(shortStep, step/30+shortStep)
		}
		if err := w.pass(ctx, step); err != nil {
			return err
		}
		if !w.punctual {
			continue
		}
		if err := w.pull(ctx, accounts, false); err != nil {
			return err
		}
		if err := w.compare(accounts, "at a step"); err != nil {
			return err
		}
		if err := w.pass(ctx, shortStep); err != nil { // what was asked just now must not be as new as what happens next
			return err
		}
	}
	if w.punctual {
		return nil
	}
	w.sim.SetChaos(storesim.Chaos{})
	if err := w.pass(ctx, settleFor); err != nil {
		return err
	}
	if err := w.resend(); err != nil {
		return err
	}
	if w.chance(2) { // else it is found by asking for what the others name
		if err := w.readHistory(ctx); err != nil {
			return err
		}
	}
	if err := w.pull(ctx, accounts, true); err != nil {
		return err
	}
	return w.compare(accounts, "after the repair")
}

// stripeKeeps is for how long Stripe lists what it sent.
const stripeKeeps = 30 * 24 * time.Hour

// readHistory takes what Stripe lists of what it could not deliver, as the leader does.
func (w *world) readHistory(ctx context.Context) error {
	keeper := w.pullers[w.env][entitlement.Stripe].(writertest.HistoryKeeper)
	for message, err := range keeper.Messages(writertest.InProcess(ctx, w.apis), w.sim.Now().Add(-stripeKeeps), w.sim.Now()) {
		if err != nil {
			return err
		}
		w.record(message.Event)
	}
	return nil
}

// resend takes what was lost and no pull finds, as every provider can be made to send again or lists what it sent: what began a purchase, which nobody
// can ask about before they heard of it, disputes that nobody heard of or whose end Stripe lists no longer, at Stripe that money was given back, at RevenueCat what
// became of a one-time sale, and at Adapty whose it is.
func (w *world) resend() error {
	first := map[string]time.Time{}
	disputed := map[string]string{} // the last message about one, by purchase: the simulation answers for that one alone
	for _, m := range w.sim.Messages() {
		if strings.HasPrefix(m.Type, "charge.dispute.") {
			disputed[m.Purchase] = m.ID
		}
	}
	recurs := map[string]bool{}
	for _, p := range w.sim.Purchases() {
		recurs[p.ID] = p.Product.Kind == storesim.Recurring
	}
	for _, m := range w.sim.Messages() {
		began, seen := first[m.Purchase]
		if !seen {
			began, first[m.Purchase] = m.At, m.At
		}
		told := m.Type == "charge.dispute.closed" && disputed[m.Purchase] == m.ID && w.sim.Now().Sub(m.At) < stripeKeeps
		dispute := strings.HasPrefix(m.Type, "charge.dispute.") && !told
		unseen := m.Provider == storesim.RevenueCat && !recurs[m.Purchase] || strings.Contains(m.Type, "refund") || m.Provider == storesim.Adapty && m.Type == "access_level_updated"
		if !m.Lost || m.At.Sub(began) > shortStep && !dispute && !unseen {
			continue
		}
		ev, err := w.adapters[w.env][entitlement.Provider(m.Provider)].Parse(m.Body, w.env)
		if err != nil {
			return err
		}
		w.record(ev)
		w.resent++
	}
	return nil
}

// pass lets time go by. What was done just now is told first, in a second of its own.
func (w *world) pass(ctx context.Context, d time.Duration) error {
	err := w.sim.Advance(ctx, shortStep)
	if d > shortStep {
		err = errors.Join(err, w.sim.Advance(ctx, d-shortStep))
	}
	return errors.Join(err, w.fault)
}

// compare holds what every account may use now against the oracle.
func (w *world) compare(accounts []entitlement.AccountID, when string) error {
	ledger, now := w.sim.Ledger(), w.sim.Now()
	var wrong error
	for _, id := range accounts {
		want := ledger.Entitled(promises, storesim.Environment(w.env), string(id), "pro", now)
		got, record, err := w.view(0, id, now.Unix())
		if err != nil {
			return err
		}
		if got != want {
			var account entitlement.Account
			if err := entitlement.Decode(record, &account); err != nil {
				return err
			}
			wrong = errors.Join(wrong, fmt.Errorf("%s, %s: %s has pro: %v, the oracle says %v by %v; it holds %+v", when, now.Format(time.RFC3339), id, got, want,
				ledger.EntitledBy(promises, storesim.Environment(w.env), string(id), "pro", now), account.Purchases))
		}
	}
	return wrong
}

// shuffled gives everything that was recorded to the other machine in another order, some of it twice, and compares the records byte by byte (I20).
func (w *world) shuffled(accounts []entitlement.AccountID) error {
	events := slices.Clone(w.events)
	for range len(events) / 4 {
		events = append(events, events[w.rand.IntN(len(events))])
	}
	w.rand.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	commands := make([]writertest.Command, len(events))
	for i, ev := range events {
		commands[i] = w.command(i, ev)
	}
	if err := w.apply(1, w.sim.Now().Unix(), commands...); err != nil {
		return err
	}
	for _, id := range accounts {
		_, ordered, err := w.view(0, id, 0)
		if err != nil {
			return err
		}
		_, shuffled, err := w.view(1, id, 0)
		if err != nil {
			return err
		}
		if !bytes.Equal(ordered, shuffled) {
			var a, b entitlement.Account
			_ = entitlement.Decode(ordered, &a)
			_ = entitlement.Decode(shuffled, &b)
			return fmt.Errorf("the order counts: %s is %+v as the messages came, and %+v in another order", id, a.Purchases, b.Purchases)
		}
	}
	return nil
}

// act does one thing that customers, stores or merchants do, by chance. What a provider refuses is none.
func (w *world) act(ctx context.Context, accounts []entitlement.AccountID) {
	purchases := w.sim.Purchases()
	if len(purchases) == 0 || len(purchases) < maxPurchases && w.chance(4) {
		w.buy(accounts)
		return
	}
	p := purchases[w.rand.IntN(len(purchases))]
	name, err := "", error(nil)
	switch w.rand.IntN(21) {
	case 0, 1:
		name, err = "cancels", w.sim.Cancel(p.ID)
	case 2:
		name, err = "resumes", w.sim.Resume(p.ID)
	case 3, 4:
		name, err = "card fails", w.sim.FailCard(p.ID)
	case 5:
		name, err = "card works", w.sim.Recover(p.ID)
	case 6:
		name, err = "is refunded", w.sim.Refund(p.ID, -1, 0)
	case 7:
		name, err = "is refunded a part", w.sim.Refund(p.ID, -1, 100)
	case 8:
		name, err = "the first term is refunded", w.sim.Refund(p.ID, 0, 0)
	case 9:
		if p.Provider == storesim.RevenueCat && p.Store != storesim.AppStore {
			return // which RevenueCat does not tell
		}
		name, err = "the refund is reversed", w.sim.ReverseRefund(p.ID, len(p.Terms)-1)
	case 10:
		name, err = "is disputed", w.sim.Dispute(p.ID)
	case 11:
		won := w.chance(2)
		name, err = fmt.Sprintf("the dispute ends, won %v", won), w.sim.CloseDispute(p.ID, won)
	case 12:
		name, err = "is paused", w.sim.Pause(p.ID, w.between(10*24*time.Hour, 60*24*time.Hour))
	case 13:
		if p.Store != storesim.PlayStore || p.StoreTells || w.shares {
			return // a store that can be asked says whose it is, and an aggregator's transfer moves what only it tells of
		}
		to := accounts[w.rand.IntN(len(accounts))]
		name, err = "moves to "+string(to), w.sim.Transfer(p.ID, string(to))
	case 14:
		again, failed := w.sim.Resubscribe(p.ID)
		name, err = "is bought again as "+again.ID, failed
	case 15:
		name, err = "time alone", nil
	case 16, 17:
		to := otherTerm(p)
		name, err = "changes to "+to, w.sim.Change(p.ID, to)
	case 18:
		name, err = "is extended", w.sim.Extend(p.ID, w.between(24*time.Hour, 30*24*time.Hour))
	case 19:
		if p.Provider != storesim.Apple && !w.shares {
			return // an aggregator's app moves what another customer shows, or shares it
		}
		with := string(accounts[w.rand.IntN(len(accounts))])
		if name, err = "is shared with "+with, w.sim.Share(p.ID, with); err != nil {
			name, err = "is no longer shared with "+with, w.sim.Unshare(p.ID, with)
		}
	case 20:
		paid := !w.chance(3)
		name, err = fmt.Sprintf("its payment ends, paid %v", paid), w.sim.Settle(p.ID, paid)
	}
	if err == nil {
		w.note("%s of %s: %s", p.ID, p.Provider, name)
	}
}

// otherTerm is the product of the same store whose term is another one, a better or a lesser one.
func otherTerm(p storesim.Purchase) string {
	for _, product := range storesim.DefaultProducts {
		if product.Store == p.Store && product.Kind == storesim.Recurring && product.ID != p.Product.ID {
			return product.ID
		}
	}
	return ""
}

func (w *world) buy(accounts []entitlement.AccountID) {
	provider := storesim.Providers[w.rand.IntN(len(storesim.Providers))]
	if w.adapters[w.env][entitlement.Provider(provider)] == nil {
		return
	}
	product := storesim.DefaultProducts[w.rand.IntN(len(storesim.DefaultProducts))]
	order := storesim.Order{Provider: provider, Env: storesim.Environment(w.env), Account: string(accounts[w.rand.IntN(len(accounts))]), Product: product.ID}
	if product.Kind == storesim.Recurring && w.chance(3) {
		order.Trial = 7
	}
	order.StoreTells, order.Pending = w.chance(3), w.chance(8)
	if p, err := w.sim.Buy(order); err == nil {
		w.note("%s of %s: %s buys %s, trial of %d days, the store tells too %v, pending %v", p.ID, provider, order.Account, product.ID, order.Trial, order.StoreTells, order.Pending)
	}
}
