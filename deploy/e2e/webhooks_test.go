package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkey/latchkey/deploy/stripemsg"
)

// TestAnyOrderGivesOneView: the messages of one history, in any order, repeated, in either shape, over any writer, show the same
// entitlement at every edge (I20). The history is a purchase, a renewal, a cancel at the period's end, and in the second case a full
// refund of the renewal.
func TestAnyOrderGivesOneView(t *testing.T) {
	t.Parallel()
	d := start(t, t.TempDir(), threeWriters...)
	const orders = 16 // of each case and shape; all orders of short histories are tried in package entitlement
	began := time.Now().Add(-20 * 24 * time.Hour).Truncate(time.Second)
	cases := []struct {
		name   string
		refund bool
		want   entitlement
	}{
		{"cancelled at the period's end", false, entitlement{ID: "pro", Active: true, Status: "active", Reason: "cancelled_until_end", Plan: "pro_monthly"}},
		{"refunded", true, entitlement{ID: "pro", Status: "refunded", Reason: "refunded", Plan: "pro_monthly"}},
	}
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			var first view
			for i := range 2 * orders {
				a := d.account("sandbox")
				messages := history(shapes[i%2], a.id, began, tt.refund)
				if i >= len(shapes) { // the first of each shape goes in order
					lot := rand.New(rand.NewPCG(uint64(i), 1))
					messages = append(messages, messages[lot.IntN(len(messages))], messages[lot.IntN(len(messages))])
					lot.Shuffle(len(messages), func(x, y int) { messages[x], messages[y] = messages[y], messages[x] })
				}
				var revision string
				for n, message := range messages {
					revision = newest(t, revision, d.mustPost("sandbox", n, message).Revision) // a repeat tells that of the first time
				}
				for edge := range d.info().Edges {
					v := d.mustAsk(a, edge, revision)
					if i == 0 && edge == 0 {
						first = v
						got := v.pro()
						got.ExpiresAt, got.AccessUntil = "", ""
						if got != tt.want {
							t.Fatalf("in order: pro is %+v, want %+v", got, tt.want)
						}
					}
					if !reflect.DeepEqual(v.Entitlements, first.Entitlements) {
						t.Errorf("order %d, %s: %+v, want %+v as in order", i, kinds(messages), v.Entitlements, first.Entitlements)
					}
				}
			}
		})
	}
	d.agree()
}

// history is a purchase, a renewal, a cancel, and perhaps the renewal's refund. began is the start of the present period.
func history(shape stripemsg.Shape, account string, began time.Time, refund bool) []stripemsg.Object {
	first := stripemsg.NewSubscription(shape, account, began.Add(-30*24*time.Hour))
	messages := first.Bought(first.Start)
	second := first.Renewed()
	messages = append(messages, second.Updated("updated", second.Start), second.InvoicePaid(second.Start.Add(time.Hour)))
	if shape == stripemsg.Basil {
		messages = append(messages, second.InvoicePayment(second.Start.Add(time.Hour)))
	}
	cancelled := *second
	cancelled.CancelAtPeriodEnd = true
	messages = append(messages, cancelled.Updated("updated", second.Start.Add(48*time.Hour)))
	if refund {
		messages = append(messages, second.ChargeRefunded(second.Start.Add(72*time.Hour), second.Cents))
	}
	return messages
}

func kinds(messages []stripemsg.Object) string {
	var names []string
	for _, m := range messages {
		names = append(names, m["type"].(string))
	}
	return strings.Join(names, ", ")
}

// TestRefundOutranksThePurchase: a full refund denies at once, with a signature and a higher revision (R3); a partial one changes nothing.
func TestRefundOutranksThePurchase(t *testing.T) {
	t.Parallel()
	d := start(t, t.TempDir())
	for _, shape := range shapes {
		a := d.account("sandbox")
		s := stripemsg.NewSubscription(shape, a.id, time.Now())
		var revision string
		for _, message := range s.Bought(time.Now()) {
			revision = d.mustPost("sandbox", 0, message).Revision
		}
		before := d.mustAsk(a, 0, revision)
		partial := d.mustPost("sandbox", 0, s.ChargeRefunded(time.Now(), s.Cents/3))
		if pro := d.mustAsk(a, 0, partial.Revision).pro(); !pro.Active {
			t.Errorf("%s: after a partial refund pro is %+v, want it active", shape, pro)
		}
		full := d.mustPost("sandbox", 0, s.ChargeRefunded(time.Now(), s.Cents))
		after := d.mustAsk(a, 0, full.Revision)
		if pro := after.pro(); pro.Active || pro.Status != "refunded" || after.Token == "" {
			t.Errorf("%s: after a full refund pro is %+v with a token of %d bytes, want a signed denial", shape, pro, len(after.Token))
		}
		if mustRevision(t, after.Revision).Compare(mustRevision(t, before.Revision)) <= 0 {
			t.Errorf("%s: the denial has revision %s, the answer before %s, want a higher one", shape, after.Revision, before.Revision)
		}
	}
}

// TestNineAtOnceHaveOneEffect: the same event posted nine times at the same moment, over all writers, is recorded once (I2).
func TestNineAtOnceHaveOneEffect(t *testing.T) { inEachSize(t, nineAtOnceHaveOneEffect) }

func nineAtOnceHaveOneEffect(t *testing.T, size []string) {
	d := start(t, t.TempDir(), size...)
	for round := range 5 {
		a := d.account("sandbox")
		message := stripemsg.NewSubscription(stripemsg.Classic, a.id, time.Now()).Updated("created", time.Now())
		before := d.agree()
		answers := make([]recorded, 9)
		var all sync.WaitGroup
		var posted atomic.Int64
		for i := range answers {
			all.Go(func() {
				got, err := untilTaken(func() (answer, error) {
					posted.Add(1)
					return d.post("sandbox", i, message)
				})
				if err != nil || got.status != http.StatusOK {
					t.Errorf("post %d: %s, %v, want 200", i, got, err)
					return
				}
				if err := got.into(&answers[i]); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		firsts := 0
		for _, r := range answers {
			if !r.Duplicate {
				firsts++
			}
			if r.Revision != answers[0].Revision || r.EventID != message["id"] {
				t.Errorf("round %d: answers %+v and %+v, want one event and one revision", round, answers[0], r)
			}
		}
		if resent := int(posted.Load()) - len(answers); firsts != 1 && (firsts > 1 || resent == 0) { // the first one's answer may be one of those that said 503
			t.Errorf("round %d: %d answers without duplicate, want 1; %d were sent again", round, firsts, resent)
		}
		// A node that is behind must not count as one without effects.
		if pro := d.mustAsk(a, 0, answers[0].Revision).pro(); !pro.Active {
			t.Errorf("round %d: pro is %+v, want it active", round, pro)
		}
		after := d.agree()
		if after.Revision-before.Revision != 1 {
			t.Errorf("round %d: %d changes, want 1", round, after.Revision-before.Revision)
		}
	}
}

// TestRefusedMessagesLeaveNothing: what is not authentic, not in time or too large is refused with the contract's answer, and no event of
// it is stored (R6).
func TestRefusedMessagesLeaveNothing(t *testing.T) {
	t.Parallel()
	d := start(t, t.TempDir(), threeWriters...)
	a := d.account("sandbox")
	secret := d.info().Environments["sandbox"].Webhooks["stripe"].Secret
	tests := []struct {
		name    string
		pad     int // bytes added to the body
		sign    func(body []byte) string
		status  int
		problem string
	}{
		{"another secret", 0, func(b []byte) string { return stripemsg.Sign("whsec_other", b, time.Now()) }, 401, "invalid-signature"},
		{"no signature", 0, func([]byte) string { return "" }, 401, "invalid-signature"},
		{"a signature over other bytes", 0, func(b []byte) string { return stripemsg.Sign(secret, append(b, ' '), time.Now()) }, 401, "invalid-signature"},
		{"production's secret", 0, func(b []byte) string {
			return stripemsg.Sign(d.info().Environments["production"].Webhooks["stripe"].Secret, b, time.Now())
		}, 401, "invalid-signature"},
		{"six minutes old", 0, func(b []byte) string { return stripemsg.Sign(secret, b, time.Now().Add(-6*time.Minute)) }, 401, "stale-signature"},
		{"six minutes in the future", 0, func(b []byte) string { return stripemsg.Sign(secret, b, time.Now().Add(6*time.Minute)) }, 401, "stale-signature"},
		{"two MiB", 2 << 20, func(b []byte) string { return stripemsg.Sign(secret, b, time.Now()) }, 413, "body-too-large"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			message := stripemsg.NewSubscription(stripemsg.Classic, a.id, time.Now()).Updated("created", time.Now())
			body := append(stripemsg.Encode(message), bytes.Repeat([]byte{' '}, tt.pad)...)
			for writer := range d.info().Writers {
				got, err := d.postSigned("sandbox", writer, body, tt.sign(body))
				if err != nil || got.status != tt.status || got.problem() != tt.problem {
					t.Errorf("answer %s (%s), %v, want %d %s", got, got.problem(), err, tt.status, tt.problem)
				}
			}
			stored, err := d.api("sandbox", 0, http.MethodGet, fmt.Sprintf("/v1/events/%s", message["id"]), nil)
			if err != nil || stored.status != http.StatusNotFound {
				t.Errorf("GET the event: %s, %v, want 404", stored, err)
			}
		})
	}
	if v := d.mustAsk(a, 0, ""); len(v.Entitlements) != 0 {
		t.Errorf("the account has %+v, want nothing", v.Entitlements)
	}
}

// TestAuthenticMessagesAreAlwaysTaken: what the provider signed is answered 200 and stored, whatever it says (R12).
func TestAuthenticMessagesAreAlwaysTaken(t *testing.T) {
	t.Parallel()
	d := start(t, t.TempDir())
	a := d.account("sandbox")
	unhandled := stripemsg.NewSubscription(stripemsg.Basil, a.id, time.Now()).Event("radar.review.opened", time.Now(), stripemsg.Object{"id": "prv_1", "object": "review"})
	live := stripemsg.NewSubscription(stripemsg.Basil, a.id, time.Now())
	live.Live = true
	tests := []struct {
		name    string
		body    []byte
		outcome string
	}{
		{"no JSON at all", []byte("\x00\xff{{{ nonsense"), "unreadable"},
		{"JSON of another form", []byte(`[1, 2, {"id": 3}]`), "unreadable"},
		{"a type that we do not act on", stripemsg.Encode(unhandled), "unhandled"},
		{"a message of production at sandbox's address", stripemsg.Encode(live.Updated("created", time.Now())), "wrong_environment"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := d.postSigned("sandbox", 0, tt.body, stripemsg.Sign(d.info().Environments["sandbox"].Webhooks["stripe"].Secret, tt.body, time.Now()))
			if err != nil || got.status != http.StatusOK {
				t.Fatalf("answer %s, %v, want 200", got, err)
			}
			var r recorded
			if err := got.into(&r); err != nil {
				t.Fatal(err)
			}
			stored, err := d.api("sandbox", 0, http.MethodGet, "/v1/events/"+r.EventID, nil)
			if err != nil || stored.status != http.StatusOK || !bytes.Contains(stored.body, []byte(tt.outcome)) {
				t.Errorf("GET events/%s: %s, %v, want 200 with outcome %s", r.EventID, stored, err, tt.outcome)
			}
		})
	}
	if v := d.mustAsk(a, 0, ""); len(v.Entitlements) != 0 {
		t.Errorf("the account has %+v, want nothing", v.Entitlements)
	}
}

// TestWriterAnswersShowAtEveryEdge: with the revision of any write an edge answers at that revision or newer, or says that it cannot
// yet (I11), and never waits long on a healthy system (R73, R93).
func TestWriterAnswersShowAtEveryEdge(t *testing.T) {
	t.Parallel()
	d := start(t, t.TempDir(), threeWriters...)
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for range 10 {
				a, err := d.newAccount("sandbox")
				if err != nil {
					t.Error(err)
					return
				}
				message := stripemsg.NewSubscription(stripemsg.Basil, a.id, time.Now()).Updated("created", time.Now())
				got, err := untilTaken(func() (answer, error) { return d.post("sandbox", worker, message) })
				var r recorded
				if err == nil {
					err = got.into(&r)
				}
				if err != nil {
					t.Errorf("post: %s, %v", got, err)
					return
				}
				for edge := range d.info().Edges {
					got, err := d.ask(a, edge, "?wait=20&min_revision="+r.Revision)
					var v view
					if err == nil && got.status == http.StatusOK {
						err = got.into(&v)
					}
					if err != nil || got.status != http.StatusOK || !v.pro().Active || mustRevision(t, v.Revision).Compare(mustRevision(t, r.Revision)) < 0 {
						t.Errorf("edge %d, min_revision %s: %s, %v, want pro active at that revision or newer", edge, r.Revision, got, err)
					}
				}
			}
		})
	}
	all.Wait()
	t.Run("each write", func(t *testing.T) { eachWriteShows(t, d) })
	t.Run("bought before the login", func(t *testing.T) { boughtBeforeTheLogin(t, d) })
	a := d.account("sandbox")
	now, err := d.status(d.info().Writers[0])
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, revision, problem string
		status                  int
	}{
		{"a revision that is not written yet", fmt.Sprintf("%d-%d", now.Epoch, now.Revision+1000), "not-yet", 503},
		{"a revision of a newer epoch", fmt.Sprintf("%d-1", now.Epoch+1), "not-yet", 503},
		{"a revision of an older epoch", fmt.Sprintf("%d-1", now.Epoch-1), "other-history", 409},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := d.ask(a, 0, "?wait=1&min_revision="+tt.revision)
			if err != nil || got.status != tt.status || got.problem() != tt.problem {
				t.Errorf("min_revision=%s: %s, %v, want %d %s", tt.revision, got, err, tt.status, tt.problem)
			}
		})
	}
}
