package writer

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// TestAPaymentThatIsOverAlarmsNobody: a month after its end it is listed still, with that, and no alarm. What was never paid for is not even listed.
func TestAPaymentThatIsOverAlarmsNobody(t *testing.T) {
	cfg := testConfigs(t, 1)[0]
	var ahead atomic.Int64 // of the machine's clock
	cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	w := startWriter(t, cfg)
	w.awaitReady()
	over, unpaid := subscription("sub_over", "", "price_pro"), subscription("sub_unpaid", "", "price_pro")
	end := time.Now().UTC().Truncate(time.Second)
	over["status"], over["ended_at"], unpaid["status"] = "canceled", end.Unix(), "incomplete"
	for _, s := range []object{over, unpaid} {
		if r := w.stripe(event(unique("evt_"), "customer.subscription.updated", s)); r.status != 200 {
			t.Fatalf("webhook = %d %s", r.status, r.text)
		}
	}
	alarms := func() string { return fmt.Sprint(w.get("/status").json["alarms"]) }
	listed := func() string {
		var shown []string
		for _, u := range w.api("GET", "/v1/unclaimed", "").json["unclaimed"].([]any) {
			shown = append(shown, fmt.Sprint(u.(object)["purchase_id"], " until ", u.(object)["access_until"]))
		}
		return fmt.Sprint(shown)
	}
	want := "[stripe:sub_over until " + end.Format(time.RFC3339) + "]"
	ahead.Store(int64(unclaimedAlarm))
	if got := listed(); got != want || !strings.Contains(alarms(), "sandbox has waited for its account") {
		t.Errorf("after ten minutes listed %s and alarms %s, want %s and one", got, alarms(), want)
	}
	ahead.Store(int64(unclaimedLapsed + time.Hour))
	if got := listed(); got != want || alarms() != "[]" || w.metric(`latchkey_writer_unclaimed_oldest_seconds{environment="sandbox"}`) != "0" {
		t.Errorf("after a month listed %s and alarms %s, want %s and none", got, alarms(), want)
	}
	if late := w.alarmUnclaimed(t.Context(), entitlement.Sandbox, nil); len(late) != 0 {
		t.Errorf("after a month %v alarm", late)
	}
}

// TestAPaymentWithoutAnAccountAlarms: after ten minutes, once, in the log, the metrics and the status; not before, and not when it was claimed.
func TestAPaymentWithoutAnAccountAlarms(t *testing.T) {
	cfg := testConfigs(t, 1)[0]
	var ahead atomic.Int64 // of the machine's clock
	cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	w := startWriter(t, cfg)
	w.awaitReady()
	sub := unique("sub_")
	if r := w.stripe(event(unique("evt_"), "customer.subscription.created", subscription(sub, "", "price_pro"))); r.status != 200 {
		t.Fatalf("webhook = %d %s", r.status, r.text)
	}
	var alarmed map[entitlement.PurchaseID]bool
	look := func() { alarmed = w.alarmUnclaimed(t.Context(), entitlement.Sandbox, alarmed) }
	lines := func() int { return strings.Count(w.logs.String(), `"msg":"payment without an account"`) }
	alarms := func() string { return fmt.Sprint(w.get("/status").json["alarms"]) }
	if look(); lines() != 0 || alarms() != "[]" {
		t.Errorf("at once %d lines and alarms %s, want none", lines(), alarms())
	}
	ahead.Add(int64(unclaimedAlarm))
	for range 2 {
		look()
	}
	if lines() < 1 || lines() > 2 || !strings.Contains(w.logs.String(), "stripe:"+sub) { // the leader's own look may have come between
		t.Errorf("after ten minutes %d lines, want one about %s", lines(), sub)
	}
	if text := alarms(); !strings.Contains(text, "sandbox has waited for its account for 10m") {
		t.Errorf("alarms = %s", text)
	}
	if v := w.metric(`latchkey_writer_unclaimed_alarms_total{environment="sandbox"}`); v == "0" || v == "none" {
		t.Errorf("alarms counted = %s", v)
	}
	age := w.metric(`latchkey_writer_unclaimed_oldest_seconds{environment="sandbox"}`)
	if v, err := strconv.ParseFloat(age, 64); err != nil || v < unclaimedAlarm.Seconds() || v > (unclaimedAlarm+awaitTimeout).Seconds() {
		t.Errorf("age of the oldest = %s, want some 600 s", age)
	}
	await(t, "readiness: an alarm takes no node out of service", func() bool { return w.get("/readyz").status == 200 })
	if r := w.api("POST", "/v1/accounts", fmt.Sprintf(`{"aliases": [{"kind": "stripe_customer", "value": "cus_%s"}]}`, sub)); r.status != 201 {
		t.Fatalf("an account with the foreign id = %d %s", r.status, r.text)
	}
	if look(); alarms() != "[]" || len(alarmed) != 0 || w.metric(`latchkey_writer_unclaimed_oldest_seconds{environment="sandbox"}`) != "0" {
		t.Errorf("after the claim alarms %s of %v, want none", alarms(), alarmed)
	}
}
