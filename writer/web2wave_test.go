package writer

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/store"
)

const (
	web2waveToken = "canary-of-the-web2wave-project"
	web2waveKey   = "canary-of-the-web2wave-api"
)

// web2waveRow is a running subscription of a month, as Web2Wave shows it.
func web2waveRow(id int, user string, changes object) object {
	now := time.Now().UTC()
	row := object{"id": id, "user_id": user, "user_email": "canary@example.com", "updated_at": now.Format(time.DateTime), "payment_system_label": "Stripe", "real_payment": 0,
		"pay_system_id": fmt.Sprintf("sub_%d", id), "price_id": "price_pro", "status": "active", "last_charge_date": now.Format(time.DateTime), "next_charge_date": now.AddDate(0, 1, 0).Format(time.DateTime),
		"charges_count": 1, "canceled_at": nil, "amount": "999.00", "currency": "eur", "event_type": "customer.subscription.updated"}
	for name, value := range changes {
		row[name] = value
	}
	return row
}

// web2wave sends a message, with the project's token.
func (w *testWriter) web2wave(kind string, data object) reply {
	w.t.Helper()
	return w.do("POST", "/v1/webhooks/sandbox/web2wave", string(web2waveMessage(kind, data)), header{"Webhooks-Token": web2waveToken})
}

func web2waveMessage(kind string, data object) []byte {
	b, err := json.Marshal(object{"type": kind, "data": data})
	if err != nil {
		panic(err) // maps of plain values
	}
	return b
}

// fakeWeb2Wave is Web2Wave's API over rows and properties that a test puts there.
type fakeWeb2Wave struct {
	*httptest.Server
	mu         sync.Mutex
	rows       []object
	properties []object
}

func startWeb2Wave(t *testing.T) *fakeWeb2Wave {
	s := &fakeWeb2Wave{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		answer := object{"subscription": s.rows}
		if r.URL.Path == "/user/properties" {
			answer = object{"properties": s.properties}
		}
		if r.Header.Get("api-key") != web2waveKey {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *fakeWeb2Wave) put(rows, properties []object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows, s.properties = rows, properties
}

func withWeb2Wave(cfg *Config, api string) {
	e := cfg.Environments[entitlement.Sandbox]
	e.Web2Wave = &Web2WaveConfig{WebhookTokens: []config.Secret{web2waveToken}}
	if api != "" {
		e.Web2Wave.APIKey, e.Web2Wave.APIBase = web2waveKey, api
	}
	cfg.Environments[entitlement.Sandbox] = e
}

// TestWeb2WaveThroughAWriter: a message gives its user's account access; a message that never came is made up for by the answer about the user;
// an external_user_id reaches what the user bought before (R26).
func TestWeb2WaveThroughAWriter(t *testing.T) {
	api := startWeb2Wave(t)
	cfg := testConfigs(t, 1)[0]
	withWeb2Wave(&cfg, api.URL)
	w := startWriter(t, cfg)
	w.awaitReady()
	if r := w.do("POST", "/v1/webhooks/sandbox/web2wave", `{"type":"event"}`, header{"Webhooks-Token": "wrong"}); r.status != http.StatusUnauthorized || r.slug() != "invalid-signature" {
		t.Errorf("a wrong token = %d %s", r.status, r.text)
	}
	if r := w.web2wave("event", object{"event_name": "canary@example.com"}); r.status != http.StatusOK || r.str("outcome") != "unhandled" {
		t.Errorf("an analytics event = %d %s", r.status, r.text)
	}
	acc, user := w.account(), "8e6a0f5e-3d0b-4c61-9a0e-5f4f2f9d1c22"
	if r := w.api("POST", "/v1/accounts/"+acc+"/aliases", `{"kind": "web2wave_user", "value": "`+user+`"}`); r.status != http.StatusOK {
		t.Fatalf("alias = %d %s", r.status, r.text)
	}
	race := web2waveRow(1, user, object{"status": "incomplete", "event_type": "charge.succeeded"})
	second := web2waveRow(2, user, nil)
	api.put([]object{web2waveRow(1, user, nil), second}, nil)
	for n, duplicate := range []bool{false, true} {
		if r := w.web2wave("subscription", race); r.status != http.StatusOK || r.str("outcome") != "recorded" || r.json["duplicate"] != duplicate {
			t.Fatalf("message %d = %d %s", n+1, r.status, r.text)
		}
	}
	if pro := w.pro(acc); pro["active"] != true || pro["provider"] != "web2wave" || pro["store"] != "stripe" || pro["purchase_id"] != "stripe:sub_1" {
		t.Fatalf("after a charge whose row still says incomplete pro is %v", pro)
	}
	await(t, "the subscription of which no message came", func() bool {
		others, _ := w.pro(acc)["other_purchases"].([]any)
		return len(others) == 1
	})
	other, named := w.account(), "0b5c7f0a-61a2-4a0c-8a44-1a2b3c4d5e6f"
	api.put([]object{web2waveRow(3, named, nil)}, nil)
	if r := w.web2wave("subscription", web2waveRow(3, named, nil)); r.status != http.StatusOK {
		t.Fatalf("a purchase of a stranger = %d %s", r.status, r.text)
	}
	if pro := w.pro(other); pro["active"] == true {
		t.Fatalf("a stranger's purchase gives %v", pro)
	}
	api.put([]object{web2waveRow(3, named, nil)}, []object{{"property": "external_user_id", "value": other}, {"property": "password", "value": "canary"}})
	if r := w.web2wave("user_property", object{"user_id": named, "property": "external_user_id", "value": other}); r.status != http.StatusOK || r.str("outcome") != "recorded" {
		t.Fatalf("external_user_id = %d %s", r.status, r.text)
	}
	await(t, "the account that external_user_id names", func() bool { return w.pro(other)["active"] == true })
}

// I20 by webhooks alone: who a customer is comes in a message of its own, before what they bought or after it, or between two of their subscriptions. Every
// order of the messages and of the API's calls between them gives one state, in which all that the customer has is their account's.
func TestI20WebhooksAloneNameACustomerInAnyOrder(t *testing.T) {
	adapter, err := provider.NewWeb2Wave(provider.Web2WaveConfig{Tokens: []string{web2waveToken}})
	if err != nil {
		t.Fatal(err)
	}
	const known, unknown, stranger = "8e6a0f5e-3d0b-4c61-9a0e-5f4f2f9d1c22", "0b5c7f0a-61a2-4a0c-8a44-1a2b3c4d5e6f", "77777777-61a2-4a0c-8a44-1a2b3c4d5e6f"
	const acc, other = "acc_01JD0000000000000000000000", "acc_01JD0000000000000000000001"
	var events []entitlement.Event
	message := func(kind string, data object) {
		t.Helper()
		ev, err := adapter.Parse(web2waveMessage(kind, data), entitlement.Sandbox)
		if err != nil || ev.Kind != entitlement.Proof {
			t.Fatalf("%s is %+v, %v", kind, ev, err)
		}
		events = append(events, ev)
	}
	message("subscription", web2waveRow(1, known, nil))
	message("subscription", web2waveRow(2, known, object{"pay_system_id": "", "payment_system_label": "PayPal"}))
	message("user_property", object{"user_id": known, "property": "external_user_id", "value": acc})
	message("subscription", web2waveRow(3, unknown, nil))
	message("user_property", object{"user_id": unknown, "property": "external_user_id", "value": "the-merchants-own-7"})
	message("subscription", web2waveRow(4, stranger, nil))
	calls := []store.Command{
		store.NewCommand(store.TypeCreate, entitlement.Sandbox, "c1", &store.CreateAccount{ID: acc}),
		store.NewCommand(store.TypeCreate, entitlement.Sandbox, "c2", &store.CreateAccount{ID: other, Aliases: []entitlement.Alias{{Kind: entitlement.Custom, Value: "the-merchants-own-7"}}}),
	}
	run := func(events []entitlement.Event, random *rand.Rand) (hash replication.Hash, owned map[string]int) {
		m, err := store.OpenMachine(t.TempDir(), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		index := uint64(0)
		apply := func(c store.Command) {
			data := c.Encode()
			store.SetStamp(data, 1_795_000_000)
			index++
			if _, err := m.Apply([]store.Entry{{Index: index, Term: 1, Data: data}}); err != nil {
				t.Fatal(err)
			}
		}
		apply(store.NewCommand(store.TypeInit, "", "", &store.Init{Cluster: "c", Rules: store.RulesVersion}))
		rest := calls
		for _, ev := range events {
			for len(rest) > 0 && random.IntN(3) == 0 {
				apply(rest[0])
				rest = rest[1:]
			}
			apply(store.NewCommand(store.TypeRecordEvent, entitlement.Sandbox, "", &store.RecordEvent{Event: ev}))
		}
		for _, c := range rest {
			apply(c)
		}
		owned = map[string]int{}
		if err := errors.Join(m.Check(), m.View(func(r *store.Reader) error {
			for _, id := range []entitlement.AccountID{acc, other} {
				account, _, err := r.Account(entitlement.Sandbox, id)
				if err != nil {
					return err
				}
				owned[string(id)] = len(account.Purchases)
			}
			return nil
		})); err != nil {
			t.Fatal(err)
		}
		return m.Position().StateHash, owned
	}
	var want replication.Hash
	random := rand.New(rand.NewPCG(7, 7))
	for n := range 40 {
		hash, owned := run(append(slices.Clone(events), events[random.IntN(len(events))]), random)
		if owned[acc] != 2 || owned[other] != 1 {
			t.Fatalf("order %d: owned are %v, want 2 and 1", n, owned)
		}
		if n == 0 {
			want = hash
		} else if hash != want {
			t.Fatalf("order %d has another state", n)
		}
		random.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	}
}
