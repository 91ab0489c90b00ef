package provider

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

const adaptyColumns = "profile_id,event_type,event_datetime,transaction_id,original_transaction_id,subscription_expires_at,environment,revenue_usd,customer_user_id,store,product_id,base_plan_id,ip_address,cancellation_reason,attributes"

// TestAdaptyImport shows that a row comes to what the message about the same event comes to, and that events come once.
func TestAdaptyImport(t *testing.T) {
	rows, err := NewAdaptyImport(AdaptyEvents, strings.Split("\ufeff"+adaptyColumns, ","))
	if err != nil {
		t.Fatal(err)
	}
	const layout = "2006-01-02 15:04:05.000000"
	row := func(kind string, at, ends time.Time, change ...string) []string {
		r := []string{adaptyBuyer, kind, at.Format(layout), "2000000912345678", "2000000912345678", ends.Format(layout), "Production", "9.99", adaptyAccountA, "app_store", "com.example.pro_monthly", "", "192.0.2.1-canary", "", `{"name":"canary"}`}
		for i := 0; i+1 < len(change); i += 2 {
			for at, name := range strings.Split(adaptyColumns, ",") {
				if name == change[i] {
					r[at] = change[i+1]
				}
			}
		}
		return r
	}
	var (
		tenth   = adaptyBought.AddDate(0, 0, 9)
		started = row("subscription_started", adaptyBought, adaptyEnds)
		renewed = row("subscription_renewed", adaptyEnds, adaptyEnds.AddDate(0, 1, 0), "transaction_id", "2000000934567890")
		day     = 24 * time.Hour
	)
	for _, tt := range []struct {
		name   string
		rows   [][]string
		at     time.Time
		status entitlement.Status
		until  time.Time
	}{
		{"bought", [][]string{started}, tenth, entitlement.StatusActive, adaptyEnds.Add(day)},
		{"renewed", [][]string{renewed, started}, adaptyEnds.Add(day), entitlement.StatusActive, adaptyEnds.AddDate(0, 1, 0).Add(day)},
		{"cancelled", [][]string{row("subscription_renewal_cancelled", tenth, adaptyEnds), started}, tenth, entitlement.StatusActive, adaptyEnds},
		{"expired", [][]string{started, row("subscription_expired", adaptyEnds, adaptyEnds)}, adaptyEnds, entitlement.StatusExpired, adaptyEnds},
		{"refunded", [][]string{row("subscription_refunded", tenth, tenth, "cancellation_reason", "refund"), started}, tenth, entitlement.StatusRefunded, tenth},
		{"the first month refunded after the renewal", [][]string{started, row("subscription_refunded", adaptyEnds.Add(day), adaptyEnds.Add(day)), renewed}, adaptyEnds.Add(2 * day), entitlement.StatusActive, adaptyEnds.AddDate(0, 1, 0).Add(day)},
		{"for ever", [][]string{row("non_subscription_purchase", adaptyBought, adaptyEnds, "product_id", "com.example.lifetime", "subscription_expires_at", "")}, adaptyEnds, entitlement.StatusActive, time.Time{}},
	} {
		var e entitlement.Evidence
		for _, r := range tt.rows {
			ev := rows.Event(r, entitlement.Production)
			if ev.Kind != entitlement.Proof || strings.Contains(string(ev.Raw), "canary") || ev.ID != rows.Event(append(r[:len(r)-1:len(r)-1], "{}"), entitlement.Production).ID {
				t.Errorf("%s: %+v: %s", tt.name, ev, ev.Raw)
			}
			e = entitlement.Merge(e, saleIn(ev, "apple:2000000912345678"))
		}
		if got := pro(t, e, tt.at, entitlement.Adapty); got.Status != tt.status || got.AccessUntil != unixOf(tt.until) || e.Identity().Account != adaptyAccountA {
			t.Errorf("%s: %s until %s of %s, want %s until %s", tt.name, got.Status, time.Unix(got.AccessUntil, 0).UTC(), e.Identity().Account, tt.status, tt.until)
		}
	}
	// The message about an imported event changes nothing: the two say the same.
	imported, told := rows.Event(started, entitlement.Production), newAdapty(t).read(t, adaptyMessage("subscription_started", adaptyBought))
	both := entitlement.Merge(saleIn(imported, "apple:2000000912345678"), saleIn(told, "apple:2000000912345678"))
	if d := both.Doubts(); len(d) != 1 || !d[0].Echo {
		t.Errorf("row and message contradict each other: %+v", d)
	}
	for name, tt := range map[string]struct {
		row  []string
		want entitlement.EventKind
	}{
		"of the other environment":  {row("subscription_started", adaptyBought, adaptyEnds, "environment", "Sandbox"), entitlement.Unhandled},
		"of an access level":        {row("access_level_updated", adaptyBought, adaptyEnds), entitlement.Unhandled},
		"of a type that is unknown": {row("paywall_sung", adaptyBought, adaptyEnds), entitlement.Unhandled},
		"without a time":            {row("subscription_started", adaptyBought, adaptyEnds, "event_datetime", "soon"), entitlement.Unreadable},
		"without a profile":         {row("subscription_refunded", adaptyBought, adaptyEnds, "profile_id", "", "customer_user_id", ""), entitlement.Proof},
		"cut":                       {started[:2], entitlement.Unreadable},
		"empty":                     {nil, entitlement.Unreadable},
	} {
		if got := rows.Event(tt.row, entitlement.Production); got.Kind != tt.want || got.ID == "" {
			t.Errorf("a row %s: kind %d, want %d", name, got.Kind, tt.want)
		}
	}
	for _, kind := range []string{AdaptyEvents, "visits"} {
		if _, err := NewAdaptyImport(kind, []string{"profile_id"}); !errors.Is(err, ErrAdaptyExport) {
			t.Errorf("NewAdaptyImport(%s) = %v", kind, err)
		}
	}
}
