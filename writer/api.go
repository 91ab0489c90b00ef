package writer

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// The scopes of API keys.
const (
	scopeServer      = "sk" // everything
	scopeRead        = "rk" // reads only
	scopePublishable = "pk" // it begins sessions, and nothing else: every copy of the app has it
)

func validScope(s string) bool { return s == scopeServer || s == scopeRead || s == scopePublishable }

// Limits of the server API.
const (
	maxAPIBodyBytes        = 256 << 10 // a catalog of 1,000 products
	maxIdempotencyKeyBytes = 255       // what others allow
	maxAPIKeyBytes         = 256
	// minAPIKeyRandom is how many characters behind the prefix a key has at least: 20 characters of base 32 are 100 bits.
	minAPIKeyRandom = 20
)

// Why a credential was refused, in the words of the metrics.
const (
	credentialMissing = "missing"
	credentialUnknown = "unknown"
	credentialRevoked = "revoked"
	credentialScope   = "scope"
)

// checkAPIKey says what is wrong with a key's form.
func checkAPIKey(key string, env entitlement.Environment, scope string) error {
	prefix := apiKeyPrefix(env, scope)
	random, ok := strings.CutPrefix(key, prefix)
	switch {
	case key == "":
		return errors.New("must be given")
	case !ok:
		return fmt.Errorf("does not begin with %s", prefix)
	case len(random) < minAPIKeyRandom || len(key) > maxAPIKeyBytes:
		return fmt.Errorf("want %d to %d characters after %s", minAPIKeyRandom, maxAPIKeyBytes-len(prefix), prefix)
	}
	return nil
}

func apiKeyPrefix(env entitlement.Environment, scope string) string {
	return "lk_" + string(env) + "_" + scope + "_"
}

// hashAPIKey is all that is ever stored of a key. Keys are drawn by lot from more than 2^100, so that a slow hash would add nothing.
func hashAPIKey(key string) [sha256.Size]byte { return sha256.Sum256([]byte(key)) }

// newAPIKey draws a key.
func newAPIKey(env entitlement.Environment, scope string) string {
	var b [20]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return apiKeyPrefix(env, scope) + strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}

// newID returns a ULID: sorted by time, so that ids made later lie together in the state file.
func newID() string { return ulid.Make().String() }

// answer is what a handler of the API gives back.
type answer struct {
	status int
	body   any // encoded as JSON, unless raw is set
	raw    []byte
	media  string                // of raw
	stream func(io.Writer) error // writes JSON of a length that is not known, after which nothing can be said of a failure: the answer is cut off
	header http.Header
}

func (a answer) write(w http.ResponseWriter) error {
	for name, values := range a.header {
		w.Header()[name] = values
	}
	if a.stream != nil {
		w.Header().Set("Content-Type", jsonType)
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(a.status)
		return a.stream(&steadyWriter{w})
	}
	if a.raw != nil {
		writeBody(w, a.status, a.media, a.raw)
		return nil
	}
	return writeJSON(w, a.status, a.body)
}

// apiCall is one authenticated request of the server API. The key decides the environment.
type apiCall struct {
	*Writer
	r    *http.Request
	env  entitlement.Environment
	key  [sha256.Size]byte // hash of the credential
	body []byte            // of an unsafe request
}

func (c *apiCall) ctx() context.Context { return c.r.Context() }

// reading serves a safe request: credential and answer come from one linearizable read.
func (w *Writer) reading(f func(*apiCall, *store.Reader) (answer, error)) handler {
	return func(rw http.ResponseWriter, r *http.Request) error {
		hash, err := w.credential(r)
		if err != nil {
			return err
		}
		c := &apiCall{Writer: w, r: r, key: hash}
		var a answer
		err = w.read(r.Context(), func(reader *store.Reader) error {
			key, err := w.authorize(reader, hash, scopeServer, scopeRead)
			if err != nil {
				if errors.Is(err, errUnknownCredential) {
					w.metrics.refused(credentialUnknown)
				}
				return err
			}
			c.env, c.r = key.Env, by(r, keyCaller(&key))
			a, err = f(c, reader)
			return err
		})
		if err != nil {
			return err
		}
		w.touch(hash)
		return a.write(rw)
	}
}

// writing serves an unsafe request. The credential is looked up on this node's state; only one that is unknown here costs a
// linearizable read, because it may have been added a moment ago on another node.
func (w *Writer) writing(f func(*apiCall) (answer, error)) handler {
	return w.writingWith(f, scopeServer)
}

// writingWith is writing for keys of other scopes.
func (w *Writer) writingWith(f func(*apiCall) (answer, error), scopes ...string) handler {
	return func(rw http.ResponseWriter, r *http.Request) error {
		hash, err := w.credential(r)
		if err != nil {
			return err
		}
		c := &apiCall{Writer: w, r: r, key: hash}
		lookup := func(reader *store.Reader) error {
			key, err := w.authorize(reader, hash, scopes...)
			c.env, c.r = key.Env, by(r, keyCaller(&key))
			return err
		}
		if err = w.store.View(lookup); errors.Is(err, errUnknownCredential) {
			if err = w.read(r.Context(), lookup); errors.Is(err, errUnknownCredential) {
				w.metrics.refused(credentialUnknown)
			}
		}
		if err != nil {
			return err
		}
		w.touch(hash)
		if c.body, err = readBody(r, maxAPIBodyBytes); err != nil {
			return err
		}
		a, err := f(c)
		if err != nil {
			return err
		}
		return a.write(rw)
	}
}

// credential returns the hash of a request's key. Error: a problem.
func (w *Writer) credential(r *http.Request) ([sha256.Size]byte, error) {
	key := bearer(r)
	if key == "" || len(key) > maxAPIKeyBytes || !strings.HasPrefix(key, "lk_") {
		w.metrics.refused(credentialMissing)
		return [sha256.Size]byte{}, problem.New(problem.InvalidCredential, "Send an API key: Authorization: Bearer lk_...")
	}
	return hashAPIKey(key), nil
}

// errUnknownCredential is an invalid-credential problem for a key that the state does not know.
var errUnknownCredential = errors.New("unknown key")

// authorize returns a key that has one of the scopes. Errors: problems, one of which wraps errUnknownCredential.
func (w *Writer) authorize(reader *store.Reader, hash [sha256.Size]byte, scopes ...string) (store.APIKey, error) {
	key, known, err := reader.APIKey(hash[:])
	if err != nil {
		return key, err
	}
	_, served := w.cfg.Environments[key.Env]
	const invalid = "This API key is not valid here."
	switch {
	case !known || !served:
		return key, fmt.Errorf("%w: %w", errUnknownCredential, problem.New(problem.InvalidCredential, invalid)) // counted by the caller, who may look again
	case key.RevokedAt != 0:
		w.metrics.refused(credentialRevoked)
		return key, problem.New(problem.InvalidCredential, invalid)
	}
	for _, s := range scopes {
		if key.Scope == s {
			return key, nil
		}
	}
	w.metrics.refused(credentialScope)
	return key, problem.Newf(problem.Forbidden, "A key of scope %s cannot do this.", key.Scope)
}

// idempotency is idempotencyOf this request.
func (c *apiCall) idempotency() (*store.Idempotency, error) {
	return idempotencyOf(c.r, c.env, c.key[:], c.body)
}

// newThing returns an id for something that the request makes: by lot, but the same for the repeat of a request under an
// Idempotency-Key, which must be answered with the same id.
func newThing(prefix string, key *store.Idempotency) string {
	if key == nil {
		return prefix + newID()
	}
	sum := sha256.Sum256(append([]byte("id:"), key.Scope...))
	return prefix + ulid.ULID(sum[:16]).String()
}

// decode reads the request's body strictly into v; an empty one is {}. Error: a problem that names the field.
func (c *apiCall) decode(v any) error {
	body := c.body
	if len(body) == 0 {
		body = []byte("{}")
	}
	if err := decodeStrict(body, v); err != nil {
		return problem.New(problem.InvalidRequest, sentence(err.Error()))
	}
	return nil
}

// sentence makes an error's text fit to be shown: a capital letter and a full stop, and no longer than a line.
func sentence(s string) string {
	const most = 300
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

// wrong is a problem with a field of a request.
func wrong(field, format string, args ...any) error {
	return problem.Newf(problem.InvalidRequest, "Field %q: %s.", field, fmt.Sprintf(format, args...))
}

// commit proposes an API command and turns a rejection into its problem.
func (c *apiCall) commit(t store.CommandType, body any) (store.Result, error) {
	return c.commitWithin(c.ctx(), t, body)
}

// commitWithin is commit where no request of the server API stands behind it.
func (c *apiCall) commitWithin(ctx context.Context, t store.CommandType, body any) (store.Result, error) {
	result, err := c.propose(ctx, t, c.env, body)
	if err != nil {
		return result, err
	}
	if result.Rejection != nil {
		return result, rejectedAs(result.Rejection)
	}
	return result, nil
}

// account resolves {id}: an account id, or <alias_kind>:<value>. Error: a not-found problem.
func (c *apiCall) account(reader *store.Reader) (entitlement.AccountID, error) {
	return c.accountNamed(reader, c.r.PathValue("id"))
}

func (c *apiCall) accountNamed(reader *store.Reader, id string) (entitlement.AccountID, error) {
	if err := checkAccountName(id); err != nil {
		return "", err
	}
	notFound := problem.New(problem.NotFound, "No such account in this environment.")
	kind, value, isAlias := strings.Cut(id, ":")
	if !isAlias {
		if !reader.HasAccount(c.env, entitlement.AccountID(id)) {
			return "", notFound
		}
		return entitlement.AccountID(id), nil
	}
	owner, found, err := named(reader, c.env, entitlement.Alias{Kind: entitlement.AliasKind(kind), Value: value})
	if err == nil && !found {
		err = notFound
	}
	return owner, err
}

// checkID says whether an id can be one of ours: prefix is that of its kind. Error: an invalid-id problem.
func checkID(prefix, id string) error {
	if !entitlement.IsID(prefix, id) {
		return problem.Newf(problem.InvalidID, "An id of this kind is %s and 26 characters, digits and capital letters.", prefix)
	}
	return nil
}

// checkPurchase says whether an id can be a purchase's. Error: an invalid-id problem.
func checkPurchase(id entitlement.PurchaseID) error {
	if !id.Provider().Valid() {
		return problem.New(problem.InvalidID, "A purchase's id is <provider>:<its id there>, and there is no such provider.")
	}
	return nil
}

// checkAccountName says whether an account can be called so: by its id, or by <alias_kind>:<value>. Error: an invalid-id problem.
func checkAccountName(name string) error {
	kind, value, isAlias := strings.Cut(name, ":")
	if !isAlias {
		return checkID("acc_", name)
	}
	if !slices.Contains(entitlement.AliasKinds, entitlement.AliasKind(kind)) || value == "" {
		return problem.New(problem.InvalidID, "An alias is <kind>:<value>, and there is no such kind.")
	}
	return nil
}

// named returns the account that an alias leads to.
func named(reader *store.Reader, env entitlement.Environment, a entitlement.Alias) (entitlement.AccountID, bool, error) {
	owner, found, err := reader.Named(env, hashedSince(reader.Rules(), asKept(a)))
	if err == nil && !found && a != asKept(a) {
		return reader.Named(env, a) // given before tokens were kept by their hash
	}
	return owner, found, err
}

// asKept returns an alias as it is kept: of a Play purchase token, which is its buyer's, the SHA-256, by which the purchases have it.
func asKept(a entitlement.Alias) entitlement.Alias {
	if a.Kind == entitlement.GooglePurchaseToken && !playTokenHash.MatchString(a.Value) {
		sum := sha256.Sum256([]byte(a.Value))
		a.Value = hex.EncodeToString(sum[:])
	}
	return a
}

var playTokenHash = regexp.MustCompile(`^[0-9a-f]{64}$`)

// accountToWrite resolves {id} for an unsafe request. An account id needs no look: the state machine says whether it is there.
func (c *apiCall) accountToWrite() (id entitlement.AccountID, err error) {
	if text := c.r.PathValue("id"); !strings.Contains(text, ":") {
		return entitlement.AccountID(text), checkID("acc_", text)
	}
	err = c.read(c.ctx(), func(reader *store.Reader) error {
		id, err = c.account(reader)
		return err
	})
	return id, err
}

// formatTime writes Unix seconds as the API shows times.
func formatTime(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }

// optionalTime is formatTime for 0 as absent.
func optionalTime(unix int64) *string {
	if unix == 0 {
		return nil
	}
	s := formatTime(unix)
	return &s
}
