package storesim

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// What scripts say of apps, which show receipts, and of the merchant, who edits the catalog.

// renamed are the products of a merchant who gives one of them another id twice: all three are pro by the month.
var renamed = func() (all []Product) {
	for _, version := range []string{"v1", "v2", "v3"} {
		for store, id := range map[Store]string{AppStore: "com.example.plan_" + version, StripeStore: "price_plan_" + version, PlayStore: "plan_" + version + ":monthly"} {
			all = append(all, Product{ID: id, Store: store, Kind: Recurring, Months: 1, Cents: 499, Entitlement: "pro", Level: 1})
		}
	}
	return all
}()

// sessionSeconds outlives every script.
const sessionSeconds = 366 * 24 * 3600

// mute loses every message: what a writer then knows it was shown, or asked for.
func (s *scripted) mute(*testscript.TestScript, bool, []string) { s.sim.SetChaos(Chaos{Loss: 1}) }

func (s *scripted) unmute(*testscript.TestScript, bool, []string) { s.sim.SetChaos(Chaos{}) }

// refresh has the providers asked about all that an account has.
func (s *scripted) refresh(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("want: refresh NAME")
	}
	c := s.customer(ts, args[0])
	if status, b := s.node.ask(s.t, c.env, http.MethodPost, "/v1/accounts/"+c.id+"/refresh", nil); status != http.StatusOK {
		ts.Fatalf("POST refresh: status %d, %s", status, b)
	}
}

// device signs a device of an account in.
func (s *scripted) device(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("want: device NAME DEVICE")
	}
	c := s.customer(ts, args[0])
	status, b := s.node.ask(s.t, c.env, http.MethodPost, "/v1/accounts/"+c.id+"/sessions", object{"device_id": args[1], "ttl_seconds": sessionSeconds})
	var made struct {
		Token string `json:"session_token"`
	}
	ts.Check(json.Unmarshal(b, &made))
	if status != http.StatusCreated {
		ts.Fatalf("POST sessions: status %d, %s", status, b)
	}
	s.apps[args[0]+" "+args[1]] = made.Token
}

// show shows what the app has of a purchase, with its device's session, and wants one outcome. Refused: the device is signed in no longer.
func (s *scripted) show(ts *testscript.TestScript, refused bool, args []string) {
	if len(args) != 4 && !(refused && len(args) == 3) {
		ts.Fatalf("want: show NAME DEVICE PURCHASE OUTCOME")
	}
	session, signedIn := s.apps[args[0]+" "+args[1]]
	if !signedIn {
		ts.Fatalf("%s never signed in on the %s", args[0], args[1])
	}
	proof, err := s.sim.Proof(s.called(args[2]))
	ts.Check(err)
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.url+"/v1/receipts", strings.NewReader(string(encode(object{"receipts": []any{proof}}))))
	ts.Check(err)
	r.Header.Set("Authorization", "Bearer "+session)
	res, err := http.DefaultClient.Do(r)
	ts.Check(err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	ts.Check(err)
	if refused {
		if res.StatusCode != http.StatusUnauthorized || !strings.Contains(string(b), "session-ended") {
			ts.Fatalf("POST /v1/receipts: status %d, %s, want session-ended", res.StatusCode, b)
		}
		return
	}
	var said struct {
		Results []struct {
			Outcome string `json:"outcome"`
		} `json:"results"`
	}
	ts.Check(json.Unmarshal(b, &said))
	if res.StatusCode != http.StatusOK || len(said.Results) != 1 || said.Results[0].Outcome != args[3] {
		ts.Fatalf("POST /v1/receipts: status %d, %s, want %s", res.StatusCode, b, args[3])
	}
	ts.Check(s.sim.Advance(s.t.Context(), tellAfter))
}

// logout ends every session of an account.
func (s *scripted) logout(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("want: logout NAME")
	}
	c := s.customer(ts, args[0])
	if status, b := s.node.ask(s.t, c.env, http.MethodDelete, "/v1/accounts/"+c.id+"/sessions", nil); status != http.StatusOK {
		ts.Fatalf("DELETE sessions: status %d, %s", status, b)
	}
	ts.Check(s.sim.Advance(s.t.Context(), tellAfter))
}

// catalog puts a catalog in place of the one that is there: the usual products and those named, which give pro. The script's end leaves it: what
// is left out stays mapped.
func (s *scripted) catalog(ts *testscript.TestScript, _ bool, args []string) {
	var usual struct {
		Products   []object `json:"products"`
		Aggregated []object `json:"aggregator_entitlements"`
	}
	ts.Check(json.Unmarshal(testCatalog(), &usual))
	providers := map[Store]Provider{StripeStore: Stripe, AppStore: Apple, PlayStore: Google}
	for _, id := range args {
		p, err := s.sim.product(id)
		ts.Check(err)
		usual.Products = append(usual.Products, object{"provider": providers[p.Store], "product_id": id, "kind": "subscription", "entitlements": []string{p.Entitlement}})
	}
	status, b := s.node.ask(s.t, Sandbox, http.MethodPut, "/v1/catalog", usual)
	if status != http.StatusOK {
		ts.Fatalf("PUT /v1/catalog: status %d, %s", status, b)
	}
}

// retired asks the writer whether a product is in the catalog for those alone who bought it before.
func (s *scripted) retired(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("want: retired PRODUCT")
	}
	_, b := s.get(s.t, "/v1/catalog")
	var shown struct {
		Products []struct {
			ID      string `json:"product_id"`
			Retired bool   `json:"retired"`
		} `json:"products"`
	}
	ts.Check(json.Unmarshal(b, &shown))
	for _, p := range shown.Products {
		if p.ID == args[0] {
			if p.Retired == neg {
				ts.Fatalf("%s: retired is %t", p.ID, p.Retired)
			}
			return
		}
	}
	ts.Fatalf("the catalog has no %s", args[0])
}
