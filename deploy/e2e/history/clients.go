package history

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/latchkey/latchkey/replication"
)

// Target is where a running system is reached. Its functions are called for each request, so that what they return may change.
type Target struct {
	ServerKey string            // of one environment
	Writers   func() []string   // URLs
	Edges     func() []EdgeNode // may be empty
	Transport http.RoundTripper // that clients ask through; nil: one of their own
}

// EdgeNode is one edge of a Target.
type EdgeNode struct {
	ID, URL string
	Life    int // changes with each start of its process
}

// How clients behave.
const (
	// writerTimeout is how long a client waits for a writer: less than a writer tries for, so that outcomes stay unknown to it.
	writerTimeout = 3 * time.Second
	// edgeTimeout is longer than an edge is asked to wait.
	edgeTimeout = 10 * time.Second
	// opsPerAccount is when an account is left and another begun: the search for an order costs more with each operation.
	opsPerAccount = 250
	// accountsAtOnce is among how many accounts the clients choose: few, so that they meet.
	accountsAtOnce = 4
	// pause is what a client waits between two requests at most, so that many clients do not just fill the queues.
	pause = 30 * time.Millisecond
)

// Clients drives a system and records what happens. Make one with NewClients.
type Clients struct {
	Operations Recorder
	Answers    Sessions

	target Target
	http   *http.Client
	random *rand.Rand // of the seed; guarded by mu

	mu       sync.Mutex
	accounts []*subject
	names    int      // entitlements given out so far
	strange  []string // answers that no fault explains

	sessions atomic.Int64
}

// subject is an account that clients choose.
type subject struct {
	id, token string
	ops       int
	grants    []granted // known to be there
	revision  replication.Revision
}

type granted struct{ id, name string }

// NewClients returns clients that make the same choices for the same seed.
func NewClients(target Target, seed uint64) *Clients {
	if target.Transport == nil {
		target.Transport = &http.Transport{MaxIdleConnsPerHost: 64}
	}
	return &Clients{target: target, random: rand.New(rand.NewPCG(seed, seed)), http: &http.Client{Transport: target.Transport}}
}

// Run lets writing and reading clients work until ctx ends.
func (c *Clients) Run(ctx context.Context, writing, reading int) {
	var all sync.WaitGroup
	for range writing {
		all.Go(func() { c.repeat(ctx, c.operate) })
	}
	for range reading {
		session := fmt.Sprintf("session %d", c.sessions.Add(1))
		app := &app{name: session}
		all.Go(func() { c.repeat(ctx, func() { c.check(app) }) })
	}
	all.Wait()
	c.http.CloseIdleConnections()
}

func (c *Clients) repeat(ctx context.Context, one func()) {
	for ctx.Err() == nil {
		one()
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(c.lot(int(pause)))):
		}
	}
}

// Strange returns answers that neither the contract nor any fault explains.
func (c *Clients) Strange() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.strange
}

func (c *Clients) wonder(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.strange = append(c.strange, fmt.Sprintf(format, args...))
}

// lot draws a number below n.
func (c *Clients) lot(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.random.IntN(n)
}

// choose returns an account to work on, nil when none could be made.
func (c *Clients) choose() *subject {
	at := c.lot(accountsAtOnce)
	c.mu.Lock()
	if at < len(c.accounts) && c.accounts[at].ops < opsPerAccount {
		s := c.accounts[at]
		s.ops++
		c.mu.Unlock()
		return s
	}
	c.mu.Unlock()
	s, err := c.open()
	if err != nil {
		return nil // no writer answers at present
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if at < len(c.accounts) {
		c.accounts[at] = s
	} else {
		c.accounts = append(c.accounts, s)
	}
	return s
}

// open makes an account with a session. A copy that a lost answer leaves behind is nobody's.
func (c *Clients) open() (*subject, error) {
	var made struct {
		ID string `json:"account_id"`
	}
	if _, err := c.api(http.MethodPost, "/v1/accounts", `{"aliases":[],"attributes":{}}`, &made); err != nil {
		return nil, err
	}
	var session struct {
		Token string `json:"session_token"`
	}
	if _, err := c.api(http.MethodPost, "/v1/accounts/"+made.ID+"/sessions", `{"device_id":"phone","ttl_seconds":86400}`, &session); err != nil {
		return nil, err
	}
	return &subject{id: made.ID, token: session.Token}, nil
}

// operate does one operation of the server API.
func (c *Clients) operate() {
	s := c.choose()
	if s == nil {
		return
	}
	switch lot := c.lot(100); {
	case lot < 30:
		c.grant(s)
	case lot < 45:
		c.revoke(s)
	case lot < 60:
		c.link(s)
	case lot < 70:
		c.lookup()
	default:
		c.read(s)
	}
}

// written is the answer to any write.
type written struct {
	Grant    string `json:"grant_id"`
	Revision string `json:"revision"`
	Owner    string `json:"owner"` // of an alias, in a refusal
}

func (c *Clients) grant(s *subject) {
	c.mu.Lock()
	c.names++
	name := fmt.Sprintf("e%d", c.names)
	c.mu.Unlock()
	var done written
	p := c.Operations.Begin(Call{Grant, s.id, name})
	status, err := c.api(http.MethodPost, "/v1/accounts/"+s.id+"/grants", fmt.Sprintf(`{"entitlement":%q,"expires_at":null,"reason":"history"}`, name), &done)
	if c.acknowledged(p, s, name, status, err, http.StatusCreated) {
		c.wrote(s, Write{Account: s.id, Name: name, Acked: time.Now()}, done.Revision)
		p.Done(Answer{})
		c.mu.Lock()
		defer c.mu.Unlock()
		s.grants = append(s.grants, granted{done.Grant, name})
	}
}

func (c *Clients) revoke(s *subject) {
	lot := c.lot(1 << 20)
	c.mu.Lock()
	if len(s.grants) == 0 {
		c.mu.Unlock()
		return
	}
	at := lot % len(s.grants)
	g := s.grants[at]
	s.grants = append(s.grants[:at:at], s.grants[at+1:]...)
	c.mu.Unlock()
	var done written
	p := c.Operations.Begin(Call{Revoke, s.id, g.name})
	status, err := c.api(http.MethodDelete, "/v1/accounts/"+s.id+"/grants/"+g.id, "", &done)
	if c.acknowledged(p, s, g.name, status, err, http.StatusOK) {
		c.wrote(s, Write{Account: s.id, Name: g.name, Removed: true, Acked: time.Now()}, done.Revision)
		p.Done(Answer{})
	}
}

func (c *Clients) link(s *subject) {
	// Aliases of which several clients think at the same time, and each only for a while.
	c.mu.Lock()
	alias := fmt.Sprintf("x%d", c.names/4)
	c.mu.Unlock()
	var done written
	p := c.Operations.Begin(Call{Link, s.id, alias})
	status, err := c.api(http.MethodPost, "/v1/accounts/"+s.id+"/aliases", fmt.Sprintf(`{"kind":"custom","value":%q}`, alias), &done)
	switch {
	case status == http.StatusConflict:
		p.Done(Answer{Refused: true, Owner: done.Owner})
	case c.acknowledged(p, s, "", status, err, http.StatusOK):
		p.Done(Answer{})
	}
}

// acknowledged reports whether a write has taken effect. Otherwise it notes that it has not, or that nobody knows.
func (c *Clients) acknowledged(p *Pending, s *subject, name string, status int, err error, want int) bool {
	switch {
	case err == nil && status == want:
		return true
	case errors.Is(err, syscall.ECONNREFUSED):
		p.Forget() // never sent
		return false
	case err == nil && status != http.StatusServiceUnavailable:
		c.wonder("a write to %s was answered with %d", s.id, status)
	}
	p.Done(Answer{Unknown: true})
	if name != "" {
		c.Answers.Unknown(s.id, name)
	}
	return false
}

func (c *Clients) wrote(s *subject, w Write, revision string) {
	var err error
	if w.Revision, err = replication.ParseRevision(revision); err != nil {
		c.wonder("a write was answered with the revision %q", revision)
		return
	}
	c.Answers.Wrote(w)
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.revision.Compare(w.Revision) < 0 {
		s.revision = w.Revision
	}
}

func (c *Clients) read(s *subject) {
	var shown struct {
		Aliases []struct{ Kind, Value string }
		Grants  []struct{ Entitlement string }
	}
	p := c.Operations.Begin(Call{Op: Read, Account: s.id})
	status, err := c.api(http.MethodGet, "/v1/accounts/"+s.id, "", &shown)
	if err != nil || status != http.StatusOK {
		p.Forget()
		c.unexplained("a read of "+s.id, status, err)
		return
	}
	var answer Answer
	for _, a := range shown.Aliases {
		answer.Aliases = append(answer.Aliases, a.Value)
	}
	for _, g := range shown.Grants {
		answer.Grants = append(answer.Grants, g.Entitlement)
	}
	p.Done(answer)
}

func (c *Clients) lookup() {
	c.mu.Lock()
	alias := fmt.Sprintf("x%d", max(0, c.names/4-c.random.IntN(2)))
	c.mu.Unlock()
	var shown struct {
		ID string `json:"account_id"`
	}
	p := c.Operations.Begin(Call{Op: Lookup, Name: alias})
	status, err := c.api(http.MethodGet, "/v1/accounts/custom:"+alias, "", &shown)
	switch {
	case err == nil && status == http.StatusOK:
		p.Done(Answer{Owner: shown.ID})
	case err == nil && status == http.StatusNotFound:
		p.Done(Answer{})
	default:
		p.Forget()
		c.unexplained("a lookup", status, err)
	}
}

func (c *Clients) unexplained(what string, status int, err error) {
	if err == nil && status != http.StatusServiceUnavailable {
		c.wonder("%s was answered with %d", what, status)
	}
}

// app is a phone: it hops from edge to edge and asks for what it has seen.
type app struct {
	name  string
	of    *subject
	floor replication.Revision
}

// check asks an edge as an app does. One request in four asks for nothing in particular.
func (c *Clients) check(a *app) {
	edges := c.target.Edges()
	if len(edges) == 0 {
		return
	}
	edge := edges[c.lot(len(edges))]
	if a.of == nil || c.lot(50) == 0 {
		// Another customer's phone.
		if a.of = c.choose(); a.of == nil {
			return
		}
		a.floor = replication.Revision{}
		a.name = fmt.Sprintf("session %d", c.sessions.Add(1))
	}
	c.mu.Lock()
	if a.of.revision.Compare(a.floor) > 0 {
		a.floor = a.of.revision
	}
	c.mu.Unlock()
	path := "/v1/entitlements?wait=2"
	check := Check{Session: a.name, Edge: edge.ID, Life: edge.Life, Account: a.of.id}
	if c.lot(4) > 0 && a.floor != (replication.Revision{}) {
		check.Min = a.floor
		path += "&min_revision=" + a.floor.String()
	}
	var shown struct {
		Revision     string
		AsOf         time.Time `json:"as_of"`
		Entitlements []struct {
			ID     string
			Active bool
		}
	}
	check.Asked = time.Now()
	status, err := c.send(http.MethodGet, edge.URL+path, a.of.token, "", edgeTimeout, &shown)
	check.Answered = time.Now()
	if err != nil || status != http.StatusOK {
		switch status {
		case 0, http.StatusServiceUnavailable, http.StatusConflict: // no answer, no data, not yet
		default:
			c.wonder("a check of %s at %s was answered with %d", a.of.id, edge.ID, status)
		}
		return
	}
	if check.Revision, err = replication.ParseRevision(shown.Revision); err != nil {
		c.wonder("a check was answered at revision %q", shown.Revision)
		return
	}
	check.AsOf = shown.AsOf
	for _, e := range shown.Entitlements {
		if e.Active {
			check.Active = append(check.Active, e.ID)
		}
	}
	c.Answers.Checked(check)
	if a.floor.Compare(check.Revision) < 0 {
		a.floor = check.Revision
	}
}

// api calls the server API of any writer.
func (c *Clients) api(method, path, body string, into any) (int, error) {
	writers := c.target.Writers()
	return c.send(method, writers[c.lot(len(writers))]+path, c.target.ServerKey, body, writerTimeout, into)
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 1 << 20

// send does one request. Status 0 means that none came back; err then says why. A refusal's body is decoded too.
func (c *Clients) send(method, url, credential, body string, within time.Duration, into any) (status int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+credential)
	req.Header.Set("Content-Type", "application/json")
	res, err := c.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return 0, err
	}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(into); err != nil && res.StatusCode < http.StatusBadRequest {
		return 0, fmt.Errorf("%s %s: %w", method, url, err)
	}
	return res.StatusCode, nil
}
