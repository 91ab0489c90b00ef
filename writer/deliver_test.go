package writer

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// postOffice is a customer's backend that sends the mail. It takes what refuse lets through.
type postOffice struct {
	*httptest.Server
	mu     sync.Mutex
	refuse int                 // so many more
	tried  []map[string]string // what came
	taken  []map[string]string
}

func startPostOffice(t *testing.T, refuse int) *postOffice {
	p := &postOffice{refuse: refuse}
	p.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		var m map[string]string
		err := json.NewDecoder(r.Body).Decode(&m)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.tried = append(p.tried, m)
		if p.refuse--; err != nil || p.refuse >= 0 {
			rw.WriteHeader(http.StatusBadRequest)
			return
		}
		p.taken = append(p.taken, m)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *postOffice) mail() (tried, taken []map[string]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append(tried, p.tried...), append(taken, p.taken...)
}

func mailingWriter(t *testing.T, s *fakeStripe, p *postOffice) *testWriter {
	t.Helper()
	cfg := s.asking(testConfigs(t, 1)[0])
	cfg.Mail = MailConfig{LinkURL: "https://app.example.com/in?t={token}", CodeURL: "https://app.example.com/code?c={code}", Webhook: &MailWebhookConfig{URL: p.URL, Secret: "secret"}}
	w := startWriter(t, cfg)
	w.awaitReady()
	w.putCourses()
	return w
}

func owedSeries() string { return `latchkey_writer_codes_owed{environment="sandbox"}` }

// TestACodeIsMailedToItsBuyer: to the address of the checkout, once; a mail that was refused is sent again with the same code. The code works, and neither it
// nor the address is in a file or a log (R68, R116).
func TestACodeIsMailedToItsBuyer(t *testing.T) {
	s, p := startStripe(t), startPostOffice(t, 1)
	w := mailingWriter(t, s, p)
	session := checkout("cs_1", "")
	s.put("/v1/checkout/sessions/cs_1", with(session, "line_items", lineItems(lineItem("li_1", "price_course", 2))))
	w.send(event("evt_1", "checkout.session.completed", session))
	await(t, "the code is mailed", func() bool { return w.metric(`latchkey_writer_codes_total{outcome="mailed"}`) == "1" })
	await(t, "nothing is owed", func() bool { return w.metric(owedSeries()) == "0" })
	tried, taken := p.mail()
	if len(tried) != 2 || len(taken) != 1 || fmt.Sprint(tried[0]) != fmt.Sprint(tried[1]) {
		t.Fatalf("tried %v, taken %v, want the same twice", tried, taken)
	}
	m := taken[0]
	if code := m["token"]; m["type"] != "code" || m["to"] != "canary@example.com" || !codeForm.MatchString(code) || !strings.Contains(m["text"], "https://app.example.com/code?c="+code) {
		t.Errorf("mailed %v", m)
	}
	if list, _ := w.api("GET", "/v1/unclaimed", "").json["unclaimed"].([]any); len(list) != 0 {
		t.Errorf("unclaimed are %v, want none: the code is delivered", list)
	}
	if r := w.api("POST", "/v1/redemption-codes", `{"provider": "stripe", "product_id": "price_course", "purchase_id": "stripe:pi_cs_1"}`); r.status != 200 || r.str("code") != m["token"] {
		t.Errorf("the same code for a backend = %d %s", r.status, r.text)
	}
	app := w.begin()
	if r := w.do("POST", "/v1/redemption-codes/"+m["token"]+"/redeem", ``, auth(app.str("session_token"))); r.status != 200 || !strings.Contains(r.text, `"duration_days":60`) {
		t.Errorf("redeem = %d %s", r.status, r.text)
	}
	w.stop()
	secrets := []string{m["token"], strings.ReplaceAll(m["token"], "-", ""), "canary@example.com"}
	files := 0
	err := filepath.WalkDir(w.cfg.Node.DataDir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		files++
		return scan(t, path, secrets)
	})
	if err != nil || files < 4 {
		t.Errorf("scanned %d files, %v", files, err)
	}
	for _, secret := range secrets {
		if strings.Contains(w.logs.String(), secret) {
			t.Errorf("the log has %q", secret)
		}
	}
}

// TestACodeWithoutAnAddressGoesToTheAccounts: and one for nobody waits, is counted and said in the log, until an address is there.
func TestACodeWithoutAnAddressGoesToTheAccounts(t *testing.T) {
	s, p := startStripe(t), startPostOffice(t, 0)
	w := mailingWriter(t, s, p)
	id := w.account()
	session := with(checkout("cs_1", id), "customer_details", nil)
	s.put("/v1/checkout/sessions/cs_1", with(session, "line_items", lineItems(lineItem("li_1", "price_course", 1))))
	w.send(event("evt_1", "checkout.session.completed", session))
	await(t, "it is tried", func() bool { return w.metric(`latchkey_writer_codes_total{outcome="not_mailed"}`) != "0" })
	if v := w.metric(owedSeries()); v != "1" {
		t.Errorf("%s = %s, want 1", owedSeries(), v)
	}
	w.setEmail(id, "canary.ann@example.com")
	await(t, "the code is mailed", func() bool { return w.metric(`latchkey_writer_codes_total{outcome="mailed"}`) == "1" })
	if _, taken := p.mail(); len(taken) != 1 || taken[0]["to"] != "canary.ann@example.com" {
		t.Errorf("mailed %v, want one to the account's address", taken)
	}
	if !strings.Contains(w.logs.String(), errNoAddress.Error()) || strings.Contains(w.logs.String(), "canary") {
		t.Error("the log does not say why, or shows the address")
	}
}

// TestWhatIsNoCodeIsNotMailed: other products, and sales whose money went back first.
func TestWhatIsNoCodeIsNotMailed(t *testing.T) {
	s, p := startStripe(t), startPostOffice(t, 0)
	w := mailingWriter(t, s, p)
	refund := func(id string) []byte {
		return event("evt_r_"+id, "charge.refunded", object{"id": "ch_" + id, "object": "charge", "payment_intent": "pi_" + id, "livemode": false, "status": "succeeded", "currency": "eur",
			"created": 1, "amount": 4900, "amount_captured": 4900, "amount_refunded": 4900, "refunded": true})
	}
	for id, price := range map[string]string{"cs_life": "price_life", "cs_back": "price_course", "cs_good": "price_course"} {
		session := checkout(id, "")
		s.put("/v1/checkout/sessions/"+id, with(session, "line_items", lineItems(lineItem("li_"+id, price, 1))))
		if id == "cs_back" {
			w.send(refund(id))
		}
		w.send(event("evt_"+id, "checkout.session.completed", session))
	}
	await(t, "all products are known and nothing is owed", func() bool {
		_, taken := p.mail()
		return len(w.pulls()) == 0 && len(taken) > 0 && w.metric(owedSeries()) == "0"
	})
	if tried, _ := p.mail(); len(tried) != 1 {
		t.Errorf("mailed %v, want one code", tried)
	}
}
