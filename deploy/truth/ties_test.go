package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/deploy/storesim"
	"github.com/latchkey/latchkey/pkg/entitlement"
)

// These tests show that what happens in one moment ends in one truth, in whatever order its messages come and whatever is asked before, between and after
// them. A provider tells one failed card in two or three messages of one second; meanwhile the leader asks the aggregator, and the store, in seconds that
// differ or do not. A simulation meets a bad order of these once in half a million answers. Here all orders are played, or of very many a sample.

const (
	// maxOrders is how many orders of a moment are played: all, where there are no more.
	maxOrders = 60
	// tieSeconds is how long after the moment questions are asked.
	tieSeconds = 24
	tieEnv     = storesim.Production
)

// moment is something that happens to a purchase, all of it in one second.
type moment struct {
	name   string
	before func(s *tieSim) error // what leads there; the moment begins a second later
	act    func(s *tieSim) error // nil: time alone brings it about
}

var moments = []moment{
	{name: "the card fails at the renewal", before: func(s *tieSim) error { return errors.Join(s.FailCard("p"), s.to(s.end())) }},
	{name: "it renews", before: func(s *tieSim) error { return s.to(s.end()) }},
	{name: "the card fails and works again", before: func(s *tieSim) error { return errors.Join(s.FailCard("p"), s.to(s.end())) }, act: func(s *tieSim) error { return s.Recover("p") }},
	{name: "the card works again", before: func(s *tieSim) error { return errors.Join(s.FailCard("p"), s.to(s.end().Add(2*24*time.Hour))) }, act: func(s *tieSim) error { return s.Recover("p") }},
	{name: "the store gives up the card", before: func(s *tieSim) error {
		return errors.Join(s.FailCard("p"), s.to(s.end()), s.pass(time.Hour*2), s.to(s.retryEnds()))
	}},
	{name: "the grace ends", before: func(s *tieSim) error {
		return errors.Join(s.FailCard("p"), s.to(s.end()), s.pass(time.Hour*2), s.to(s.graceEnds()))
	}},
	{name: "it is cancelled while the card fails", before: func(s *tieSim) error { return errors.Join(s.FailCard("p"), s.to(s.end().Add(40*24*time.Hour))) }, act: func(s *tieSim) error { return s.Cancel("p") }},
	{name: "it is cancelled", before: func(s *tieSim) error { return s.pass(5 * 24 * time.Hour) }, act: func(s *tieSim) error { return s.Cancel("p") }},
	{name: "it is cancelled and taken up again", before: func(s *tieSim) error { return s.pass(5 * 24 * time.Hour) }, act: func(s *tieSim) error { return errors.Join(s.Cancel("p"), s.Resume("p")) }},
	{name: "it is refunded", before: func(s *tieSim) error { return s.pass(5 * 24 * time.Hour) }, act: func(s *tieSim) error { return s.Refund("p", -1, 0) }},
	{name: "it is cancelled and refunded", before: func(s *tieSim) error { return s.pass(5 * 24 * time.Hour) }, act: func(s *tieSim) error { return errors.Join(s.Cancel("p"), s.Refund("p", -1, 0)) }},
	{name: "it ends after a cancel", before: func(s *tieSim) error { return errors.Join(s.Cancel("p"), s.to(s.end())) }},
	{name: "it is changed for a year", before: func(s *tieSim) error { return s.pass(5 * 24 * time.Hour) }, act: func(s *tieSim) error {
		return s.Change("p", map[storesim.Store]string{storesim.StripeStore: "price_pro_yearly", storesim.AppStore: "com.example.pro_yearly", storesim.PlayStore: "pro:yearly"}[s.store])
	}},
}

// tieSim is a simulation of one purchase, "p".
type tieSim struct {
	*storesim.Sim
	store storesim.Store
}

func (s *tieSim) present() storesim.Purchase { p, _ := s.Purchase("p"); return p }

// end is when the present term ends; Stripe takes the money for the next one an hour later.
func (s *tieSim) end() time.Time {
	p := s.present()
	end := p.Terms[len(p.Terms)-1].EndsAt
	if p.Provider == storesim.Stripe {
		end = end.Add(time.Hour)
	}
	return end
}

func (s *tieSim) graceEnds() time.Time { return s.present().GraceEnds }
func (s *tieSim) retryEnds() time.Time { return s.present().RetryEnds }

// to lets time pass until a second before at. Error: at is no time, so that this moment never comes.
func (s *tieSim) to(at time.Time) error {
	if at.IsZero() {
		return storesim.ErrRefused
	}
	return s.AdvanceTo(context.Background(), at.Add(-time.Second))
}

func (s *tieSim) pass(d time.Duration) error { return s.Advance(context.Background(), d) }

// tie is a moment as it was told: by messages, and by what would have been answered in each second around it.
type tie struct {
	w         *world
	base      []entitlement.Event // what was known before
	messages  []entitlement.Event // of the moment
	questions []question
	answers   []map[question]entitlement.Event // by the second, the first one from before the moment
	ledger    storesim.Ledger
	at        time.Time // when all is told
	until     time.Time // when the next thing happens; zero: never
}

// groups are purchases as their links join them.
type groups []entitlement.Evidence

func (g groups) add(ev entitlement.Event) groups {
	for _, o := range ev.Objects {
		o.Links = slices.Clone(o.Links)
		joined := (entitlement.Evidence{}).Add(o)
		var apart groups
		for _, e := range g {
			if slices.ContainsFunc(e.Links, func(l entitlement.Link) bool { return slices.Contains(joined.Links, l) }) {
				joined = entitlement.Merge(joined, e)
			} else {
				apart = append(apart, e)
			}
		}
		g = append(apart, joined)
	}
	return g
}

// asks are the questions that are open, as the leader sees them. Those whose provider is not to be asked are left out.
func (g groups) asks(w *world, may func(entitlement.Provider) bool) (all []question) {
	for _, e := range g {
		for name, api := range w.pullers[w.env] {
			if !may(name) {
				continue
			}
			own := slices.DeleteFunc(e.Doubts(), func(d entitlement.Doubt) bool { return d.Provider() != name })
			for _, target := range api.Targets(e, own) {
				if q := (question{name, target.Kind, target.ID}); !slices.Contains(all, q) {
					all = append(all, q)
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b question) int {
		return cmp.Or(cmp.Compare(a.by, b.by), cmp.Compare(a.kind, b.kind), cmp.Compare(a.id, b.id))
	})
	return all
}

// view is what they give at a time.
func (g groups) view(w *world, at time.Time) entitlement.Entitlement {
	var a entitlement.Account
	for _, e := range g {
		if e.IsPurchase() {
			a.Purchases = append(a.Purchases, entitlement.Fold(e, policy))
		}
	}
	slices.SortFunc(a.Purchases, func(x, y entitlement.Purchase) int { return cmp.Compare(x.ID, y.ID) })
	for _, e := range a.View(w.catalog, at.Unix(), nil).Entitlements {
		if e.ID == "pro" {
			return e
		}
	}
	return entitlement.Entitlement{}
}

// newTie plays a moment of a provider's sale. ok is false where it cannot happen there.
func newTie(ctx context.Context, s *stage, m moment, provider storesim.Provider, product storesim.Product, storeTells bool, may func(entitlement.Provider) bool, known []question) (t *tie, ok bool, err error) {
	w := &world{stage: s, env: entitlement.Environment(tieEnv)}
	sim := &tieSim{storesim.New(storesim.Config{Seed: 1, Start: start, Credentials: s.credentials, Logger: slog.New(slog.DiscardHandler)}), product.Store}
	w.sim = sim.Sim
	w.apis = sim.Stores(tieEnv)
	s.present.Store(w)
	t = &tie{w: w, questions: known}
	const account = "acc_00000000000000000000000001"
	if _, err := sim.Buy(storesim.Order{Provider: provider, Env: tieEnv, Account: account, Product: product.ID, Name: "p", StoreTells: storeTells}); err != nil {
		return nil, false, nil
	}
	if err := errors.Join(sim.pass(time.Minute), m.before(sim)); err != nil {
		return nil, false, ignoreRefused(err)
	}
	parse := func(from int) ([]entitlement.Event, error) {
		var all []entitlement.Event
		for _, message := range sim.Messages()[from:] {
			ev, err := w.adapters[w.env][entitlement.Provider(message.Provider)].Parse(message.Body, w.env)
			if err != nil {
				return nil, err
			}
			all = append(all, ev)
		}
		return all, nil
	}
	if t.base, err = parse(0); err != nil {
		return nil, false, err
	}
	told := len(sim.Messages())
	var g groups
	for _, ev := range t.base {
		g = g.add(ev)
	}
	ask := func() error {
		answers := map[question]entitlement.Event{}
		for _, q := range t.questions {
			ev, there, err := w.answer(ctx, q)
			if err != nil {
				return err
			}
			if there {
				answers[q] = ev
			}
		}
		t.answers = append(t.answers, answers)
		return nil
	}
	for _, q := range g.asks(w, may) { // what is known is settled
		if ev, there, err := w.answer(ctx, q); err != nil {
			return nil, false, err
		} else if there {
			t.base, g = append(t.base, ev), g.add(ev)
		}
	}
	if err := ask(); err != nil {
		return nil, false, err
	}
	facts := len(sim.Facts())
	if err := sim.pass(time.Second); err != nil {
		return nil, false, err
	}
	if m.act != nil {
		if err := m.act(sim); err != nil {
			return nil, false, ignoreRefused(err)
		}
	}
	if len(sim.Facts()) == facts {
		return nil, false, nil
	}
	for range tieSeconds {
		if err := errors.Join(ask(), sim.pass(time.Second)); err != nil {
			return nil, false, err
		}
	}
	t.messages, err = parse(told)
	t.ledger, t.at = sim.Ledger(), sim.Now()
	if next, due := sim.Next(); due {
		t.until = next
	}
	return t, true, err
}

func ignoreRefused(err error) error {
	if errors.Is(err, storesim.ErrRefused) {
		return nil
	}
	return err
}

// order is in what order the messages of a tie come, and what is asked before the first of them and after each.
type order struct {
	messages []int
	asked    [][]int // indexes of questions; -1: a second goes by
}

// orders lists all of a tie, or a sample.
func (t *tie) orders(dice *rand.Rand) (all []order) {
	choices := [][]int{{}}
	for q := range t.questions {
		choices = append(choices, []int{q, -1})
		for other := range t.questions {
			if other != q {
				choices = append(choices, []int{q, -1, other, -1})
			}
			if other > q {
				choices = append(choices, []int{q, other, -1})
			}
		}
	}
	n := len(t.messages)
	permutations := permutationsOf(n)
	total := len(permutations)
	for range n + 1 {
		if total *= len(choices); total > maxOrders {
			break
		}
	}
	if total > maxOrders {
		for range maxOrders {
			o := order{messages: permutations[dice.IntN(len(permutations))]}
			for range n + 1 {
				o.asked = append(o.asked, choices[dice.IntN(len(choices))])
			}
			all = append(all, o)
		}
		return all
	}
	for _, messages := range permutations {
		for i := range total / len(permutations) {
			o := order{messages: messages}
			for range n + 1 {
				o.asked = append(o.asked, choices[i%len(choices)])
				i /= len(choices)
			}
			all = append(all, o)
		}
	}
	return all
}

// permutationsOf lists the orders of n things, of more than six a few.
func permutationsOf(n int) (all [][]int) {
	if n > 6 {
		dice := rand.New(rand.NewPCG(uint64(n), 1))
		for range maxOrders {
			all = append(all, dice.Perm(n))
		}
		return all
	}
	var choose func(order []int)
	choose = func(order []int) {
		if len(order) == n {
			all = append(all, slices.Clone(order))
			return
		}
		for i := range n {
			if !slices.Contains(order, i) {
				choose(append(order, i))
			}
		}
	}
	choose(nil)
	return all
}

// unasked is a question that no answer was taken of yet.
type unasked struct{ questions []question }

func (u unasked) Error() string { return fmt.Sprintf("not asked: %v", u.questions) }

// play plays one order and then, as the leader would, asks until nothing is open. Error: unasked.
func (t *tie) play(o order, base groups, may func(entitlement.Provider) bool) (groups, []string, error) {
	g, second := slices.Clone(base), 0
	var told []string
	ask := func(q question) {
		if ev, there := t.answers[min(second, len(t.answers)-1)][q]; there {
			g = g.add(ev)
			told = append(told, fmt.Sprintf("%s %s is asked in second %d", q.by, q.kind, second))
		}
	}
	for i, asked := range o.asked {
		if i > 0 {
			m := t.messages[o.messages[i-1]]
			g = g.add(m)
			told = append(told, fmt.Sprintf("%s tells %s", m.Provider, m.Type))
			second = max(second, 1)
		}
		for _, q := range asked {
			if q >= 0 {
				ask(t.questions[q])
			} else if i > 0 {
				second++
			}
		}
	}
	second = max(second, 2)
	for asked := second; second < len(t.answers); second++ {
		open := g.asks(t.w, may)
		for _, q := range open {
			if !slices.Contains(t.questions, q) {
				return nil, told, unasked{open}
			}
			ask(q)
		}
		if len(open) == 0 || second > asked && !slices.ContainsFunc(open, func(q question) bool { return q.by != entitlement.Google }) {
			return g, told, nil // Play waits to hear that the sale was delivered, which nobody tells it here
		}
	}
	return nil, told, fmt.Errorf("still asked: %v, after\n\t%s", g.asks(t.w, may), strings.Join(told, "\n\t"))
}

// check plays all orders of a tie.
func (t *tie) check(dice *rand.Rand, promises storesim.Promises, may func(entitlement.Provider) bool) (orders int, err error) {
	var base groups
	for _, ev := range t.base {
		base = base.add(ev)
	}
	var instants []time.Time
	for _, after := range []time.Duration{0, time.Hour, 25 * time.Hour, 3 * 24 * time.Hour, 8 * 24 * time.Hour, 20 * 24 * time.Hour} {
		if at := t.at.Add(after); t.until.IsZero() || at.Before(t.until) {
			instants = append(instants, at)
		}
	}
	var first []byte
	var firstTold []string
	for _, o := range t.orders(dice) {
		g, told, err := t.play(o, base, may)
		if err != nil {
			return orders, err
		}
		orders++
		var ends []byte
		for _, at := range instants {
			got := g.view(t.w, at)
			want := t.ledger.EntitledBy(promises, tieEnv, "acc_00000000000000000000000001", "pro", at)
			if got.Status.Active() != (len(want) > 0) {
				return orders, fmt.Errorf("at %s: %s until %s, the oracle says %v, after\n\t%s", at.Format(time.RFC3339), got.Status, time.Unix(got.AccessUntil, 0).UTC().Format(time.RFC3339), want, strings.Join(told, "\n\t"))
			}
			ends = fmt.Appendf(ends, "%s: %s %s until %d, renews %v\n", at.Format(time.RFC3339), got.Status, got.Reason, got.AccessUntil, got.WillRenew)
		}
		if first == nil {
			first, firstTold = ends, told
		} else if !bytes.Equal(first, ends) {
			return orders, fmt.Errorf("it ends as\n%safter\n\t%s\nand as\n%safter\n\t%s", first, strings.Join(firstTold, "\n\t"), ends, strings.Join(told, "\n\t"))
		}
	}
	return orders, nil
}

// who is asked, in these tests.
var asked = map[string]func(entitlement.Provider) bool{
	"everybody": func(entitlement.Provider) bool { return true },
	"aggregators": func(p entitlement.Provider) bool {
		return p != entitlement.Stripe && p != entitlement.Apple && p != entitlement.Google
	},
}

func TestEveryOrderOfOneMomentEndsInOneTruth(t *testing.T) {
	s, err := newStage(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}()
	played := 0
	for who, may := range asked {
		for _, provider := range storesim.Providers {
			for _, product := range storesim.DefaultProducts {
				if product.Kind != storesim.Recurring || product.Months != 1 {
					continue
				}
				for _, storeTells := range []bool{false, true} {
					own := map[storesim.Store]storesim.Provider{storesim.AppStore: storesim.Apple, storesim.PlayStore: storesim.Google, storesim.StripeStore: storesim.Stripe}[product.Store] == provider
					if own && (storeTells || who != "everybody") {
						continue
					}
					for _, m := range moments {
						name := fmt.Sprintf("%s in %s, the store tells %v, %s can be asked: %s", provider, product.Store, storeTells, who, m.name)
						orders, err := playTie(t.Context(), s, m, provider, product, storeTells, may, who == "everybody")
						if err != nil {
							t.Errorf("%s: %v", name, err)
						}
						played += orders
					}
				}
			}
		}
	}
	t.Logf("%d orders", played)
}

// playTie plays all orders of one moment. A question that turns up in one of them is answered in all.
func playTie(ctx context.Context, s *stage, m moment, provider storesim.Provider, product storesim.Product, storeTells bool, may func(entitlement.Provider) bool, stores bool) (int, error) {
	rules := storesim.DefaultPromises
	if stores || provider == storesim.Iaptic || provider == storesim.Web2Wave { // of those two nothing tells but the policy
		rules = promises
	}
	var known []question
	for {
		t, ok, err := newTie(ctx, s, m, provider, product, storeTells, may, known)
		if err != nil || !ok {
			return 0, err
		}
		orders, err := t.check(rand.New(rand.NewPCG(1, 2)), rules, may)
		var more unasked
		if !errors.As(err, &more) {
			return orders, err
		}
		for _, q := range more.questions {
			if !slices.Contains(known, q) {
				known = append(known, q)
			}
		}
	}
}
