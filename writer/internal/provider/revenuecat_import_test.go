package provider

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

const rcColumns = "rc_original_app_user_id,rc_last_seen_app_user_id_alias,product_identifier,start_time,end_time,grace_period_end_time,store,is_auto_renewable,is_trial_period,is_sandbox,store_transaction_id,original_store_transaction_id,refunded_at,unsubscribe_detected_at,billing_issues_detected_at,purchased_currency,price_in_purchased_currency,entitlement_identifiers,ownership_type,custom_subscriber_attributes,updated_at,auto_resume_time"

// rcRow is a month at the App Store, with edits by column.
func rcRow(edits map[string]string) []string {
	values := map[string]string{
		"rc_original_app_user_id": "$RCAnonymousID:1", "rc_last_seen_app_user_id_alias": rcAccount, "product_identifier": "com.example.pro_monthly", "start_time": "2026-09-01 00:00:00", "end_time": "2026-10-01 00:00:00",
		"store": "app_store", "is_auto_renewable": "true", "is_trial_period": "false", "is_sandbox": "false", "store_transaction_id": "2001", "original_store_transaction_id": "2000", "purchased_currency": "EUR",
		"price_in_purchased_currency": "9.99", "entitlement_identifiers": `["pro"]`, "ownership_type": "PURCHASED", "updated_at": "2026-09-01 00:01:00",
	}
	for name, v := range edits {
		values[name] = v
	}
	var row []string
	for _, name := range strings.Split(rcColumns, ",") {
		row = append(row, values[name])
	}
	return row
}

func TestRevenueCatImport(t *testing.T) {
	const began, ends = 1_788_220_800, 1_790_812_800
	type edits = map[string]string
	tests := []struct {
		name  string
		rows  []edits
		kind  entitlement.EventKind // of the last
		state entitlement.ItemState
		until int64
		renew bool
	}{
		{"a term that renews", []edits{nil}, entitlement.Proof, entitlement.Live, ends + rcDay, true},
		{"one that was cancelled", []edits{nil, {"unsubscribe_detected_at": "2026-09-05 00:00:00", "updated_at": "2026-09-05 00:00:01"}}, entitlement.Proof, entitlement.Live, ends, false},
		{"one that was refunded", []edits{nil, {"refunded_at": "2026-09-05 00:00:00", "updated_at": "2026-09-05 00:00:01"}}, entitlement.Proof, entitlement.Revoked, began + 4*rcDay, true},
		{"a grace", []edits{nil, {"grace_period_end_time": "2026-10-17 00:00:00", "billing_issues_detected_at": "2026-10-01 00:00:00", "updated_at": "2026-10-01 00:00:01"}}, entitlement.Proof, entitlement.Retrying, ends + 16*rcDay, true},
		{"one without an end", []edits{{"end_time": "", "is_auto_renewable": "false"}}, entitlement.Proof, entitlement.Live, 0, false},
		{"one of the other environment", []edits{{"is_sandbox": "true"}}, entitlement.Unhandled, 0, 0, false},
		{"one that Play invalidated", []edits{{"store": "play_store", "end_time": "2026-08-01 00:00:00"}}, entitlement.Unhandled, 0, 0, false},
		{"an end of a wrong form", []edits{{"end_time": "soon"}}, entitlement.Unreadable, 0, 0, false},
		{"one that renews, without an end", []edits{{"end_time": ""}}, entitlement.Unreadable, 0, 0, false},
		{"a grant without an end", []edits{{"end_time": "", "store": "promotional"}}, entitlement.Proof, entitlement.Live, 0, false},
		{"an environment of a wrong form", []edits{{"is_sandbox": "yes"}}, entitlement.Unreadable, 0, 0, false},
		{"no environment", []edits{{"is_sandbox": ""}}, entitlement.Unreadable, 0, 0, false},
		{"an environment as a database writes it", []edits{{"is_sandbox": "F"}}, entitlement.Proof, entitlement.Live, ends + rcDay, true},
		{"no time of change", []edits{{"updated_at": ""}}, entitlement.Unreadable, 0, 0, false},
		{"no transaction", []edits{{"store_transaction_id": ""}}, entitlement.Unreadable, 0, 0, false},
	}
	rows, err := NewRevenueCatImport(RevenueCatScheduled, strings.Split(rcColumns, ","))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var e entitlement.Evidence
			var last entitlement.Event
			for _, edit := range tt.rows {
				last = rows.Event(rcRow(edit), entitlement.Production)
				if again := rows.Event(rcRow(edit), entitlement.Production); again.ID != last.ID || again.Digest() != last.Digest() {
					t.Error("the same row is another event")
				}
				e = e.Add(last.Objects...)
			}
			if last.Kind != tt.kind {
				t.Fatalf("kind %d, want %d", last.Kind, tt.kind)
			}
			if faults := rows.Faults(rcRow(tt.rows[len(tt.rows)-1])); (len(faults) > 0) != (tt.kind == entitlement.Unreadable) {
				t.Errorf("faults %q of a row of kind %d", faults, tt.kind)
			}
			if last.Kind != entitlement.Proof {
				return
			}
			if item := entitlement.Fold(e, entitlement.DefaultPolicy).Items[0]; item.State != tt.state || item.AccessUntil != tt.until || item.WillRenew != tt.renew || e.Identity().Account != rcAccount {
				t.Errorf("%+v of %+v", item, e.Identity())
			}
		})
	}
	customers, err := NewRevenueCatImport(RevenueCatCustomers, strings.Split("project_id;app_user_id;last_seen_at;latest_store;latest_product;email", ";"))
	if err != nil {
		t.Fatal(err)
	}
	ev := customers.Event([]string{"p", "user-1", "1788220800000", "app_store", "pro", "person@example.com"}, entitlement.Production)
	if ev.Kind != entitlement.Proof || len(ev.Objects) != 1 || ev.Objects[0].Hint == nil || ev.Objects[0].ID != "user-1" || strings.Contains(string(entitlement.Encode(&ev)), "example.com") {
		t.Errorf("a customer of a list: %+v", ev)
	}
	if got := customers.Faults([]string{"p", "", "soon"}); !slices.Equal(got, []string{"app_user_id", "last_seen_at"}) {
		t.Errorf("faults of a customer without anything: %q", got)
	}
	if ev := customers.Event([]string{"p", "user-1", "1788220800000", "", ""}, entitlement.Production); ev.Kind != entitlement.Unhandled {
		t.Errorf("a customer without a purchase: %+v", ev)
	}
	for _, kind := range []string{RevenueCatScheduled, RevenueCatCustomers, "other"} {
		if _, err := NewRevenueCatImport(kind, []string{"a"}); !errors.Is(err, ErrRevenueCatExport) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}
