package provider

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// TestALostDisputeIsLostSinceItsMessageSaysSo: what was paid since gives access again, though the answer is newer than the payment.
func TestALostDisputeIsLostSinceItsMessageSaysSo(t *testing.T) {
	left := time.Unix(began+5000, 0)
	kept := int64(stripeKeepsEvents / time.Second)
	said := func(id, status string, at int64) map[string]any {
		o := dispute(status)
		o["id"] = id
		return map[string]any{"id": fmt.Sprintf("evt_%s_%d", status, at), "object": "event", "type": "charge.dispute.updated", "created": at, "data": map[string]any{"object": o}}
	}
	pages := func(list ...string) []string { return list }
	more := func(list string) string { return strings.Replace(list, `"has_more":false`, `"has_more":true`, 1) }
	tests := []struct {
		name   string
		opened int64
		status string
		pages  []string // what /v1/events answers, one after the other
		code   int
		want   int64 // Unix seconds
		asked  int   // how often for messages
	}{
		{"by its message", began + 600, "lost", pages(stripeListOf(said("dp_1", "lost", began+800), said("dp_1", "under_review", began+700))), 200, began + 800, 1},
		{"by the first of its messages", began + 600, "lost", pages(stripeListOf(said("dp_1", "lost", began+900), said("dp_2", "under_review", began+850), said("dp_1", "lost", began+800))), 200, began + 800, 1},
		{"by one on the next page", began + 600, "lost", pages(more(stripeListOf(said("dp_2", "lost", began+900))), stripeListOf(said("dp_1", "lost", began+800))), 200, began + 800, 2},
		{"and lost again after an appeal", began + 600, "lost", pages(stripeListOf(said("dp_1", "lost", began+900), said("dp_1", "appeal_under_review", began+850), said("dp_1", "lost", began+800))), 200, began + 900, 1},
		{"before the oldest message that is kept", began + 5000 - kept - 100, "lost", pages(stripeListOf()), 200, began + 5000 - kept, 1},
		{"without a message that should be kept", began + 600, "lost", pages(stripeListOf()), 200, began + 5000, 1},
		{"where the key may not read messages", began + 600, "lost", pages(notFound), 403, began + 5000, 1},
		{"where messages never end", began + 5000 - kept - 100, "lost", pages(more(stripeListOf(said("dp_2", "lost", began+900)))), 200, began + 5000, maxStripePages},
		{"in the second of the question", began + 600, "lost", pages(stripeListOf(said("dp_1", "lost", began+5000))), 200, began + 5000, 1},
		{"one that is won needs no time", began + 600, "won", nil, 200, began + 5000, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := testmode(dispute(tt.status))
			o["created"] = tt.opened
			var looked []string
			s := serveStripe(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v1/events" {
					fmt.Fprint(w, marshal(o))
					return
				}
				looked = append(looked, r.URL.Query().Get("starting_after"))
				if got := r.URL.Query().Get("created[gte]"); got != fmt.Sprint(max(tt.opened, began+5000-kept)) {
					t.Errorf("messages since %s", got)
				}
				w.WriteHeader(tt.code)
				fmt.Fprint(w, strings.ReplaceAll(tt.pages[min(len(looked), len(tt.pages))-1], `"evt_`, fmt.Sprintf(`"evt_%d_`, len(looked))))
			})
			a := api(t, s.URL, entitlement.Sandbox)
			a.now, a.limit = func() time.Time { return left }, pace("", 1e6, 1e6)
			ev, err := a.Pull(t.Context(), entitlement.KindDispute, "dp_1")
			if err != nil {
				t.Fatal(err)
			}
			got := ev.Objects[0]
			if got.At/1e9 != tt.want || got.Dispute.Status != tt.status || ev.CreatedAt != left.Unix() {
				t.Errorf("%s since %d, the answer of %d, want since %d", got.Dispute.Status, got.At/1e9, ev.CreatedAt, tt.want)
			}
			if len(looked) != tt.asked || tt.asked == 2 && looked[1] == "" {
				t.Errorf("asked for messages %d times, after %q, want %d", len(looked), looked, tt.asked)
			}
			// It is newer than the message with which it was lost, and settles what that left open.
			if closed := tt.want * 1e9; tt.want < left.Unix() && got.At <= closed {
				t.Errorf("the version %d is not after %d", got.At, closed)
			}
			if again := parse(t, string(ev.Raw)); again.Digest() != ev.Digest() {
				t.Errorf("the stored answer reads as\n%s\nwant\n%s", show(again), show(ev))
			}
		})
	}

	t.Run("what was paid since gives access", func(t *testing.T) {
		s := serveStripe(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v1/events" {
				fmt.Fprint(w, stripeListOf(said("dp_1", "lost", began+800)))
				return
			}
			fmt.Fprint(w, marshal(testmode(dispute("lost"))))
		})
		a := api(t, s.URL, entitlement.Sandbox)
		a.now = func() time.Time { return time.Unix(began+2*period, 0) }
		ev, err := a.Pull(t.Context(), entitlement.KindDispute, "dp_1")
		if err != nil {
			t.Fatal(err)
		}
		for _, paidNext := range []bool{false, true} {
			bodies := append(basil.paid(0), message("customer.subscription.updated", 1, basil.subscription("active", 1)))
			if paidNext {
				bodies = append(bodies, basil.paid(1)...)
			}
			e := entitlement.Evidence{}.Add(ev.Objects...)
			for _, body := range bodies {
				e = e.Add(parse(t, body).Objects...)
			}
			items := entitlement.Fold(e, entitlement.DefaultPolicy).Items
			if revoked := slices.ContainsFunc(items, func(i entitlement.Item) bool { return i.State == entitlement.Revoked }); len(items) != 1 || revoked == paidNext {
				t.Errorf("a term paid since the loss %t: %+v", paidNext, items)
			}
		}
	})
}
