package writer

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider/appletest"
)

const racesCatalog = `{"products": [
 {"provider": "stripe", "product_id": "price_month", "kind": "subscription", "entitlements": ["pro"], "plan": "month", "group": "pro"},
 {"provider": "stripe", "product_id": "price_year", "kind": "subscription", "entitlements": ["pro"], "plan": "year", "group": "pro"},
 {"provider": "apple", "product_id": "pro.monthly", "kind": "subscription", "entitlements": ["pro"], "plan": "month", "group": "pro"},
 {"provider": "apple", "product_id": "pro.yearly", "kind": "subscription", "entitlements": ["pro"], "plan": "year", "group": "pro"}]}`

// TestDevicesAtSeveralWritersRaceForOneSubscription: hundreds of accounts at once, each with two devices in two stores that ask whichever writer, with two plans to choose
// from. Who is told to wait asks again, who is allowed pays or gives up, and nobody waits for anybody else. Of those who asked nobody has two subscriptions or two
// trials (R62, R63), and no writer finds one afterwards. The store's own test does 10,000 in one state machine; here the log, the relays and real time are between them.
func TestDevicesAtSeveralWritersRaceForOneSubscription(t *testing.T) {
	const races = 200
	apple := appletest.New(t)
	root := filepath.Join(t.TempDir(), "root.der")
	if err := os.WriteFile(root, apple.Root, 0o600); err != nil {
		t.Fatal(err)
	}
	var writers []*testWriter
	for _, c := range testConfigs(t, 3) {
		e := c.Environments[entitlement.Sandbox]
		e.Apple = &AppleConfig{BundleID: "com.example.app", RootCAFiles: []string{root}}
		c.Environments[entitlement.Sandbox] = e
		writers = append(writers, startWriter(t, c))
	}
	for _, w := range writers {
		w.awaitReady()
	}
	if r := writers[0].api("PUT", "/v1/catalog", racesCatalog); r.status != http.StatusOK {
		t.Fatalf("PUT catalog = %d %s", r.status, r.text)
	}
	var next atomic.Int64
	// call sends a request to whichever writer, again under its Idempotency-Key while nobody leads.
	call := func(method, path string, body any) reply {
		text, err := json.Marshal(body)
		if err != nil {
			t.Error(err)
		}
		h := auth(serverKey)
		h["Idempotency-Key"] = unique("key_")
		for deadline := time.Now().Add(awaitTimeout); ; {
			r, err := send(method, writers[next.Add(1)%3].url+path, string(text), h)
			if err != nil || r.slug() != "unavailable" || time.Now().After(deadline) {
				if err != nil {
					t.Errorf("%s %s: %v", method, path, err)
				}
				return r
			}
		}
	}

	// buy is one device: it asks until it is told yes or no, and does as told. It says whether it paid, and had a trial.
	buy := func(account, store string) (paid, trial bool, last string) {
		wantsTrial := rand.IntN(2) == 0
		product := map[string][]string{"stripe": {"price_month", "price_year"}, "apple": {"pro.monthly", "pro.yearly"}}[store][rand.IntN(2)]
		var asked reply
		for deadline := time.Now().Add(awaitTimeout); ; {
			asked = call("POST", "/v1/purchase-intents", object{"account_id": account, "provider": store, "product_id": product, "device_id": "device-" + store, "trial": wantsTrial})
			if asked.slug() != "purchase-in-progress" || time.Now().After(deadline) {
				break
			}
		}
		if asked.status != http.StatusOK {
			return false, false, asked.slug()
		}
		trial = asked.json["trial_eligible"] == true
		if wantsTrial && !trial {
			t.Errorf("%s: allowed without the trial that was asked for: %s", account, asked.text)
		}
		if rand.IntN(4) == 0 { // the user gives up
			if r := call("DELETE", "/v1/purchase-intents/"+asked.str("intent_id"), nil); r.status != http.StatusOK {
				t.Errorf("DELETE intent = %d %s", r.status, r.text)
			}
			return false, false, "given up"
		}
		if rand.IntN(2) == 0 {
			if r := call("POST", "/v1/purchase-intents/"+asked.str("intent_id")+"/submitted", nil); r.status != http.StatusOK {
				t.Errorf("submitted = %d %s", r.status, r.text)
			}
		}
		if store == "apple" {
			id := fmt.Sprint(1_000_000 + next.Add(1))
			o := with(sale(id, "Sandbox"), "productId", product)
			if trial {
				o = with(with(o, "offerType", 1), "offerDiscountType", "FREE_TRIAL")
			}
			if r := call("POST", "/v1/receipts", object{"account_id": account, "receipts": []object{signedReceipt(apple.Sign(t, o))}}); r.status != http.StatusOK {
				t.Errorf("POST receipts = %d %s", r.status, r.text)
			}
			return true, trial, "paid"
		}
		sub := subscription(unique("sub_"), account, product)
		if trial {
			sub["status"], sub["trial_start"], sub["trial_end"] = "trialing", sub["created"], sub["current_period_end"]
		}
		if r, _, err := writers[next.Add(1)%3].stripePatiently(event(unique("evt_"), "customer.subscription.created", sub)); err != nil || r.status != http.StatusOK {
			t.Errorf("webhook = %d %s, %v", r.status, r.text, err)
		}
		return true, trial, "paid"
	}

	accounts := make([]string, races)
	var made sync.WaitGroup
	for i := range accounts {
		made.Go(func() { accounts[i] = call("POST", "/v1/accounts", object{}).str("account_id") })
	}
	made.Wait()
	var racing sync.WaitGroup
	var mu sync.Mutex
	subscriptions, trials, ends := map[string]int{}, map[string]int{}, map[string]int{}
	for _, account := range accounts {
		for _, store := range []string{"stripe", "apple"} {
			racing.Go(func() {
				paid, trial, last := buy(account, store)
				mu.Lock()
				defer mu.Unlock()
				if ends[last]++; paid {
					if subscriptions[account]++; trial {
						trials[account]++
					}
				}
			})
		}
	}
	racing.Wait()
	t.Logf("%d accounts: %v", races, ends)
	for account, n := range subscriptions {
		if n > 1 || trials[account] > 1 {
			t.Errorf("%s: %d were told to pay, %d with a trial", account, n, trials[account])
		}
	}
	if refused := ends["active-subscription"] + ends["purchase-pending"]; ends["paid"] < races/2 || refused < races/10 {
		t.Errorf("the devices ended with %v, which is no race", ends)
	}
	for _, w := range writers {
		if r := w.api("GET", "/v1/doubles", ""); r.status != http.StatusOK || len(r.json["accounts"].([]any)) != 0 || r.json["next"] != nil {
			t.Errorf("%s finds doubles: %d %s", w.cfg.Node.ID, r.status, r.text)
		}
	}
	sameState(t, writers)
}
