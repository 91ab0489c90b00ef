package system

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/latchkey/latchkey/deploy/stripemsg"
	"github.com/latchkey/latchkey/pkg/token"
)

// Demo plays the main job once on a system of its own and stops it: somebody pays on the web, the app may go on and may do so offline,
// the money is given back, and the denial is signed as well. It prints each step with its time. Its error names the step that did
// not hold.
func Demo(ctx context.Context, config Config) error {
	if config.Edges == 0 {
		return fmt.Errorf("%w: --demo asks an edge, and --edges is 0", ErrUsage)
	}
	began := time.Now()
	s, err := Start(ctx, config)
	if err != nil {
		return err
	}
	d := demo{system: s, info: s.Info(), client: &http.Client{Timeout: 30 * time.Second}, env: "sandbox"}
	s.say("%8s  %d writer(s) and %d edge(s) are ready", elapsed(began), config.Writers, config.Edges)
	err = d.play(ctx)
	if stopErr := s.Stop(); stopErr != nil {
		err = errors.Join(err, fmt.Errorf("stop: %w", stopErr))
	}
	if err != nil {
		return err
	}
	s.say("%8s  every step held", elapsed(began))
	return nil
}

func elapsed(since time.Time) string {
	return fmt.Sprintf("%.1f ms", float64(time.Since(since).Microseconds())/1000)
}

// demo is what the steps hand on to one another.
type demo struct {
	system *System
	info   Info
	client *http.Client
	env    string

	account  string
	session  string
	paid     *stripemsg.Subscription
	revision string // at which the newest message's effects are visible
	bought   answer // from the first edge, after the purchase
}

// answer is what an app reads of an edge's answer.
type answer struct {
	Revision     string `json:"revision"`
	Entitlements []struct {
		ID     string `json:"id"`
		Active bool   `json:"active"`
		Status string `json:"status"`
		Reason string `json:"reason"`
	} `json:"entitlements"`
	Token string `json:"grace_token"`
}

// pro says how the answer shows the entitlement of the example app.
func (a answer) pro() (active bool, status, reason string) {
	for _, e := range a.Entitlements {
		if e.ID == "pro" {
			return e.Active, e.Status, e.Reason
		}
	}
	return false, "none", ""
}

func (d *demo) play(ctx context.Context) error {
	steps := []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"an account and the app's session", d.signUp},
		{"Stripe: the subscription is paid", d.pay},
		{"the edge answers", d.ask},
		{"offline, every process frozen", d.verifyOffline},
		{"Stripe: the money is given back", d.giveBack},
		{"the edge answers", d.askAgain},
	}
	for i, step := range steps {
		began := time.Now()
		seen, err := step.do(ctx)
		if err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, step.name, err)
		}
		d.system.say("%8s  %d %s: %s", elapsed(began), i+1, step.name, seen)
	}
	return nil
}

func (d *demo) signUp(ctx context.Context) (string, error) {
	var account struct {
		ID string `json:"account_id"`
	}
	if err := d.post(ctx, "/v1/accounts", `{"aliases":[],"attributes":{}}`, http.StatusCreated, &account); err != nil {
		return "", err
	}
	var session struct {
		Token string `json:"session_token"`
	}
	body := `{"device_id":"demo","ttl_seconds":3600}`
	if err := d.post(ctx, "/v1/accounts/"+account.ID+"/sessions", body, http.StatusCreated, &session); err != nil {
		return "", err
	}
	d.account, d.session = account.ID, session.Token
	return d.account, nil
}

func (d *demo) pay(ctx context.Context) (string, error) {
	now := time.Now()
	d.paid = stripemsg.NewSubscription(stripemsg.Classic, d.account, now)
	if _, err := d.webhook(ctx, d.paid.Updated("created", now)); err != nil {
		return "", err
	}
	return d.webhook(ctx, d.paid.InvoicePaid(now))
}

func (d *demo) ask(ctx context.Context) (string, error) {
	var err error
	if d.bought, err = d.askEdges(ctx, d.revision); err != nil {
		return "", err
	}
	active, status, reason := d.bought.pro()
	if !active {
		return "", fmt.Errorf("pro is %s, want it active", status)
	}
	return fmt.Sprintf("pro is %s (%s) at revision %s", status, reason, d.bought.Revision), nil
}

// verifyOffline freezes all processes, so that nothing but the token and the pinned root can answer.
func (d *demo) verifyOffline(context.Context) (string, error) {
	if err := d.system.signal(syscall.SIGSTOP); err != nil {
		return "", err
	}
	defer d.system.signal(syscall.SIGCONT)
	claims, err := d.verify(d.bought.Token)
	if err != nil {
		return "", err
	}
	if !claims.Allows("pro", time.Now()) {
		return "", errors.New("the token does not allow pro")
	}
	if lives := claims.ExpiresAt - claims.AsOf; lives != token.GraceSeconds {
		return "", fmt.Errorf("the token lives %d s from its as_of, want %d", lives, token.GraceSeconds)
	}
	return "signed up to the pinned root, pro is allowed until " + time.Unix(claims.ExpiresAt, 0).UTC().Format(time.RFC3339), nil
}

func (d *demo) giveBack(ctx context.Context) (string, error) {
	return d.webhook(ctx, d.paid.ChargeRefunded(time.Now(), d.paid.Cents))
}

func (d *demo) askAgain(ctx context.Context) (string, error) {
	denial, err := d.askEdges(ctx, d.revision)
	if err != nil {
		return "", err
	}
	active, status, reason := denial.pro()
	if active || reason != "refunded" {
		return "", fmt.Errorf("pro is %s (%s), want it refunded", status, reason)
	}
	if denial.Revision == d.bought.Revision {
		return "", fmt.Errorf("the denial has revision %s, want a newer one", denial.Revision)
	}
	claims, err := d.verify(denial.Token)
	if err != nil {
		return "", err
	}
	if claims.Allows("pro", time.Now()) {
		return "", errors.New("the token still allows pro")
	}
	return fmt.Sprintf("pro is %s, signed, at revision %s", status, denial.Revision), nil
}

// verify is what an SDK does with a token, from the pinned roots alone.
func (d *demo) verify(tok string) (*token.GraceClaims, error) {
	var pems [][]byte
	for _, path := range d.info.Roots {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("pinned root: %w", err)
		}
		pems = append(pems, pem)
	}
	roots, err := token.ParseRoots(pems...)
	if err != nil {
		return nil, fmt.Errorf("pinned root: %w", err)
	}
	return token.Verify(tok, token.Expect{
		Roots: roots, Audience: d.info.Environments[d.env].Audience, Environment: d.env, Subject: d.account, At: time.Now(),
	})
}

// askEdges asks every edge for its answer at revision or newer, and returns the first one's.
func (d *demo) askEdges(ctx context.Context, revision string) (answer, error) {
	var first answer
	for i, edge := range d.info.Edges {
		var a answer
		header := http.Header{"Authorization": {"Bearer " + d.session}}
		if err := d.do(ctx, http.MethodGet, edge.URL+"/v1/entitlements?wait=20&min_revision="+revision, nil, header, http.StatusOK, &a); err != nil {
			return first, fmt.Errorf("%s: %w", edge.ID, err)
		}
		if i == 0 {
			first = a
		}
	}
	return first, nil
}

func (d *demo) post(ctx context.Context, path, body string, want int, into any) error {
	header := http.Header{"Authorization": {"Bearer " + d.info.Environments[d.env].ServerKey}}
	return d.do(ctx, http.MethodPost, d.info.Writers[0].URL+path, []byte(body), header, want, into)
}

// webhook sends an event as Stripe does, and keeps the revision at which its effects are visible.
func (d *demo) webhook(ctx context.Context, message stripemsg.Object) (string, error) {
	body := stripemsg.Encode(message)
	hook := d.info.Environments[d.env].Webhooks["stripe"]
	header := http.Header{"Stripe-Signature": {stripemsg.Sign(hook.Secret, body, time.Now())}}
	var done struct {
		EventID  string `json:"event_id"`
		Revision string `json:"revision"`
	}
	if err := d.do(ctx, http.MethodPost, d.info.Writers[0].URL+hook.Path, body, header, http.StatusOK, &done); err != nil {
		return "", err
	}
	d.revision = done.Revision
	return fmt.Sprintf("%s is durable, revision %s", done.EventID, done.Revision), nil
}

func (d *demo) do(ctx context.Context, method, url string, body []byte, header http.Header, want int, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = header
	req.Header.Set("Content-Type", "application/json")
	res, err := d.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	path := strings.SplitN(url, "?", 2)[0]
	if res.StatusCode != want {
		return fmt.Errorf("%s %s: %d %.500s, want %d", method, path, res.StatusCode, text, want)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

// signal sends sig to every node.
func (s *System) signal(sig syscall.Signal) error {
	for _, c := range s.children {
		if pid := int(c.pid.Load()); pid != 0 {
			if err := syscall.Kill(pid, sig); err != nil {
				return fmt.Errorf("signal %s: %w", c.id, err)
			}
		}
	}
	return nil
}
