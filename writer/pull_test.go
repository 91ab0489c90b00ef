package writer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// These tests show that what Stripe's messages leave open is asked for by the leader and settled, whatever comes in between, and that nothing is
// asked without a key.

const stripeKey = "rk_test_canary_of_the_pulls"

// fakeStripe is Stripe's API over objects that a test puts there.
type fakeStripe struct {
	*httptest.Server
	mu      sync.Mutex
	objects map[string]object // by path
	asked   map[string]int
	posted  map[string]string                                           // the body of the last POST, by path
	respond func(w http.ResponseWriter, path string, n int) (done bool) // before the object is looked up, n counts the requests for the path from 1
}

func startStripe(t *testing.T) *fakeStripe {
	s := &fakeStripe{objects: map[string]object{}, asked: map[string]int{}, posted: map[string]string{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *fakeStripe) serve(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+stripeKey {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if r.URL.Path == "/v1/events" { // the leader looks there for what never came, which is nobody's doubt
		fmt.Fprint(w, `{"object": "list", "data": [], "has_more": false}`)
		return
	}
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	if r.Method == http.MethodPost {
		s.posted[r.URL.Path] = string(body)
	}
	s.asked[r.URL.Path]++
	n, respond := s.asked[r.URL.Path], s.respond
	s.mu.Unlock()
	if respond != nil && respond(w, r.URL.Path, n) {
		return
	}
	s.mu.Lock()
	o, ok := s.objects[r.URL.Path]
	shown, err := json.Marshal(o)
	s.mu.Unlock()
	if !ok || err != nil {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"error": {"type": "invalid_request_error", "code": "resource_missing", "message": "CANARY_note"}}`)
		return
	}
	_, _ = w.Write(shown)
}

func (s *fakeStripe) put(path string, o object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[path] = o
}

func (s *fakeStripe) answer(respond func(w http.ResponseWriter, path string, n int) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.respond = respond
}

func (s *fakeStripe) count(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[path]
}

// askedAtAll counts every request.
func (s *fakeStripe) askedAtAll() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.asked {
		n += c
	}
	return n
}

// asking lets a configuration ask the fake.
func (s *fakeStripe) asking(c Config) Config {
	e := c.Environments[entitlement.Sandbox]
	stripe := *e.Stripe
	stripe.APIKey, stripe.APIBase = config.Secret(stripeKey), s.URL
	e.Stripe = &stripe
	c.Environments[entitlement.Sandbox] = e
	return c
}

// pullingWriter starts a writer that asks s, with coins in its catalog.
func pullingWriter(t *testing.T, s *fakeStripe) *testWriter {
	t.Helper()
	w := startWriter(t, s.asking(testConfigs(t, 1)[0]))
	w.awaitReady()
	w.putCoins()
	return w
}

func (w *testWriter) putCoins() {
	w.t.Helper()
	if r := w.api("PUT", "/v1/catalog", `{"products": [
		{"provider": "stripe", "product_id": "price_pro", "kind": "subscription", "entitlements": ["pro"], "plan": "pro_monthly", "group": "pro"},
		{"provider": "stripe", "product_id": "price_life", "kind": "non_consumable", "entitlements": ["pro"], "plan": "lifetime", "group": "pro"},
		{"provider": "stripe", "product_id": "price_coins", "kind": "consumable", "credits": {"coins": 100}}]}`); r.status != http.StatusOK {
		w.t.Fatalf("PUT catalog = %d %s", r.status, r.text)
	}
}

// checkout is a finished one-time payment, as its message shows it: without products.
func checkout(id, account string) object {
	return object{"id": id, "object": "checkout.session", "mode": "payment", "status": "complete", "payment_status": "paid", "client_reference_id": account,
		"payment_intent": "pi_" + id, "amount_total": 4900, "created": time.Now().Unix(), "metadata": object{}, "livemode": false,
		"customer_details": object{"email": "canary@example.com", "name": "CANARY_name"}}
}

func with(o object, name string, v any) object {
	out := object{}
	for n, v := range o {
		out[n] = v
	}
	out[name] = v
	return out
}

func lineItems(lines ...object) object { return object{"has_more": false, "data": lines} }

func lineItem(id, price string, quantity int) object {
	return object{"id": id, "object": "item", "quantity": quantity, "description": "CANARY_note", "price": object{"id": price, "product": "prod_1", "currency": "eur", "unit_amount": 4900}}
}

func thinEvent(id, kind, related, relatedID string, at time.Time) []byte {
	b, err := json.Marshal(object{"id": id, "object": "v2.core.event", "type": kind, "created": at.UTC().Format("2006-01-02T15:04:05.000Z"), "livemode": false,
		"related_object": object{"id": relatedID, "type": related, "url": "/v1/x"}})
	if err != nil {
		panic(err) // plain values
	}
	return b
}

func (w *testWriter) send(body []byte) {
	w.t.Helper()
	if r := w.stripe(body); r.status != http.StatusOK {
		w.t.Fatalf("webhook = %d %s", r.status, r.text)
	}
}

// purchases returns the account's purchases as the server API shows them.
func (w *testWriter) purchases(account string) []object {
	w.t.Helper()
	r := w.api("GET", "/v1/accounts/"+account, "")
	if r.status != http.StatusOK {
		w.t.Fatalf("GET account = %d %s", r.status, r.text)
	}
	var out []object
	list, _ := r.json["purchases"].([]any)
	for _, p := range list {
		out = append(out, p.(object))
	}
	return out
}

func (w *testWriter) inDoubt(account string) bool {
	w.t.Helper()
	p := w.purchases(account)
	return len(p) == 1 && p[0]["doubt"] == true
}

func (w *testWriter) pulls() []store.Pull {
	w.t.Helper()
	var list []store.Pull
	if err := w.store.View(func(r *store.Reader) (err error) {
		list, err = r.Pulls(entitlement.Sandbox, "", 100)
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	return list
}

// metric returns the value of a series.
func (w *testWriter) metric(series string) string {
	w.t.Helper()
	for line := range strings.Lines(w.get("/metrics").text) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return "none"
}

func outcomeSeries(outcome string) string {
	return `latchkey_writer_provider_pulls_total{outcome="` + outcome + `",provider="stripe"}`
}

// eventTypes lists what the audit trail has about an account.
func (w *testWriter) eventTypes(account string) []string {
	w.t.Helper()
	r := w.api("GET", "/v1/accounts/"+account+"/events", "")
	var types []string
	list, _ := r.json["events"].([]any)
	for _, e := range list {
		types = append(types, fmt.Sprint(e.(object)["type"]))
	}
	return types
}

func TestProductsOfAOneTimePaymentArePulled(t *testing.T) {
	s := startStripe(t)
	w := pullingWriter(t, s)
	for _, outcome := range pullOutcomes {
		if v := w.metric(outcomeSeries(outcome)); v != "0" {
			t.Errorf("%s = %s before anything was asked, want 0", outcomeSeries(outcome), v)
		}
	}
	acc := w.account()
	session := checkout("cs_1", acc)
	s.put("/v1/checkout/sessions/cs_1", with(session, "line_items", lineItems(lineItem("li_1", "price_life", 1), lineItem("li_2", "price_coins", 3))))
	w.send(event("evt_1", "checkout.session.completed", session))
	await(t, "pro for ever", func() bool { return w.pro(acc)["active"] == true })
	if pro := w.pro(acc); pro["expires_at"] != nil || pro["plan"] != "lifetime" {
		t.Errorf("pro = %v, want one without an end", pro)
	}
	if r := w.api("GET", "/v1/accounts/"+acc+"/entitlements", ""); r.json["balances"].(object)["coins"] != 300.0 {
		t.Errorf("balances = %v, want 3 times 100 coins", r.json["balances"])
	}
	await(t, "no doubt", func() bool { return !w.inDoubt(acc) && len(w.pulls()) == 0 })
	if types := strings.Join(w.eventTypes(acc), " "); !strings.Contains(types, "pull.checkout") {
		t.Errorf("the audit trail has %s", types)
	}
	// Both are counted after the state has the answer.
	await(t, "a recorded pull", func() bool { return w.metric(outcomeSeries(pullRecorded)) != "0" })
	await(t, "a time until an answer was recorded", func() bool {
		v := w.metric(`latchkey_writer_provider_event_to_record_seconds_count{by="pull",provider="stripe"}`)
		return v != "0" && v != "none"
	})
	for _, canary := range append([]string{stripeKey}, canaries...) {
		if strings.Contains(w.logs.String(), canary) {
			t.Errorf("the log holds %q", canary)
		}
	}
}

func TestAThinEventsObjectIsPulled(t *testing.T) {
	s := startStripe(t)
	w := pullingWriter(t, s)
	acc := w.account()
	s.put("/v1/subscriptions/sub_1", subscription("sub_1", acc, "price_pro"))
	w.send(thinEvent("evt_1", "v1.customer.subscription.active", "subscription", "sub_1", time.Now()))
	await(t, "pro", func() bool { return w.pro(acc)["active"] == true })
	await(t, "no doubt", func() bool { return !w.inDoubt(acc) && len(w.pulls()) == 0 })
	// The next one, about the same subscription, is asked for at once too.
	ended := with(with(subscription("sub_1", acc, "price_pro"), "status", "canceled"), "ended_at", time.Now().Unix())
	s.put("/v1/subscriptions/sub_1", ended)
	w.send(thinEvent("evt_2", "v1.customer.subscription.deleted", "subscription", "sub_1", time.Now()))
	await(t, "no pro", func() bool { return w.pro(acc)["active"] == false })
	await(t, "no doubt", func() bool { return !w.inDoubt(acc) && len(w.pulls()) == 0 })
}

// A subscription of which only its checkout was told, because its own message is late or lost, is asked about; one that is known is not.
func TestASubscriptionThatOnlyItsCheckoutTellsOfIsPulled(t *testing.T) {
	s := startStripe(t)
	w := pullingWriter(t, s)
	sold := func(id, acc string) object {
		return with(with(checkout("cs_"+id, acc), "mode", "subscription"), "subscription", id)
	}
	late, known := w.account(), w.account()
	s.put("/v1/subscriptions/sub_late", subscription("sub_late", "", "price_pro"))
	w.send(event("evt_1", "checkout.session.completed", sold("sub_late", late)))
	await(t, "pro", func() bool { return w.pro(late)["active"] == true })
	session := sold("sub_known", known)
	w.send(event("evt_2", "customer.subscription.created", subscription("sub_known", "", "price_pro")))
	w.send(event("evt_3", "checkout.session.completed", session))
	await(t, "pro of the other", func() bool { return w.pro(known)["active"] == true })
	await(t, "no doubt", func() bool { return !w.inDoubt(late) && !w.inDoubt(known) && len(w.pulls()) == 0 })
	if n := s.count("/v1/subscriptions/sub_known"); n != 0 {
		t.Errorf("a subscription that is known was asked for %d times", n)
	}
}

func TestTwoStatesOfOneSecondArePulled(t *testing.T) {
	s := startStripe(t)
	w := pullingWriter(t, s)
	acc := w.account()
	now := object{"created": time.Now().Unix()}
	active := subscription("sub_1", acc, "price_pro")
	s.put("/v1/subscriptions/sub_1", active)
	w.send(event("evt_1", "customer.subscription.updated", active, now))
	w.send(event("evt_2", "customer.subscription.updated", with(active, "status", "unpaid"), now))
	// By rank unpaid wins; what is right, only Stripe knows.
	await(t, "the tie settled by asking", func() bool { return w.pro(acc)["active"] == true && !w.inDoubt(acc) && len(w.pulls()) == 0 })
	if n := s.count("/v1/subscriptions/sub_1"); n != 1 {
		t.Errorf("asked %d times, want once: not before an answer can settle it", n)
	}
}

func TestAConflictingMessageIsPulled(t *testing.T) {
	s := startStripe(t)
	w := pullingWriter(t, s)
	acc := w.account()
	active := subscription("sub_1", acc, "price_pro")
	s.put("/v1/subscriptions/sub_1", with(active, "status", "past_due"))
	w.send(event("evt_1", "customer.subscription.created", active))
	if r := w.stripe(event("evt_1", "customer.subscription.created", with(active, "status", "unpaid"))); r.str("outcome") != "conflicting" {
		t.Fatalf("a second message under the id = %s", r.text)
	}
	await(t, "what Stripe says", func() bool { return w.pro(acc)["status"] != "active" })
	await(t, "no doubt", func() bool { return !w.inDoubt(acc) && len(w.pulls()) == 0 })
}

// TestFailingPulls shows what becomes of each failure, and that webhooks do not wait for any of them (R10).
func TestFailingPulls(t *testing.T) {
	t.Parallel() // it mostly waits
	const path = "/v1/checkout/sessions/cs_1"
	failing := func(times, status int, header ...string) func(http.ResponseWriter, string, int) bool {
		return func(w http.ResponseWriter, p string, n int) bool {
			if p != path || n > times {
				return false
			}
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			return true
		}
	}
	tests := []struct {
		name    string
		respond func(http.ResponseWriter, string, int) bool
		missing bool
		change  func(object) object
		outcome string
		settles bool
		atLeast time.Duration
	}{
		{"asked too often, wait a second", failing(1, 429, "Retry-After", "1"), false, nil, pullLimited, true, time.Second},
		{"Stripe broken twice", failing(2, 500), false, nil, pullUnavailable, true, time.Second},
		{"no such object", nil, true, nil, pullGone, false, 0},
		{"an object of live mode", nil, false, func(o object) object { return with(o, "livemode", true) }, pullOther, false, 0},
		{"a key that may not", failing(1000, 403), false, nil, pullCredential, false, 0},
		{"a wrong key", failing(1000, 401), false, nil, pullCredential, false, 0},
		{"an answer that is none", nil, false, func(o object) object { return with(o, "object", "banana") }, pullAnswer, false, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := startStripe(t)
			s.answer(tt.respond)
			w := pullingWriter(t, s)
			acc := w.account()
			session := checkout("cs_1", acc)
			if full := with(session, "line_items", lineItems(lineItem("li_1", "price_life", 1))); !tt.missing {
				if tt.change != nil {
					full = tt.change(full)
				}
				s.put(path, full)
			}
			began := time.Now()
			w.send(event("evt_1", "checkout.session.completed", session))
			await(t, "outcome "+tt.outcome, func() bool { return w.metric(outcomeSeries(tt.outcome)) != "0" })
			if tt.settles {
				await(t, "pro", func() bool { return w.pro(acc)["active"] == true })
				if took := time.Since(began); took < tt.atLeast*3/4 {
					t.Errorf("settled after %s, want to wait for %s", took, tt.atLeast)
				}
				return
			}
			if w.metric(outcomeSeries(pullRecorded)) != "0" || w.pro(acc)["active"] == true || !w.inDoubt(acc) {
				t.Errorf("something was recorded, or the mark is gone: %v", w.purchases(acc))
			}
			// Others are asked about in spite of it, but for a refused key.
			asked := s.count(path)
			s.put("/v1/subscriptions/sub_2", subscription("sub_2", acc, "price_pro"))
			w.send(thinEvent("evt_2", "v1.customer.subscription.active", "subscription", "sub_2", time.Now()))
			if tt.name == "a wrong key" {
				if n := s.count("/v1/subscriptions/sub_2"); n != 0 {
					t.Errorf("asked %d times with a key that is refused", n)
				}
				return
			}
			await(t, "pro by another purchase", func() bool { return w.pro(acc)["active"] == true })
			if n := s.count(path); tt.outcome == pullGone && n != asked {
				t.Errorf("asked again for what is gone: %d, then %d times", asked, n)
			}
		})
	}
}

func TestWithoutAKeyNothingIsAsked(t *testing.T) {
	s := startStripe(t)
	cfg := testConfigs(t, 1)[0]
	cfg.Environments[entitlement.Sandbox].Stripe.APIBase = s.URL
	w := startWriter(t, cfg)
	w.awaitReady()
	acc := w.account()
	w.send(event("evt_1", "checkout.session.completed", checkout("cs_1", acc)))
	w.send(thinEvent("evt_2", "v1.customer.subscription.active", "subscription", "sub_1", time.Now()))
	w.send(event("evt_3", "customer.subscription.created", subscription("sub_2", acc, "price_pro")))
	await(t, "pro by what messages prove", func() bool { return w.pro(acc)["active"] == true })
	if len(w.pulls()) != 2 || w.pullers[entitlement.Sandbox] != nil {
		t.Errorf("marked are %v, want the payment and the subscription", w.pulls())
	}
	if p := w.purchases(acc); len(p) != 2 || p[0]["doubt"] != true || p[1]["doubt"] != false {
		t.Errorf("purchases = %v, want the payment in doubt", p)
	}
	if n := s.askedAtAll(); n != 0 {
		t.Errorf("asked %d times", n)
	}
}

// The newest version counts, whichever comes first: an answer whose request left before a change and that comes after the change's message loses.
func TestASlowAnswerDoesNotUndoANewerMessage(t *testing.T) {
	s := startStripe(t)
	release, arrived := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s.answer(func(http.ResponseWriter, string, int) bool {
		once.Do(func() { close(arrived) })
		<-release
		return false
	})
	w := pullingWriter(t, s)
	acc := w.account()
	active := subscription("sub_1", acc, "price_pro")
	s.put("/v1/subscriptions/sub_1", active) // also while it is canceled already
	w.send(thinEvent("evt_1", "v1.customer.subscription.active", "subscription", "sub_1", time.Now()))
	<-arrived
	later := object{"created": time.Now().Unix() + 1}
	w.send(event("evt_2", "customer.subscription.updated", with(active, "status", "unpaid"), later))
	close(release)
	await(t, "the answer recorded or dropped", func() bool {
		return w.metric(outcomeSeries(pullRecorded)) != "0" || w.metric(outcomeSeries(pullUnchanged)) != "0"
	})
	await(t, "no doubt", func() bool { return len(w.pulls()) == 0 })
	if pro := w.pro(acc); pro["active"] != false {
		t.Errorf("pro = %v: the older answer won", pro)
	}
}

// A message of the same second as the answer, with another state, is a tie: it is asked for again and not lost.
func TestAChangeInTheSecondOfTheAnswerIsNotLost(t *testing.T) {
	s := startStripe(t)
	w := pullingWriter(t, s)
	acc := w.account()
	active := subscription("sub_1", acc, "price_pro")
	canceling := with(with(active, "cancel_at_period_end", true), "metadata", object{"account_id": acc})
	var at int64
	s.answer(func(rw http.ResponseWriter, path string, n int) bool {
		if n == 1 {
			at = time.Now().Unix()
			s.put(path, active)
			return false
		}
		s.put(path, canceling)
		return false
	})
	w.send(thinEvent("evt_1", "v1.customer.subscription.active", "subscription", "sub_1", time.Now()))
	await(t, "pro", func() bool { return w.pro(acc)["active"] == true })
	w.send(event("evt_2", "customer.subscription.updated", canceling, object{"created": at}))
	await(t, "the change", func() bool { return w.pro(acc)["will_renew"] == false && len(w.pulls()) == 0 })
}

// scriptedPuller gives answers one after the other.
type scriptedPuller struct {
	answers []entitlement.Event
	asked   int
}

func (s *scriptedPuller) Provider() entitlement.Provider { return entitlement.RevenueCat }

func (s *scriptedPuller) Targets(_ entitlement.Evidence, doubts []entitlement.Doubt) []entitlement.Doubt {
	return doubts
}

func (s *scriptedPuller) Pull(context.Context, entitlement.ObjectKind, string) (entitlement.Event, error) {
	s.asked++
	return s.answers[s.asked-1], nil
}

// A provider's messages have versions within the second and its answers have not: a message of the second in which the question left counts before the
// answer, though the answer may know more. It is asked once more, a second later.
func TestAnAnswerThatAMessageOfItsSecondOutrunsIsAskedForAgain(t *testing.T) {
	w := oneWriter(t)
	second := time.Now().Truncate(time.Second).Add(-time.Minute)
	for name, tt := range map[string]struct {
		messageAt time.Duration // after the second in which the question leaves
		renews    bool          // by the answers
		want      int
	}{
		"a message of the same second":                     {300 * time.Millisecond, false, 2},
		"a message of the same second that says the same":  {300 * time.Millisecond, true, 1},
		"a message of the second before":                   {-time.Millisecond, false, 1},
		"a message of the next second is newer in any way": {1100 * time.Millisecond, false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			id := unique("1")
			link := []entitlement.Link{entitlement.Link("revenuecat:" + id)}
			stands := func(at time.Time, renews bool) entitlement.Object {
				return entitlement.Object{Kind: entitlement.KindRenewal, ID: "app_store", By: entitlement.RevenueCat, At: at.UnixNano(), Links: link,
					Renewal: &entitlement.Renewal{Phase: entitlement.PhaseActive, WillRenew: renews}}
			}
			record := func(objects ...entitlement.Object) {
				t.Helper()
				ev := entitlement.Event{Provider: entitlement.RevenueCat, ID: unique("evt"), Environment: entitlement.Sandbox, Objects: objects}
				if _, err := w.propose(t.Context(), store.TypeRecordEvent, entitlement.Sandbox, store.RecordEvent{Event: ev}); err != nil {
					t.Fatal(err)
				}
			}
			record(stands(second.Add(tt.messageAt), true), entitlement.Object{Kind: entitlement.KindTransaction, ID: id, By: entitlement.RevenueCat, At: 1, Links: link,
				Transaction: &entitlement.Transaction{Chain: "app_store", Recurring: true, StartsAt: second.Unix(), EndsAt: second.Unix() + 3600}},
				entitlement.Object{Kind: entitlement.KindHint, ID: "user", By: entitlement.RevenueCat, At: 1, Links: link, Hint: &entitlement.Hint{Of: entitlement.KindCustomer}})
			api := &scriptedPuller{}
			for i := range 2 {
				at := second.Add(time.Duration(i) * time.Second)
				api.answers = append(api.answers, entitlement.Event{Provider: entitlement.RevenueCat, ID: unique("pull:"), Environment: entitlement.Sandbox, CreatedAt: at.Unix(), Objects: []entitlement.Object{
					{Kind: entitlement.KindCustomer, ID: "user", By: entitlement.RevenueCat, At: at.UnixNano(), Links: link, Customer: &entitlement.Customer{}}, stands(at, tt.renews)}})
			}
			p := newPulling(w.Writer, entitlement.Sandbox, map[entitlement.Provider]provider.Puller{entitlement.RevenueCat: api})
			p.ask(t.Context(), store.Pull{ID: entitlement.PurchaseID(link[0]), Asks: "x"})
			purchase, err := p.purchase(entitlement.PurchaseID(link[0]))
			if err != nil || api.asked != tt.want {
				t.Fatalf("asked %d times, want %d: %v", api.asked, tt.want, err)
			}
			at := slices.IndexFunc(purchase.Evidence.Objects, func(o entitlement.Object) bool { return o.Renewal != nil })
			if got, want := purchase.Evidence.Objects[at].Renewal.WillRenew, tt.renews || tt.messageAt > time.Second; got != want {
				t.Errorf("will renew %t, want %t", got, want)
			}
		})
	}
}

// TestLeaderChangesInTheMiddleOfAPull: the next leader asks for itself, the first one's answer comes to nothing, and all nodes agree.
func TestLeaderChangesInTheMiddleOfAPull(t *testing.T) {
	t.Run("it stops", func(t *testing.T) { changeLeaderInAPull(t, func(w *testWriter) { w.stop() }) })
	t.Run("it gives the lead away", func(t *testing.T) {
		changeLeaderInAPull(t, func(w *testWriter) {
			await(t, "the lead given away", func() bool { return w.store.TransferLeadership() == nil || !w.store.IsLeader() }) // it may take longer than Raft gives it
		})
	})
}

func changeLeaderInAPull(t *testing.T, leave func(*testWriter)) {
	s := startStripe(t)
	first, arrived := make(chan struct{}), make(chan struct{})
	s.answer(func(_ http.ResponseWriter, _ string, n int) bool {
		if n == 1 {
			close(arrived)
			<-first
		}
		return false
	})
	var writers []*testWriter
	for _, cfg := range testConfigs(t, 3) {
		writers = append(writers, startWriter(t, s.asking(cfg)))
	}
	for _, w := range writers {
		w.awaitReady()
	}
	leader, followers := roles(t, writers)
	acc := followers[0].account()
	s.put("/v1/checkout/sessions/cs_1", with(checkout("cs_1", acc), "line_items", lineItems(lineItem("li_1", "price_life", 1))))
	followers[0].send(event("evt_1", "checkout.session.completed", checkout("cs_1", acc)))
	<-arrived
	leave(leader)
	await(t, "another leader", func() bool {
		return !leader.store.IsLeader() && (followers[0].store.IsLeader() || followers[1].store.IsLeader())
	})
	close(first)
	await(t, "pro by the next leader", func() bool { return followers[1].pro(acc)["active"] == true })
	await(t, "no doubt", func() bool { return !followers[0].inDoubt(acc) })
	sameState(t, followers)
	if r, err := send("GET", leader.url+"/metrics", "", nil); err == nil && !strings.Contains(r.text, outcomeSeries(pullRecorded)+" 0\n") {
		t.Error("the old leader's answer was recorded")
	}
	recorded := func() (by []string) {
		for _, f := range followers {
			if n := f.metric(outcomeSeries(pullRecorded)); n != "0" {
				by = append(by, f.cfg.Node.ID+" "+n)
			}
		}
		return by
	}
	await(t, "the count of who asked", func() bool { return len(recorded()) > 0 }) // after the state has the answer
	if by := recorded(); len(by) != 1 {
		t.Errorf("recorded by %v: only the leader asks", by)
	}
}
