package writer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// edgeOf returns what an edge has: a client of the internal listener and a verifier with the pinned roots.
func edgeOf(t *testing.T, w *testWriter) (*replication.Client, *replication.Verifier) {
	t.Helper()
	var texts [][]byte
	for _, path := range w.cfg.Trust.RootPublicKeys {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, text)
	}
	roots, err := token.ParseRoots(texts...)
	if err != nil {
		t.Fatal(err)
	}
	return replication.NewClient("http://"+w.InternalAddr().String(), "e-test", nil), replication.NewVerifier(roots, testCluster)
}

func (w *testWriter) internal(method, path, body string, h header) reply {
	w.t.Helper()
	r, err := send(method, "http://"+w.InternalAddr().String()+path, body, h)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	return r
}

// TestPull follows the writer as an edge does: snapshot, changes, head, each signed, and their hashes come out equal.
func TestPull(t *testing.T) {
	w := oneWriter(t)
	client, verifier := edgeOf(t, w)
	w.account()
	file, err := os.Create(filepath.Join(t.TempDir(), "snapshot"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	manifest, err := client.Snapshot(t.Context(), file, func(signed string) (replication.Manifest, error) { return verifier.Manifest(signed, 0) })
	if err != nil {
		t.Fatal(err)
	}
	records := map[string][]byte{}
	var sum replication.Hash
	err = replication.ReadSnapshot(file, func(r replication.Record) error {
		r.Value = bytes.Clone(r.Value)
		records[string(r.DBKey())] = r.Value
		sum = sum.Add(r.Hash())
		return nil
	})
	if err != nil || sum != manifest.StateHash {
		t.Fatalf("snapshot: state hash %s, manifest %s, %v", sum, manifest.StateHash, err)
	}
	acc := w.account()
	w.stripe(event(unique("evt_"), "customer.subscription.created", subscription("sub_1", acc, "price_pro")))
	batch, err := client.Changes(t.Context(), manifest.Revision(), 100, 0)
	if err != nil || len(batch.Changes) != 2 {
		t.Fatalf("Changes gave %d, %v, want 2", len(batch.Changes), err)
	}
	position, err := verifier.Position(batch.Signed, 0)
	if err != nil {
		t.Fatal(err)
	}
	chain := manifest.Chain
	for _, b := range batch.Changes {
		c, _, err := replication.ParseChange(b)
		if err != nil {
			t.Fatal(err)
		}
		if old, ok := records[string(c.DBKey())]; ok {
			was := c.Record
			was.Value = old
			sum = sum.Sub(was.Hash())
		}
		records[string(c.DBKey())] = c.Value
		sum = sum.Add(c.Record.Hash())
		chain = replication.NextChain(chain, b)
	}
	if chain != position.Chain || sum != position.StateHash || position.N != manifest.N+2 {
		t.Errorf("the changes lead to chain %s and hash %s, signed are %s and %s at %d", chain, sum, position.Chain, position.StateHash, position.N)
	}
	await(t, "a head that covers the changes", func() bool {
		signed, err := client.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		head, err := verifier.Head(signed, 0)
		if err != nil {
			t.Fatal(err)
		}
		return head.Position == position
	})
}

// TestLongPoll shows that a request for changes waits for the first one, ends with the wait, and that all who wait for the same
// get the same bytes.
func TestLongPoll(t *testing.T) {
	w := oneWriter(t)
	client, _ := edgeOf(t, w)
	at := w.store.Position().Revision()
	frames := make([]replication.Batch, 20)
	var group sync.WaitGroup
	for i := range frames {
		group.Go(func() {
			var err error
			if frames[i], err = client.Changes(context.Background(), at, 100, 20*time.Second); err != nil {
				t.Error(err)
			}
		})
	}
	await(t, "20 requests that wait", func() bool { return len(w.polls) == len(frames) })
	w.account()
	group.Wait()
	for i, f := range frames {
		if len(f.Changes) != 1 || f.Signed != frames[0].Signed {
			t.Errorf("answer %d has %d changes; signature as in the first: %t", i, len(f.Changes), f.Signed == frames[0].Signed)
		}
	}
	now := w.store.Position().Revision()
	empty, err := client.Changes(t.Context(), now, 100, time.Second)
	if err != nil || len(empty.Changes) != 0 || empty.Signed == "" {
		t.Errorf("after a wait without changes: %d changes, signed %t, %v", len(empty.Changes), empty.Signed != "", err)
	}
}

// TestInternalRefusals shows what the internal listener refuses, and how.
func TestInternalRefusals(t *testing.T) {
	w := oneWriter(t)
	w.account()
	command := string(store.NewCommand(store.TypeRevokeAPIKey, entitlement.Sandbox, "c", store.RevokeAPIKey{Name: "server"}).Encode())
	key, err := token.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := token.PublicJWK(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	certificate := func(node, env, audience string) string {
		return `{"node": "` + node + `", "environment": "` + env + `", "audience": "` + audience + `", "jwk": {"kty": "EC", "crv": "P-256", "x": "` + jwk.X + `", "y": "` + jwk.Y + `"}}`
	}
	tests := []struct {
		name   string
		method string
		path   string
		body   string
		header header
		status int
		slug   string
	}{
		{"changes of another epoch", "GET", "/internal/v1/changes?epoch=7&after=0", "", nil, 409, "other-history"},
		{"changes after what is not there", "GET", "/internal/v1/changes?epoch=1&after=999999&wait=0", "", nil, 409, "other-history"},
		{"changes after nothing", "GET", "/internal/v1/changes?epoch=1", "", nil, 400, "invalid-request"},
		{"a command without the cluster's name", "POST", "/internal/v1/propose", command, nil, 403, "forbidden"},
		{"a command for another cluster", "POST", "/internal/v1/propose", command, header{clusterHeader: "other"}, 403, "forbidden"},
		{"what is no command", "POST", "/internal/v1/propose", "x", header{clusterHeader: testCluster}, 400, "invalid-request"},
		{"a read index without the cluster's name", "GET", "/internal/v1/read-index", "", nil, 403, "forbidden"},
		{"a segment without the cluster's name", "GET", "/internal/v1/segments/" + strings.Repeat("0", 64), "", nil, 403, "forbidden"},
		{"a segment that is none", "GET", "/internal/v1/segments/" + strings.Repeat("0", 64), "", header{clusterHeader: testCluster}, 404, "not-found"},
		{"a certificate for an edge", "POST", "/internal/v1/edge-certificates", certificate("e1", "sandbox", "com.example.app/sandbox"), nil, 200, ""},
		{"a certificate for the other audience", "POST", "/internal/v1/edge-certificates", certificate("e1", "sandbox", "com.example.app"), nil, 403, "forbidden"},
		{"a certificate for no environment", "POST", "/internal/v1/edge-certificates", certificate("e1", "staging", "com.example.app"), nil, 404, "unknown-environment"},
		{"a certificate for a name with a slash", "POST", "/internal/v1/edge-certificates", certificate("e1/w1", "sandbox", "com.example.app/sandbox"), nil, 400, "invalid-request"},
		{"a certificate for no key", "POST", "/internal/v1/edge-certificates", strings.Replace(certificate("e1", "sandbox", "com.example.app/sandbox"), jwk.X, jwk.Y, 1), nil, 400, "invalid-request"},
		{"webhooks are not taken here", "POST", "/v1/webhooks/sandbox/stripe", "", nil, 404, "not-found"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if r := w.internal(tt.method, tt.path, tt.body, tt.header); r.status != tt.status || r.slug() != tt.slug {
				t.Errorf("%s %s = %d %s, want %d %s", tt.method, tt.path, r.status, r.text, tt.status, tt.slug)
			}
		})
	}
	t.Run("a browser's page that took our address", func(t *testing.T) {
		req, err := http.NewRequest("GET", "http://"+w.InternalAddr().String()+"/internal/v1/head", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "evil.example.com"
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusForbidden {
			t.Errorf("Host: evil.example.com = %d, want 403", res.StatusCode)
		}
	})
	if r := w.api("GET", "/v1/catalog", ""); r.status != http.StatusOK {
		t.Errorf("the key that the refused commands would have revoked = %d %s", r.status, r.text)
	}
	if r := w.get("/status"); !strings.Contains(r.text, `"edges":[{"id":"e1"`) {
		t.Errorf("/status does not show the edge that was certified: %s", r.text)
	}
}

// TestSnapshotRanges shows that a download goes on where it stopped, that an unchanged snapshot is not built again, and that its
// tag is the SHA-256 of the manifest.
func TestSnapshotRanges(t *testing.T) {
	w := oneWriter(t)
	_, verifier := edgeOf(t, w)
	whole := w.internal("GET", replication.SnapshotPath, "", nil)
	manifest, err := verifier.Manifest(whole.header.Get(replication.ManifestHeader), 0)
	if err != nil {
		t.Fatal(err)
	}
	tag := whole.header.Get("ETag")
	if tag != `"`+manifest.SHA256.String()+`"` || int64(len(whole.text)) != manifest.Size {
		t.Errorf("ETag %s and %d bytes, manifest %s and %d", tag, len(whole.text), manifest.SHA256, manifest.Size)
	}
	rest := w.internal("GET", replication.SnapshotPath, "", header{"Range": "bytes=10-", "If-Range": tag})
	if rest.status != http.StatusPartialContent || rest.text != whole.text[10:] {
		t.Errorf("Range: bytes=10- = %d with %d bytes, want 206 with %d", rest.status, len(rest.text), len(whole.text)-10)
	}
	other := w.internal("GET", replication.SnapshotPath, "", header{"Range": "bytes=10-", "If-Range": `"x"`})
	if other.status != http.StatusOK || other.text != whole.text {
		t.Errorf("Range of another snapshot = %d with %d bytes, want all of this one", other.status, len(other.text))
	}
	if w.spool.number != 1 {
		t.Errorf("%d snapshots were built, want 1", w.spool.number)
	}
}

// TestOperator manages API keys through the socket: added, used, listed without the key, revoked at once.
func TestOperator(t *testing.T) {
	w := oneWriter(t)
	op := NewOperator(w.cfg.Node.DataDir)
	info, err := os.Stat(filepath.Join(w.cfg.Node.DataDir, socketFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("socket: %v, %v, want mode 0600", info.Mode(), err)
	}
	key, err := op.AddKey(t.Context(), entitlement.Sandbox, "backend", scopeServer)
	if err != nil || checkAPIKey(key, entitlement.Sandbox, scopeServer) != nil {
		t.Fatalf("AddKey = %q, %v", key, err)
	}
	if r := w.do("POST", "/v1/accounts", `{}`, auth(key)); r.status != http.StatusCreated {
		t.Errorf("the new key = %d %s", r.status, r.text)
	}
	keys, err := op.Keys(t.Context())
	if err != nil || len(keys) != 5 {
		t.Errorf("Keys = %+v, %v, want 5", keys, err)
	}
	if err := op.RevokeKey(t.Context(), entitlement.Sandbox, "backend"); err != nil {
		t.Fatal(err)
	}
	for method, path := range map[string]string{"POST": "/v1/accounts", "GET": "/v1/catalog"} {
		if r := w.do(method, path, "", auth(key)); r.status != http.StatusUnauthorized || r.slug() != "invalid-credential" {
			t.Errorf("%s with the revoked key = %d %s", method, r.status, r.text)
		}
	}
	trail := w.api("GET", "/v1/events", "").text
	for _, what := range []string{"api_key.added", "api_key.revoked"} {
		entry := regexp.MustCompile(`\{[^{}]*"type":"` + what + `"[^{}]*"caller":\{"kind":"operator"\},"refs":\{"api_key":"backend"\}\}`)
		if n := len(entry.FindAllString(trail, -1)); n != 1 {
			t.Errorf("the trail has %d entries of %s by the operator, want 1: %s", n, what, trail)
		}
	}
	if err := op.RevokeKey(t.Context(), entitlement.Sandbox, "nobody"); err == nil || !strings.HasPrefix(err.Error(), "Not found") {
		t.Errorf("RevokeKey of a key that is none = %v", err)
	}
	if s, err := op.Status(t.Context()); err != nil || s.Node != "w1" || s.Role != roleLeader {
		t.Errorf("Status = %+v, %v", s, err)
	}
	w.stop()
	if _, err := op.Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Status of a writer that stopped = %v, want ErrNotRunning", err)
	}
}

// TestRestart stops a writer and starts it on the same folder: everything is there, and what was revoked stays revoked although
// the configuration lists it.
func TestRestart(t *testing.T) {
	cfg := testConfigs(t, 1)[0]
	w := startWriter(t, cfg)
	w.awaitReady()
	acc := w.account()
	id := unique("evt_")
	body := event(id, "customer.subscription.created", subscription("sub_1", acc, "price_pro"))
	first := w.stripe(body)
	if err := NewOperator(cfg.Node.DataDir).RevokeKey(t.Context(), entitlement.Sandbox, "reader"); err != nil {
		t.Fatal(err)
	}
	w.stop()
	cfg.listeners = listeners{public: loopback(t), internal: loopback(t), raft: loopback(t)}
	cfg.Cluster.Voters = []VoterConfig{{ID: "w1", Raft: cfg.listeners.raft.Addr().String(), Internal: "http://" + cfg.listeners.internal.Addr().String()}}
	w = startWriter(t, cfg)
	w.awaitReady()
	if again := w.stripe(body); again.status != http.StatusOK || again.json["duplicate"] != true || again.str("revision") != first.str("revision") {
		t.Errorf("the event after a restart = %d %s, first %s", again.status, again.text, first.text)
	}
	if pro := w.pro(acc); pro["active"] != true {
		t.Errorf("pro after a restart = %v", pro)
	}
	if r := w.do("GET", "/v1/catalog", "", auth(readKey)); r.status != http.StatusUnauthorized {
		t.Errorf("the revoked key after a restart = %d", r.status)
	}
}

// TestSegments fetches a sealed segment of the journal as a writer does that lacks it.
func TestSegments(t *testing.T) {
	cfg := testConfigs(t, 1)[0]
	cfg.segment = 4 << 10
	w := startWriter(t, cfg)
	w.awaitReady()
	journal := filepath.Join(cfg.Node.DataDir, "journal")
	await(t, "a second segment", func() bool {
		w.account()
		entries, err := os.ReadDir(journal)
		return err == nil && len(entries) > 1
	})
	entries, err := os.ReadDir(journal)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := os.ReadFile(filepath.Join(journal, entries[0].Name()))
	if err != nil {
		t.Fatal(err)
	}
	other := &Writer{client: http.DefaultClient}
	from := map[string]string{"w1": "http://" + w.InternalAddr().String(), "w3": "http://127.0.0.1:1"}
	other.cfg.Node.ID, other.cfg.Node.Cluster = "w2", testCluster
	body, err := other.fetchSegment(t.Context(), from, sha256.Sum256(sealed))
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, sealed) {
		t.Errorf("fetched %d bytes, %v, want the %d of the file", len(got), err, len(sealed))
	}
	if _, err := other.fetchSegment(t.Context(), from, sha256.Sum256(nil)); err == nil {
		t.Error("a segment that nobody has was fetched")
	}
}

// TestManyChangesGoOutInBlocks: edges that lack the same changes get the very same answer, made and signed once, whatever came between their requests, and
// what an answer leaves out comes with the next.
func TestManyChangesGoOutInBlocks(t *testing.T) {
	w := oneWriter(t)
	client, _ := edgeOf(t, w)
	start := w.store.Position().Revision()
	var made sync.WaitGroup
	for range frameBlock + 3 {
		made.Go(func() { w.account() })
	}
	made.Wait()
	changes := func(after replication.Revision) replication.Batch {
		t.Helper()
		batch, err := client.Changes(t.Context(), after, replication.MaxBatchChanges, 0)
		if err != nil {
			t.Fatal(err)
		}
		return batch
	}
	first := changes(start)
	w.account()
	second := changes(start)
	if len(first.Changes) != frameBlock || first.Signed != second.Signed {
		t.Errorf("two edges at %s got %d and %d changes, signed alike: %t; want %d, signed once", start, len(first.Changes), len(second.Changes), first.Signed == second.Signed, frameBlock)
	}
	next := replication.Revision{Epoch: start.Epoch, N: start.N + frameBlock}
	if rest := changes(next); uint64(len(rest.Changes)) != w.store.Position().N-next.N {
		t.Errorf("after %s: %d changes, want all up to %d", next, len(rest.Changes), w.store.Position().N)
	}
}

// TestStatusShowsWhatAnEdgeHolds as the edge told it, and how many changes it lacked at that moment: what comes afterwards says nothing of the edge.
func TestStatusShowsWhatAnEdgeHolds(t *testing.T) {
	w := oneWriter(t)
	client, _ := edgeOf(t, w)
	now := w.store.Position().Revision()
	tests := []struct {
		name string
		held replication.Revision
		lag  string
	}{
		{"two changes less", replication.Revision{Epoch: now.Epoch, N: now.N - 2}, "2"},
		{"more than this writer", replication.Revision{Epoch: now.Epoch, N: now.N + 2}, "unknown"},
		{"another history", replication.Revision{Epoch: now.Epoch + 1, N: now.N}, "unknown"},
		{"all of it, before the last change came", now, "0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			await(t, "a head", func() bool { _, err := client.Report(t.Context(), tt.held); return err == nil })
			if tt.held == now {
				w.account()
			}
			s, err := w.status()
			if err != nil || len(s.Edges) != 1 {
				t.Fatalf("edges %+v, %v, want one", s.Edges, err)
			}
			lag := "unknown"
			if at := s.Edges[0].Lag; at != nil {
				lag = fmt.Sprint(*at)
			}
			if s.Edges[0].Revision != tt.held.String() || lag != tt.lag {
				t.Errorf("the status shows %s with lag %s, want %s with %s", s.Edges[0].Revision, lag, tt.held, tt.lag)
			}
		})
	}
}
