package main

import (
	"fmt"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/writertest"
)

// load is what providers and the customer's backend send: a small Stripe-like history of a few accounts, with repeats, late messages, ids that
// are used twice, and API calls in between.
type load struct {
	w        *world
	accounts []entitlement.AccountID
	subs     int
	n        int // numbers everything that is sent
	sent     []entitlement.Event
}

// retryFor is how long the receiving writer tries again.
const retryFor = 8 * time.Second

const day = 24 * 3600

func newLoad(w *world) *load {
	l := &load{w: w, subs: 2 + w.rand.IntN(4)}
	for i := range 2 + w.rand.IntN(3) {
		l.accounts = append(l.accounts, entitlement.AccountID(fmt.Sprint("acc_", i+1)))
	}
	return l
}

// command encodes a command.
func command(t writertest.CommandType, env entitlement.Environment, correlation string, body any) []byte {
	return writertest.NewCommand(t, env, correlation, body).Encode()
}

// begin spreads the history over the time until trouble ends.
func (l *load) begin(until time.Duration) {
	l.w.after(200*time.Millisecond, func() { l.call(writertest.TypePutCatalog, &writertest.PutCatalog{Catalog: catalog()}) })
	for _, id := range l.accounts {
		at := l.w.between(0, time.Second)
		if l.w.chance(4) {
			at = l.w.between(0, until)
		}
		l.w.after(at, func() {
			l.call(writertest.TypeCreate, &writertest.CreateAccount{ID: id, Aliases: []entitlement.Alias{l.alias(string(id))}})
		})
	}
	for range 20 + l.w.rand.IntN(25) {
		l.w.after(l.w.between(0, until), l.step)
	}
}

// write sends one change that certainly is one.
func (l *load) write() {
	l.call(writertest.TypePutGrant, &writertest.PutGrant{Account: l.accounts[0], ID: l.id("grant"), Entitlement: "pro", EndsAt: epochTime + day})
}

func (l *load) id(kind string) string {
	l.n++
	return fmt.Sprintf("%s_%d", kind, l.n)
}

func (l *load) alias(of string) entitlement.Alias {
	return entitlement.Alias{Kind: entitlement.StripeCustomer, Value: "cus_" + of}
}

func (l *load) account() entitlement.AccountID { return l.accounts[l.w.rand.IntN(len(l.accounts))] }

// step sends something.
func (l *load) step() {
	w := l.w
	switch w.rand.IntN(16) {
	case 0:
		l.call(writertest.TypePutGrant, &writertest.PutGrant{Account: l.account(), ID: fmt.Sprint("grant_", w.rand.IntN(4)), Entitlement: "pro", DurationSeconds: day})
	case 1:
		l.call(writertest.TypeDeleteGrant, &writertest.DeleteGrant{Account: l.account(), ID: fmt.Sprint("grant_", w.rand.IntN(4))})
	case 2:
		l.call(writertest.TypeAddAlias, &writertest.AddAlias{Account: l.account(), Alias: l.alias(fmt.Sprint("sub_", w.rand.IntN(l.subs)))})
	case 3:
		tester := w.chance(2)
		l.call(writertest.TypePatch, &writertest.PatchAccount{Account: l.account(), Tester: &tester, Attributes: map[string]string{"n": fmt.Sprint(l.n)}})
	case 4:
		l.call(writertest.TypeEndSessions, &writertest.EndSessions{Account: l.account()})
	case 5:
		c := catalog()
		c.Products = c.Products[w.rand.IntN(len(c.Products)):]
		l.call(writertest.TypePutCatalog, &writertest.PutCatalog{Catalog: c})
	case 6: // a message again, perhaps much later than the first time
		if len(l.sent) > 0 {
			l.deliver(l.sent[w.rand.IntN(len(l.sent))])
		}
	case 7: // another content under a used id
		if len(l.sent) > 0 && w.chance(3) {
			ev := l.message()
			ev.ID = l.sent[w.rand.IntN(len(l.sent))].ID
			l.deliver(ev)
		}
	default:
		ev := l.message()
		l.sent = append(l.sent, ev)
		l.deliver(ev)
		if w.chance(4) {
			w.after(w.between(0, 4*time.Second), func() { l.deliver(ev) })
		}
	}
}

func catalog() entitlement.Catalog {
	return entitlement.Catalog{Products: []entitlement.Product{
		{Provider: entitlement.Stripe, ID: "price_pro_monthly", Kind: entitlement.KindRecurring, Entitlements: []string{"pro"}, Plan: "pro_monthly", Group: "pro"},
		{Provider: entitlement.Stripe, ID: "price_pro_yearly", Kind: entitlement.KindRecurring, Entitlements: []string{"pro"}, Plan: "pro_yearly", Group: "pro"},
	}}
}

// message is what the provider says next of one of its subscriptions.
func (l *load) message() entitlement.Event {
	w := l.w
	i := w.rand.IntN(l.subs)
	sub, intent := fmt.Sprint("sub_", i), fmt.Sprintf("pi_%d_%d", i, w.rand.IntN(3))
	at := epochTime + int64(w.rand.IntN(60)) // the provider's time has nothing to do with the order of arrival
	ev := entitlement.Event{Provider: entitlement.Stripe, ID: l.id("evt"), Environment: sandbox, Type: "simulated", CreatedAt: at}
	ev.Raw = []byte(`{"id":"` + ev.ID + `"}`)
	switch w.rand.IntN(5) {
	case 0:
		ev.Objects = []entitlement.Object{refund(l.id("re"), intent, at)}
	case 1, 2:
		ev.Objects = []entitlement.Object{invoice("in_"+intent, sub, intent, at)}
	default:
		status := []entitlement.SubscriptionStatus{entitlement.Active, entitlement.Active, entitlement.PastDue, entitlement.Unpaid, entitlement.Canceled}[w.rand.IntN(5)]
		o := subscription(sub, at, status)
		if w.chance(2) {
			o.Account = l.accounts[i%len(l.accounts)]
		}
		if w.chance(2) {
			o.Aliases = []entitlement.Alias{l.alias(sub)}
		}
		ev.Objects = []entitlement.Object{o}
	}
	return ev
}

func subscription(id string, at int64, status entitlement.SubscriptionStatus) entitlement.Object {
	return entitlement.Object{Kind: entitlement.KindSubscription, ID: id, At: at * 1e9, Links: []entitlement.Link{entitlement.Link("stripe:" + id)},
		Subscription: &entitlement.Subscription{Status: status, StartedAt: epochTime, Items: []entitlement.SubscriptionItem{{
			ID: "si_" + id, Sold: entitlement.Sold{Product: "price_pro_monthly", Quantity: 1}, StartsAt: epochTime, EndsAt: epochTime + 30*day}}}}
}

func invoice(id, sub, intent string, at int64) entitlement.Object {
	return entitlement.Object{Kind: entitlement.KindInvoice, ID: id, At: at * 1e9,
		Links: []entitlement.Link{entitlement.Link("stripe:" + sub), entitlement.Link("stripe:" + id), entitlement.Link("stripe:" + intent)},
		Invoice: &entitlement.Invoice{Status: entitlement.InvoicePaid, Subscription: sub, PaymentIntent: intent, AmountPaid: 999, Currency: "EUR", PaidAt: at,
			Lines: []entitlement.InvoiceLine{{ID: "il_" + id, Item: "si_" + sub, Amount: 999, StartsAt: epochTime, EndsAt: epochTime + 30*day,
				Sold: entitlement.Sold{Product: "price_pro_monthly", Quantity: 1}}}}}
}

func refund(id, intent string, at int64) entitlement.Object {
	return entitlement.Object{Kind: entitlement.KindRefund, ID: id, At: at * 1e9, Links: []entitlement.Link{entitlement.Link("stripe:" + intent)},
		Refund: &entitlement.Refund{Status: entitlement.RefundSucceeded, PaymentIntent: intent, Amount: 999, CreatedAt: at}}
}

// call sends a request of the server API; its Idempotency-Key is for the half that has one.
func (l *load) call(t writertest.CommandType, body any) {
	l.send(command(t, sandbox, l.id("call"), body))
}

// deliver sends a message to a webhook: each delivery has a correlation id of its own.
func (l *load) deliver(ev entitlement.Event) {
	l.send(command(writertest.TypeRecordEvent, sandbox, l.id("delivery"), &writertest.RecordEvent{Event: ev}))
}

// send has any writer propose a command, the same bytes again and again while it does not know what became of it.
func (l *load) send(encoded []byte) {
	w := l.w
	until := w.now + retryFor
	var try func()
	try = func() {
		n := w.cluster.writers[w.rand.IntN(len(w.cluster.writers))]
		w.cluster.propose(n, encoded, func(r writertest.Result, index uint64, err error) {
			switch {
			case err == nil:
				w.judge.acknowledged(r, index)
			case w.now < until:
				w.after(w.between(20*time.Millisecond, 400*time.Millisecond), try)
			}
		})
	}
	try()
}
