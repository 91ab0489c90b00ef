package edge_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/edge"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/replication/replicationtest"
)

// atRevision waits until the edge has everything of the writer.
func (r *rig) atRevision() {
	r.t.Helper()
	want := r.writer.Position()
	until(r.t, "edge at "+want.Revision().String(), func() bool {
		s := r.status()
		return s.Epoch == want.Epoch && s.Revision == want.N
	})
}

// atAsOf waits until the edge's as_of is the clock's time.
func (r *rig) atAsOf() {
	r.t.Helper()
	want := r.clock.Now().UTC().Format(time.RFC3339)
	until(r.t, "as_of "+want, func() bool { return r.status().AsOf == want })
}

func (r *rig) status() edge.Status {
	r.t.Helper()
	var s edge.Status
	_, body := r.get("/status", nil)
	if err := json.Unmarshal(body, &s); err != nil {
		r.t.Fatalf("/status: %s: %v", body, err)
	}
	return s
}

func slug(a answer) string { return strings.TrimPrefix(a.Type, "https://latchkey.dev/problems/") }

// TestWhatACheckIsAnswered is the table of contract section 4: each request on an edge that has data.
func TestWhatACheckIsAnswered(t *testing.T) {
	r := subscribed(t)
	ended := subscriber("acc_01ENDED", 1, r.clock.Now().Unix()+9999)
	ended.SessionsFrom = r.clock.Now().Unix() + 1
	r.writer.PutAccount(entitlement.Sandbox, ended)
	r.writer.PutAccount(entitlement.Sandbox, entitlement.Account{ID: "acc_01EMPTY", CreatedAt: 1})
	out := entitlement.Account{ID: "acc_01OUT"}
	out.SignOut("phone-1", r.clock.Now().Unix(), r.clock.Now().Unix())
	r.writer.PutAccount(entitlement.Sandbox, out)
	merged := entitlement.Account{ID: "acc_01MERGED"} // into alice's
	merged.SignOut("phone-1", r.clock.Now().Unix(), r.clock.Now().Unix())
	r.writer.Put(replication.Record{Env: entitlement.Sandbox, Kind: replication.KindPointer, Key: "acc_01MERGED",
		Value: entitlement.Encode(&entitlement.Pointer{Account: alice, SignedOut: merged.SignedOut})})
	r.writer.Put(replication.Record{Env: entitlement.Sandbox, Kind: replication.KindPointer, Key: "acc_01OVER",
		Value: entitlement.Encode(&entitlement.Pointer{Account: alice, SessionsFrom: ended.SessionsFrom})})
	r.atRevision()
	tablet := func(c *token.SessionClaims) { c.Device = "tablet-1" }
	at := r.writer.Position().Revision()
	newer, older := replication.Revision{Epoch: at.Epoch, N: at.N + 1}, replication.Revision{Epoch: at.Epoch - 1, N: at.N}
	good := r.writer.Session(entitlement.Sandbox, alice)
	session := func(f func(*token.SessionClaims)) string { return r.writer.Session(entitlement.Sandbox, alice, f) }
	tests := []struct {
		name    string
		query   string
		session string
		accept  string
		status  int
		slug    string
	}{
		{"a session is answered", "", good, "", 200, ""},
		{"an account without anything is answered", "", r.writer.Session(entitlement.Sandbox, "acc_01EMPTY"), "", 200, ""},
		{"a revision that is there", "?min_revision=" + at.String(), good, "", 200, ""},
		{"a revision that is not there yet", "?min_revision=" + newer.String() + "&wait=0", good, "", 503, "not-yet"},
		{"a revision of a newer history", "?min_revision=9-1&wait=0", good, "", 503, "not-yet"},
		{"a revision of an older history", "?min_revision=" + older.String(), good, "", 409, "other-history"},
		{"no revision", "?min_revision=latest", good, "", 400, "invalid-request"},
		{"a revision with a sign", "?min_revision=1-%2B5", good, "", 400, "invalid-request"},
		{"a wait of 21 seconds", "?wait=21", good, "", 400, "invalid-request"},
		{"a negative wait", "?wait=-1", good, "", 400, "invalid-request"},
		{"a nonce of 64 characters", "?nonce=" + strings.Repeat("A", 64), good, "", 200, ""},
		{"a nonce of 65 characters", "?nonce=" + strings.Repeat("A", 65), good, "", 400, "invalid-request"},
		{"a nonce with another character", "?nonce=a%22b", good, "", 400, "invalid-request"},
		{"an unknown parameter is ignored", "?colour=blue", good, "", 200, ""},
		{"the token alone", "", good, "application/jwt", 200, ""},
		{"no token", "", "", "", 401, "invalid-credential"},
		{"no JWT", "", "nonsense", "", 401, "invalid-credential"},
		{"a changed signature", "", good[:len(good)-8] + "AAAAAAAA", "", 401, "invalid-credential"},
		{"an expired session", "", session(func(c *token.SessionClaims) { c.IssuedAt -= 9000; c.ExpiresAt = c.IssuedAt + 60 }), "", 401, "invalid-credential"},
		{"another cluster's session", "", session(func(c *token.SessionClaims) { c.Issuer = "elsewhere" }), "", 401, "invalid-credential"},
		{"the audience of production", "", session(func(c *token.SessionClaims) { c.Audience = replicationtest.Audience(entitlement.Production) }), "", 401, "invalid-credential"},
		{"the environment of production under sandbox's key", "", session(func(c *token.SessionClaims) { c.Environment = "production" }), "", 401, "invalid-credential"},
		{"a session that was ended", "", r.writer.Session(entitlement.Sandbox, "acc_01ENDED"), "", 401, "session-ended"},
		{"a device that was signed out", "", r.writer.Session(entitlement.Sandbox, "acc_01OUT"), "", 401, "session-ended"},
		{"another device of the account", "", r.writer.Session(entitlement.Sandbox, "acc_01OUT", tablet), "", 200, ""},
		{"the device, signed in again", "", r.writer.Session(entitlement.Sandbox, "acc_01OUT", func(c *token.SessionClaims) { c.IssuedAt++ }), "", 200, ""},
		{"a device that was signed out of a merged account", "", r.writer.Session(entitlement.Sandbox, "acc_01MERGED"), "", 401, "session-ended"},
		{"a merged account whose sessions were ended", "", r.writer.Session(entitlement.Sandbox, "acc_01OVER"), "", 401, "session-ended"},
		{"that device in the account which survives", "", good, "", 200, ""},
		{"an account that is not there", "", r.writer.Session(entitlement.Sandbox, "acc_01NOBODY"), "", 503, "unknown-account"},
		{"sandbox's account with production's session", "", r.writer.Session(entitlement.Production, alice), "", 503, "unknown-account"},
		{"a session of an older history is covered", "", session(func(c *token.SessionClaims) { c.Revision = older.String() }), "", 200, ""},
		{"a session of a revision to come", "?wait=0", session(func(c *token.SessionClaims) { c.Revision = newer.String() }), "", 503, "not-yet"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			header := map[string]string{"Authorization": "Bearer " + tt.session}
			if tt.session == "" {
				delete(header, "Authorization")
			}
			if tt.accept != "" {
				header["Accept"] = tt.accept
			}
			for range 2 { // the second time from the caches
				resp, body := r.get("/v1/entitlements"+tt.query, header)
				var a answer
				if tt.accept == "" {
					if err := json.Unmarshal(body, &a); err != nil {
						t.Fatalf("body %q: %v", body, err)
					}
				}
				if resp.StatusCode != tt.status || slug(a) != tt.slug {
					t.Fatalf("GET %s = %d %s, want %d %s", tt.query, resp.StatusCode, body, tt.status, tt.slug)
				}
				switch {
				case tt.status == 200 && tt.accept != "":
					if got := resp.Header.Get("Content-Type"); got != tt.accept {
						t.Errorf("Content-Type = %s", got)
					}
					r.verify(string(body), alice, entitlement.Sandbox)
				case tt.status == 200:
					r.verify(a.GraceToken, entitlement.AccountID(a.AccountID), entitlement.Sandbox)
				default:
					if resp.Header.Get("Content-Type") != "application/problem+json" || strings.Contains(string(body), "eyJ") {
						t.Errorf("a problem of type %s: %s", resp.Header.Get("Content-Type"), body)
					}
				}
				if (tt.status == 503) != (resp.Header.Get("Retry-After") != "") || (tt.status == 401) != (resp.Header.Get("WWW-Authenticate") != "") {
					t.Errorf("headers of a %d: %v", tt.status, resp.Header)
				}
			}
		})
	}
}

// TestMinRevisionIsWaitedFor is I11: the answer comes as soon as the revision does, and is never older.
func TestMinRevisionIsWaitedFor(t *testing.T) {
	r := subscribed(t)
	session := r.writer.Session(entitlement.Sandbox, alice)
	at := r.writer.Position().Revision()
	next := replication.Revision{Epoch: at.Epoch, N: at.N + 1}
	type result struct {
		status int
		a      answer
	}
	got := make(chan result, 1)
	go func() {
		status, a, _ := r.check("?wait=20&min_revision="+next.String(), session, nil)
		got <- result{status, a}
	}()
	// One that has given up meanwhile shows that the other is being held.
	if status, a, _ := r.check("?wait=0&min_revision="+next.String(), session, nil); status != 503 || slug(a) != "not-yet" {
		t.Fatalf("without waiting: %d %+v, want not-yet", status, a)
	}
	revoked := entitlement.Account{ID: alice, CreatedAt: 1}
	r.writer.PutAccount(entitlement.Sandbox, revoked)
	res := <-got
	if res.status != 200 || res.a.Revision != next.String() || len(res.a.Entitlements) != 0 {
		t.Errorf("waited check = %d %+v, want revision %s without entitlements", res.status, res.a, next)
	}
	if c := r.verify(res.a.GraceToken, alice, entitlement.Sandbox); c.Allows("pro", r.clock.Now()) || c.Revision != next.String() {
		t.Errorf("the denial's token is %+v", c)
	}
}

// TestNotModified is the table of 304: only for the same view, without a nonce, under an hour, at the revision asked for, and with the client's own tag.
func TestNotModified(t *testing.T) {
	r := subscribed(t)
	session := r.writer.Session(entitlement.Sandbox, alice, func(c *token.SessionClaims) { c.ExpiresAt += 86400 })
	_, _, header := r.check("", session, nil)
	tag := header.Get("ETag")
	if !strings.HasPrefix(tag, `W/"`) {
		t.Fatalf("ETag = %q, want a weak one", tag)
	}
	check := func(name, query, with string, want int) {
		t.Helper()
		status, _, h := r.check(query, session, map[string]string{"If-None-Match": with})
		if status != want {
			t.Errorf("%s: %d, want %d", name, status, want)
		}
		if status == 304 && h.Get("ETag") != tag {
			t.Errorf("%s: 304 with ETag %q, want the client's %q", name, h.Get("ETag"), tag)
		}
		if status == 200 && h.Get("ETag") == "" {
			t.Errorf("%s: 200 without ETag", name)
		}
	}
	at := r.writer.Position().Revision()
	check("the same", "", tag, 304)
	check("one of several", "", `"x", `+tag+`, W/"y"`, 304)
	check("with a nonce", "?nonce=abc", tag, 200)
	check("another tag", "", `W/"0000000000000000-0000000000000000"`, 200)
	check("any", "", "*", 200)
	check("no tag at all", "", "", 200)
	check("garbage", "", `W/"`+strings.Repeat("z", 33)+`"`, 200)
	check("at a revision", "?min_revision="+at.String(), tag, 304)
	check("at a revision that is not there", fmt.Sprintf("?wait=0&min_revision=%d-%d", at.Epoch, at.N+1), tag, 503)

	r.clock.Add(30 * time.Second)
	r.atAsOf()
	check("half a minute later", "", tag, 304)
	other := r.writer.Session(entitlement.Sandbox, "acc_01OTHER")
	r.writer.PutAccount(entitlement.Sandbox, entitlement.Account{ID: "acc_01OTHER"})
	r.atRevision()
	check("another account changed", "", tag, 304)
	if status, _, _ := r.check("", other, map[string]string{"If-None-Match": tag}); status != 200 {
		t.Errorf("the tag of another account: %d, want 200", status)
	}
	r.clock.Add(59*time.Minute + 29*time.Second)
	r.atAsOf()
	check("59:59 later", "", tag, 304)
	r.clock.Add(time.Second)
	r.atAsOf()
	check("an hour later", "", tag, 200)
	_, _, header = r.check("", session, nil)
	tag = header.Get("ETag")
	check("with the new tag", "", tag, 304)
	r.writer.PutCatalog(entitlement.Sandbox, entitlement.Catalog{})
	r.atRevision()
	check("the catalog changed", "", tag, 200)
}

// TestThePassingOfTimeAloneEndsAccess: no change comes, and the same revision with a newer as_of says expired, on a 200.
func TestThePassingOfTimeAloneEndsAccess(t *testing.T) {
	r := newRig(t)
	r.writer.PutCatalog(entitlement.Sandbox, catalog)
	now := r.clock.Now().Unix()
	r.writer.PutAccount(entitlement.Sandbox, subscriber(alice, now, now+100))
	r.start()
	r.ready()
	session := r.writer.Session(entitlement.Sandbox, alice)
	status, before, header := r.check("", session, nil)
	if status != 200 || before.Entitlements[0].Status != "active" {
		t.Fatalf("before the end: %d %+v", status, before)
	}
	r.clock.Add(99 * time.Second)
	r.atAsOf()
	if status, _, _ := r.check("", session, map[string]string{"If-None-Match": header.Get("ETag")}); status != 304 {
		t.Errorf("in the last second: %d, want 304", status)
	}
	r.clock.Add(time.Second)
	r.atAsOf()
	status, after, _ := r.check("", session, map[string]string{"If-None-Match": header.Get("ETag")})
	if status != 200 || after.Entitlements[0].Status != "expired" || after.Entitlements[0].Active || !after.Entitlements[0].OfflineUntil.IsZero() {
		t.Errorf("at the end: %d %+v, want expired", status, after)
	}
	if after.Revision != before.Revision || !after.AsOf.After(before.AsOf) {
		t.Errorf("from %s as of %s to %s as of %s, want the same revision and a newer as_of", before.Revision, before.AsOf, after.Revision, after.AsOf)
	}
}

// TestATokenIsHandedOutAgain only while it is under 5 s behind, to the same device, at a revision that does, and beside its own words.
func TestATokenIsHandedOutAgain(t *testing.T) {
	r := subscribed(t)
	session := r.writer.Session(entitlement.Sandbox, alice)
	get := func(query, session string) answer {
		t.Helper()
		status, a, _ := r.check(query, session, nil)
		if status != 200 {
			t.Fatalf("check %s = %d %+v", query, status, a)
		}
		c := r.verify(a.GraceToken, alice, entitlement.Sandbox)
		if c.Revision != a.Revision || c.AsOf != a.AsOf.Unix() || c.FreshUntil != a.FreshUntil.Unix() || c.Entitlements[0].OfflineUntil != a.Entitlements[0].OfflineUntil.Unix() {
			t.Errorf("check %s: token %+v beside %+v", query, c, a)
		}
		return a
	}
	first := get("", session)
	r.clock.Add(3 * time.Second)
	r.atAsOf()
	for range 3 { // the last of them are answered with the same bytes
		if again := get("", session); again.GraceToken != first.GraceToken || again.Revision != first.Revision || !again.ServerTime.Equal(r.clock.Now()) {
			t.Errorf("3 s later: %+v, want the same token, and the time of now", again)
		}
	}
	r.clock.Add(time.Second)
	r.writer.PutAccount(entitlement.Sandbox, entitlement.Account{ID: "acc_01OTHER"})
	r.atRevision()
	r.atAsOf()
	at := r.writer.Position().Revision()
	if again := get("", session); again.GraceToken != first.GraceToken || again.Revision != first.Revision || !again.ServerTime.Equal(r.clock.Now()) {
		t.Errorf("4 s later: %+v, want the same token, and the time of now", again)
	}
	if fresh := get("?nonce=n", session); fresh.GraceToken == first.GraceToken {
		t.Error("the same token for a nonce")
	}
	if fresh := get("", r.writer.Session(entitlement.Sandbox, alice, func(c *token.SessionClaims) { c.Device = "phone-2" })); fresh.GraceToken == first.GraceToken {
		t.Error("the same token for another device")
	}
	if fresh := get("?min_revision="+at.String(), session); fresh.Revision != at.String() {
		t.Errorf("revision %s, want %s (I11)", fresh.Revision, at)
	}
	r.clock.Add(5 * time.Second)
	r.atAsOf()
	if fresh := get("", session); !fresh.AsOf.Equal(r.clock.Now()) {
		t.Errorf("5 s later: as_of %s, want %s", fresh.AsOf, r.clock.Now())
	}
}

// TestCutOff is I9 and the life of an edge without writers: it answers with an as_of that stands still, marked stale after 60 s, without a token after
// 24 h, also after its own restart; and it is back when a writer is.
func TestCutOff(t *testing.T) {
	r := subscribed(t)
	session := r.writer.Session(entitlement.Sandbox, alice, func(c *token.SessionClaims) { c.ExpiresAt += 40 * 86400 })
	r.writer.SetDown(true)
	asOf := r.clock.Now()
	steps := []struct {
		name         string
		after        time.Duration
		stale, token bool
	}{
		{"at once", 0, false, true},
		{"the last fresh second", 59 * time.Second, false, true},
		{"stale", 60 * time.Second, true, true},
		{"the last second of grace", 24*time.Hour - time.Second, true, true},
		{"no grace any more", 24 * time.Hour, true, false},
		{"much later", 20 * 24 * time.Hour, true, false},
	}
	var elapsed time.Duration
	for _, step := range steps {
		r.clock.Add(step.after - elapsed)
		elapsed = step.after
		for _, restart := range []bool{false, true} {
			if restart {
				r.stop()
				r.start()
			}
			status, a, _ := r.check("?nonce=x", session, nil)
			if status != 200 || a.Stale != step.stale || !a.AsOf.Equal(asOf) || !a.FreshUntil.Equal(asOf.Add(time.Minute)) || (a.GraceToken != "") != step.token {
				t.Errorf("%s (restarted %t): %d %+v", step.name, restart, status, a)
			}
			if a.GraceToken != "" {
				if c := r.verify(a.GraceToken, alice, entitlement.Sandbox); c.ExpiresAt != asOf.Add(24*time.Hour).Unix() {
					t.Errorf("%s: exp = %d, want as_of + 24 h", step.name, c.ExpiresAt)
				}
			} else if len(a.Entitlements) != 1 || !a.Entitlements[0].OfflineUntil.IsZero() {
				t.Errorf("%s: %+v, want what is known without offline_until", step.name, a)
			}
			if resp, _ := r.get("/v1/entitlements", map[string]string{"Authorization": "Bearer " + session, "Accept": "application/jwt"}); (resp.StatusCode == 200) != step.token {
				t.Errorf("%s: application/jwt = %d", step.name, resp.StatusCode)
			}
		}
	}
}

// TestAnEmptyEdge says that it has no data, never that there is no entitlement.
func TestAnEmptyEdge(t *testing.T) {
	r := newRig(t)
	r.writer.SetDown(true)
	r.start()
	status, a, header := r.check("", r.writer.Session(entitlement.Sandbox, alice), nil)
	if status != 503 || slug(a) != "no-data" || header.Get("Retry-After") == "" {
		t.Errorf("check = %d %+v, want no-data", status, a)
	}
	if resp, body := r.get("/readyz", nil); resp.StatusCode != 503 || !strings.Contains(string(body), `"ready":false`) {
		t.Errorf("/readyz = %d %s", resp.StatusCode, body)
	}
	if resp, _ := r.get("/healthz", nil); resp.StatusCode != 200 {
		t.Errorf("/healthz = %d", resp.StatusCode)
	}
	r.writer.PutAccount(entitlement.Sandbox, entitlement.Account{ID: alice})
	r.writer.SetDown(false)
	r.ready()
	if status, a, _ := r.check("", r.writer.Session(entitlement.Sandbox, alice), nil); status != 200 {
		t.Errorf("check once there is data = %d %+v", status, a)
	}
}

// TestADamagedReplicaHeals is I13 at the edge: after a flipped bit no answer is wrong, and a snapshot mends it.
func TestADamagedReplicaHeals(t *testing.T) {
	r := subscribed(t)
	session := r.writer.Session(entitlement.Sandbox, alice)
	files, err := filepath.Glob(filepath.Join(r.dir, "e1", "replica", "*.db"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.Truncate(files[0], 0); err != nil {
		t.Fatal(err)
	}
	// What is remembered is still right; a change of the records is what makes the edge read again.
	now := r.clock.Now().Unix()
	r.writer.PutAccount(entitlement.Sandbox, subscriber(alice, now, now+77))
	until(t, "healed", func() bool {
		status, a, _ := r.check("?wait=0&min_revision="+r.writer.Position().Revision().String(), session, nil)
		switch {
		case status == 200:
			if len(a.Entitlements) != 1 || a.Entitlements[0].ExpiresAt.Unix() != now+77 {
				t.Fatalf("wrong answer: %+v", a)
			}
			return true
		case status != 503:
			t.Fatalf("check = %d %+v", status, a)
		}
		return false
	})
	if got := r.status().Source; got != replication.FromSnapshot && got != replication.FromPull {
		t.Errorf("source = %s", got)
	}
}

// TestEdgesKeepTheirKeys: the private key stays, mode 0600, and the certificate is renewed when less than 48 h are left.
func TestEdgesKeepTheirKeys(t *testing.T) {
	r := subscribed(t)
	session := r.writer.Session(entitlement.Sandbox, alice, func(c *token.SessionClaims) { c.ExpiresAt += 40 * 86400 })
	kid := r.status().Certificates[1].KeyID
	for _, name := range []string{"edge-sandbox.key.pem", "edge-sandbox.certs.json", "edge-production.key.pem"} {
		info, err := os.Stat(filepath.Join(r.dir, "e1", name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v, want mode 0600", name, info, err)
		}
	}
	_, jwks := r.get("/.well-known/jwks.json", nil)
	if !strings.Contains(string(jwks), kid) {
		t.Errorf("JWKS %s without %s", jwks, kid)
	}
	first := r.status().Certificates[1].ExpiresAt
	r.stop()
	r.clock.Add(25 * time.Hour) // less than 48 h of 72 h are left
	r.start()
	until(t, "renewed", func() bool { return r.status().Certificates[1].ExpiresAt != first })
	if got := r.status().Certificates[1].KeyID; got != kid {
		t.Errorf("key id %s, want the same key %s", got, kid)
	}
	r.ready()
	if status, a, _ := r.check("", session, nil); status != 200 || a.GraceToken == "" {
		t.Errorf("check after renewal = %d %+v", status, a)
	}
}

// A machine that slept for two days has certificates that end soon, and timers that know nothing of it: the first head tells.
func TestAfterALongSleepCertificatesAreRenewedAtOnce(t *testing.T) {
	r := subscribed(t)
	session := r.writer.Session(entitlement.Sandbox, alice, func(c *token.SessionClaims) { c.ExpiresAt += 40 * 86400 })
	first := r.status().Certificates[1].ExpiresAt
	r.clock.Add(50 * time.Hour)
	until(t, "renewed", func() bool { return r.status().Certificates[1].ExpiresAt > first })
	until(t, "a signed answer", func() bool {
		status, a, _ := r.check("", session, nil)
		return status == http.StatusOK && a.GraceToken != "" && r.verify(a.GraceToken, alice, entitlement.Sandbox).AsOf == a.AsOf.Unix()
	})
}

// TestTheListenerIsHardened sends raw bytes that no route takes; the edge refuses them and lives on.
func TestTheListenerIsHardened(t *testing.T) {
	r := subscribed(t)
	tests := []struct {
		name, request string
		status        int
	}{
		{"content length and chunks", "GET /v1/entitlements HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		{"chunks", "GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		{"two lengths", "GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n", 400},
		{"a body too large", "POST /v1/entitlements HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n", 413},
		{"a header too large", "GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 9000) + "\r\n\r\n", 400},
		{"no HTTP", "hello\r\n\r\n", 400},
		{"another method", "DELETE /v1/entitlements HTTP/1.1\r\nHost: a\r\n\r\n", 405},
		{"an address that is not there", "GET /v2/entitlements HTTP/1.1\r\nHost: a\r\n\r\n", 404},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", strings.TrimPrefix(r.base, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, tt.request); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != tt.status || resp.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%d %v, want %d", resp.StatusCode, resp.Header, tt.status)
			}
		})
	}
	if resp, _ := r.get("/healthz", nil); resp.StatusCode != 200 {
		t.Errorf("/healthz afterwards = %d", resp.StatusCode)
	}
	if resp, body := r.get("/metrics", nil); resp.StatusCode != 200 || !strings.Contains(string(body), "latchkey_edge_checks_total") {
		t.Errorf("/metrics = %d", resp.StatusCode)
	}
}

// TestRulesOfANewerProgram: the edge stops applying, goes on serving, and says why.
func TestRulesOfANewerProgram(t *testing.T) {
	r := subscribed(t)
	session := r.writer.Session(entitlement.Sandbox, alice)
	before := r.writer.Position().Revision().String()
	r.writer.SetRules(edge.KnownRules + 1)
	r.writer.PutAccount(entitlement.Sandbox, entitlement.Account{ID: alice})
	until(t, "reason in /readyz", func() bool {
		_, body := r.get("/readyz", nil)
		return strings.Contains(string(body), "rules")
	})
	if status, a, _ := r.check("", session, nil); status != 200 || a.Revision != before || len(a.Entitlements) != 1 {
		t.Errorf("check = %d %+v, want the answer of %s", status, a, before)
	}
}

// TestTheWallClockIsNotBelieved: with a head from a writer, the edge's own clock is only good for measuring.
func TestTheWallClockIsNotBelieved(t *testing.T) {
	r := newRig(t)
	r.writer.PutAccount(entitlement.Sandbox, entitlement.Account{ID: alice})
	behind := r.clock.Now().Add(-48 * time.Hour)
	wrong := &clock{now: behind}
	r.startWith(func(c *edge.Config) { c.Now = wrong.Now })
	r.ready()
	status, a, _ := r.check("", r.writer.Session(entitlement.Sandbox, alice), nil)
	if status != 200 || !a.ServerTime.Equal(r.clock.Now()) || a.Stale {
		t.Errorf("check = %d %+v, want the writer's time %s", status, a, r.clock.Now())
	}
}

// TestConfigMistakes: all of them at once, with their fields.
func TestConfigMistakes(t *testing.T) {
	_, err := edge.Open(edge.Config{
		Node:         edge.NodeConfig{ID: "E 1", Listen: "nowhere"},
		Writers:      edge.WritersConfig{URLs: []string{"http://10.0.0.1:8421", "ftp://127.0.0.1", "http://127.0.0.1:8421/path"}},
		NATS:         edge.NATSConfig{Enabled: true},
		ManageURLs:   entitlement.ManageURLs{"paypal": "https://x.example", entitlement.Stripe: "http://x.example"},
		Environments: map[entitlement.Environment]edge.EnvironmentConfig{"staging": {Audience: "a"}, entitlement.Sandbox: {Audience: "b"}, entitlement.Production: {Audience: "b"}},
	})
	if err == nil {
		t.Fatal("Open accepted it")
	}
	for _, field := range []string{"node.id", "node.data_dir", "node.cluster", "node.listen", "writers.urls[0]", "writers.urls[1]", "writers.urls[2]", "nats.urls",
		"trust.root_public_keys", "manage_urls.paypal", "manage_urls.stripe", "environments.staging", "environments.sandbox.audience"} {
		if !strings.Contains(err.Error(), field+":") {
			t.Errorf("no word about %s in:\n%v", field, err)
		}
	}
}
