package entitlement

import (
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/latchkey/latchkey/pkg/entitlement/canonical"
)

// Records, logs and journals hold these encodings for ever, and state hashes rest on their bytes. A difference here is a new format: old
// files would be read wrongly, and nodes of two versions would disagree. Fields may be added under new numbers; then -update adds them here.

var update = flag.Bool("update", false, "write the golden files anew")

func goldenValues() map[string]any {
	account, _ := oneSubscription()
	account.SessionsFrom, account.Tester = 1_790_000_001, true
	account.Grants = []Grant{{ID: "grant_01JD0000000000000000000000", Entitlement: "pro", CreatedAt: 1_790_000_002, EndsAt: 1_797_897_600}}
	account.Purchases = append(account.Purchases, Purchase{
		ID: "stripe:sub_2", Provider: Stripe, Store: "stripe", TrialUsed: true, Doubt: true,
		Items: []Item{{
			ID: "si_2", State: Retrying, AccessUntil: 1_795_910_400, BillingGraceUntil: 1_795_910_400, Reason: ReasonDisputed, Recurring: true,
			Term: Term{ID: "si_2:1795305600", Sold: Sold{Product: "price_2", Quantity: 3}, StartsAt: 1_795_305_600, EndsAt: 1_795_305_600, Trial: true, SupersededAt: 1, RevokedAt: 2},
		}},
	})
	subscription := Object{
		Kind: KindSubscription, ID: "sub_1", Final: true, At: 1_795_305_605_000_000_000, Rank: 8, Partial: true, Account: "acc_01JD0000000000000000000000",
		Aliases: []Alias{{StripeCustomer, "cus_1"}}, Links: []Link{"stripe:in_1", "stripe:sub_1"},
		Subscription: &Subscription{
			Status: Canceled, TrialStart: 1, TrialEnd: 2, CancelAt: 3, CancelAtPeriodEnd: true, EndedAt: 4, StartedAt: 5, LatestInvoice: "in_1", CollectionPaused: true,
			Items: []SubscriptionItem{{ID: "si_1", Sold: Sold{Product: "price_1", Also: []ProductID{"key", "prod_1"}, Quantity: 2, Price: &Price{Amount: 999, Currency: "EUR", Period: "P1M"}}, StartsAt: 6, EndsAt: 7}},
		},
	}
	objects := []Object{
		subscription,
		{Kind: KindInvoice, ID: "in_1", At: 1, Rank: 4, Invoice: &Invoice{Status: InvoicePaid, Subscription: "sub_1", PaymentIntent: "pi_1", Charge: "ch_1", AmountPaid: 999, Currency: "EUR", CreatedAt: 1, PaidAt: 2,
			Lines: []InvoiceLine{{ID: "il_1", Sold: Sold{Product: "price_1"}, Item: "si_1", Amount: -999, StartsAt: 1, EndsAt: 2, Proration: true}}}},
		{Kind: KindPayment, ID: "inpay_1", At: 1, Payment: &Payment{Invoice: "in_1", PaymentIntent: "pi_1", Charge: "ch_1", Status: "paid", AmountPaid: 999}},
		{Kind: KindCharge, ID: "ch_1", At: 1, Charge: &Charge{PaymentIntent: "pi_1", Invoice: "in_1", Amount: 999, AmountRefunded: 999, Refunded: true}},
		{Kind: KindRefund, ID: "re_1", At: 1, Refund: &Refund{Status: RefundSucceeded, Charge: "ch_1", PaymentIntent: "pi_1", Amount: 999, CreatedAt: 3}},
		{Kind: KindDispute, ID: "dp_1", At: 1, Dispute: &Dispute{Status: "lost", Charge: "ch_1", PaymentIntent: "pi_1", Amount: 999, CreatedAt: 4}},
		{Kind: KindCheckout, ID: "cs_1", At: 1, Checkout: &Checkout{Mode: CheckoutPayment, Payment: CheckoutPaid, Subscription: "sub_1", PaymentIntent: "pi_1", Invoice: "in_1", AmountTotal: 999, CreatedAt: 5}},
		{Kind: KindSale, ID: "cs_1", At: 1, Sale: &Sale{Lines: []SaleLine{{ID: "li_1", Sold: Sold{Product: "price_1", Quantity: 1}}}}},
		{Kind: KindHint, ID: "sub_1", At: 2, Hint: &Hint{Of: KindSubscription}},
	}
	told := []Object{
		{Kind: KindTransaction, ID: "2000", By: Apple, At: 1, Links: []Link{"apple:1000"}, Shares: []Alias{{AdaptyProfile, "p"}}, Sandbox: true, Transaction: &Transaction{
			Chain: "1000", Sold: Sold{Product: "pro", Quantity: 2}, State: TransactionPending, Recurring: true, StartsAt: 1, EndsAt: 2, Trial: true, Upgraded: true, RevokedAt: 3,
			Ownership: Family, Store: AppStore, Provisional: true, Promo: true, Entitlements: []string{"a", "b"}}},
		{Kind: KindRenewal, ID: "1000", By: Apple, At: 1, Renewal: &Renewal{
			Phase: PhaseBillingGrace, WillRenew: true, Next: "next", GraceUntil: 1, EndedAt: 2, ResumesAt: 3, Transaction: "2000", Replaces: "999", Unacknowledged: true}},
		{Kind: KindRevocation, ID: "r", By: Google, At: 1, Revocation: &Revocation{Transaction: "2000", RevokedAt: 1, Reason: ReasonRevoked, Quantity: 2, Undone: true}},
		{Kind: KindCustomer, ID: "c", By: RevenueCat, At: 1, Customer: &Customer{Gone: true}},
		{Kind: KindHint, ID: "1000", By: Apple, At: 1, Hint: &Hint{Of: KindRenewal, Echo: true}},
	}
	toldPurchase := Purchase{ID: "apple:1000", Provider: Apple, Store: AppStore, Sandbox: true, Items: []Item{{
		ID: "1000", State: Live, Term: Term{ID: "2000", Sold: Sold{Product: "pro"}}, Next: "next", Ownership: Shared, Provisional: true, Promo: true, Entitlements: []string{"a"}}}}
	tied := subscription
	tied.Subscription = &Subscription{Status: Canceled}
	return map[string]any{
		"account":  account,
		"event":    &Event{Provider: Stripe, ID: "evt_1", Environment: Sandbox, Type: "customer.subscription.deleted", CreatedAt: 1_795_305_605, Kind: Proof, Objects: objects, Raw: []byte(`{"id":"evt_1"}`)},
		"evidence": ptr(Evidence{}.Add(objects...).Add(tied)),
		"catalog": &Catalog{
			Products: []Product{
				{Provider: Stripe, ID: "price_1", Kind: KindRecurring, Entitlements: []string{"pro"}, Plan: "monthly", Group: "pro", TrialDays: 7, App: "app", Retired: true},
				{Provider: Stripe, ID: "price_2", Kind: KindConsumable, Credits: map[string]int64{"coins": 100, "a": 1}},
				{Provider: Stripe, ID: "price_3", Kind: KindPackage, Accesses: []ModuleAccess{{Module: "algebra", DurationDays: 30}}, Deliver: DeliverCode, Stack: StackExtend, DurationDays: 3},
			},
			Aggregator: []AggregatorEntitlement{{RevenueCat, "pro", "pro"}},
		},
		"policy":           &DefaultPolicy,
		"policy_rules_2":   &Policy{BillingGrace: map[Provider]int64{Google: 1}, SandboxAccess: SandboxAnyone, SharingOff: true},
		"event_rules_2":    &Event{Provider: Apple, ID: "00000000-0000-0000-0000-000000000001", Environment: Production, Type: "DID_RENEW", CreatedAt: 1_795_305_612, Objects: told},
		"evidence_rules_2": ptr(Evidence{}.Add(told...)),
		"account_rules_2":  &Account{ID: "acc_01JD0000000000000000000000", Purchases: []Purchase{toldPurchase}},
		"account_rules_3": &Account{ID: "acc_01JD0000000000000000000000", Merged: true, TrialLocked: true, Spent: []Spent{{"coins", 3, 1}}, Purchases: []Purchase{{ID: "apple:1", Provider: Apple, Store: AppStore, Debt: true, Part: 1}},
			Accesses: []Access{{ID: "code_1", Module: "algebra", RedeemedAt: 1, Seconds: 2, Stacked: true, RevokedAt: 3, Reason: ReasonDisputed}},
			Awaited:  []Awaited{{ID: "intent_1", Provider: Stripe, Product: "price_1", Until: 4, Since: 3}}},
		"evidence_rules_3": ptr(Evidence{}.Add(Object{Kind: KindTransaction, ID: "2000", By: Apple, At: 1, Links: []Link{"apple:1000"}, Person: "7000", Transaction: &Transaction{Chain: "1000"}})),
		"evidence_naming": ptr(Evidence{}.Add(Object{Kind: KindTransaction, ID: "2000", By: Apple, At: 1, Links: []Link{"apple:1000"}, Transaction: &Transaction{Chain: "1000"},
			Naming: &Naming{Account: "acc_01JD0000000000000000000000", Aliases: []Alias{{AppleAppAccountToken, "7e3fb20b-4cdb-47cc-936d-99d65f608138"}}, At: 6, Chosen: true}})),
		"evidence_former": ptr(Evidence{}.Add(Object{Kind: KindRenewal, ID: "1000", By: RevenueCat, At: 1, Account: "acc_01JD0000000000000000000000", Aliases: []Alias{{RevenueCatAppUser, "u1"}}, Links: []Link{"revenuecat:1000"}, Renewal: &Renewal{}},
			Object{Kind: KindRenewal, ID: "1000", By: RevenueCat, At: 2, Aliases: []Alias{{RevenueCatAppUser, "u2"}}, Links: []Link{"revenuecat:1000"}, Renewal: &Renewal{}})),
		"pointer_rules_3":    &Pointer{Account: "acc_01JD0000000000000000000000", SessionsFrom: 5},
		"account_signed_out": &Account{ID: "acc_01JD0000000000000000000000", SessionsFrom: 4, SignedOut: []SignedOut{{"00112233445566778899aabbccddeeff", 5}}},
		"pointer_signed_out": &Pointer{Account: "acc_01JD0000000000000000000000", SessionsFrom: 4, SignedOut: []SignedOut{{"00112233445566778899aabbccddeeff", 5}}},
		"policy_rules_3":     &Policy{Transfer: TransferIfInactive, Debt: true, TrialByPayment: true},
	}
}

func ptr[T any](v T) *T { return &v }

func TestEncodingsAreThoseOfTheGoldenFiles(t *testing.T) {
	for name, value := range goldenValues() {
		t.Run(name, func(t *testing.T) {
			encoded := Encode(value)
			diagnosis, err := cbor.Diagnose(encoded)
			if err != nil {
				t.Fatal(err)
			}
			files := map[string]string{name + ".hex": hex.EncodeToString(encoded) + "\n", name + ".diag": diagnosis + "\n"}
			for file, got := range files {
				path := filepath.Join("testdata", file)
				if *update {
					if err := os.MkdirAll("testdata", 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if got != string(want) {
					t.Errorf("%s:\n got %s\nwant %s", file, got, want)
				}
			}
			back := reflect.New(reflect.TypeOf(value).Elem()).Interface()
			if err := Decode(encoded, back); err != nil {
				t.Fatalf("Decode: %v", err)
			}
			if !reflect.DeepEqual(back, value) {
				t.Errorf("Decode(Encode) = %+v, want %+v", back, value)
			}
		})
	}
}

func TestDecodeRefusesWhatEncodeNeverWrites(t *testing.T) {
	deep := strings.Repeat("81", canonical.MaxNesting+1) + "00"
	tests := []struct{ name, input string }{
		{"nothing", ""},
		{"a key twice", "a201616101" + "6162"},
		{"an indefinite length", "bf01ff"},
		{"too deep", deep},
		{"a length beyond the bytes", "9affffffff"},
		{"a text where a number belongs", "a10261" + "61"},
		{"a rest", "a000"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := hex.DecodeString(tt.input)
			if err != nil {
				t.Fatal(err)
			}
			var a Account
			if err := Decode(b, &a); err == nil {
				t.Errorf("Decode(%s) = %+v, want an error", tt.input, a)
			}
		})
	}
}
