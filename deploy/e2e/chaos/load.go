package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/latchkey/latchkey/deploy/stripemsg"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
)

// How the load is made. It is closed: each worker waits for its answer, sends the same message again until it is acknowledged, as a
// provider does, and pauses. So the machine is busy with the nodes, and a worker knows what is true of its accounts.
const (
	workers           = 10
	accountsOfWorker  = 8
	workerPause       = 60 * time.Millisecond
	tryWithin         = 12 * time.Second // a node holds a message for at most 8 s
	betweenTries      = 100 * time.Millisecond
	takenWithin       = 30 * time.Second        // how long a writer may be unable to answer while no fault is under way
	againIn           = 6                       // one message in so many is sent again after it was acknowledged
	grantIn           = 12                      // one step in so many is a grant instead
	purchasesAtMost   = 12                      // of an account: its record stays far below the limit
	secondBetween     = 1100 * time.Millisecond // between messages about one account: Stripe's times are whole seconds
	environment       = "sandbox"
	watcherPause      = 15 * time.Millisecond
	tokensVerifiedOne = 4 // one answer in so many is verified offline too
)

// load is the clients of a run.
type load struct {
	cluster  *Cluster
	recorder *recorder
	client   *http.Client
	key      string // server key
	path     string // of the webhook
	secret   string // of the webhook
	expect   token.Expect
	urls     []string     // of the writers, through the relay
	off      atomic.Int64 // by how much all clocks are off: messages are signed by that time
	clocks   atomic.Bool  // a clock is or was wrong: a message may be refused as stale
	lastAck  atomic.Int64 // when, in Unix nanoseconds, something was acknowledged last that was sent after this was asked for

	accounts []*customer
	stopping context.CancelFunc
	working  sync.WaitGroup
}

// customer is one account with what was bought for it.
type customer struct {
	id, session string
	subs        []*stripemsg.Subscription
	refunded    bool // the newest subscription is
	last        time.Time
}

func newLoad(c *Cluster, r *recorder) (*load, error) {
	info := c.info()
	env := info.Environments[environment]
	l := &load{cluster: c, recorder: r, key: env.ServerKey, path: env.Webhooks["stripe"].Path, secret: env.Webhooks["stripe"].Secret,
		client: &http.Client{Timeout: tryWithin, Transport: &http.Transport{DialContext: dialAsClient, MaxIdleConnsPerHost: 64, IdleConnTimeout: 5 * time.Second}}}
	var pems [][]byte
	for _, path := range info.Roots {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		pems = append(pems, pem)
	}
	roots, err := token.ParseRoots(pems...)
	if err != nil {
		return nil, err
	}
	l.expect = token.Expect{Roots: roots, Audience: env.Audience, Environment: environment}
	for _, id := range c.ids("w") {
		l.urls = append(l.urls, c.url(id))
	}
	return l, nil
}

// dialAsClient dials from an address by which the relay knows clients, where the system has it.
func dialAsClient(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(clientHost)}}
	conn, err := dialer.DialContext(ctx, network, address)
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		dialer.LocalAddr = nil
		conn, err = dialer.DialContext(ctx, network, address)
	}
	return conn, err
}

// now is the time as the cluster has it.
func (l *load) now() time.Time { return time.Now().Add(time.Duration(l.off.Load())) }

// start makes the accounts and lets workers and watchers go until stop.
func (l *load) start(ctx context.Context, seed uint64) error {
	ctx, l.stopping = context.WithCancel(ctx)
	for range workers * accountsOfWorker {
		c, err := l.newCustomer(ctx)
		if err != nil {
			return err
		}
		l.accounts = append(l.accounts, c)
	}
	for w := range workers {
		lot := rand.New(rand.NewPCG(seed, uint64(w)))
		l.working.Go(func() { l.work(ctx, lot, l.accounts[w*accountsOfWorker:(w+1)*accountsOfWorker]) })
	}
	for i, id := range l.cluster.ids("e") {
		lot := rand.New(rand.NewPCG(seed, uint64(1000+i)))
		l.working.Go(func() { l.watch(ctx, lot, id) })
	}
	return nil
}

// stop ends the load. What was not acknowledged by then nobody was told of.
func (l *load) stop() {
	if l.stopping != nil {
		l.stopping()
	}
	l.working.Wait()
	l.client.CloseIdleConnections()
}

func (l *load) newCustomer(ctx context.Context) (*customer, error) {
	var made struct {
		ID string `json:"account_id"`
	}
	if err := l.sure(ctx, l.urls[0], http.MethodPost, "/v1/accounts", `{"aliases":[],"attributes":{}}`, &made); err != nil {
		return nil, fmt.Errorf("make an account: %w", err)
	}
	var session struct {
		Token string `json:"session_token"`
	}
	if err := l.sure(ctx, l.urls[0], http.MethodPost, "/v1/accounts/"+made.ID+"/sessions", `{"device_id":"phone","ttl_seconds":86400}`, &session); err != nil {
		return nil, fmt.Errorf("make a session: %w", err)
	}
	return &customer{id: made.ID, session: session.Token}, nil
}

// errRefused is an answer other than 2xx.
type errRefused struct {
	status int
	body   string
}

func (e errRefused) Error() string { return fmt.Sprintf("%d %.300s", e.status, e.body) }

// api calls the server API.
func (l *load) api(ctx context.Context, base, method, path, body string, header http.Header, into any) error {
	h := http.Header{"Authorization": {"Bearer " + l.key}, "Content-Type": {"application/json"}}
	for k, v := range header {
		h[k] = v
	}
	return l.do(ctx, method, base+path, h, []byte(body), into)
}

// sure is api for when no fault is under way: a writer that cannot answer now, because another one is being elected, is asked again.
func (l *load) sure(ctx context.Context, base, method, path, body string, into any) (err error) {
	await(ctx, takenWithin, func() bool {
		err = l.api(ctx, base, method, path, body, nil, into)
		var refused errRefused
		return err == nil || errors.As(err, &refused) && refused.status != http.StatusServiceUnavailable
	})
	return err
}

func (l *load) do(ctx context.Context, method, url string, header http.Header, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = header
	res, err := l.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode/100 != 2 {
		return errRefused{res.StatusCode, string(text)}
	}
	return json.Unmarshal(text, into)
}

// work is one worker's day.
func (l *load) work(ctx context.Context, lot *rand.Rand, mine []*customer) {
	for ctx.Err() == nil {
		c := mine[lot.IntN(len(mine))]
		if time.Since(c.last) >= secondBetween {
			c.last = time.Now()
			if lot.IntN(grantIn) == 0 {
				l.grant(ctx, lot, c)
			} else {
				l.step(ctx, lot, c)
			}
		}
		if pause(ctx, workerPause) != nil {
			return
		}
	}
}

// step sends the next message about a customer.
func (l *load) step(ctx context.Context, lot *rand.Rand, c *customer) {
	now := l.now()
	if len(c.subs) == 0 || c.refunded && len(c.subs) < purchasesAtMost {
		shape := stripemsg.Classic
		if lot.IntN(2) == 0 {
			shape = stripemsg.Basil
		}
		sub := stripemsg.NewSubscription(shape, c.id, now)
		if l.send(ctx, lot, c, sub.Updated("created", now), true) {
			c.subs, c.refunded = append(c.subs, sub), false
		}
		return
	}
	sub := c.subs[len(c.subs)-1]
	switch {
	case c.refunded: // it stays so
	case lot.IntN(5) == 0 && len(c.subs) < purchasesAtMost:
		for _, m := range sub.Bought(now)[1:] {
			if !l.send(ctx, lot, c, m, true) {
				return
			}
		}
		if l.send(ctx, lot, c, sub.ChargeRefunded(now, sub.Cents), false) {
			c.refunded = true
		}
	default:
		sub.CancelAtPeriodEnd = !sub.CancelAtPeriodEnd
		l.send(ctx, lot, c, sub.Updated("updated", now), true)
	}
}

// send sends one message until it is acknowledged, and sometimes once more. It is false when the load ends before.
func (l *load) send(ctx context.Context, lot *rand.Rand, c *customer, message stripemsg.Object, active bool) bool {
	var at int
	sent := time.Now()
	l.recorder.with(func(h *History) {
		at = len(h.Steps[c.id])
		h.Steps[c.id] = append(h.Steps[c.id], Step{Sent: sent, Active: active})
	})
	ack, ok := l.deliver(ctx, lot, c, message)
	if !ok {
		return false
	}
	l.recorder.with(func(h *History) {
		step := &h.Steps[c.id][at]
		step.Answered, step.Revision = ack.Answered, ack.Revision
	})
	if lot.IntN(againIn) == 0 {
		l.deliver(ctx, lot, c, message)
	}
	return true
}

// deliver posts a message to one writer after the other until one acknowledges it.
func (l *load) deliver(ctx context.Context, lot *rand.Rand, c *customer, message stripemsg.Object) (Ack, bool) {
	body := stripemsg.Encode(message)
	for ctx.Err() == nil {
		w := lot.IntN(len(l.urls))
		header := http.Header{"Content-Type": {"application/json"}, "Stripe-Signature": {stripemsg.Sign(l.secret, body, l.now())}}
		var got struct {
			EventID   string `json:"event_id"`
			Revision  string `json:"revision"`
			Duplicate bool   `json:"duplicate"`
		}
		sent := time.Now()
		err := l.do(ctx, http.MethodPost, l.urls[w]+l.path, header, body, &got)
		if err == nil {
			a := Ack{ID: got.EventID, Account: c.id, Duplicate: got.Duplicate, Sent: sent, Answered: time.Now(), Writer: fmt.Sprintf("w%d", w+1)}
			if a.Revision, err = replication.ParseRevision(got.Revision); err == nil && got.EventID == message["id"] {
				l.acked(a)
				return a, true
			}
			l.strange(fmt.Sprintf("%s acknowledged %v as %+v", a.Writer, message["id"], got))
			return a, false
		}
		l.judge(fmt.Sprintf("w%d", w+1), err)
		if pause(ctx, betweenTries) != nil {
			return Ack{}, false
		}
	}
	return Ack{}, false
}

// grant gives something by the API, with a request that is repeated until it is answered, and once more.
func (l *load) grant(ctx context.Context, lot *rand.Rand, c *customer) {
	key := stripemsg.ID("idem")
	body := `{"entitlement":"beta","duration_days":30,"reason":"chaos"}`
	for sends := 0; ctx.Err() == nil && sends < 2; {
		w := lot.IntN(len(l.urls))
		var got struct {
			GrantID  string `json:"grant_id"`
			Revision string `json:"revision"`
		}
		sent := time.Now()
		err := l.api(ctx, l.urls[w], http.MethodPost, "/v1/accounts/"+c.id+"/grants", body, http.Header{"Idempotency-Key": {key}}, &got)
		if err == nil {
			a := Ack{ID: key, Grant: got.GrantID, Account: c.id, Sent: sent, Answered: time.Now(), Writer: fmt.Sprintf("w%d", w+1), Duplicate: sends > 0}
			if a.Revision, err = replication.ParseRevision(got.Revision); err != nil {
				l.strange(fmt.Sprintf("%s granted with the revision %q", a.Writer, got.Revision))
				return
			}
			l.acked(a)
			sends++
			continue
		}
		l.judge(fmt.Sprintf("w%d", w+1), err)
		if pause(ctx, betweenTries) != nil {
			return
		}
	}
}

func (l *load) acked(a Ack) {
	l.recorder.with(func(h *History) { h.Acks = append(h.Acks, a) })
	for {
		last := l.lastAck.Load()
		if a.Sent.UnixNano() <= last || l.lastAck.CompareAndSwap(last, a.Sent.UnixNano()) {
			return
		}
	}
}

// ackedSince reports whether something that was sent after t was acknowledged.
func (l *load) ackedSince(t time.Time) bool { return l.lastAck.Load() > t.UnixNano() }

func (l *load) strange(what string) {
	const most = 1000 // the first ones say what is wrong
	l.recorder.with(func(h *History) {
		if len(h.Strange) < most {
			h.Strange = append(h.Strange, what)
		}
	})
}

// judge notes a refusal that no fault explains. A node may be gone, or say that it cannot now.
func (l *load) judge(node string, err error) {
	var refused errRefused
	switch {
	case !errors.As(err, &refused), refused.status == http.StatusServiceUnavailable, refused.status == http.StatusTooManyRequests:
	case l.clocks.Load() && strings.Contains(refused.body, "stale-signature"): // the node's own clock is wrong
	default:
		l.strange(node + " answered " + refused.Error())
	}
}

// watch asks an edge for accounts by lot, all the time.
func (l *load) watch(ctx context.Context, lot *rand.Rand, edge string) {
	url := l.cluster.url(edge) + "/v1/entitlements"
	for n := 0; ctx.Err() == nil; n++ {
		c := l.accounts[lot.IntN(len(l.accounts))]
		sent := time.Now()
		var got struct {
			Revision     string    `json:"revision"`
			AsOf         time.Time `json:"as_of"`
			Token        string    `json:"grace_token"`
			Entitlements []struct {
				ID     string `json:"id"`
				Active bool   `json:"active"`
			} `json:"entitlements"`
		}
		err := l.do(ctx, http.MethodGet, url, http.Header{"Authorization": {"Bearer " + c.session}}, nil, &got)
		if err != nil {
			if ctx.Err() == nil {
				l.judge(edge, err)
			}
		} else {
			a := Answer{Sent: sent, At: time.Now(), Node: edge, Account: c.id, AsOf: got.AsOf}
			if a.Revision, err = replication.ParseRevision(got.Revision); err != nil {
				l.strange(fmt.Sprintf("%s answered with the revision %q", edge, got.Revision))
			}
			for _, e := range got.Entitlements {
				a.Active = a.Active || e.ID == "pro" && e.Active
			}
			a.Allowed = a.Active
			// An edge that has a snapshot and no head yet does not know how old it is: it answers and signs nothing.
			if unsigned := got.Token == "" && got.AsOf.Unix() <= 0; n%tokensVerifiedOne == 0 && !unsigned {
				a.Allowed = l.verify(edge, c, got.Token, got.AsOf)
			}
			l.recorder.with(func(h *History) { h.Answers = append(h.Answers, a) })
		}
		if pause(ctx, watcherPause) != nil {
			return
		}
	}
}

// verify does what an app does with the token, and says whether it allows.
func (l *load) verify(edge string, c *customer, tok string, asOf time.Time) bool {
	expect := l.expect
	expect.Subject, expect.At = c.id, asOf.Add(time.Second)
	claims, err := token.Verify(tok, expect)
	if err != nil {
		l.strange(fmt.Sprintf("%s gave %s a token that does not verify, as of %s: %v", edge, c.id, asOf.Format(clockFormat), err))
		return false
	}
	if lives := claims.ExpiresAt - claims.AsOf; lives > token.GraceSeconds {
		l.strange(fmt.Sprintf("%s gave %s a token that lives %d s from its as_of", edge, c.id, lives))
	}
	return claims.Allows("pro", asOf.Add(time.Second))
}

// lookEverywhere asks every writer for everything that was acknowledged.
func (l *load) lookEverywhere(ctx context.Context) {
	var acks []Ack
	l.recorder.with(func(h *History) { acks = slices.Clone(h.Acks) })
	slices.SortFunc(acks, func(a, b Ack) int { return strings.Compare(a.ID, b.ID) })
	acks = slices.CompactFunc(acks, func(a, b Ack) bool { return a.ID == b.ID })
	const lookers = 8
	for w, url := range l.urls {
		node := fmt.Sprintf("w%d", w+1)
		grants, err := l.grantsOf(ctx, url)
		if err != nil {
			l.strange(fmt.Sprintf("%s does not show its accounts at the end: %v", node, err))
			continue
		}
		var all sync.WaitGroup
		for part := range lookers {
			all.Go(func() {
				for i := part; i < len(acks) && ctx.Err() == nil; i += lookers {
					p := Presence{Node: node, ID: acks[i].ID, Here: true}
					if acks[i].Grant != "" {
						if p.Here = grants[acks[i].Grant]; !p.Here {
							p.Said = "the account does not show " + acks[i].Grant
						}
					} else if err := l.event(ctx, url, acks[i].ID); err != nil {
						p.Here, p.Said = false, err.Error()
					}
					l.recorder.with(func(h *History) { h.Found = append(h.Found, p) })
				}
			})
		}
		all.Wait()
	}
}

// event returns whether the writer has the event. A writer that cannot answer now is asked again: that is another invariant's matter.
func (l *load) event(ctx context.Context, url, id string) error {
	return l.sure(ctx, url, http.MethodGet, "/v1/events/"+id, "", &struct{}{})
}

// grantsOf reads all accounts at a writer: which grants they show. It notes the events in their history, as the first writer shows them.
func (l *load) grantsOf(ctx context.Context, url string) (map[string]bool, error) {
	shown := map[string]bool{}
	for _, c := range l.accounts {
		var account json.RawMessage
		if err := l.sure(ctx, url, http.MethodGet, "/v1/accounts/"+c.id, "", &account); err != nil {
			return nil, fmt.Errorf("account %s: %w", c.id, err)
		}
		for _, word := range strings.FieldsFunc(string(account), func(r rune) bool { return r == '"' }) {
			if strings.HasPrefix(word, "grant_") {
				shown[word] = true
			}
		}
		if url != l.urls[0] {
			continue
		}
		ids, err := l.history(ctx, url, c.id)
		if err != nil {
			return nil, err
		}
		l.recorder.with(func(h *History) { h.Listed[c.id] = ids })
	}
	return shown, nil
}

// history lists the ids of an account's events, page by page.
func (l *load) history(ctx context.Context, url, account string) (ids []string, err error) {
	for cursor := ""; ; {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/accounts/"+account+"/events?limit=1000&cursor="+cursor, nil)
		if err != nil {
			return nil, err
		}
		req.Header = http.Header{"Authorization": {"Bearer " + l.key}, "Accept": {"application/x-ndjson"}}
		var page []string
		await(ctx, takenWithin, func() bool {
			var res *http.Response
			if res, err = l.client.Do(req); err == nil {
				page, err = eventIDs(res)
				cursor = res.Header.Get("Latchkey-Next")
			}
			return err == nil
		})
		if err != nil {
			return nil, fmt.Errorf("events of %s: %w", account, err)
		}
		if ids = append(ids, page...); cursor == "" {
			return ids, nil
		}
	}
}

func eventIDs(res *http.Response) (ids []string, err error) {
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, errRefused{status: res.StatusCode}
	}
	for dec := json.NewDecoder(res.Body); ; {
		var e struct {
			ID string `json:"event_id"`
		}
		switch err := dec.Decode(&e); {
		case errors.Is(err, io.EOF):
			return ids, nil
		case err != nil:
			return nil, err
		}
		ids = append(ids, e.ID)
	}
}
