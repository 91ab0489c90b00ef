package writer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// Keys that are lost to others are revoked by signed lists (token.Revocations). The lists lie in the records of kind keys, from where every edge puts them into
// the header of each token that it signs. A key of an edge or of a writer is revoked online, under the issuing key. An issuing key is revoked by a root alone,
// offline, and the list is brought here: what one issuing key could say against another, its thief could say too.

// revokedFor is how long a key stays on a list after it was revoked: as long as a certificate of it could still be valid.
const (
	revokedLeafFor = token.MaxLeafSeconds
	revokedRootFor = token.MaxIssuerSeconds // a root's list names issuing keys most often
)

// RevokedKeys is what is known of revoked keys.
type RevokedKeys struct {
	RootCounter   int64        `json:"root_counter"`   // of the newest list of a root; 0: there is none
	IssuerCounter int64        `json:"issuer_counter"` // of the newest list of an issuing key
	Keys          []RevokedKey `json:"keys"`
}

// RevokedKey is one of them.
type RevokedKey struct {
	ID     string `json:"kid"`
	ByRoot bool   `json:"by_root"`
	Until  string `json:"until"` // it need not be on a list from then on
}

// revocations returns the lists that this node has.
func (w *Writer) revocations() (lists []replication.RevocationList, err error) {
	err = w.store.View(func(r *store.Reader) error {
		for env := range w.cfg.Environments {
			found, err := r.Revocations(env)
			if err != nil {
				return err
			}
			lists = newestLists(lists, found)
		}
		return nil
	})
	return lists, err
}

// newestLists keeps the newer list of each kind; a list may have reached one environment and not yet the other.
func newestLists(held, found []replication.RevocationList) []replication.RevocationList {
	for _, l := range found {
		l.Text = bytes.Clone(l.Text)
		at := slices.IndexFunc(held, func(h replication.RevocationList) bool { return h.ByRoot == l.ByRoot })
		switch {
		case at < 0:
			held = append(held, l)
		case held[at].Counter < l.Counter:
			held[at] = l
		}
	}
	return held
}

// revoked is what the lists say.
func (w *Writer) revoked() (*token.Revocations, error) {
	lists, err := w.revocations()
	if err != nil {
		return nil, err
	}
	known := new(token.Revocations)
	for _, l := range lists {
		// One of an issuing key that a root has revoked since is not taken, as nobody takes it.
		if _, err := known.Learn(string(l.Text), w.keys.roots); err != nil && !errors.Is(err, token.ErrRevoked) {
			return nil, err
		}
	}
	return known, nil
}

// mayCertify refuses to certify a revoked key, and to certify with one. Error: a problem.
func (w *Writer) mayCertify(key token.JWK) error {
	known, err := w.revoked()
	if err != nil {
		return err
	}
	pub, err := key.PublicKey()
	if err != nil {
		return err
	}
	kid, err := token.Thumbprint(pub)
	if err != nil {
		return err
	}
	switch own, err := w.issuerRevoked(known); {
	case err != nil:
		return err
	case known.RevokedLeaf(kid):
		return problem.New(problem.Forbidden, "This key is revoked. Make another one.")
	case own:
		return unavailable("This writer's issuing key is revoked. Ask another one.")
	}
	return nil
}

// issuerRevoked reports whether the issuing key that this writer was started with is among the revoked ones: nobody believes what it signs any more.
func (w *Writer) issuerRevoked(known *token.Revocations) (bool, error) {
	own, err := token.Thumbprint(w.keys.issuerCert.Key)
	return err == nil && known.RevokedIssuer(own), err
}

// revocationRequest has a key revoked, or brings a list.
type revocationRequest struct {
	KeyID string `json:"kid,omitempty"`
	List  string `json:"list,omitempty"`
}

func (w *Writer) handleRevocations(rw http.ResponseWriter, r *http.Request) error {
	body, err := readBody(r, maxAPIBodyBytes)
	if err != nil {
		return err
	}
	var req revocationRequest
	if err := decodeStrict(body, &req); err != nil {
		return problem.New(problem.InvalidRequest, sentence(err.Error()))
	}
	if err := w.catchUp(r.Context()); err != nil {
		return err
	}
	lists, err := w.revocations()
	if err != nil {
		return err
	}
	if req.KeyID != "" || req.List != "" {
		next, err := w.nextList(req, lists)
		if err != nil {
			return err
		}
		if err := w.putList(r.Context(), next); err != nil {
			return err
		}
		w.log.WarnContext(r.Context(), "list of revoked keys put", "counter", next.Counter, "keys", len(next.Keys), "by_root", next.ByRoot)
		lists = newestLists(lists, []replication.RevocationList{next})
	}
	return writeJSON(rw, http.StatusOK, describeLists(lists))
}

func describeLists(lists []replication.RevocationList) RevokedKeys {
	d := RevokedKeys{Keys: []RevokedKey{}}
	for _, l := range lists {
		if l.ByRoot {
			d.RootCounter = l.Counter
		} else {
			d.IssuerCounter = l.Counter
		}
		for _, k := range l.Keys {
			d.Keys = append(d.Keys, RevokedKey{ID: k.ID, ByRoot: l.ByRoot, Until: formatTime(k.Until)})
		}
	}
	return d
}

func (w *Writer) nextList(req revocationRequest, held []replication.RevocationList) (replication.RevocationList, error) {
	if req.KeyID != "" && req.List != "" {
		return replication.RevocationList{}, problem.New(problem.InvalidRequest, "Want a kid or a list, not both.")
	}
	if req.List != "" {
		return w.takeList(req.List, held)
	}
	return w.signList(req.KeyID, held)
}

// present is the list of that kind in held, and of its keys those that still count.
func present(held []replication.RevocationList, byRoot bool, now int64) (counter int64, keys []replication.RevokedKey) {
	for _, l := range held {
		if l.ByRoot != byRoot {
			continue
		}
		counter = l.Counter
		for _, k := range l.Keys {
			if now < k.Until {
				keys = append(keys, k)
			}
		}
	}
	return counter, keys
}

// signList makes the next list under this node's issuing key.
func (w *Writer) signList(kid string, held []replication.RevocationList) (replication.RevocationList, error) {
	now := w.now().Unix()
	own, err := token.Thumbprint(w.keys.issuerCert.Key)
	if err != nil {
		return replication.RevocationList{}, err
	}
	if kid == own {
		return replication.RevocationList{}, problem.New(problem.InvalidRequest, "This is the issuing key in use. Give every writer the next one, then revoke this one by a root's list.")
	}
	counter, keys := present(held, false, now)
	at := slices.IndexFunc(keys, func(k replication.RevokedKey) bool { return k.ID == kid })
	if at < 0 {
		keys, at = append(keys, replication.RevokedKey{ID: kid}), len(keys)
	}
	keys[at].Until = now + revokedLeafFor
	if len(keys) > token.MaxRevoked {
		return replication.RevocationList{}, problem.Newf(problem.InvalidRequest, "A list names %d keys at most. Revoke the issuing key above them.", token.MaxRevoked)
	}
	next := replication.RevocationList{Counter: max(counter+1, now), Keys: keys}
	text, err := token.SignRevocations(w.keys.issuer, w.keys.issuerText, token.RevocationClaims{Issuer: w.cfg.Node.Cluster, IssuedAt: now, Counter: next.Counter, Revoked: ids(keys)})
	if err != nil {
		return replication.RevocationList{}, err
	}
	next.Text = []byte(text)
	return next, nil
}

func ids(keys []replication.RevokedKey) []string {
	var out []string
	for _, k := range keys {
		out = append(out, k.ID)
	}
	return out
}

// takeList judges a root's list that an operator brings: it must say again what still counts, and leave this cluster a key to work with.
func (w *Writer) takeList(text string, held []replication.RevocationList) (replication.RevocationList, error) {
	now := w.now().Unix()
	c, byRoot, err := token.ReadRevocations(text, w.keys.roots)
	if err != nil {
		return replication.RevocationList{}, problem.New(problem.InvalidRequest, sentence(err.Error()))
	}
	own, err := token.Thumbprint(w.keys.issuerCert.Key)
	if err != nil {
		return replication.RevocationList{}, err
	}
	for _, l := range held {
		if l.ByRoot && string(l.Text) == text {
			return l, nil // the first time it did not reach every environment
		}
	}
	counter, keys := present(held, true, now)
	switch {
	case !byRoot:
		return replication.RevocationList{}, problem.New(problem.InvalidRequest, "The list is not signed by a root.")
	case c.Issuer != w.cfg.Node.Cluster:
		return replication.RevocationList{}, problem.New(problem.InvalidRequest, "The list is of another cluster.")
	case c.Counter <= counter:
		return replication.RevocationList{}, problem.New(problem.InvalidRequest, "There is a newer list.")
	case slices.Contains(c.Revoked, own):
		return replication.RevocationList{}, problem.New(problem.InvalidRequest, "The list revokes the issuing key in use. Give every writer the next one first.")
	}
	until := map[string]int64{}
	for _, k := range keys {
		if !slices.Contains(c.Revoked, k.ID) {
			return replication.RevocationList{}, problem.Newf(problem.InvalidRequest, "The list lacks %s, which is revoked and still counts.", k.ID)
		}
		until[k.ID] = k.Until
	}
	next := replication.RevocationList{Text: []byte(text), ByRoot: true, Counter: c.Counter}
	for _, kid := range c.Revoked {
		if until[kid] == 0 {
			until[kid] = now + revokedRootFor
		}
		next.Keys = append(next.Keys, replication.RevokedKey{ID: kid, Until: until[kid]})
	}
	return next, nil
}

// putList brings the list into every environment. When that fails in between, doing it again completes it.
func (w *Writer) putList(ctx context.Context, l replication.RevocationList) error {
	for _, env := range slices.Sorted(maps.Keys(w.cfg.Environments)) {
		result, err := w.propose(ctx, store.TypePutRevocations, env, store.PutRevocations{List: l})
		if err != nil {
			return err
		}
		if rej := result.Rejection; rej != nil {
			return problem.New(problem.Slug(rej.Slug), sentence(rej.Detail))
		}
	}
	return nil
}

// Revoke revokes the key of an edge or of a writer, and says what is revoked now. Error: ErrNotRunning.
func (o *Operator) Revoke(ctx context.Context, kid string) (k RevokedKeys, err error) {
	return k, o.do(ctx, http.MethodPost, "/revocations", revocationRequest{KeyID: kid}, &k)
}

// PutRevocations brings a root's list to the cluster, and says what is revoked now. Error: ErrNotRunning.
func (o *Operator) PutRevocations(ctx context.Context, list string) (k RevokedKeys, err error) {
	return k, o.do(ctx, http.MethodPost, "/revocations", revocationRequest{List: list}, &k)
}

// Revoked says what is revoked. Error: ErrNotRunning.
func (o *Operator) Revoked(ctx context.Context) (k RevokedKeys, err error) {
	return k, o.do(ctx, http.MethodPost, "/revocations", revocationRequest{}, &k)
}

// SignRevocations makes a root's list that revokes kids, offline. It must name all that the root's last list has and that still counts.
func SignRevocations(rootFile, cluster string, kids []string, now time.Time) (string, error) {
	if err := checkCluster(cluster); err != nil {
		return "", err
	}
	text, err := os.ReadFile(rootFile)
	if err != nil {
		return "", fmt.Errorf("root key: %w", err)
	}
	root, err := token.ParsePrivateKeyPEM(text)
	if err != nil {
		return "", fmt.Errorf("root key %s: %w", rootFile, err)
	}
	return token.SignRevocations(root, "", token.RevocationClaims{Issuer: cluster, IssuedAt: now.Unix(), Counter: now.Unix(), Revoked: kids})
}
