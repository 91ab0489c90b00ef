package writer

import (
	"net/http"
	"strconv"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/store"
)

func (w *Writer) routeSupport(s *server) {
	s.handle("POST /v1/accounts/{id}/consumptions", w.writing((*apiCall).consume))
	s.handle(refreshRoute, w.writing((*apiCall).refresh))
	s.handle(tagRoute, w.writing((*apiCall).tagCustomer))
	s.handle("POST /v1/unclaimed/{purchase_id}/claim", w.writing((*apiCall).claimUnclaimed))
}

// maxConsumption bounds one consumption: more than any balance can be.
const maxConsumption = 1<<53 - 1

// consume takes credits from an account's balance, once for each consumption id.
func (c *apiCall) consume() (answer, error) {
	var req struct {
		Credit string `json:"credit"`
		Amount int64  `json:"amount"`
		ID     string `json:"consumption_id"`
	}
	if err := c.decode(&req); err != nil {
		return answer{}, err
	}
	switch {
	case req.Credit == "" || len(req.Credit) > maxAttributeNameBytes:
		return answer{}, wrong("credit", "want the name of a credit, 1 to %d bytes", maxAttributeNameBytes)
	case req.Amount < 1 || req.Amount > maxConsumption:
		return answer{}, problem.Newf(problem.InvalidAmount, "Field \"amount\": want 1 to %d.", int64(maxConsumption))
	case req.ID == "" || len(req.ID) > maxDeviceBytes:
		return answer{}, wrong("consumption_id", "want 1 to %d bytes, unique for the account", maxDeviceBytes)
	}
	key, err := c.idempotency()
	if err != nil {
		return answer{}, err
	}
	id, err := c.accountToWrite()
	if err != nil {
		return answer{}, err
	}
	result, err := c.propose(c.ctx(), store.TypeConsume, c.env, store.Consume{Account: id, ID: req.ID, Credit: req.Credit, Amount: req.Amount, Idempotency: key})
	if err != nil {
		return answer{}, err
	}
	if r := result.Rejection; r != nil {
		p := problem.New(problem.Slug(r.Slug), sentence(r.Detail))
		if r.Slug == store.SlugInsufficientBalance {
			p = p.With("balance", strconv.FormatInt(max(result.Balance, 0), 10))
		}
		return answer{}, p
	}
	return answer{status: http.StatusOK, body: struct {
		Balance int64 `json:"balance"`
		written
	}{result.Balance, written{result.Account, result.Revision.String()}}}, nil
}

// claimUnclaimed gives a payment that has no account, or is that of the one that support says it is taken from, to the one that support says.
func (c *apiCall) claimUnclaimed() (answer, error) {
	var req struct {
		Account entitlement.AccountID `json:"account_id"`
		From    entitlement.AccountID `json:"from"`
	}
	if err := c.decode(&req); err != nil {
		return answer{}, err
	}
	if req.Account == "" {
		return answer{}, wrong("account_id", "is missing")
	}
	for _, id := range []entitlement.AccountID{req.Account, req.From} {
		if id == "" {
			continue // nothing is taken from anybody
		}
		if err := checkID("acc_", string(id)); err != nil {
			return answer{}, err
		}
	}
	purchase := entitlement.PurchaseID(c.r.PathValue("purchase_id"))
	if err := checkPurchase(purchase); err != nil {
		return answer{}, err
	}
	key, err := c.idempotency()
	if err != nil {
		return answer{}, err
	}
	result, err := c.commit(store.TypeRestore, store.RestorePurchase{Account: req.Account, Purchase: purchase, Support: true, From: req.From, Idempotency: key})
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: struct {
		Purchase entitlement.PurchaseID `json:"purchase_id"`
		written
	}{purchase, written{result.Account, result.Revision.String()}}}, nil
}
