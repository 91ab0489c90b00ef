package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/latchkey/latchkey/deploy/stripemsg"
	"github.com/latchkey/latchkey/deploy/system"
)

// These tests show the system beside the simulated providers: latchkey-dev --storesim, all real processes.

// simulate drives the simulation: POST /sim/v1/<action>.
func (d *dev) simulate(action string, body map[string]any) answer {
	d.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		d.t.Fatal(err)
	}
	a, err := d.do(context.Background(), http.MethodPost, d.info().Storesim.URL+"/sim/v1/"+action, http.Header{"Content-Type": {"application/json"}}, b)
	if err != nil || a.status != http.StatusOK {
		d.t.Fatalf("POST /sim/v1/%s %s: %s, %v, want 200", action, b, a, err)
	}
	return a
}

// simulated decodes what the simulation shows under /sim/v1/<path>.
func (d *dev) simulated(path string, into any) {
	d.t.Helper()
	a, err := d.do(context.Background(), http.MethodGet, d.info().Storesim.URL+"/sim/v1/"+path, nil, nil)
	if err == nil {
		err = a.into(into)
	}
	if err != nil || a.status != http.StatusOK {
		d.t.Fatalf("GET /sim/v1/%s: %s, %v, want 200", path, a, err)
	}
}

// posted returns how many messages of each provider were sent to the writers.
func (d *dev) posted() map[string]int {
	d.t.Helper()
	var shown struct {
		Counts map[string]struct{ Posted, Delivered int }
	}
	d.simulated("counts", &shown)
	posted := map[string]int{}
	for provider, n := range shown.Counts {
		if n.Posted > 0 {
			posted[provider] = n.Posted
		}
		if n.Delivered != n.Posted {
			d.t.Errorf("%s: %d of %d messages were taken", provider, n.Delivered, n.Posted)
		}
	}
	return posted
}

// receiptOutcome is the one result of a request with a receipt.
type receiptOutcome struct {
	Outcome    string `json:"outcome"`
	Finish     bool   `json:"finish"`
	PurchaseID string `json:"purchase_id"`

	// Of another account's.
	OwnerHint      string `json:"owner_hint"`
	RestoreAllowed *bool  `json:"restore_allowed"`
}

// showReceipt shows what the app holds of a purchase to an edge, with the app's session, and returns the result and the revision at which it shows.
func (d *dev) showReceipt(a account, edge int, purchase string) (receiptOutcome, string) {
	d.t.Helper()
	return d.showProof("/v1/receipts", a, edge, purchase)
}

// restore is showReceipt after the user tapped "restore".
func (d *dev) restore(a account, edge int, purchase string) (receiptOutcome, string) {
	d.t.Helper()
	return d.showProof("/v1/restores", a, edge, purchase)
}

func (d *dev) showProof(route string, a account, edge int, purchase string) (receiptOutcome, string) {
	d.t.Helper()
	var proof json.RawMessage
	d.simulated("proof?purchase="+url.QueryEscape(purchase), &proof)
	body := fmt.Appendf(nil, `{"receipts": [%s]}`, proof)
	header := http.Header{"Authorization": {"Bearer " + a.session}, "Idempotency-Key": {stripemsg.ID("key")}}
	got, err := untilTaken(func() (answer, error) {
		return d.do(context.Background(), http.MethodPost, d.info().Edges[edge].URL+route, header.Clone(), body)
	})
	var shown struct {
		Results  []receiptOutcome
		Revision string
	}
	if err == nil {
		err = got.into(&shown)
	}
	if err != nil || got.status != http.StatusOK || len(shown.Results) != 1 {
		d.t.Fatalf("POST %s of %s: %s, %v, want one result", route, purchase, got, err)
	}
	return shown.Results[0], shown.Revision
}

// otherDevice is the same account with the session of another device.
func (d *dev) otherDevice(a account, device string) account {
	d.t.Helper()
	got, err := d.api(a.env, 0, http.MethodPost, "/v1/accounts/"+a.id+"/sessions", map[string]any{"device_id": device})
	var session struct {
		Token string `json:"session_token"`
	}
	if err == nil {
		err = got.into(&session)
	}
	if err != nil || got.status != http.StatusCreated {
		d.t.Fatalf("POST sessions: %s, %v, want 201", got, err)
	}
	a.session = session.Token
	return a
}

// reviewed: who reviews the app buys in Apple's sandbox, in an app that speaks to production. It counts for testers alone, and stands in nobody's way.
func (d *dev) reviewed() {
	d.t.Helper()
	for tester, want := range map[bool]string{true: "recorded", false: "wrong_environment"} {
		reviewer := d.account("production")
		if got, err := d.api("production", 0, http.MethodPatch, "/v1/accounts/"+reviewer.id, map[string]any{"tester": tester}); err != nil || got.status != http.StatusOK {
			d.t.Fatalf("PATCH tester: %s, %v", got, err)
		}
		purchase := fmt.Sprintf("review-%t", tester)
		d.simulate("buy", map[string]any{"provider": "apple", "product": "com.example.pro_monthly", "account": reviewer.id, "environment": "sandbox", "as": purchase})
		if result, revision := d.showReceipt(reviewer, 0, purchase); result.Outcome != want {
			d.t.Errorf("a test purchase of an account that is a tester: %t, is %+v, want %s", tester, result, want)
		} else if got := d.mustAsk(reviewer, 0, revision).pro(); got.Active != tester {
			d.t.Errorf("an account that is a tester: %t, shows %+v", tester, got)
		}
		if got, err := d.api("production", 0, http.MethodPost, "/v1/purchase-intents", map[string]any{"account_id": reviewer.id, "provider": "stripe", "product_id": "price_pro_monthly", "trial": true}); err != nil || got.status != http.StatusOK {
			d.t.Errorf("after a test purchase a real one is answered with %s, %v, want it allowed with its trial", got, err)
		}
	}
}

// restored: who restores at one edge what another account has gets it, and every edge shows both what became of them; under the policy keep who lost it is told
// how the owner's id ends, and gets nothing (R131).
func (d *dev) restored() {
	d.t.Helper()
	const purchase = "restored"
	first, second := d.account("sandbox"), d.account("sandbox")
	shows := func(at, revision string, owner, other account) {
		d.t.Helper()
		for edge := range d.info().Edges {
			if pro := d.mustAsk(owner, edge, revision).pro(); !pro.Active {
				d.t.Errorf("%s: edge %d shows the owner %+v, want it active", at, edge, pro)
			}
			if pro := d.mustAsk(other, edge, revision).pro(); pro.Active || other == first && (pro.Status != "revoked" || pro.Reason != "transferred") {
				d.t.Errorf("%s: edge %d shows the other %+v, want it revoked and transferred once it was theirs", at, edge, pro)
			}
		}
	}
	owned := func(got receiptOutcome, owner account, allowed bool) {
		d.t.Helper()
		if got.Outcome != "owned_by_other" || got.OwnerHint != "acc_..."+owner.id[len(owner.id)-4:] || got.RestoreAllowed == nil || *got.RestoreAllowed != allowed {
			d.t.Errorf("what is %s's is %+v, restore allowed %v, want the end of the id and %t", owner.id, got, got.RestoreAllowed, allowed)
		}
	}
	d.simulate("buy", map[string]any{"provider": "apple", "product": "com.example.pro_monthly", "account": first.id, "as": purchase})
	bought, revision := d.showReceipt(first, 0, purchase)
	shows("bought", revision, first, second)
	result, _ := d.showReceipt(second, 0, purchase)
	owned(result, first, true)
	shows("a receipt alone", revision, first, second)

	result, revision = d.restore(second, 1, purchase)
	if result.Outcome != "recorded" || result.PurchaseID != bought.PurchaseID {
		d.t.Fatalf("the restore is %+v, want %s recorded", result, bought.PurchaseID)
	}
	shows("restored", revision, second, first)
	d.trailHasRestore(bought.PurchaseID, first, second)

	d.transferPolicy("keep")
	defer d.transferPolicy("transfer")
	result, revision = d.restore(first, 0, purchase)
	owned(result, second, false)
	shows("a restore under keep", revision, second, first)
}

// transferPolicy replaces what the sandbox does with a restore of another account's purchase, and nothing else of its policy.
func (d *dev) transferPolicy(transfer string) {
	d.t.Helper()
	policy := map[string]any{}
	got, err := d.api("sandbox", 0, http.MethodGet, "/v1/policy", nil)
	if err == nil {
		err = got.into(&policy)
	}
	if err == nil {
		policy["transfer"] = transfer
		got, err = d.api("sandbox", 0, http.MethodPut, "/v1/policy", policy)
	}
	if err != nil || got.status != http.StatusOK {
		d.t.Fatalf("policy %s: %s, %v", transfer, got, err)
	}
}

// trailHasRestore: both accounts' trails, at every writer, have the one restore with what moved, from whom to whom, and that a session asked for it.
func (d *dev) trailHasRestore(purchase string, from, to account) {
	d.t.Helper()
	for _, a := range []account{from, to} {
		for writer := range d.info().Writers {
			var trail struct {
				Events []struct {
					Type     string
					Purchase string `json:"purchase_id"`
					Caller   struct{ Kind, Name string }
					Refs     struct{ From, To string }
				}
			}
			got, err := d.api("sandbox", writer, http.MethodGet, "/v1/accounts/"+a.id+"/events", nil)
			if err == nil {
				err = got.into(&trail)
			}
			restores := 0
			for _, ev := range trail.Events {
				if ev.Type != "purchase.restored" {
					continue
				}
				restores++
				if ev.Purchase != purchase || ev.Refs.From != from.id || ev.Refs.To != to.id || ev.Caller.Kind != "session" || ev.Caller.Name != "" {
					d.t.Errorf("the trail has %+v, want %s from %s to %s by a session", ev, purchase, from.id, to.id)
				}
			}
			if err != nil || restores != 1 {
				d.t.Errorf("the trail of %s at writer %d has %d restores, want 1: %s, %v", a.id, writer, restores, got, err)
			}
		}
	}
}

// TestStoresim: with webhooks that are an hour late a receipt shown at one edge gives access at every edge, on every device of the account; the webhook that
// comes in the end is about the same purchase; a refund by webhook takes it back; a device that was logged out is refused (R131). What one account restores leaves the
// other at every edge, and coins are spent once each while the leader is killed.
func TestStoresim(t *testing.T) {
	t.Parallel()
	d := start(t, t.TempDir(), append(slices.Clone(threeWriters), "--storesim")...)
	checkStoresimEntry(t, d)
	purchases := map[string]string{} // Latchkey's ids
	devices := map[string][]account{}
	pro := func(provider, revision string, want bool) {
		t.Helper()
		for i, a := range devices[provider] {
			for edge := range d.info().Edges {
				if got := d.mustAsk(a, edge, revision).pro(); got.Active != want {
					t.Errorf("%s: edge %d says %+v to device %d, want active %t", provider, edge, got, i, want)
				}
			}
		}
	}
	for _, sold := range []struct{ provider, product, hold string }{ // the message that is held for the shortest comes last: none has been posted when all are bought
		{"apple", "com.example.pro_monthly", "1h"}, {"google", "pro:monthly", "1h"}, {"stripe", "price_pro_monthly", "30s"},
	} {
		provider := sold.provider
		phone := d.account("sandbox")
		devices[provider] = []account{phone, d.otherDevice(phone, "tablet")}
		d.simulate("chaos", map[string]any{"chaos": map[string]any{"hold": sold.hold}})
		began := time.Now()
		d.simulate("buy", map[string]any{"provider": provider, "product": sold.product, "account": phone.id, "as": provider})
		result, revision := d.showReceipt(phone, 1, provider)
		if result.Outcome != "recorded" || !result.Finish || !strings.HasPrefix(result.PurchaseID, provider+":") {
			t.Errorf("%s: the receipt is %+v, want it recorded", provider, result)
		}
		purchases[provider] = result.PurchaseID
		pro(provider, revision, true)
		t.Logf("%s: from the purchase to every edge and device by receipt in %s", provider, time.Since(began).Round(time.Millisecond))
	}
	if posted := d.posted(); len(posted) != 0 {
		t.Fatalf("messages were posted: %v, want none yet", posted)
	}

	var clock struct{ Now time.Time }
	d.simulated("clock", &clock)
	before := clock.Now
	d.simulate("chaos", nil)
	d.simulate("advance", map[string]any{"for": "31s"}) // the writers' clocks stay behind: what is signed a minute ahead they would refuse
	d.simulated("clock", &clock)
	if passed := clock.Now.Sub(before); passed < 31*time.Second {
		t.Errorf("the virtual clock moved on by %s, want 31 s", passed)
	}
	if posted := d.posted(); len(posted) != 1 || posted["stripe"] == 0 {
		t.Errorf("posted: %v, want Stripe's messages, which were held for 30 s, and no others", posted)
	}
	if result, revision := d.showReceipt(devices["stripe"][1], 0, "stripe"); result.Outcome != "recorded" || result.PurchaseID != purchases["stripe"] {
		t.Errorf("after the webhook the receipt is %+v, want it recorded as %s", result, purchases["stripe"])
	} else {
		pro("stripe", revision, true)
	}

	for _, provider := range slices.Sorted(maps.Keys(devices)) {
		d.simulate("refund", map[string]any{"purchase": provider})
		for edge := range d.info().Edges {
			for _, a := range devices[provider] {
				d.eventually(provider+": the refund at every edge", patience, func() error {
					if got := d.mustAsk(a, edge, "").pro(); got.Active || got.Reason != "refunded" {
						return fmt.Errorf("%+v", got)
					}
					return nil
				})
			}
		}
	}

	phone := devices["apple"][0]
	ended, err := d.api("sandbox", 1, http.MethodDelete, "/v1/accounts/"+phone.id+"/sessions", nil)
	var end recorded
	if err == nil {
		err = ended.into(&end)
	}
	if err != nil || ended.status != http.StatusOK {
		t.Fatalf("DELETE sessions: %s, %v", ended, err)
	}
	tablet := d.otherDevice(phone, "tablet")
	for edge := range d.info().Edges {
		d.mustAsk(tablet, edge, end.Revision)
		if got, err := d.ask(phone, edge, ""); err != nil || got.problem() != "session-ended" {
			t.Errorf("edge %d to the device that was logged out: %s, %v, want session-ended", edge, got, err)
		}
	}
	d.reviewed()
	d.restored()
	d.spentPastAKilledLeader()
	d.runDocumentedExample()
	d.answersPastAWriterThatHangs()
}

// answersPastAWriterThatHangs: an app whose edge follows a writer that was frozen gets its receipt's answer all the same, in the time that apps have.
func (d *dev) answersPastAWriterThatHangs() {
	d.t.Helper()
	const patience = beside * 10 * time.Second // 3 s for the frozen one, an election if it led
	a := d.account("sandbox")
	d.simulate("chaos", map[string]any{"chaos": map[string]any{"hold": "1h"}})
	d.simulate("buy", map[string]any{"provider": "apple", "product": "com.example.pro_monthly", "account": a.id, "as": "past-a-frozen-writer"})
	var followed struct{ Writer string }
	shown, err := d.do(context.Background(), http.MethodGet, d.info().Edges[0].URL+"/status", nil, nil)
	if err == nil {
		err = shown.into(&followed)
	}
	at := slices.IndexFunc(d.info().Writers, func(n system.Node) bool {
		u, errURL := url.Parse(n.URL)
		return errURL == nil && strings.HasSuffix(followed.Writer, ":"+strconv.Itoa(internalPortOf(u.Port())))
	})
	if err != nil || at < 0 {
		d.t.Fatalf("edge 0 follows %q, %v, want one of the writers", followed.Writer, err)
	}
	frozen := d.info().Writers[at]
	d.signal(syscall.SIGSTOP, frozen)
	defer d.signal(syscall.SIGCONT, frozen)
	began := time.Now()
	result, _ := d.showReceipt(a, 0, "past-a-frozen-writer")
	if took := time.Since(began); result.Outcome != "recorded" || took > patience {
		d.t.Errorf("with %s frozen the receipt is %+v after %s, want it recorded", frozen.ID, result, took)
	}
}

// internalPortOf is the port of a writer's internal listener under latchkey-dev, from that of its public one.
func internalPortOf(public string) int {
	n, _ := strconv.Atoi(public) // what is no number is nobody's
	return n + 20
}

// checkStoresimEntry: latchkey-dev.json says where the simulation is driven, within the block of ports, and the simulation speaks of both environments.
func checkStoresimEntry(t *testing.T, d *dev) {
	t.Helper()
	sim, first := d.info().Storesim, d.info().Writers[0].URL
	if sim == nil {
		t.Fatal("latchkey-dev.json has no storesim")
	}
	port := func(address string) int {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(u.Port())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if base := port(first) - 1; port(sim.URL) != base+51 {
		t.Errorf("storesim is at %s, want port %d", sim.URL, base+51)
	}
	var shown map[string]json.RawMessage
	d.simulated("purchases", &shown)
	if string(shown["purchases"]) != "[]" {
		t.Errorf("at the start there are purchases: %s", shown["purchases"])
	}
}

// runDocumentedExample runs the example of docs/storesim.md as a reader would.
func (d *dev) runDocumentedExample() {
	d.t.Helper()
	_, rest, _ := strings.Cut(page(d.t, "storesim.md"), "<!-- example -->\n```sh\n")
	example, _, found := strings.Cut(rest, "```")
	if !found {
		d.t.Fatal("docs/storesim.md has no example")
	}
	shell := exec.Command("bash", "-euo", "pipefail", "-c", example)
	path := bin + string(filepath.ListSeparator) + os.Getenv("PATH")
	shell.Env = append(os.Environ(), "PATH="+path, "WRITER="+d.writer(0), "EDGE="+d.info().Edges[0].URL, "KEY="+d.info().Environments["sandbox"].ServerKey,
		"LATCHKEY_STORESIM_URL="+d.info().Storesim.URL)
	out, err := shell.CombinedOutput()
	if err != nil {
		d.t.Errorf("the documented example fails: %v\n%s", err, out)
	}
}
