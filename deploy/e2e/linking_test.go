package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/latchkey/latchkey/deploy/stripemsg"
	"github.com/latchkey/latchkey/pkg/identity/identitytest"
)

// mailbox is Debian's aiosmtpd, which knows nothing of Latchkey and keeps what it takes in files.
type mailbox struct {
	address string
	dir     string
}

func startMailbox(t *testing.T) *mailbox {
	t.Helper()
	m := &mailbox{address: "127.0.0.1:" + freePort(t), dir: filepath.Join(t.TempDir(), "mail")}
	cmd := exec.Command("aiosmtpd", "--nosetuid", "--listen", m.address, "--class", "aiosmtpd.handlers.Mailbox", m.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start aiosmtpd: %v", err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if err := poll(patience, func() error {
		c, err := net.Dial("tcp", m.address)
		if err == nil {
			c.Close()
		}
		return err
	}); err != nil {
		t.Fatalf("aiosmtpd does not listen: %v", err)
	}
	return m
}

var mailedLink = regexp.MustCompile(`https://app\.example\.com/in\?t=(lkl_[a-z2-7]+)`)

// link returns the token of the link in the one mail that came for an address: the answer to the request that sent it says that the server has it.
func (m *mailbox) link(t *testing.T, address string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(m.dir, "new", "*"))
	if err != nil {
		t.Fatal(err)
	}
	var links []string
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		message, err := mail.ReadMessage(bufio.NewReader(f))
		var text []byte
		if err == nil && message.Header.Get("X-RcptTo") == address {
			text, err = io.ReadAll(quotedprintable.NewReader(message.Body))
		}
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		if found := mailedLink.FindSubmatch(text); found != nil {
			links = append(links, string(found[1]))
		}
	}
	if len(links) != 1 {
		t.Fatalf("%d mails with a link came for one of the addresses, want 1", len(links))
	}
	return links[0]
}

// TestLinking tells the three ways on which what was paid for and the app in which it is to be used find each other (R37, R40, R129): on real processes, with
// simulated stores, somebody else's mail server, and an app that knows one edge.
func TestLinking(t *testing.T) {
	inEachSize(t, func(t *testing.T, size []string) {
		idp, box := identitytest.New(t), startMailbox(t)
		d := startWith(t, t.TempDir(), []string{
			fmt.Sprintf("LATCHKEY_ENVIRONMENTS_SANDBOX_IDENTITY_PROVIDERS=[{issuer: %q, audiences: [app], jwks_url: %q}]", idp.URL, idp.URL),
			"LATCHKEY_MAIL_SMTP_ADDRESS=" + box.address, "LATCHKEY_MAIL_SMTP_FROM=links@example.com", "LATCHKEY_MAIL_SMTP_PLAIN=true", "LATCHKEY_MAIL_LINK_URL=https://app.example.com/in?t={token}",
		}, append(slices.Clone(size), "--storesim")...)
		l := &linking{dev: d, t: t, idp: idp, box: box}
		l.installFirst()
		l.payFirst()
		l.switchAddress()
		l.courseByCode()
	})
}

type linking struct {
	*dev
	t   *testing.T
	idp *identitytest.Provider
	box *mailbox
}

// entered is an answer that gives a session, and other answers as far as these stories look at them.
type entered struct {
	Account   string            `json:"account_id"`
	Session   string            `json:"session_token"`
	Revision  string            `json:"revision"`
	Anonymous bool              `json:"anonymous"`
	Merge     string            `json:"merge_id"`
	Moved     []string          `json:"moved"`
	Intent    string            `json:"intent_id"`
	Metadata  map[string]string `json:"metadata"`
}

func (e entered) user() account { return account{"sandbox", e.Account, e.Session} }

// app sends a request as the app does, to the one edge that it knows.
func (l *linking) app(path, credential string, body any) entered {
	l.t.Helper()
	got := l.tryApp(path, credential, body)
	var e entered
	if err := got.into(&e); err != nil || got.status/100 != 2 {
		l.t.Fatalf("POST %s at an edge: %s, %v", path, got, err)
	}
	return e
}

func (l *linking) tryApp(path, credential string, body any) answer {
	l.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		l.t.Fatal(err)
	}
	header := http.Header{"Authorization": {"Bearer " + credential}, "Content-Type": {"application/json"}, "Idempotency-Key": {stripemsg.ID("key")}}
	got, err := untilTaken(func() (answer, error) {
		return l.do(context.Background(), http.MethodPost, l.info().Edges[0].URL+path, header.Clone(), text)
	})
	if err != nil {
		l.t.Fatalf("POST %s: %v", path, err)
	}
	return got
}

// install is the app's first launch.
func (l *linking) install(device string) entered {
	l.t.Helper()
	return l.app("/v1/sessions", l.info().Environments["sandbox"].PublishableKey, map[string]any{"device_id": device})
}

// backend calls the server API and decodes the answer.
func (l *linking) backend(method, path string, body, into any) {
	l.t.Helper()
	got, err := l.api("sandbox", 1, method, path, body)
	if err == nil {
		err = got.into(into)
	}
	if err != nil || got.status/100 != 2 {
		l.t.Fatalf("%s %s: %s, %v", method, path, got, err)
	}
}

// mailLink has a link sent to an address, and returns what arrives.
func (l *linking) mailLink(target, value, address string) string {
	l.t.Helper()
	var made struct{}
	l.backend(http.MethodPost, "/v1/link-tokens", map[string]any{target: value, "send_to": address}, &made)
	return l.box.link(l.t, address)
}

// shows holds every edge to whether an account has pro, at a revision or newer.
func (l *linking) shows(at string, a account, revision string, want bool) {
	l.t.Helper()
	for edge := range l.info().Edges {
		if v := l.mustAsk(a, edge, revision); v.pro().Active != want {
			l.t.Errorf("%s: edge %d shows %s with %+v, want pro %t", at, edge, v.Account, v.pro(), want)
		}
	}
}

// installFirst: the app is there, its user pays on the web, and later signs in on the phone as who they are there.
func (l *linking) installFirst() {
	phone := l.install("phone-1")
	intent := l.app("/v1/purchase-intents", phone.Session, map[string]any{"provider": "stripe", "product_id": "price_pro_monthly"})
	if intent.Metadata["account_id"] != phone.Account || intent.Metadata["environment"] != "sandbox" {
		l.t.Fatalf("the checkout is to carry %v, want the phone's account and its environment", intent.Metadata)
	}
	confirmed := l.pending(phone, intent.Intent)
	l.simulate("buy", map[string]any{"provider": "stripe", "product": "price_pro_monthly", "account": intent.Metadata["account_id"], "as": "install-first"})
	if v := <-confirmed; v.State != "settled" || !v.pro().Active {
		l.t.Errorf("who waited for the payment is told %s with %+v, want it settled with pro", v.State, v.pro())
	}
	var held entered
	l.backend(http.MethodGet, "/v1/accounts/"+phone.Account, nil, &held)
	l.shows("paid on the web", phone.user(), held.Revision, true)
	l.tagged(phone)

	web := l.account("sandbox")
	in := l.app("/v1/sessions/login", phone.Session, map[string]any{"link_token": l.mailLink("account_id", web.id, "first@example.com")})
	if in.Account != web.id || in.Merge == "" || len(in.Moved) != 1 || in.Anonymous {
		l.t.Errorf("the link led from %s to %+v, want %s and what was bought with it", phone.Account, in, web.id)
	}
	for _, a := range []account{phone.user(), in.user(), web} {
		l.shows("after the link", a, in.Revision, true)
	}
}

// tagged writes to whoever paid, at Stripe, which account they are (R31, R33).
func (l *linking) tagged(of entered) {
	var known struct {
		Learned []struct{ Kind, Value string } `json:"learned_aliases"`
	}
	l.backend(http.MethodGet, "/v1/accounts/"+of.Account, nil, &known)
	if len(known.Learned) != 1 || known.Learned[0].Kind != "stripe_customer" {
		l.t.Fatalf("who paid at Stripe is known as %+v, want Stripe's customer", known.Learned)
	}
	var tag entered
	l.backend(http.MethodPost, "/v1/accounts/"+of.Account+"/tags", map[string]any{"provider": "stripe", "customer": known.Learned[0].Value}, &tag)
	if tag.Metadata["account_id"] != of.Account || tag.Metadata["environment"] != "sandbox" {
		l.t.Errorf("the customer carries %v, want the account and its environment", tag.Metadata)
	}
}

// pending says that the user paid: from the answer on every edge calls the purchase pending, nowhere free. It returns what a request is answered with that is held until
// the payment is confirmed (R74, R83).
func (l *linking) pending(phone entered, intent string) <-chan view {
	l.t.Helper()
	submitted := l.app("/v1/purchase-intents/"+intent+"/submitted", phone.Session, map[string]any{})
	for edge := range l.info().Edges {
		if v := l.askOnce(phone.user(), edge, submitted.Revision); v.State != "pending" {
			l.t.Errorf("paid and not confirmed: edge %d says %s, want pending", edge, v.State)
		}
	}
	confirmed := make(chan view, 1)
	go func() {
		v := view{State: "pending"}
		for v.State == "pending" { // a request is held for 20 s at most
			got, err := l.ask(phone.user(), len(l.info().Edges)-1, "?wait=20&min_revision="+submitted.Revision)
			if err == nil {
				v.State = ""
				err = got.into(&v)
			}
			if err != nil {
				l.t.Errorf("waiting for the payment: %s, %v", got, err)
				break
			}
		}
		confirmed <- v
	}()
	return confirmed
}

// payFirst: paid in a funnel at night, with an e-mail address; next morning the app is installed and signs in by Apple, which hides the address (R36).
func (l *linking) payFirst() {
	const address = "night@example.com"
	l.simulate("buy", map[string]any{"provider": "stripe", "product": "price_pro_monthly", "account": "visitor-4711", "as": "pay-first"})
	var waiting struct {
		Unclaimed []struct {
			Purchase string `json:"purchase_id"`
		}
	}
	l.backend(http.MethodGet, "/v1/unclaimed", nil, &waiting)
	if len(waiting.Unclaimed) != 1 {
		l.t.Fatalf("unclaimed are %+v, want the one of the funnel", waiting.Unclaimed)
	}
	paid := waiting.Unclaimed[0].Purchase
	link := l.mailLink("unclaimed", paid, address)

	phone := l.install("phone-2")
	in := l.app("/v1/sessions/login", phone.Session, map[string]any{"identity_token": l.idp.Token(l.idp.URL, "app", "apple|relay-4711", time.Now())})
	l.shows("signed in by a relay address", in.user(), in.Revision, false)
	claimed := l.app("/v1/sessions/login", in.Session, map[string]any{"link_token": link})
	if claimed.Account != in.Account || !slices.Equal(claimed.Moved, []string{paid}) || claimed.Anonymous {
		l.t.Errorf("the link led to %+v, want %s with %s", claimed, in.Account, paid)
	}
	l.shows("after the link", claimed.user(), claimed.Revision, true)
	if other := l.tryApp("/v1/sessions/login", l.install("phone-3").Session, map[string]any{"link_token": link}); other.status != http.StatusConflict || other.problem() != "link-used" {
		l.t.Errorf("another person with the same link: %s, want link-used", other)
	}
	l.backend(http.MethodGet, "/v1/unclaimed", nil, &waiting)
	if len(waiting.Unclaimed) != 0 {
		l.t.Errorf("unclaimed are %+v, want none", waiting.Unclaimed)
	}
}

// switchAddress: paid with one address, which the user changes; on a new phone they give the new one. Equal addresses are a suggestion and open nothing (R34, R35);
// the link to the address does, and the next renewal is with the same person.
func (l *linking) switchAddress() {
	const old, present = "old@example.com", "new@example.com"
	web := l.account("sandbox")
	l.simulate("buy", map[string]any{"provider": "stripe", "product": "price_pro_monthly", "account": web.id, "as": "switched"})
	var held struct {
		Revision string
		Emails   []struct{ Email, Until string } `json:"email_history"`
	}
	for _, address := range []string{old, present} {
		l.backend(http.MethodPatch, "/v1/accounts/"+web.id, map[string]any{"email": address}, &held)
	}
	phone := l.install("phone-4")
	l.backend(http.MethodPatch, "/v1/accounts/"+phone.Account, map[string]any{"email": strings.ToUpper(present)}, &held)
	suggested := func() (n int) {
		l.t.Helper()
		var list struct {
			Suggestions []struct{ Accounts []string }
		}
		l.backend(http.MethodGet, "/v1/merge-suggestions", nil, &list)
		for _, s := range list.Suggestions {
			if slices.Contains(s.Accounts, web.id) && slices.Contains(s.Accounts, phone.Account) {
				n++
			}
		}
		return n
	}
	if n := suggested(); n != 1 {
		l.t.Errorf("%d suggestions for one address of two accounts, want 1", n)
	}
	l.shows("with the same address", phone.user(), held.Revision, false)
	in := l.app("/v1/sessions/login", phone.Session, map[string]any{"link_token": l.mailLink("account_id", web.id, present)})
	if in.Account != web.id || in.Merge == "" {
		l.t.Errorf("the link led to %+v, want %s and a merge", in, web.id)
	}
	for _, a := range []account{web, phone.user(), in.user()} {
		l.shows("after the link", a, in.Revision, true)
	}
	if n := suggested(); n != 0 {
		l.t.Errorf("%d suggestions are left, want none", n)
	}
	l.simulate("refund", map[string]any{"purchase": "switched"})
	l.backend(http.MethodGet, "/v1/accounts/"+web.id, nil, &held)
	if len(held.Emails) != 2 || held.Emails[0].Email != old || held.Emails[0].Until == "" || held.Emails[1].Email != present {
		l.t.Errorf("the history of addresses is %+v, want %s until it became %s", held.Emails, old, present)
	}
	l.shows("after the refund", phone.user(), held.Revision, false)
}
