package edge_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/edge"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
)

// event is one event or comment of a stream.
type event struct {
	id, name string
	comment  bool
	answer
}

// reader is a client's side of a stream.
type reader struct {
	r      *rig
	status int
	header http.Header
	events chan event
	over   chan error // nil: the server has ended it in order
	close  func()
}

// stream opens a stream and reads it until it ends.
func (r *rig) stream(query, session string, header map[string]string) *reader {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base+"/v1/entitlements/stream"+query, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+session)
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatalf("GET stream%s: %v", query, err)
	}
	s := &reader{r: r, status: resp.StatusCode, header: resp.Header, events: make(chan event, 256), over: make(chan error, 1), close: cancel}
	go func() {
		defer resp.Body.Close()
		s.over <- s.read(resp.Body)
		close(s.events)
	}()
	return s
}

func (s *reader) read(body io.Reader) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	var e event
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case lines.Text() == ":":
			e.comment = true
		case field == "id":
			e.id = value
		case field == "event":
			e.name = value
		case field == "data":
			if err := json.Unmarshal([]byte(value), &e.answer); err != nil {
				return fmt.Errorf("data %q: %w", value, err)
			}
		case lines.Text() == "" && (e.comment || e.name != ""):
			s.events <- e
			e = event{}
		}
	}
	return lines.Err()
}

// next awaits the next answer.
func (s *reader) next() event {
	s.r.t.Helper()
	deadline := time.NewTimer(15 * time.Second)
	defer deadline.Stop()
	for {
		select {
		case e, ok := <-s.events:
			if !ok {
				s.r.t.Fatal("the stream has ended")
			}
			if e.comment {
				continue
			}
			if e.name != "entitlements" || e.id == "" {
				s.r.t.Fatalf("event %q with id %q", e.name, e.id)
			}
			return e
		case <-deadline.C:
			s.r.t.Fatal("no event within 15 s")
		}
	}
}

// end awaits the end of the stream, and returns why the client thinks that it came.
func (s *reader) end() error {
	s.r.t.Helper()
	select {
	case err := <-s.over:
		return err
	case <-time.After(15 * time.Second):
		s.r.t.Fatal("the stream has not ended within 15 s")
		return nil
	}
}

func statusOf(e event) string {
	if len(e.Entitlements) == 0 {
		return ""
	}
	return e.Entitlements[0].Status
}

// TestAStreamTellsWhatAChangeMakes: the answer of now at once, then one for each change that shows, by a writer, by the catalog, by time alone; each signed
// like the answer to a check, and none for what does not concern the account.
func TestAStreamTellsWhatAChangeMakes(t *testing.T) {
	t.Parallel()
	r := subscribed(t)
	session := r.writer.Session(entitlement.Sandbox, alice, func(c *token.SessionClaims) { c.ExpiresAt += 86400 })
	s := r.stream("", session, nil)
	if s.status != 200 || s.header.Get("Content-Type") != "text/event-stream" || s.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("stream = %d %v", s.status, s.header)
	}
	now := r.clock.Now().Unix()
	other := func() {
		r.writer.PutAccount(entitlement.Sandbox, entitlement.Account{ID: "acc_01OTHER", CreatedAt: now})
	}
	var last event
	steps := []struct {
		name   string
		do     func()
		status string
		newer  bool // the revision grows
	}{
		{"at once", func() {}, "active", false},
		{"a refund", func() {
			other()
			a := subscriber(alice, now, now+30*86400)
			a.Purchases[0].Items[0].State, a.Purchases[0].Items[0].Reason = entitlement.Revoked, entitlement.ReasonRefunded
			r.writer.PutAccount(entitlement.Sandbox, a)
		}, "refunded", true},
		{"a new payment, ending soon", func() { r.writer.PutAccount(entitlement.Sandbox, subscriber(alice, now, now+100)) }, "active", true},
		{"the catalog", func() { other(); r.writer.PutCatalog(entitlement.Sandbox, entitlement.Catalog{}) }, "", true},
		{"the catalog again", func() { r.writer.PutCatalog(entitlement.Sandbox, catalog) }, "active", true},
		{"another environment's catalog, and the end of the term", func() {
			r.writer.PutCatalog(entitlement.Production, catalog)
			r.atRevision()
			r.clock.Add(100 * time.Second)
		}, "expired", true},
		{"nothing but the end of a term", func() {
			r.writer.PutAccount(entitlement.Sandbox, subscriber(alice, now, now+200))
			if e := s.next(); statusOf(e) != "active" {
				t.Fatalf("a later end: %+v", e)
			}
			r.clock.Add(100 * time.Second)
		}, "expired", true},
	}
	for _, step := range steps {
		step.do()
		e := s.next()
		c := r.verify(e.GraceToken, alice, entitlement.Sandbox)
		if statusOf(e) != step.status || e.AccountID != string(alice) || c.Revision != e.Revision || c.AsOf != e.AsOf.Unix() || c.Allows("pro", r.clock.Now()) != (step.status == "active") {
			t.Fatalf("%s: %+v with %+v, want status %q", step.name, e, c, step.status)
		}
		if newer := e.Revision != last.Revision; step.newer && last.id != "" && (!newer || e.id == last.id) {
			t.Errorf("%s: revision %s and id %s after %s and %s", step.name, e.Revision, e.id, last.Revision, last.id)
		}
		last = e
	}
}

// TestStreamsOfAnAccountShareASignature: what is signed for one device is handed to all of its streams.
func TestStreamsOfAnAccountShareASignature(t *testing.T) {
	t.Parallel()
	r := subscribed(t)
	device := func(name string) string {
		return r.writer.Session(entitlement.Sandbox, alice, func(c *token.SessionClaims) { c.Device = name })
	}
	var readers []*reader
	for range 10 {
		readers = append(readers, r.stream("", device("phone"), nil), r.stream("", device("tablet"), nil))
	}
	for _, s := range readers {
		s.next()
	}
	until(t, "all open", func() bool { return r.metric("latchkey_edge_streams") == "20" })
	signed := func() string { return r.metric(`latchkey_edge_checks_total{outcome="signed"}`) }
	var before int
	if _, err := fmt.Sscan(signed(), &before); err != nil {
		t.Fatal(err)
	}
	now := r.clock.Now().Unix()
	r.writer.PutAccount(entitlement.Sandbox, subscriber(alice, now, now+9))
	tokens := map[string]int{}
	for _, s := range readers {
		tokens[s.next().GraceToken]++
	}
	if got, want := signed(), fmt.Sprint(before+2); got != want || len(tokens) != 2 {
		t.Errorf("%s signatures after %d, want %s; %d tokens for 2 devices", got, before, want, len(tokens))
	}
}

// TestAStreamNeverGoesBack is I11: what a client has seen, wherever, is the least that it gets.
func TestAStreamNeverGoesBack(t *testing.T) {
	t.Parallel()
	r := subscribed(t)
	session := r.writer.Session(entitlement.Sandbox, alice)
	at := r.writer.Position().Revision()
	asOf := r.clock.Now().Unix()
	tests := []struct {
		name, id string
		waits    bool
	}{
		{"the same", fmt.Sprintf("%s.%d", at, asOf), false},
		{"older", fmt.Sprintf("%d-%d.%d", at.Epoch, at.N-1, asOf+99), false},
		{"of an older history", fmt.Sprintf("%d-%d.%d", at.Epoch-1, at.N+5, asOf), false},
		{"not ours", "42", false},
		{"a newer revision", fmt.Sprintf("%d-%d.%d", at.Epoch, at.N+1, asOf), true},
		{"a newer as_of", fmt.Sprintf("%s.%d", at, asOf+2), true},
	}
	var waiting []*reader
	for _, tt := range tests {
		s := r.stream("", session, map[string]string{"Last-Event-ID": tt.id})
		if tt.waits {
			waiting = append(waiting, s)
		} else if e := s.next(); e.Revision != at.String() {
			t.Errorf("%s: %+v, want revision %s", tt.name, e, at)
		}
	}
	// The change first: it is told when the clock moves, and this clock moves once.
	r.writer.PutAccount(entitlement.Sandbox, entitlement.Account{ID: "acc_01OTHER"})
	r.atRevision()
	r.clock.Add(2 * time.Second)
	next := replication.Revision{Epoch: at.Epoch, N: at.N + 1}
	for i, s := range waiting {
		e := s.next()
		if e.Revision != next.String() && !(i == 1 && e.AsOf.Unix() >= asOf+2) {
			t.Errorf("a client that had seen more got %s as of %s first", e.Revision, e.AsOf)
		}
	}
	for _, tt := range []struct {
		name, query, session string
		status               int
	}{
		{"a revision that does not come", fmt.Sprintf("?wait=0&min_revision=%d-%d", at.Epoch, at.N+9), session, 503},
		{"one of an older history", "?min_revision=0-7", session, 409},
		{"one that is there", "?min_revision=" + at.String(), session, 200},
		{"a nonce", "?nonce=abc", session, 400},
		{"no session", "", "nonsense", 401},
		{"an account that is not there", "", r.writer.Session(entitlement.Sandbox, "acc_01NOBODY"), 503},
	} {
		if s := r.stream(tt.query, tt.session, nil); s.status != tt.status {
			t.Errorf("%s: %d, want %d", tt.name, s.status, tt.status)
		}
	}
}

// TestHowAStreamEnds: in order, after its time, with its session, and when the edge stops; and what it took is given back.
func TestHowAStreamEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.writer.PutCatalog(entitlement.Sandbox, catalog)
	r.writer.PutAccount(entitlement.Sandbox, entitlement.Account{ID: alice})
	open := func(beat, life time.Duration) {
		t.Helper()
		r.startWith(func(*edge.Config) {})
		r.edge.HurryStreams(beat, life, time.Second)
		r.ready()
	}
	ended := func(reason string) {
		t.Helper()
		until(t, "ended: "+reason, func() bool {
			return r.metric("latchkey_edge_streams") == "0" && r.metric(`latchkey_edge_streams_ended_total{reason="`+reason+`"}`) != "0"
		})
	}
	session := r.writer.Session(entitlement.Sandbox, alice)
	open(10*time.Millisecond, 2*time.Second)
	s := r.stream("", session, nil)
	comments := 0
	for e := range s.events {
		if e.comment {
			comments++
		}
	}
	if err := s.end(); err != nil || comments < 3 {
		t.Errorf("at its age: %v after %d comments, want an orderly end", err, comments)
	}
	ended("age")
	r.stop()

	open(time.Hour, time.Hour)
	s = r.stream("", session, nil)
	s.next()
	r.writer.PutAccount(entitlement.Sandbox, entitlement.Account{ID: alice, SessionsFrom: r.clock.Now().Unix() + 1})
	if err := s.end(); err != nil {
		t.Errorf("with its sessions ended: %v, want an orderly end", err)
	}
	ended("session")
	if s := r.stream("", session, nil); s.status != 401 {
		t.Errorf("coming back: %d, want 401", s.status)
	}
	r.clock.Add(time.Second)
	s = r.stream("", r.writer.Session(entitlement.Sandbox, alice, func(c *token.SessionClaims) { c.ExpiresAt = c.IssuedAt + 60 }), nil)
	s.next()
	r.clock.Add(time.Minute)
	if err := s.end(); err != nil {
		t.Errorf("with its session expired: %v, want an orderly end", err)
	}

	s = r.stream("", r.writer.Session(entitlement.Sandbox, alice), nil)
	s.next()
	r.stop()
	if err := s.end(); err != nil {
		t.Errorf("with the edge: %v, want an orderly end", err)
	}

	open(10*time.Millisecond, time.Hour)
	s = r.stream("", r.writer.Session(entitlement.Sandbox, alice), nil)
	s.next()
	s.close()
	ended("gone")
}

// TestAReaderThatDoesNotRead holds up nobody, costs one answer, and is cut off.
func TestAReaderThatDoesNotRead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.writer.PutCatalog(entitlement.Sandbox, catalog)
	long := subscriber(alice, 1, 0)
	for n := range 300 { // an answer of more than the kernel keeps for a reader
		p := long.Purchases[0]
		p.ID = entitlement.PurchaseID(fmt.Sprintf("stripe:sub_%03d", n))
		long.Purchases = append(long.Purchases, p)
	}
	r.writer.PutAccount(entitlement.Sandbox, long)
	r.startWith(func(*edge.Config) {})
	r.edge.HurryStreams(time.Hour, time.Hour, 3*time.Second) // which the reader that reads needs on a busy machine
	r.ready()
	session := r.writer.Session(entitlement.Sandbox, alice)
	addr, err := net.ResolveTCPAddr("tcp", strings.TrimPrefix(r.base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	idle, err := net.DialTCP("tcp", nil, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	if err := idle.SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(idle, "GET /v1/entitlements/stream HTTP/1.1\r\nHost: edge\r\nAuthorization: Bearer %s\r\n\r\n", session); err != nil {
		t.Fatal(err)
	}
	s := r.stream("", session, nil)
	s.next()
	for n := range int64(40) {
		long.CreatedAt++
		long.Grants = []entitlement.Grant{{ID: "g", Entitlement: "x", EndsAt: r.clock.Now().Unix() + 1000 + n}}
		r.writer.PutAccount(entitlement.Sandbox, long)
		if e := s.next(); e.Revision != r.writer.Position().Revision().String() {
			t.Fatalf("change %d came as revision %s beside a reader that does not read", n, e.Revision)
		}
	}
	until(t, "cut off, and the other one is open", func() bool {
		return r.metric(`latchkey_edge_streams_ended_total{reason="slow"}`) == "1" && r.metric("latchkey_edge_streams") == "1"
	})
}

// TestAStreamOverHTTP10: without chunks, as a proxy of old reads it.
func TestAStreamOverHTTP10(t *testing.T) {
	t.Parallel()
	r := subscribed(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET /v1/entitlements/stream HTTP/1.0\r\nAuthorization: Bearer %s\r\n\r\n", r.writer.Session(entitlement.Sandbox, alice)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != 200 || len(resp.TransferEncoding) != 0 {
		t.Fatalf("%+v, %v, want a response without chunks", resp, err)
	}
	s := &reader{r: r, events: make(chan event, 8), over: make(chan error, 1)}
	go func() { s.over <- s.read(resp.Body) }() // until the connection is closed
	if e := s.next(); statusOf(e) != "active" {
		t.Errorf("event %+v", e)
	}
}

// TestAStreamFollowsAMergedAccount: the record of the account that survives answers for the other one, and its changes are told there too.
func TestAStreamFollowsAMergedAccount(t *testing.T) {
	t.Parallel()
	r := subscribed(t)
	const bob entitlement.AccountID = "acc_01BOB"
	now := r.clock.Now().Unix()
	r.writer.PutAccount(entitlement.Sandbox, entitlement.Account{ID: bob})
	r.atRevision()
	s := r.stream("", r.writer.Session(entitlement.Sandbox, bob), nil)
	if e := s.next(); statusOf(e) != "" {
		t.Fatalf("before the merge: %+v", e)
	}
	r.writer.Put(replication.Record{Env: entitlement.Sandbox, Kind: replication.KindAccount, Key: string(bob)},
		replication.Record{Env: entitlement.Sandbox, Kind: replication.KindPointer, Key: string(bob), Value: entitlement.Encode(&entitlement.Pointer{Account: alice})})
	if e := s.next(); statusOf(e) != "active" || e.AccountID != string(bob) {
		t.Errorf("after the merge: %+v", e)
	}
	ended := subscriber(alice, now, now+86400)
	ended.Purchases[0].Items[0].State, ended.Purchases[0].Items[0].Reason = entitlement.Revoked, entitlement.ReasonRefunded
	r.writer.PutAccount(entitlement.Sandbox, ended)
	if e := s.next(); statusOf(e) != "refunded" {
		t.Errorf("after a refund of what the other had: %+v", e)
	}
}
