package edge

import (
	"crypto/sha256"
	"errors"
	"math"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/latchkey/latchkey/edge/internal/replica"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/pkg/token"
	"github.com/latchkey/latchkey/replication"
)

// The customer's own backend asks an edge near it about any account, with a key that can read and nothing else. Writers tell the edges the hashes of such
// keys, as records: a key that is revoked is one that is deleted.

const (
	accountRoute = "/v1/accounts/{id}/entitlements"
	apiKeyPrefix = "lk_"
	readKeyScope = "rk"
	// maxAPIKeyBytes is what writers allow.
	maxAPIKeyBytes = 256
)

// accountAsked returns the account in the path of GET /v1/accounts/{id}/entitlements.
func accountAsked(path string) (id entitlement.AccountID, ok bool) {
	before, after, _ := strings.Cut(accountRoute, "{id}")
	rest, isAccount := strings.CutPrefix(path, before)
	name, isCheck := strings.CutSuffix(rest, after)
	return entitlement.AccountID(name), isAccount && isCheck && name != "" && !strings.Contains(name, "/")
}

// handleAccount answers a backend's check of an account: what an app would be told, without a token.
func (e *Edge) handleAccount(ctx *fasthttp.RequestCtx, id entitlement.AccountID) error {
	c := checks.Get().(*check)
	defer c.recycle()
	if err := c.parse(ctx); err != nil {
		return err
	}
	c.asked, c.wantsToken, c.nonce = id, false, ""
	bearer, ok := bearerToken(ctx)
	if !ok {
		return problem.New(problem.InvalidCredential, "Send an API key: Authorization: Bearer lk_...")
	}
	err := e.check(ctx, c, bearer)
	if errors.Is(err, errInvalidCredential) || errors.Is(err, errForbidden) {
		// A backend may ask as often as it likes, from one address; whoever guesses keys may not.
		if busy := e.clients.admit(ctx); busy != nil {
			e.metrics.limitedAddress.Inc()
			return busy
		}
	}
	if errors.Is(err, errUnknownAccount) {
		if !entitlement.IsID("acc_", string(id)) {
			return problem.New(problem.InvalidID, "An edge knows accounts by their ids alone, acc_...; a writer knows aliases, too.")
		}
		return problem.New(problem.NotFound, "No such account in this environment, as far as this edge is.")
	}
	return err
}

// For errors.Is.
var (
	errUnknownAccount    = problem.New(problem.UnknownAccount, "")
	errInvalidCredential = problem.New(problem.InvalidCredential, "")
	errForbidden         = problem.New(problem.Forbidden, "")
)

// reader returns what stands for a session where a backend asks about an account with key: it is never ended, and follows no revision.
func (e *Edge) reader(x *replica.Reading, key string, asked entitlement.AccountID) (*session, error) {
	env, scope, ok := keyParts(key)
	if !ok {
		return nil, problem.New(problem.InvalidCredential, "Send an API key: Authorization: Bearer lk_...")
	}
	if scope != readKeyScope {
		return nil, problem.Newf(problem.Forbidden, "Edges take keys of scope %s alone: what can do more belongs to writers.", readKeyScope)
	}
	invalid := problem.New(problem.InvalidCredential, "This API key is not valid here.")
	if _, served := e.cfg.Environments[env]; !served {
		return nil, invalid
	}
	var stack [16]byte
	_, found, err := x.Get(stack[:0], env, replication.KindKeys, replication.ReadKey(sha256.Sum256([]byte(key))))
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, invalid
	}
	return &session{env: env, account: asked, issuedAt: math.MaxInt64, expiresAt: math.MaxInt64, backend: true}, nil
}

// keyParts takes "lk_<environment>_<scope>_<random>" apart.
func keyParts(key string) (env entitlement.Environment, scope string, ok bool) {
	rest, isKey := strings.CutPrefix(key, apiKeyPrefix)
	name, rest, named := strings.Cut(rest, "_")
	scope, random, scoped := strings.Cut(rest, "_")
	return entitlement.Environment(name), scope, isKey && named && scoped && random != "" && len(key) <= maxAPIKeyBytes
}

// unsigned is what a backend is told, which trusts the connection and not a token. Times offline are those that a token would have.
func unsigned(head replication.Head) issued {
	return issued{asOf: head.AsOf, exp: head.AsOf + token.GraceSeconds, revision: head.Revision()}
}
