package writer

import (
	"fmt"
	"testing"
)

// TestDoublesAreCounted: whoever pays twice is in the leader's metrics and alarms, however many parts the look at the accounts has, and no more once that is ended. No message
// is needed for that: a merge makes one too.
func TestDoublesAreCounted(t *testing.T) {
	w := oneWriter(t)
	w.api("PUT", "/v1/catalog", testCatalog)
	bought := func(id, account string, change object) {
		t.Helper()
		sub := subscription(id, account, "price_pro")
		for name, value := range change {
			sub[name] = value
		}
		if r := w.stripe(event(unique("evt_"), "customer.subscription.updated", sub, object{"created": sub["created"].(int64) + int64(len(change))})); r.status != 200 {
			t.Fatalf("%d %s", r.status, r.text)
		}
	}
	shows := func(at string, part, subscriptions, trials int, alarm string) {
		t.Helper()
		want := fmt.Sprintf("%d %d [%s]", subscriptions, trials, alarm)
		await(t, at+": "+want, func() bool { // the leader's own look may have begun before
			counted, err := w.countDoubles(t.Context(), part)
			if err != nil {
				t.Fatal(err)
			}
			w.showDoubles(counted)
			metric := func(kind string) string {
				return w.metric(`latchkey_writer_doubled_accounts{environment="sandbox",kind="` + kind + `"}`)
			}
			return fmt.Sprintf("%s %s %v", metric("subscriptions"), metric("trials"), w.get("/status").json["alarms"]) == want
		})
	}
	twice, once, other := w.account(), w.account(), w.account()
	bought("sub_1", twice, nil)
	bought("sub_2", once, nil)
	bought("sub_3", other, nil)
	shows("each has one", 1, 0, 0, "")
	bought("sub_4", twice, nil)
	shows("one has two", 1, 1, 0, "accounts in sandbox that pay twice: 1: GET /v1/doubles")
	w.api("POST", "/v1/accounts/"+once+"/merges", fmt.Sprintf(`{"from": %q}`, other))
	shows("two have become one", doublesScanned, 2, 0, "accounts in sandbox that pay twice: 2: GET /v1/doubles")
	for _, id := range []string{"sub_3", "sub_4"} {
		account := map[string]string{"sub_3": other, "sub_4": twice}[id]
		bought(id, account, object{"cancel_at_period_end": true})
	}
	shows("they have cancelled", 2, 0, 0, "")

	tried := w.account()
	for _, id := range []string{"sub_5", "sub_6"} {
		bought(id, tried, object{"status": "trialing", "trial_start": 1, "cancel_at_period_end": true})
	}
	shows("two trials", 2, 0, 1, "")
}
