package provider

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// TestWhatStripeCouldNotDeliverIsListed: page by page, as the events that the messages were, without what proves nothing.
func TestWhatStripeCouldNotDeliverIsListed(t *testing.T) {
	messages := []string{
		message("customer.subscription.updated", 300, testmode(basil.subscription("active", 0))), message("customer.updated", 200, map[string]any{"id": "cus_1", "object": "customer", "email": "canary@example.com"}),
		message("charge.succeeded", 150, testmode(basil.charge(0, 0))), message("invoice.paid", 100, testmode(basil.invoice("in_0", "paid", 0, "", ""))), `{"id":"evt_broken","object":"event","type":"invoice.paid","created":1}`,
	}
	fail := ""
	s := serveStripe(t, func(w http.ResponseWriter, r *http.Request) {
		from := 1 + slices.IndexFunc(messages, func(m string) bool {
			return r.URL.Query().Get("starting_after") != "" && strings.Contains(m, r.URL.Query().Get("starting_after"))
		})
		if r.URL.Path == fail+r.URL.Query().Get("starting_after") {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		to := min(from+3, len(messages))
		fmt.Fprintf(w, `{"object":"list","data":[%s],"has_more":%t}`, strings.Join(messages[from:to], ","), to < len(messages))
	})
	a := api(t, s.URL, entitlement.Sandbox)
	from, to := time.Unix(began, 0), time.Unix(began+400, 0)
	var kinds []entitlement.ObjectKind
	for message, err := range a.Messages(t.Context(), from, to) {
		if err != nil {
			t.Fatal(err)
		}
		ev := message.Event
		checkSafe(t, ev)
		if again := parse(t, string(message.Body)); again.Digest() != ev.Digest() {
			t.Errorf("its body is another message: %s", message.Body)
		}
		if !a.IsMessage(ev.ID) || ev.Environment != entitlement.Sandbox {
			t.Errorf("an event of ours: %s", show(ev))
		}
		for _, o := range ev.Objects {
			kinds = append(kinds, o.Kind)
		}
	}
	if want := []entitlement.ObjectKind{entitlement.KindSubscription, entitlement.KindInvoice}; !slices.Equal(kinds, want) {
		t.Errorf("they prove %v, want %v", kinds, want)
	}
	asked := fmt.Sprintf("/v1/events?limit=100&delivery_success=false&created[gte]=%d&created[lt]=%d", began, began+401)
	if got := s.uris(); len(got) != 2 || got[0] != asked || !strings.HasPrefix(got[1], asked+"&starting_after=evt_") {
		t.Errorf("asked for %q", got)
	}
	if a.IsMessage("pull:sub_1:1") || a.HistoryReach() != 30*24*time.Hour {
		t.Error("what was pulled is called a message, or messages are kept for another time")
	}

	fail = "/v1/events"
	var failure error
	count := 0
	for _, err := range a.Messages(t.Context(), from, to) {
		failure, count = err, count+1
	}
	if !errors.Is(failure, ErrCredential) || count != 1 {
		t.Errorf("a key that may not read events: %v after %d", failure, count)
	}
}
