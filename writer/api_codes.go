package writer

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// A redemption code is bought, mailed or given away, and typed in by a person. Whoever redeems it first has what its package gives, for days that count from then.

const redeemCodeRoute = "POST /v1/redemption-codes/{code}/redeem"

const (
	// codeLetters are those of Crockford's base 32: none of them is taken for another one, on paper or by ear.
	codeLetters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	// A code is 20 letters in groups of 4: 100 bits, which nobody guesses, and short enough to be typed.
	codeLength, codeGroup = 20, 4
	codeBytes             = 13 // of which it shows 100 bits

	// guessEvery is how often somebody may be wrong about a code, and guessBurst how often at once: a person mistypes one a few times. The limit spares the log,
	// to which each guess is a command: at any rate that it takes nobody finds a code.
	guessEvery = time.Minute
	guessBurst = 10
	// maxGuessers bounds who is remembered, in some 2 MiB.
	maxGuessers = 20_000

	maxCodeIDBytes = 64
	codeIDPrefix   = "code_"
)

func (w *Writer) routeCodes(s *server) {
	s.handle("POST /v1/redemption-codes", w.writing((*apiCall).putCode))
	s.handle("DELETE /v1/redemption-codes/{code}", w.writing((*apiCall).revokeCode))
	w.routeRedeemCode(s.handle)
}

// routeRedeemCode lays the route of apps. It is the same on the listener for edges, which pass it on.
func (w *Writer) routeRedeemCode(handle func(pattern string, h handler)) {
	handle(redeemCodeRoute, w.forAccount((*apiCall).redeemCode))
}

var codeEncoding = base32.NewEncoding(codeLetters).WithPadding(base32.NoPadding)

// formatCode makes a code of random bytes: five groups of four letters and digits, with hyphens between them.
func formatCode(random []byte) string {
	text := codeEncoding.EncodeToString(random[:codeBytes])[:codeLength]
	groups := make([]string, 0, codeLength/codeGroup)
	for ; text != ""; text = text[codeGroup:] {
		groups = append(groups, text[:codeGroup])
	}
	return strings.Join(groups, "-")
}

// hashCode is all that is stored of a code, however a person types it. It is drawn by lot from 2^100, so that a slow hash would add nothing.
func hashCode(typed string) []byte {
	text := strings.Map(func(r rune) rune {
		switch r {
		case '-', ' ':
			return -1
		case 'O':
			return '0'
		case 'I', 'L':
			return '1'
		}
		return r
	}, strings.ToUpper(typed))
	sum := sha256.Sum256([]byte("code\x00" + text))
	return sum[:]
}

// newCode draws a code; under an Idempotency-Key it is the same again, and nobody without the key that seals can make it. Nothing need be kept for the repeat.
func (c *apiCall) newCode(key *store.Idempotency) (string, error) {
	if key == nil {
		var random [codeBytes]byte
		_, _ = rand.Read(random[:]) // never fails, see crypto/rand
		return formatCode(random[:]), nil
	}
	s, err := c.sealing()
	if err != nil {
		return "", err
	}
	return formatCode(s.mac(c.env, "code", key.Scope)), nil
}

// purchaseCode is the code of that id which a purchase is delivered by. Whoever has the key that seals makes the same one again, so that it can be sent once more.
func (s *sealer) purchaseCode(env entitlement.Environment, id string) string {
	return formatCode(s.mac(env, "purchase code", []byte(id)))
}

func (c *apiCall) putCode() (answer, error) {
	var req struct {
		Provider  entitlement.Provider   `json:"provider"`
		Product   entitlement.ProductID  `json:"product_id"`
		ExpiresAt *time.Time             `json:"expires_at"`
		Purchase  entitlement.PurchaseID `json:"purchase_id"`
	}
	if err := c.decode(&req); err != nil {
		return answer{}, err
	}
	switch {
	case !req.Provider.Valid():
		return answer{}, wrong("provider", "no such provider")
	case req.Product == "" || len(req.Product) > maxAliasBytes:
		return answer{}, wrong("product_id", "want 1 to %d bytes", maxAliasBytes)
	case len(req.Purchase) > maxAliasBytes:
		return answer{}, wrong("purchase_id", "want at most %d bytes", maxAliasBytes)
	}
	if req.Purchase != "" {
		if err := checkPurchase(req.Purchase); err != nil {
			return answer{}, err
		}
	}
	command := store.PutCode{Provider: req.Provider, Product: req.Product, Purchase: req.Purchase, Delivered: req.Purchase != ""}
	if req.ExpiresAt != nil {
		if command.ExpiresAt = req.ExpiresAt.Unix(); command.ExpiresAt <= c.now().Unix() {
			return answer{}, wrong("expires_at", "want a time to come, such as 2027-01-31T00:00:00Z")
		}
	}
	key, err := c.idempotency()
	if err != nil {
		return answer{}, err
	}
	command.ID, command.Idempotency = newThing(codeIDPrefix, key), key
	var code string
	if req.Purchase == "" {
		code, err = c.newCode(key)
	} else if s, sealErr := c.sealing(); sealErr == nil {
		code = s.purchaseCode(c.env, command.ID)
	} else {
		err = sealErr
	}
	if err != nil {
		return answer{}, err
	}
	command.Hash = hashCode(code)
	result, err := c.commit(store.TypePutCode, command)
	if err != nil {
		return answer{}, err
	}
	status := http.StatusCreated
	if result.Existing {
		status, code = http.StatusOK, c.sealer.purchaseCode(c.env, result.Code.ID)
	} else {
		c.metrics.codes.WithLabelValues(codeMade).Inc()
	}
	return answer{status: status, body: struct {
		Code string `json:"code"`
		codeShown
		written
	}{code, showCode(result.Code), written{Revision: result.Revision.String()}}}, nil
}

// codeShown is what is said of a code beside the code itself.
type codeShown struct {
	ID        string                 `json:"code_id"`
	Provider  entitlement.Provider   `json:"provider"`
	Product   entitlement.ProductID  `json:"product_id"`
	ExpiresAt *string                `json:"expires_at"` // null: never
	Purchase  entitlement.PurchaseID `json:"purchase_id,omitempty"`
}

func showCode(c *store.Code) codeShown {
	return codeShown{c.ID, c.Provider, c.Product, optionalTime(c.ExpiresAt), c.Purchase}
}

// accessShown is one access that a redeemed code gave.
type accessShown struct {
	CodeID       string             `json:"code_id"`
	Module       string             `json:"module"`
	RedeemedAt   string             `json:"redeemed_at"`
	DurationDays *int64             `json:"duration_days"` // null: for ever
	RevokedAt    *string            `json:"revoked_at"`    // null: it was not taken back
	Reason       entitlement.Reason `json:"reason,omitempty"`
}

func showAccesses(accesses []entitlement.Access) []accessShown {
	shown := []accessShown{}
	for _, a := range accesses {
		one := accessShown{CodeID: a.ID, Module: a.Module, RedeemedAt: formatTime(a.RedeemedAt), DurationDays: daysOf(a), RevokedAt: optionalTime(a.RevokedAt)}
		if a.RevokedAt != 0 {
			one.Reason = cmp.Or(a.Reason, entitlement.ReasonRefunded)
		}
		shown = append(shown, one)
	}
	return shown
}

// daysOf is how long an access lasts, nil for ever.
func daysOf(a entitlement.Access) *int64 {
	if a.Seconds == 0 {
		return nil
	}
	days := a.Seconds / (24 * 3600)
	return &days
}

// The outcomes of codes, in the words of the metrics.
const (
	codeMade      = "made"
	codeRedeemed  = "redeemed"
	codeAgain     = "again" // by its owner
	codeRefused   = "refused"
	codeUnknown   = "unknown" // guessed, or mistyped
	codeLimited   = "limited" // too many were
	codeRevoked   = "revoked" // by the operator
	codeMailed    = "mailed"
	codeNotMailed = "not_mailed"
)

var codeOutcomes = []string{codeMade, codeRedeemed, codeAgain, codeRefused, codeUnknown, codeLimited, codeRevoked, codeMailed, codeNotMailed}

// redeemCode gives what a code stands for to the app's account, or to the one that a backend names.
func (c *apiCall) redeemCode(app entitlement.AccountID) (answer, error) {
	var req struct {
		Account entitlement.AccountID `json:"account_id"`
	}
	if err := c.decodeFor(app, &req); err != nil {
		return answer{}, err
	}
	account, err := accountOf(app, req.Account)
	if err != nil {
		return answer{}, err
	}
	who := []string{string(c.env) + " " + string(account)}
	if from := addressOf(c.r); app != "" && from != "" {
		who = append(who, from)
	}
	if wait := c.guesses.wait(who, time.Now()); wait > 0 {
		c.metrics.codes.WithLabelValues(codeLimited).Inc()
		return answer{}, problem.New(problem.TooManyRequests, "Too many codes were wrong.").After(wait)
	}
	key, err := c.idempotency()
	if err != nil {
		return answer{}, err
	}
	result, err := c.propose(c.ctx(), store.TypeRedeemCode, c.env, store.RedeemCode{Hash: hashCode(c.r.PathValue("code")), Account: account, Idempotency: key})
	if err != nil {
		return answer{}, err
	}
	if r := result.Rejection; r != nil {
		outcome := codeRefused
		if r.Detail == store.NoSuchCode {
			outcome = codeUnknown
			c.guesses.wrong(who, time.Now())
		}
		c.metrics.codes.WithLabelValues(outcome).Inc()
		return answer{}, rejectedAs(r)
	}
	outcome := codeRedeemed
	if result.Existing {
		outcome = codeAgain
	}
	c.metrics.codes.WithLabelValues(outcome).Inc()
	type moduleShown struct {
		Module       string `json:"module"`
		DurationDays *int64 `json:"duration_days"` // null: for ever
	}
	accesses := []moduleShown{}
	for _, a := range result.Code.Accesses {
		accesses = append(accesses, moduleShown{a.Module, daysOf(a)})
	}
	return answer{status: http.StatusOK, body: struct {
		codeShown
		RedeemedAt string        `json:"redeemed_at"`
		Accesses   []moduleShown `json:"accesses"`
		written
	}{showCode(result.Code), formatTime(result.Code.RedeemedAt), accesses, written{result.Account, result.Revision.String()}}}, nil
}

// revokeCode takes a code back, which is named by its id or is the code itself.
func (c *apiCall) revokeCode() (answer, error) {
	id := c.r.PathValue("code")
	if !strings.HasPrefix(id, codeIDPrefix) {
		hash := hashCode(id)
		if err := c.read(c.ctx(), func(reader *store.Reader) (err error) {
			id, err = reader.CodeID(c.env, hash)
			return err
		}); err != nil {
			return answer{}, err
		}
	}
	if id == "" || len(id) > maxCodeIDBytes {
		return answer{}, problem.New(problem.NotFound, "No such code.")
	}
	key, err := c.idempotency()
	if err != nil {
		return answer{}, err
	}
	result, err := c.commit(store.TypeRevokeCode, store.RevokeCode{ID: id, Idempotency: key})
	if err != nil {
		return answer{}, err
	}
	if !result.Existing {
		c.metrics.codes.WithLabelValues(codeRevoked).Inc()
	}
	return answer{status: http.StatusOK, body: struct {
		codeShown
		written
	}{showCode(result.Code), written{result.Account, result.Revision.String()}}}, nil
}

// guesses remembers who was wrong about codes: each says until when their rate is used up (the virtual scheduling form of GCRA). The zero value knows nobody.
type guesses struct {
	mu   sync.Mutex
	used map[string]time.Time
}

// wait says how long somebody has to wait before they may try again; 0 is not at all. who are the names of one person.
func (g *guesses) wait(who []string, now time.Time) (wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, name := range who {
		if until := g.used[name]; until.After(now) {
			wait = max(wait, until.Sub(now)-(guessBurst-1)*guessEvery)
		}
	}
	return wait
}

// wrong counts a code that there is not.
func (g *guesses) wrong(who []string, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.used == nil {
		g.used = map[string]time.Time{}
	}
	if len(g.used) >= maxGuessers {
		for name, until := range g.used {
			if until.Before(now) || len(g.used) >= maxGuessers {
				delete(g.used, name)
			}
		}
	}
	for _, name := range who {
		until := g.used[name]
		if until.Before(now) {
			until = now
		}
		g.used[name] = until.Add(guessEvery)
	}
}

// addressOf is from where an app asks, empty for this machine and for what an edge has passed on: that has counted its clients itself.
func addressOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil || r.Context().Value(passedOnKey{}) != nil {
		return ""
	}
	a, err := netip.ParseAddr(host)
	if err != nil || a.IsLoopback() {
		return ""
	}
	if a = a.Unmap(); a.Is6() {
		if p, err := a.WithZone("").Prefix(64); err == nil {
			a = p.Addr()
		}
	}
	return a.String()
}

// passedOnKey marks the context of a request that an edge passes on.
type passedOnKey struct{}
