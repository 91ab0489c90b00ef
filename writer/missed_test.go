package writer

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/provider"
	"github.com/latchkey/latchkey/writer/internal/provider/appletest"
)

// appleSent is the App Store Server API as far as the history of notifications goes: pages of two, and what was asked.
type appleSent struct {
	*httptest.Server
	*appletest.Authority
	t testing.TB

	mu    sync.Mutex
	sent  []appleMade
	asked []appleAsked
	fail  int // so many questions yet are answered with 500
}

type appleMade struct {
	at      time.Time
	payload string
}

type appleAsked struct{ StartDate, EndDate int64 }

func startAppleHistory(t testing.TB) *appleSent {
	s := &appleSent{Authority: appletest.New(t), t: t}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *appleSent) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.URL.Path != "/inApps/v1/notifications/history" {
		rw.WriteHeader(http.StatusNotFound)
		fmt.Fprint(rw, `{"errorCode":4040010}`)
		return
	}
	if s.fail > 0 {
		s.fail--
		rw.WriteHeader(http.StatusInternalServerError)
		return
	}
	var ask appleAsked
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		s.t.Errorf("a question that is none: %v", err)
	}
	s.asked = append(s.asked, ask)
	var items []object
	for _, m := range s.sent {
		if at := m.at.UnixMilli(); ask.StartDate <= at && at <= ask.EndDate {
			items = append(items, object{"signedPayload": m.payload, "sendAttempts": []any{}})
		}
	}
	const page = 2
	from, _ := strconv.Atoi(r.URL.Query().Get("paginationToken"))
	to := min(from+page, len(items))
	_ = json.NewEncoder(rw).Encode(object{"notificationHistory": items[from:to], "hasMore": to < len(items), "paginationToken": strconv.Itoa(to)})
}

// put notes that Apple made a notification, and returns the body of its webhook.
func (s *appleSent) put(at time.Time, n appletest.Object) []byte {
	body := s.Notification(s.t, n)
	var outer struct{ SignedPayload string }
	_ = json.Unmarshal(body, &outer)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, appleMade{at, outer.SignedPayload})
	return body
}

func (s *appleSent) questions() []appleAsked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]appleAsked(nil), s.asked...)
}

// configure configures the App Store of sandbox with an API.
func (s *appleSent) configure(cfg *Config) {
	root, catalog := filepath.Join(s.t.TempDir(), "root.der"), filepath.Join(s.t.TempDir(), "catalog.json")
	products := strings.Replace(testCatalog, `"products": [`, `"products": [{"provider": "apple", "product_id": "pro.monthly", "kind": "subscription", "entitlements": ["pro"]},`, 1)
	for path, content := range map[string][]byte{root: s.Root, catalog: []byte(products)} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	e := cfg.Environments[entitlement.Sandbox]
	e.Apple = &AppleConfig{BundleID: "com.example.app", RootCAFiles: []string{root}, APIKey: appleAPIKey(s.t), APIKeyID: "K", APIIssuerID: "I", APIBase: s.URL}
	e.CatalogFile = catalog
	cfg.Environments[entitlement.Sandbox] = e
}

// appleTold is a notification about a month of pro that an account bought.
func appleTold(account, uuid string, status int, at time.Time, change appletest.Object) appletest.Object {
	start := at.Add(-time.Hour).UnixMilli()
	transaction := appletest.Object{"originalTransactionId": "1000", "transactionId": "1001", "productId": "pro.monthly", "environment": "Sandbox", "signedDate": at.UnixMilli(),
		"bundleId": "com.example.app", "type": "Auto-Renewable Subscription", "purchaseDate": start, "expiresDate": start + 30*24*3600*1000,
		"appAccountToken": entitlement.AccountID(account).AppleAppAccountToken(), "inAppOwnershipType": "PURCHASED"}
	for name, value := range change {
		transaction[name] = value
	}
	renewal := appletest.Object{"originalTransactionId": "1000", "productId": "pro.monthly", "environment": "Sandbox", "signedDate": at.UnixMilli(), "autoRenewProductId": "pro.monthly", "autoRenewStatus": 1}
	return appletest.Object{"notificationType": "DID_RENEW", "notificationUUID": uuid, "version": "2.0", "signedDate": at.UnixMilli(), "data": appletest.Object{
		"bundleId": "com.example.app", "environment": "Sandbox", "status": status, "signedTransactionInfo": transaction, "signedRenewalInfo": renewal}}
}

// awaitFirstLook awaits the end of the look that a new leader begins with, a week and the overlap in days: the next one is a quarter of an hour away.
func (w *testWriter) awaitFirstLook() {
	w.t.Helper()
	want := strconv.Itoa(int((historyFirst + historyOverlap + historyChunk - 1) / historyChunk))
	await(w.t, "the first look", func() bool {
		return w.metric(`latchkey_writer_history_reads_total{outcome="read",provider="apple"}`) == want
	})
}

// TestMessagesThatNeverCameAreRead (R16, R20, R21, R107): what Apple sent while nobody took it is in its history. The leader reads that, records what is not known
// under the id that the message has, once, and the webhook that comes after all is a duplicate.
func TestMessagesThatNeverCameAreRead(t *testing.T) {
	s := startAppleHistory(t)
	cfg := testConfigs(t, 1)[0]
	s.configure(&cfg)
	now := time.Now()
	w := startWriter(t, cfg)
	w.awaitReady()
	account := w.account()
	w.awaitFirstLook()

	keeper := w.pullers[entitlement.Sandbox][entitlement.Apple].(provider.HistoryKeeper)
	metric := func(outcome string) string {
		return w.metric(`latchkey_writer_history_messages_total{outcome="` + outcome + `",provider="apple"}`)
	}
	look := func(from, to time.Time) {
		t.Helper()
		if err := w.recordHistory(t.Context(), entitlement.Sandbox, keeper, from, to); err != nil {
			t.Fatal(err)
		}
	}
	revision := func() string { return w.api("GET", "/v1/accounts/"+account+"/entitlements", "").str("revision") }

	bought := s.put(now.Add(-9*24*time.Hour), appleTold(account, "bought", 1, now.Add(-9*24*time.Hour), nil))
	s.put(now.Add(-3*time.Hour), appletest.Object{"notificationType": "TEST", "notificationUUID": "tested", "version": "2.0", "signedDate": now.Add(-3 * time.Hour).UnixMilli(),
		"data": appletest.Object{"bundleId": "com.example.app", "environment": "Sandbox"}})
	came := s.put(now.Add(-2*time.Hour), appleTold(account, "came", 1, now.Add(-2*time.Hour), appletest.Object{"expiresDate": now.Add(48 * time.Hour).UnixMilli()}))
	s.put(now.Add(-time.Hour), appleTold(account, "refunded", 5, now.Add(-time.Hour), appletest.Object{"revocationDate": now.Add(-time.Hour).UnixMilli()}))
	s.mu.Lock()
	s.sent = append(s.sent, appleMade{now.Add(-30 * time.Minute), appletest.New(t).Sign(t, appleTold(account, "forged", 1, now, nil))})
	s.mu.Unlock()
	if r := w.do("POST", "/v1/webhooks/sandbox/apple", string(came), nil); r.status != http.StatusOK || w.pro(account)["active"] != true {
		t.Fatalf("webhook = %d %s", r.status, r.text)
	}
	look(now.Add(-10*24*time.Hour), now)
	if pro := w.pro(account); pro["active"] != false || pro["status"] != "refunded" {
		t.Errorf("after the look: %v, want it refunded", pro)
	}
	if known, missed, forged := metric(historyKnown), metric(historyMissed), metric(historyForged); known != "1" || missed != "3" || forged != "1" {
		t.Errorf("%v known, %v missed, %v forged, want 1, 3 and 1", known, missed, forged)
	}
	for id, outcome := range map[string]string{"bought": "recorded", "tested": "unhandled", "refunded": "recorded"} {
		if r := w.api("GET", "/v1/events/"+id, ""); r.status != http.StatusOK || !strings.Contains(r.text, `"`+outcome+`"`) {
			t.Errorf("event %s = %d %s, want it %s", id, r.status, r.text, outcome)
		}
	}
	if r := w.api("GET", "/v1/events/forged", ""); r.status != http.StatusNotFound {
		t.Errorf("a forged one is stored: %s", r.text)
	}
	before := revision()
	look(now.Add(-10*24*time.Hour), now)
	if after := revision(); after != before || metric(historyMissed) != "3" {
		t.Errorf("another look moves the revision from %s to %s, %v missed", before, after, metric(historyMissed))
	}
	young := w.do("POST", "/v1/webhooks/sandbox/apple", string(bought), nil)
	if young.status != http.StatusUnauthorized || young.slug() != "stale-signature" {
		t.Errorf("the webhook of nine days ago = %d %s", young.status, young.text)
	}
	if w.pro(account)["status"] != "refunded" {
		t.Errorf("after it: %v", w.pro(account))
	}
}

// A leader begins where the last message came from, and reads on in days: what was read stays so when the next day fails.
func TestSinceWhenMessagesMayBeMissing(t *testing.T) {
	s := startAppleHistory(t)
	cfg := testConfigs(t, 1)[0]
	s.configure(&cfg)
	now := time.Now()
	var ahead time.Duration
	var clock sync.Mutex
	cfg.Now = func() time.Time {
		clock.Lock()
		defer clock.Unlock()
		return time.Now().Add(ahead)
	}
	w := startWriter(t, cfg)
	w.awaitReady()
	w.awaitFirstLook()
	keeper := w.pullers[entitlement.Sandbox][entitlement.Apple].(provider.HistoryKeeper)
	since := func() time.Duration {
		t.Helper()
		at, err := w.lastTold(entitlement.Sandbox, keeper)
		if err != nil {
			t.Fatal(err)
		}
		return w.now().Sub(at).Round(time.Minute)
	}
	if got := since(); got != historyFirst {
		t.Errorf("nothing came yet: looks %s back, want %s", got, historyFirst)
	}
	account := w.account()
	if r := w.do("POST", "/v1/webhooks/sandbox/apple", string(s.put(now, appleTold(account, "came", 1, now, nil))), nil); r.status != http.StatusOK {
		t.Fatalf("webhook = %d %s", r.status, r.text)
	}
	for range historyPage + 3 { // messages of others do not hide it
		w.stripe(event(unique("evt_"), "balance.available", object{"object": "balance"}))
	}
	if got := since(); got != historyFirst {
		t.Errorf("one came just now: looks %s back, want %s", got, historyFirst)
	}
	clock.Lock()
	ahead = 20 * 24 * time.Hour
	clock.Unlock()
	if got := since(); got != 20*24*time.Hour {
		t.Errorf("the last one came 20 days ago: looks %s back", got)
	}

	s.mu.Lock()
	s.asked, s.fail = nil, 0
	s.mu.Unlock()
	from := w.now().Add(-2*historyChunk - 30*time.Minute) // and the overlap
	done, err := w.readSince(t.Context(), entitlement.Sandbox, keeper, from)
	if want := w.now().Add(-historySettle); err != nil || want.Sub(done).Abs() > time.Minute {
		t.Errorf("read up to %s, %v, want %s", done, err, want)
	}
	asked := s.questions()
	if len(asked) != 3 || asked[0].StartDate != from.Add(-historyOverlap).UnixMilli() || asked[1].StartDate != asked[0].EndDate || asked[2].StartDate != asked[1].EndDate {
		t.Errorf("asked for %v, want three stretches, one after the other", asked)
	}
	s.mu.Lock()
	s.fail = 1
	s.mu.Unlock()
	if at, err := w.readSince(t.Context(), entitlement.Sandbox, keeper, from); err == nil || !at.Equal(from) {
		t.Errorf("a look that failed ends at %s, %v, want %s again", at, err, from)
	}
	if at, err := w.readSince(t.Context(), entitlement.Sandbox, keeper, w.now().Add(-400*24*time.Hour)); err != nil || at.Before(w.now().Add(-time.Hour)) {
		t.Errorf("after 400 days: %s, %v", at, err)
	}
	if oldest := time.UnixMilli(s.questions()[len(asked)].StartDate); w.now().Sub(oldest) > keeper.HistoryReach()+time.Minute {
		t.Errorf("asks for %s, longer ago than Apple keeps", oldest)
	}
}
