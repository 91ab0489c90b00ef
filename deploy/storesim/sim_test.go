package storesim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// start is when the tests' simulations begin.
var start = time.Date(2026, time.January, 31, 9, 0, 0, 0, time.UTC)

var credentials map[Environment]*Credentials

func TestMain(m *testing.M) { runWithCredentials(m) }

// testSim is a simulation whose messages go nowhere.
func testSim(t testing.TB, seed uint64) *Sim {
	t.Helper()
	return New(Config{Seed: seed, Start: start, Credentials: credentials})
}

func account(n int) string { return fmt.Sprintf("acc_01JD%022d", n) }

func (s *Sim) pass(t testing.TB, d time.Duration) {
	t.Helper()
	if err := s.Advance(t.Context(), d); err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func buy(t testing.TB, s *Sim, o Order) string {
	t.Helper()
	p, err := s.Buy(o)
	must(t, err)
	return p.ID
}

// monthly are the products that renew each month, by provider.
var monthly = map[Provider]string{Stripe: "price_pro_monthly", Apple: "com.example.pro_monthly", Google: "pro:monthly", RevenueCat: "com.example.pro_monthly", Adapty: "com.example.pro_monthly",
	Iaptic: "com.example.pro_monthly", Web2Wave: "price_pro_monthly"}

// told lists the types of all messages so far.
func told(s *Sim) []string {
	var types []string
	for _, m := range s.Messages() {
		types = append(types, m.Type)
	}
	return types
}

// TestEveryProviderTellsALife shows in each dialect what is told of: a purchase, a renewal, the renewal turned off, the end.
func TestEveryProviderTellsALife(t *testing.T) {
	tests := map[Provider][]string{
		Stripe: {"customer.subscription.created", "invoice.paid", "invoice_payment.paid", "checkout.session.completed", "customer.subscription.updated", "invoice.paid", "invoice_payment.paid",
			"customer.subscription.updated", "customer.subscription.deleted"},
		Apple:      {"SUBSCRIBED/INITIAL_BUY", "DID_RENEW", "DID_CHANGE_RENEWAL_STATUS/AUTO_RENEW_DISABLED", "EXPIRED/VOLUNTARY"},
		Google:     {"subscription/4", "subscription/2", "subscription/3", "subscription/13"},
		RevenueCat: {"INITIAL_PURCHASE", "RENEWAL", "CANCELLATION", "EXPIRATION"},
		Adapty: {"subscription_started", "access_level_updated", "subscription_renewed", "access_level_updated", "subscription_renewal_cancelled", "access_level_updated", "subscription_expired",
			"access_level_updated"},
		Iaptic:   {"PURCHASED", "RENEWED", "WILL_LAPSE", "EXPIRED"},
		Web2Wave: {"user_property", "subscription/charge.succeeded", "subscription/customer.subscription.updated", "subscription/charge.succeeded", "subscription/customer.subscription.updated", "subscription/customer.subscription.deleted"},
	}
	for provider, want := range tests {
		t.Run(string(provider), func(t *testing.T) {
			s := testSim(t, 1)
			id := buy(t, s, Order{Provider: provider, Account: account(1), Product: monthly[provider]})
			must(t, s.Renew(t.Context(), id))
			s.pass(t, day)
			must(t, s.Cancel(id))
			s.pass(t, 40*day)
			if got := told(s); !slices.Equal(got, want) {
				t.Errorf("told %q, want %q", got, want)
			}
			p := s.Purchases()[0]
			if p.Phase != Ended || len(p.Terms) != 2 {
				t.Errorf("phase %s with %d terms, want ended with 2", p.Phase, len(p.Terms))
			}
		})
	}
}

// TestACardFails shows grace, retry, recovery and the end of the retries, at the stores that have them.
func TestACardFails(t *testing.T) {
	for provider, product := range monthly {
		t.Run(string(provider), func(t *testing.T) {
			s := testSim(t, 1)
			id := buy(t, s, Order{Provider: provider, Account: account(1), Product: product})
			must(t, s.FailCard(id))
			must(t, s.Renew(t.Context(), id))
			want := Grace
			if provider == Stripe || provider == Web2Wave {
				want = Retry
			}
			if p := s.Purchases()[0]; p.Phase != want {
				t.Fatalf("phase %s, want %s", p.Phase, want)
			}
			s.pass(t, day)
			must(t, s.Recover(id))
			p := s.Purchases()[0]
			if p.Phase != Active || len(p.Terms) != 2 || !p.Terms[1].StartsAt.Equal(p.Terms[0].EndsAt) && want == Grace {
				t.Errorf("after the recovery: %s, terms %v", p.Phase, p.Terms)
			}
			must(t, s.FailCard(id))
			s.pass(t, 150*day)
			if p := s.Purchases()[0]; p.Phase != Ended || p.EndReason != "billing" {
				t.Errorf("phase %s for %q, want ended by billing", p.Phase, p.EndReason)
			}
		})
	}
}

// TestMonthsEndWithTheirLastDay: who buys on the 31st pays on the last day of shorter months.
func TestMonthsEndWithTheirLastDay(t *testing.T) {
	product := DefaultProducts[0]
	if got, want := product.after(start), time.Date(2026, time.February, 28, 9, 0, 0, 0, time.UTC); !got.Equal(want) {
		t.Errorf("a month after %s is %s, want %s", start, got, want)
	}
}

// TestEqualSeedsTellEqualStories: ids, times and the messages with their signatures are the same.
func TestEqualSeedsTellEqualStories(t *testing.T) {
	story := func(seed uint64) string {
		s := New(Config{Seed: seed, Start: start, Credentials: credentials, Chaos: Chaos{Delay: Duration(day), Repeat: 0.3, Loss: 0.1, Reorder: 0.2}})
		play(t, s, Sandbox, rand.New(rand.NewPCG(seed, 1)), 60)
		var b strings.Builder
		for _, m := range s.Messages() {
			fmt.Fprintln(&b, m.ID, m.Provider, m.Type, m.At, m.Lost, string(m.Body))
		}
		return b.String()
	}
	first, again := story(7), story(7)
	if first != again {
		t.Error("the same seed tells two stories")
	}
	if first == story(8) {
		t.Error("two seeds tell the same story")
	}
}

// play does things by lot, and lets time pass between them.
func play(t testing.TB, s *Sim, env Environment, dice *rand.Rand, steps int) {
	t.Helper()
	var ids []string
	for step := range steps {
		var err error
		id := ""
		if len(ids) > 0 {
			id = ids[dice.IntN(len(ids))]
		}
		switch n := dice.IntN(16); {
		case n < 3 || id == "":
			provider := Providers[dice.IntN(len(Providers))]
			ids = append(ids, buy(t, s, Order{Provider: provider, Env: env, Account: account(dice.IntN(5)), Product: monthly[provider], Trial: dice.IntN(2) * 7}))
		case n == 3:
			err = s.Cancel(id)
		case n == 4:
			err = s.Resume(id)
		case n == 5:
			err = s.FailCard(id)
		case n == 6:
			err = s.Recover(id)
		case n == 7:
			err = s.Refund(id, -1, 0)
		case n == 8:
			err = s.Refund(id, 0, 0)
		case n == 9:
			err = s.ReverseRefund(id, -1)
		case n == 10:
			err = s.Dispute(id)
		case n == 11:
			err = s.CloseDispute(id, step%2 == 0)
		case n == 12:
			err = s.Pause(id, 20*day)
		case n == 13:
			err = s.Transfer(id, account(dice.IntN(5)))
		case n == 14:
			err = s.Share(id, account(dice.IntN(5)))
		case n == 15:
			_, err = s.Resubscribe(id)
		}
		if err != nil && !errors.Is(err, ErrRefused) {
			t.Fatal(err)
		}
		s.pass(t, time.Duration(dice.IntN(20*24))*time.Hour+time.Second)
	}
}

// TestWhatAProviderWouldNotDoIsRefused: nothing is written then.
func TestWhatAProviderWouldNotDoIsRefused(t *testing.T) {
	s := testSim(t, 1)
	apple := buy(t, s, Order{Provider: Apple, Account: account(1), Product: "com.example.pro_monthly"})
	coins := buy(t, s, Order{Provider: Apple, Account: account(1), Product: "com.example.coins_100"})
	month := buy(t, s, Order{Provider: Google, Account: account(1), Product: monthly[Google]})
	adapty := buy(t, s, Order{Provider: Adapty, Account: account(1), Product: monthly[Adapty]})
	written := len(s.Facts())
	tests := map[string]func() error{
		"another store's product": func() error {
			_, err := s.Buy(Order{Provider: Apple, Account: account(1), Product: "pro:monthly"})
			return err
		},
		"a product that nobody sells": func() error {
			_, err := s.Buy(Order{Provider: Apple, Account: account(1), Product: "nothing"})
			return err
		},
		"nobody": func() error { _, err := s.Buy(Order{Provider: Apple, Product: "com.example.lifetime"}); return err },
		"a trial of what is used up": func() error {
			_, err := s.Buy(Order{Provider: Apple, Account: account(1), Product: "com.example.coins_100", Trial: 3})
			return err
		},
		"a dispute at Apple":              func() error { return s.Dispute(apple) },
		"a pause at Apple":                func() error { return s.Pause(apple, day) },
		"more than was paid":              func() error { return s.Refund(apple, -1, 1000) },
		"a part of a month at Play":       func() error { return s.Refund(month, -1, 100) },
		"a part of a month at Adapty":     func() error { return s.Refund(adapty, -1, 100) },
		"a dispute at Adapty":             func() error { return s.Dispute(adapty) },
		"the renewal of what is used up":  func() error { return s.Cancel(coins) },
		"a payment that is not under way": func() error { return s.Settle(apple, true) },
		"what is not there":               func() error { return s.Cancel("p99") },
		"a transfer at Apple":             func() error { return s.Transfer(apple, account(2)) },
		"the end of no dispute":           func() error { return s.CloseDispute(apple, true) },
		"buying again what goes on":       func() error { _, err := s.Resubscribe(apple); return err },
		"undoing no refund":               func() error { return s.ReverseRefund(apple, -1) },
	}
	for name, do := range tests {
		t.Run(name, func(t *testing.T) {
			if err := do(); !errors.Is(err, ErrRefused) {
				t.Errorf("error %v, want one of %v", err, ErrRefused)
			}
			if n := len(s.Facts()); n != written {
				t.Errorf("%d facts, want %d", n, written)
			}
		})
	}
}

func TestDurations(t *testing.T) {
	tests := map[string]time.Duration{"30d": 30 * day, "2w": 14 * day, "1w2d3h": 9*day + 3*time.Hour, "90m": 90 * time.Minute, "1d12h": 36 * time.Hour, "0s": 0, "1.5h": 90 * time.Minute}
	for text, want := range tests {
		if got, err := ParseDuration(text); err != nil || time.Duration(got) != want {
			t.Errorf("ParseDuration(%q) = %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "d", "-1d", "1x", "3", "1.5d", "999999999d"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("ParseDuration(%q) = %s, want an error", text, got)
		}
	}
}

// TestATermThatIsBilledCounts: Stripe's subscription is active from the end of a term on, an hour before its card is charged, whatever became of the term before.
func TestATermThatIsBilledCounts(t *testing.T) {
	for _, tt := range []struct {
		name     string
		before   func(s *Sim, id string) error
		meantime func(s *Sim, id string) error
		now      bool // half an hour into the term
		then     bool // when the card was charged
	}{
		{"after a month that was kept", func(*Sim, string) error { return nil }, func(*Sim, string) error { return nil }, true, true},
		{"after a month that was given back", func(s *Sim, id string) error { return s.Refund(id, -1, 0) }, func(*Sim, string) error { return nil }, true, true},
		{"cancelled in that hour", func(*Sim, string) error { return nil }, (*Sim).Cancel, true, true},
		{"a card that fails, after a month that was given back", func(s *Sim, id string) error { return errors.Join(s.Refund(id, -1, 0), s.FailCard(id)) }, func(*Sim, string) error { return nil }, true, false},
		{"a card that fails has its grace", (*Sim).FailCard, func(*Sim, string) error { return nil }, true, true},
		{"cancelled before: no term is billed", (*Sim).Cancel, func(*Sim, string) error { return nil }, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := testSim(t, 1)
			id := buy(t, s, Order{Provider: Stripe, Account: account(1), Product: monthly[Stripe]})
			p, _ := s.Purchase(id)
			s.pass(t, day)
			must(t, tt.before(s, id))
			must(t, s.AdvanceTo(t.Context(), p.Terms[0].EndsAt.Add(stripeDraft/2)))
			entitled := func() bool {
				return s.Ledger().Entitled(DefaultPromises, Sandbox, account(1), "pro", s.Now())
			}
			if got := entitled(); got != tt.now {
				t.Errorf("half an hour into the next term: %t, want %t", got, tt.now)
			}
			must(t, tt.meantime(s, id))
			s.pass(t, stripeDraft)
			if got := entitled(); got != tt.then {
				t.Errorf("once the card was charged: %t, want %t", got, tt.then)
			}
		})
	}
}
