package writer

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/outbound"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// A link token is what a magic link carries: whoever opens it in the app becomes the account that it was made for, or gets the payment that waited for
// somebody.

const redeemLinkRoute = "POST /v1/link-tokens/{token}/redeem"

// How long a link lives, in seconds: one to an account is a way in, one to a purchase is a receipt that waits in a mailbox.
const (
	accountLinkTTL  = 15 * 60
	purchaseLinkTTL = 30 * 24 * 3600
	minLinkTTL      = 60
	maxLinkTTL      = 366 * 24 * 3600
)

// linkPrefix tells a link token from other secrets, for people and for programs that look for leaked ones.
const linkPrefix = "lkl_"

// mailRetryAfter is when a link that could not be mailed is worth another try.
const mailRetryAfter = 10 * time.Second

func (w *Writer) routeLinks(s *server) {
	s.handle("POST /v1/link-tokens", w.writing((*apiCall).putLink))
	w.routeRedeemLink(s.handle)
}

// routeRedeemLink lays the route of apps. It is the same on the listener for edges, which pass it on.
func (w *Writer) routeRedeemLink(handle func(pattern string, h handler)) {
	backend, app := w.writing((*apiCall).redeemLink), w.inApp((*appCall).redeemLink)
	handle(redeemLinkRoute, func(rw http.ResponseWriter, r *http.Request) error {
		if strings.HasPrefix(bearer(r), "lk_") {
			return backend(rw, r)
		}
		return app(rw, r)
	})
}

// linkTarget is for what the address of a link is sealed: where the link leads.
func linkTarget(account entitlement.AccountID, purchase entitlement.PurchaseID) string {
	return "link\x00" + string(account) + "\x00" + string(purchase)
}

// newLinkToken draws a token; under an Idempotency-Key it is the same again, and nobody without the key that seals can make it.
func (c *apiCall) newLinkToken(key *store.Idempotency) (string, error) {
	var random [20]byte
	if key == nil {
		_, _ = rand.Read(random[:]) // never fails, see crypto/rand
	} else {
		s, err := c.sealing()
		if err != nil {
			return "", err
		}
		copy(random[:], s.mac(c.env, "link", key.Scope))
	}
	return linkPrefix + strings.ToLower(base32.StdEncoding.EncodeToString(random[:])), nil
}

// hashLinkToken is all that is stored of a token. It is drawn by lot from 2^160, so that a slow hash would add nothing.
func hashLinkToken(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

func (c *apiCall) putLink() (answer, error) {
	var req struct {
		Account   entitlement.AccountID  `json:"account_id"`
		Alias     *entitlement.Alias     `json:"alias"`
		Unclaimed entitlement.PurchaseID `json:"unclaimed"`
		TTL       *int64                 `json:"ttl_seconds"`
		SendTo    *string                `json:"send_to"`
	}
	if err := c.decode(&req); err != nil {
		return answer{}, err
	}
	address, err := c.recipient(req.SendTo)
	if err != nil {
		return answer{}, err
	}
	targets := 0
	for _, given := range []bool{req.Account != "", req.Alias != nil, req.Unclaimed != ""} {
		if given {
			targets++
		}
	}
	if targets != 1 {
		return answer{}, wrong("account_id", "give one of account_id, alias and unclaimed")
	}
	ttl := int64(accountLinkTTL)
	switch {
	case req.Unclaimed != "":
		ttl, err = purchaseLinkTTL, checkPurchase(req.Unclaimed)
	case req.Account != "":
		err = checkID("acc_", string(req.Account))
	}
	if err != nil {
		return answer{}, err
	}
	if req.TTL != nil {
		ttl = *req.TTL
	}
	if ttl < minLinkTTL || ttl > maxLinkTTL {
		return answer{}, wrong("ttl_seconds", "want %d to %d", minLinkTTL, maxLinkTTL)
	}
	if req.Alias != nil {
		if err := checkAlias(*req.Alias); err != nil {
			return answer{}, err
		}
		err := c.read(c.ctx(), func(reader *store.Reader) error {
			owner, found, err := named(reader, c.env, *req.Alias)
			if err == nil && !found {
				err = problem.New(problem.NotFound, "No such account in this environment.")
			}
			req.Account = owner
			return err
		})
		if err != nil {
			return answer{}, err
		}
	}
	key, err := c.idempotency()
	if err != nil {
		return answer{}, err
	}
	if address != "" {
		key = c.veiled(c.sealer, key)
	}
	text, err := c.newLinkToken(key)
	if err != nil {
		return answer{}, err
	}
	command := store.PutLink{Hash: hashLinkToken(text), Account: req.Account, Purchase: req.Unclaimed, TTLSeconds: ttl, Idempotency: key}
	if address != "" {
		command.Mailed, command.Index = true, c.sealer.emailIndex(c.env, address)
		command.Personal = []store.Sealed{{Name: store.LinkText(command.Hash), Text: c.sealer.seal(c.env, linkTarget(req.Account, req.Unclaimed), address)}}
	}
	result, err := c.commit(store.TypePutLink, command)
	if err != nil {
		return answer{}, err
	}
	if address != "" {
		if err := c.mailLink(address, text); err != nil {
			return answer{}, err
		}
	}
	return answer{status: http.StatusCreated, body: struct {
		Token     string `json:"token"`
		ExpiresAt string `json:"expires_at"`
		written
	}{text, formatTime(result.Stamp + ttl), written{result.Account, result.Revision.String()}}}, nil
}

// recipient returns to whom a link is sent, empty for nobody. Error: a problem.
func (c *apiCall) recipient(sendTo *string) (string, error) {
	if sendTo == nil {
		return "", nil
	}
	if c.mail == nil {
		return "", problem.New(problem.NotConfigured, "No mail is configured: leave send_to out, and send the token yourself.")
	}
	if _, err := c.sealing(); err != nil {
		return "", err
	}
	return parseEmail("send_to", *sendTo)
}

// mailLink sends a link while the request waits. The link is made already: the repeat under the same Idempotency-Key sends the same one.
func (c *apiCall) mailLink(address, token string) error {
	hash := hashLinkToken(token)
	err := outbound.Send(c.ctx(), c.mail, outbound.Message{ID: "link-" + hex.EncodeToString(hash[:16]), To: address, Token: token, Subject: "Your link",
		Text: "Open this link on the device on which you use the app:\n\n" + strings.ReplaceAll(c.cfg.Mail.LinkURL, linkPlace, token) +
			"\n\nIt works once. If you did not ask for it, ignore this message.\n"})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, outbound.ErrRefused):
		c.log.WarnContext(c.ctx(), "link not mailed", "error", err)
		return wrong("send_to", "the mail server or backend does not take this message")
	default:
		c.log.WarnContext(c.ctx(), "link not mailed", "error", err)
		return problem.New(problem.Unavailable, "The link could not be mailed now.").After(mailRetryAfter)
	}
}

// redeemLink redeems a link for a backend: for the account that it names, or for the link's own.
func (c *apiCall) redeemLink() (answer, error) {
	var req struct {
		Account entitlement.AccountID `json:"account_id"`
	}
	if err := c.decode(&req); err != nil {
		return answer{}, err
	}
	key, err := c.idempotency()
	if err != nil {
		return answer{}, err
	}
	return c.redeem(c.r.PathValue("token"), store.RedeemLink{Account: req.Account, Idempotency: key}, "", defaultSessionTTL)
}

// redeemLink redeems a link for the app that has the session.
func (c *appCall) redeemLink() (answer, error) {
	var req struct {
		Account string `json:"account_id"`
	}
	if err := c.decodeLoosely(&req); err != nil {
		return answer{}, err
	}
	if req.Account != "" && req.Account != c.session.Subject {
		return answer{}, problem.New(problem.Forbidden, "The credential is another account's.")
	}
	key, err := c.idempotency()
	if err != nil {
		return answer{}, err
	}
	return c.redeem(c.r.PathValue("token"), store.RedeemLink{From: stored(c.session), Idempotency: key}, c.session.Device, appSessionTTL)
}

func (c *apiCall) redeem(link string, command store.RedeemLink, device string, ttl int64) (answer, error) {
	command.Hash, command.Merge = hashLinkToken(link), newThing("merge_", command.Idempotency)
	var next string
	if c.mail != nil && c.sealer != nil {
		var err error
		if next, err = c.newLinkToken(command.Idempotency); err != nil {
			return answer{}, err
		}
		command.Renew = hashLinkToken(next)
	}
	result, err := c.commit(store.TypeRedeemLink, command)
	if err == nil && result.Renewed != nil {
		err = c.mailRenewed(result.Renewed, next)
	}
	if err != nil {
		return answer{}, err
	}
	signed, err := c.signSession(result, device, ttl)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: struct {
		sessionIssued
		Anonymous bool                     `json:"anonymous"`
		Moved     []entitlement.PurchaseID `json:"moved"`
		MergeID   string                   `json:"merge_id,omitempty"`
	}{signed, result.Anonymous, append([]entitlement.PurchaseID{}, result.Moved...), result.Merge}}, nil
}

// mailRenewed mails the link that stands for one which came too late, and returns the problem that says so. Who asks may have found the old one: they are
// not told whose address it is.
func (c *apiCall) mailRenewed(renewed *store.RenewedLink, token string) error {
	var address string
	err := c.read(c.ctx(), func(reader *store.Reader) (err error) {
		address, err = c.sealer.open(c.env, linkTarget(renewed.Account, renewed.Purchase), reader.LinkAddress(c.env, renewed))
		return err
	})
	if err == nil {
		err = c.mailLink(address, token)
	} else {
		c.log.WarnContext(c.ctx(), "link not mailed", "error", err)
	}
	if err != nil {
		return problem.New(problem.LinkExpired, "The link has expired, and a new one could not be mailed now.").After(store.RelinkSeconds * time.Second)
	}
	return problem.New(problem.LinkExpired, "The link has expired. A new one was mailed to the same address.").With("new_link", "mailed")
}
