package provider

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// stripeMock is Stripe's own simulator: it checks requests against Stripe's OpenAPI description, and answers with fixtures of the newest API version.
// A version is pinned so that it is the same everywhere; go install keeps its requirements out of our module.
const stripeMock = "github.com/stripe/stripe-mock@v0.203.0"

// startStripeMock returns the address of a running stripe-mock on loopback. Without an address for HTTPS it would listen on every interface.
func startStripeMock(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	install := exec.Command("go", "install", stripeMock)
	install.Dir = dir
	install.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("go install %s: %v\n%s", stripeMock, err, out)
	}
	ctx, cancel := context.WithCancel(context.Background())
	mock := exec.CommandContext(ctx, filepath.Join(dir, "stripe-mock"), "-http-addr", "127.0.0.1:0", "-https-addr", "127.0.0.1:0")
	stdout, err := mock.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := mock.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = mock.Wait() // killed
	})
	late := time.AfterFunc(30*time.Second, cancel)
	defer late.Stop()
	addresses := map[string]string{}
	for lines := bufio.NewScanner(stdout); len(addresses) < 2 && lines.Scan(); {
		if scheme, address, ok := strings.Cut(lines.Text(), " at address: "); ok {
			addresses[scheme] = address
		}
	}
	for _, scheme := range []string{"HTTP", "HTTPS"} {
		if address := addresses["Listening for "+scheme]; !strings.HasPrefix(address, "127.0.0.1:") {
			t.Fatalf("stripe-mock listens for %s at %q", scheme, address)
		}
	}
	return "http://" + addresses["Listening for HTTP"]
}

// TestStripeMock shows that Stripe's OpenAPI description accepts every request that we make, and that its fixtures are read by our types.
func TestStripeMock(t *testing.T) {
	base := startStripeMock(t)
	states := map[entitlement.ObjectKind]struct {
		id    string
		state func(entitlement.Object) bool
	}{
		entitlement.KindSubscription: {"sub_1", func(o entitlement.Object) bool {
			return o.Subscription.Status == entitlement.Active && len(o.Subscription.Items) == 1 && o.Subscription.Items[0].EndsAt > 0 && o.Subscription.LatestInvoice != ""
		}},
		entitlement.KindInvoice: {"in_1", func(o entitlement.Object) bool { return o.Invoice.Status != "" && len(o.Invoice.Lines) == 1 }},
		entitlement.KindPayment: {"inpay_1", func(o entitlement.Object) bool { return o.Payment.Invoice != "" }},
		entitlement.KindCharge:  {"ch_1", func(o entitlement.Object) bool { return o.Charge.Amount == 100 }},
		entitlement.KindRefund:  {"re_1", func(o entitlement.Object) bool { return o.Refund.Amount == 100 && o.Refund.Charge != "" }},
		entitlement.KindDispute: {"dp_1", func(o entitlement.Object) bool { return o.Dispute.Amount == 1000 && o.Dispute.Charge != "" }},
		entitlement.KindCheckout: {"cs_1", func(o entitlement.Object) bool {
			return o.Checkout.Mode == entitlement.CheckoutUnfinished && o.Checkout.PaymentIntent != ""
		}},
	}
	mock, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	through := func(change func(*http.Response) error) *httptest.Server {
		front := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(mock) }, ModifyResponse: change})
		t.Cleanup(front.Close)
		return front
	}
	// Some fixtures are of live mode, and the simulator takes no live key.
	testmode := through(func(res *http.Response) error {
		return replaceBody(res, regexp.MustCompile(`"livemode": ?true`), `"livemode":false`)
	})
	for kind := range stripePulls {
		t.Run(string(kind), func(t *testing.T) {
			want := states[kind]
			ev, err := api(t, testmode.URL, entitlement.Sandbox).Pull(t.Context(), kind, want.id)
			if err != nil {
				t.Fatalf("Pull: %v", err)
			}
			o := ev.Objects[0]
			if o.Kind != kind || o.ID != want.id || o.At != asked.Truncate(time.Second).UnixNano() || !want.state(o) {
				t.Errorf("the fixture reads as %s", show(o))
			}
			checkSafe(t, ev)
			if again := parse(t, string(ev.Raw)); again.Digest() != ev.Digest() {
				t.Errorf("the stored answer reads as %s", show(again))
			}
		})
	}
	t.Run("what a payment paid", func(t *testing.T) {
		// The fixtures know one invoice payment; without it a session is asked for.
		none := through(func(res *http.Response) error {
			if res.Request.URL.Path == "/v1/invoice_payments" {
				return replaceBody(res, regexp.MustCompile(`(?s)"data": ?\[.*\]`), `"data":[]`)
			}
			return replaceBody(res, regexp.MustCompile(`"livemode": ?true`), `"livemode":false`)
		})
		for name, front := range map[string]*httptest.Server{"an invoice": testmode, "a session": none} {
			for id, least := range map[string]int{"pi_1": 2, "ch_1": 1} { // the charge of the fixtures has no payment intent
				ev, err := api(t, front.URL, entitlement.Sandbox).Pull(t.Context(), entitlement.KindPayment, id)
				if err != nil || len(ev.Objects) < least || ev.Objects[0].ID != id {
					t.Errorf("%s of %s: %v, %s", name, id, err, show(ev.Objects))
				}
				checkSafe(t, ev)
			}
		}
	})
	t.Run("since when a dispute is lost", func(t *testing.T) {
		lost := through(func(res *http.Response) error {
			if res.StatusCode != http.StatusOK {
				t.Errorf("%s: status %d", res.Request.URL.RequestURI(), res.StatusCode)
			}
			if strings.HasPrefix(res.Request.URL.Path, "/v1/disputes/") {
				return replaceBody(res, regexp.MustCompile(`"status": ?"[a-z_]+"`), `"status":"lost"`)
			}
			return nil
		})
		if ev, err := api(t, lost.URL, entitlement.Sandbox).Pull(t.Context(), entitlement.KindDispute, "dp_1"); err != nil || ev.Objects[0].Dispute.Status != disputeLost {
			t.Errorf("Pull: %v", err)
		}
	})
	t.Run("the pages of long lists", func(t *testing.T) {
		// The fixtures' lists are whole; here the first part says that there is more.
		var pages atomic.Int32
		front := through(func(res *http.Response) error {
			if res.Request.URL.Query().Get("starting_after") != "" {
				pages.Add(1)
				if res.StatusCode != http.StatusOK {
					t.Errorf("%s: status %d", res.Request.URL.RequestURI(), res.StatusCode)
				}
				return nil
			}
			return replaceBody(res, regexp.MustCompile(`"has_more": ?false`), `"has_more":true`)
		})
		for _, kind := range []entitlement.ObjectKind{entitlement.KindSubscription, entitlement.KindInvoice, entitlement.KindCheckout} {
			pages.Store(0)
			ev, err := api(t, front.URL, entitlement.Sandbox).Pull(t.Context(), kind, states[kind].id)
			if err != nil || ev.Objects[0].Partial {
				t.Errorf("%s: %v, %s", kind, err, show(ev.Objects))
			}
			if n := pages.Load(); n != 1 {
				t.Errorf("%s: %d pages, want 1", kind, n)
			}
		}
	})
	t.Run("a parameter that the description does not know is refused", func(t *testing.T) {
		a := api(t, base, entitlement.Sandbox)
		if _, _, err := a.get(t.Context(), "/v1/charges/ch_1?bogus=1", nil); err == nil {
			t.Error("stripe-mock checks nothing")
		}
	})
}

func replaceBody(res *http.Response, old *regexp.Regexp, with string) error {
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	changed := old.ReplaceAll(body, []byte(with))
	res.Body = io.NopCloser(bytes.NewReader(changed))
	res.ContentLength = int64(len(changed))
	res.Header.Set("Content-Length", strconv.Itoa(len(changed)))
	return nil
}
