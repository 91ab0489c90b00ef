package provider

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// These tests show what we ask Web2Wave for, that an answer settles what messages left open, and what each failure is called.

// waveServer answers by path, as Web2Wave's API does, and notes what it was asked.
type waveServer struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string
}

func serveWave(t *testing.T, answers map[string]string) *waveServer {
	s := &waveServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, r.Method+" "+r.RequestURI+" "+r.Header.Get("api-key"))
		s.mu.Unlock()
		if answer, ok := answers[r.URL.Path]; ok {
			fmt.Fprint(w, answer)
			return
		}
		w.WriteHeader(http.StatusUnprocessableEntity)
		fmt.Fprint(w, `{"error":1,"error_msg":"user not found"}`)
	}))
	t.Cleanup(s.Close)
	return s
}

func waveAPI(t *testing.T, base string, at time.Time) *Web2WaveAPI {
	t.Helper()
	a, err := NewWeb2WaveAPI(Web2WaveAPIConfig{Key: "canary-api-key", BaseURL: base, Environment: entitlement.Production, Now: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// answerOf is the API's answer with the rows of messages.
func answerOf(messages ...string) string {
	var rows []string
	for _, m := range messages {
		_, data, _ := strings.Cut(m, `"data":`)
		data, _, _ = strings.Cut(data, `,"type":"subscription"}`)
		rows = append(rows, data)
	}
	return `{"subscription":[` + strings.Join(rows, ",") + `]}`
}

// TestWeb2WavePullSettles: one answer about the customer settles the race of a charge, says who the customer is, and is the same event each time.
func TestWeb2WavePullSettles(t *testing.T) {
	race := parseWave(t, wave(time.Second, map[string]any{"status": "incomplete", "event_type": "charge.succeeded", "next_charge_date": nil}))
	s := serveWave(t, map[string]string{
		"/user/subscriptions": answerOf(wave(4*time.Second, nil), wave(0, map[string]any{"id": 8, "real_payment": 0, "pay_system_id": "sub_test"})),
		"/user/properties":    `{"user_id":"` + web2waveUser + `","user_email":"canary@example.com","properties":[{"property":"password","value":"canary"},{"property":"external_user_id","value":"acc_01JD0000000000000000000000"},{"property":"adapty_profile_id","value":null},{"property":"revenuecat_profile_id","value":"rc-1||rc-2"}]}`,
	})
	at := time.Unix(began+10, 678_000_000)
	api := waveAPI(t, s.URL, at)
	var customer entitlement.Evidence
	for _, o := range race.Objects {
		if o.Links[0] == web2waveCustomerLink(web2waveUser) {
			customer = customer.Add(o)
		}
	}
	targets := api.Targets(customer, customer.Doubts())
	if len(targets) != 1 || targets[0].Kind != entitlement.KindCustomer || targets[0].ID != web2waveUser {
		t.Fatalf("what is open about the customer is %s, want that they be asked about", show(targets))
	}
	ev, err := api.Pull(context.Background(), targets[0].Kind, targets[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	checkWave(t, ev)
	if text := show(s.asked); !strings.Contains(text, "GET /user/subscriptions?user="+web2waveUser+" canary-api-key") || !strings.Contains(text, "GET /user/properties?user="+web2waveUser) || len(s.asked) != 2 {
		t.Errorf("asked for %s", text)
	}
	if text := string(ev.Raw) + show(ev); strings.Contains(text, "canary") || strings.Contains(text, "sub_test") {
		t.Errorf("the answer keeps secrets, or a row of the other environment: %s", text)
	}
	for _, o := range ev.Objects {
		if o.At != (began+10)*int64(time.Second) {
			t.Errorf("%s %s has the version %d, want the second in which the request left", o.Kind, o.ID, o.At)
		}
		if o.Links[0] == web2waveCustomerLink(web2waveUser) {
			customer = customer.Add(o)
		}
	}
	if open := customer.Doubts(); len(open) > 0 {
		t.Errorf("the answer leaves open %s", show(open))
	}
	e := waveProof(race, ev)
	if got := waveStands(e, entitlement.DefaultPolicy, time.Hour); got != "active paid until 744h0m0s" {
		t.Errorf("after the answer it is %q", got)
	}
	if id := e.Identity(); id.Account != "acc_01JD0000000000000000000000" {
		t.Errorf("after the answer it belongs to %+v", id)
	}
	// A later message, which knows the user alone, takes nothing back of that.
	e = waveProof(race, ev, parseWave(t, wave(time.Hour, map[string]any{"cancel_scheduled": "Yes"})))
	if id := e.Identity(); id.Account != "acc_01JD0000000000000000000000" || len(id.Aliases) != 3 {
		t.Errorf("after a later message it belongs to %+v", id)
	}
	if again, err := api.Pull(context.Background(), entitlement.KindCustomer, web2waveUser); err != nil || again.ID != ev.ID || again.Digest() != ev.Digest() {
		t.Errorf("the same answer is another event: %v, %s", err, show(again))
	}
}

// TestWeb2WavePullQuestion: the question that a property asks is settled by its own answer, and a customer whom nobody knows is one too.
func TestWeb2WavePullQuestion(t *testing.T) {
	property := parseWave(t, waveSamples(t)["identity"])
	e := entitlement.Evidence{}.Add(property.Objects...)
	api := waveAPI(t, serveWave(t, nil).URL, time.Unix(began, 0))
	targets := api.Targets(e, e.Doubts())
	if len(targets) != 1 {
		t.Fatalf("a property leaves open %s", show(targets))
	}
	ev, err := api.Pull(context.Background(), targets[0].Kind, targets[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	if e = e.Add(ev.Objects...); len(e.Doubts()) > 0 {
		t.Errorf("the answer leaves open %s", show(e.Doubts()))
	}
	for _, o := range ev.Objects {
		if o.Customer == nil || !o.Customer.Gone {
			t.Errorf("of a customer whom nobody knows it says %s", show(o))
		}
	}
}

// TestWeb2WaveShortAnswer reads the documented answer, which lacks most of a row: what it says counts, and what messages said stays.
func TestWeb2WaveShortAnswer(t *testing.T) {
	short := `{"subscription":[{"id":7,"user_id":"` + web2waveUser + `","user_email":"user@example.com","status":"active","plan_name":"premium_monthly","price_label":"9.99 USD / 1 month","next_charge_date":"` +
		waveDate(60*waveDay) + `","canceled_at":null,"manage_link":"","currency":"usd","amount_real":"9.99","payment_system_label":"stripe"}]}`
	api := waveAPI(t, serveWave(t, map[string]string{"/user/subscriptions": short}).URL, time.Unix(began, 0).Add(31*waveDay))
	ev, err := api.Pull(context.Background(), entitlement.KindCustomer, web2waveUser)
	if err != nil {
		t.Fatal(err)
	}
	e := waveProof(parseWave(t, wave(time.Second, nil)), ev)
	purchase := entitlement.Fold(e, entitlement.DefaultPolicy)
	if len(purchase.Items) != 1 || purchase.Items[0].State != entitlement.Live || purchase.Items[0].AccessUntil != began+int64(60*waveDay/time.Second) || !purchase.Items[0].WillRenew {
		t.Errorf("after a renewal that only the answer tells of: %s", show(purchase))
	}
}

// TestWeb2WaveAsksWhatIsReal: where rows do not say whether a payment was real, the list says so, if it can.
func TestWeb2WaveAsksWhatIsReal(t *testing.T) {
	short := answerOf(wave(0, map[string]any{"real_payment": nil}), wave(0, map[string]any{"id": 8, "real_payment": nil}))
	for name, tt := range map[string]struct {
		list string
		want []string
	}{
		"the list tells":       {strings.Replace(answerOf(wave(0, nil), wave(0, map[string]any{"id": 8, "real_payment": "0"})), "subscription", "data", 1), []string{"7"}},
		"the list is as short": {short, []string{"7", "8"}},
		"there is no list":     {"", []string{"7", "8"}},
	} {
		t.Run(name, func(t *testing.T) {
			answers := map[string]string{"/user/subscriptions": short, "/subscriptions/list": tt.list}
			if tt.list == "" {
				delete(answers, "/subscriptions/list")
			}
			s := serveWave(t, answers)
			ev, err := waveAPI(t, s.URL, time.Unix(began, 0)).Pull(context.Background(), entitlement.KindCustomer, web2waveUser)
			if err != nil {
				t.Fatal(err)
			}
			var chains []string
			for _, o := range ev.Objects {
				if o.Transaction != nil {
					chains = append(chains, o.Transaction.Chain)
				}
			}
			if !slices.Equal(chains, tt.want) {
				t.Errorf("it tells of %v, want %v", chains, tt.want)
			}
			if text := show(s.asked); !strings.Contains(text, "GET /subscriptions/list?user_id="+web2waveUser) || len(s.asked) != 3 {
				t.Errorf("asked for %s", text)
			}
		})
	}
}

// TestWeb2WaveSoonAfterACharge: an answer that comes within the race asks to be asked again; a minute later it does not.
func TestWeb2WaveSoonAfterACharge(t *testing.T) {
	answer := answerOf(wave(30*waveDay, map[string]any{"status": "past_due", "charges_count": 2, "last_charge_date": waveDate(30 * waveDay), "next_charge_date": waveDate(60 * waveDay)}))
	s := serveWave(t, map[string]string{"/user/subscriptions": answer})
	for after, open := range map[time.Duration]bool{5 * time.Second: true, 2 * time.Minute: false} {
		api := waveAPI(t, s.URL, time.Unix(began, 0).Add(30*waveDay+after))
		ev, err := api.Pull(context.Background(), entitlement.KindCustomer, web2waveUser)
		if err != nil {
			t.Fatal(err)
		}
		e := waveProof(parseWave(t, wave(time.Second, nil)), ev)
		doubts := slices.DeleteFunc(e.Doubts(), func(d entitlement.Doubt) bool { return d.By == "" }) // Stripe is not asked here
		if (len(doubts) > 0) != open {
			t.Errorf("%v after the charge %s is open", after, show(doubts))
		}
		if targets := api.Targets(e, doubts); open && (len(targets) != 1 || targets[0].ID != web2waveUser) {
			t.Errorf("what is open is asked as %s, want the customer", show(targets))
		}
	}
}

// TestWeb2WavePullFailures names each failure, and tells nobody the key.
func TestWeb2WavePullFailures(t *testing.T) {
	tests := []struct {
		name   string
		answer http.HandlerFunc
		want   error
	}{
		{"a refused key", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }, ErrCredential},
		{"a key without the right", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, ErrCredential},
		{"too many", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusTooManyRequests)
		}, ErrLimited},
		{"at fault", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, ErrUnavailable},
		{"an error in a 200", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"error":1,"error_msg":"canary"}`) }, ErrAnswer},
		{"no JSON", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `<html>canary`) }, ErrAnswer},
		{"another refusal", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusUnprocessableEntity)
			fmt.Fprint(w, `{"error":1,"error_msg":"canary"}`)
		}, ErrAnswer},
		{"somebody else's subscription", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, answerOf(wave(0, map[string]any{"user_id": "canary"})))
		}, ErrAnswer},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://canary.example.com", http.StatusFound)
		}, ErrAnswer},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }, ErrUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := httptest.NewServer(tt.answer)
			defer s.Close()
			_, err := waveAPI(t, s.URL, asked).Pull(context.Background(), entitlement.KindCustomer, web2waveUser)
			failure := (*PullError)(nil)
			if !errors.Is(err, tt.want) || !errors.As(err, &failure) || strings.Contains(err.Error(), "canary") {
				t.Errorf("Pull = %v, want %v without a part of the answer", err, tt.want)
			}
			if tt.want == ErrLimited && failure.RetryAfter != 7*time.Second {
				t.Errorf("Retry-After 7 is %v", failure.RetryAfter)
			}
		})
	}
	api := waveAPI(t, serveWave(t, map[string]string{"/user/subscriptions": `{"error":1,"error_msg":"User Not Found"}`}).URL, asked)
	if ev, err := api.Pull(context.Background(), entitlement.KindCustomer, web2waveUser); err != nil || !ev.Objects[0].Customer.Gone {
		t.Errorf("an unknown customer in a 200 = %s, %v", show(ev), err)
	}
	for _, id := range []string{"", "a b", "../x", "a@b.c"} {
		if _, err := api.Pull(context.Background(), entitlement.KindCustomer, id); !errors.Is(err, ErrGone) {
			t.Errorf("Pull of %q = %v", id, err)
		}
	}
	if _, err := api.Pull(context.Background(), entitlement.KindTransaction, web2waveUser); !errors.Is(err, ErrGone) {
		t.Errorf("Pull of a transaction = %v", err)
	}
	for base, ok := range map[string]bool{"": true, "https://api.web2wave.com/api": true, "http://127.0.0.1:8451/web2wave": true, "http://api.web2wave.com/api": false, "ftp://x": false, "https://u:p@x/": false, "https://x/?a=b": false, "://": false} {
		if err := CheckWeb2WaveBase(base); (err == nil) != ok {
			t.Errorf("CheckWeb2WaveBase(%q) = %v", base, err)
		}
	}
	for _, key := range []string{"", "with a blank", "two\nlines", strings.Repeat("x", 300)} {
		if _, err := NewWeb2WaveAPI(Web2WaveAPIConfig{Key: key}); !errors.Is(err, ErrWeb2WaveKey) {
			t.Errorf("NewWeb2WaveAPI(key %q) = %v", key, err)
		}
	}
}
