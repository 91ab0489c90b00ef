package writer

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// A person may ask what is kept of them, and that it be erased. Accounts that are merged are one person: both are about all of them.

// exportPage is how many events or consumptions one read of the state gives for an export, whose length nobody bounds.
const exportPage = 200

// warningCancel says that the provider goes on charging for what was erased here.
const warningCancel = "cancel-subscription"

func (w *Writer) routeErase(s *server) {
	s.handle("DELETE /v1/accounts/{id}", w.writing((*apiCall).eraseAccount))
	s.handle("GET /v1/accounts/{id}/export", w.writingWith((*apiCall).exportAccount, scopeServer, scopeRead))
}

func (c *apiCall) eraseAccount() (answer, error) {
	key, err := c.idempotency()
	if err != nil {
		return answer{}, err
	}
	id, err := c.accountToWrite()
	var missing *problem.Problem
	if key != nil && errors.As(err, &missing) && missing.Slug == problem.NotFound {
		err = nil // the alias went with the account: the repeat of the request gets its answer by its key
	}
	if err != nil {
		return answer{}, err
	}
	result, err := c.commit(store.TypeErase, store.EraseAccount{Account: id, Idempotency: key})
	if err != nil {
		return answer{}, err
	}
	shown := struct {
		written
		Erased   []entitlement.AccountID  `json:"erased"`   // the account, and those that were merged with it
		Renewing []entitlement.PurchaseID `json:"renewing"` // for which the provider goes on charging until somebody cancels
		Warnings []string                 `json:"warnings"`
	}{written{result.Account, result.Revision.String()}, result.Erased, append([]entitlement.PurchaseID{}, result.Renewing...), []string{}}
	if len(result.Renewing) > 0 {
		shown.Warnings = append(shown.Warnings, warningCancel)
	}
	return answer{status: http.StatusOK, body: shown}, nil
}

// exported is the part of an export that comes from one read.
type exported struct {
	AccountID   entitlement.AccountID   `json:"account_id"`
	Environment entitlement.Environment `json:"environment"`
	Revision    string                  `json:"revision"`
	ExportedAt  string                  `json:"exported_at"`
	AccountIDs  []entitlement.AccountID `json:"account_ids"` // the person's: the account, and those that are merged with it
	Account     accountShown            `json:"account"`     // what GET of the account answers with
	Emails      []emailExported         `json:"emails"`      // of all the accounts
	Devices     []deviceExported        `json:"devices"`
	Answer      json.RawMessage         `json:"answer"` // what GET .../entitlements answers with: entitlements, balances
	Accesses    []accessExported        `json:"accesses"`
	Intents     []intentExported        `json:"purchase_intents"`
}

type emailExported struct {
	AccountID entitlement.AccountID `json:"account_id"`
	emailShown
}

type deviceExported struct {
	AccountID entitlement.AccountID `json:"account_id"`
	Platform  string                `json:"platform"`
	PushToken *string               `json:"push_token"` // null: sealed with another key than this node's
	SeenAt    string                `json:"seen_at"`
}

type accessExported struct {
	Module     string  `json:"module"`
	RedeemedAt string  `json:"redeemed_at"`
	Seconds    int64   `json:"seconds"` // 0: for ever
	RevokedAt  *string `json:"revoked_at"`
}

type intentExported struct {
	ID        string                `json:"intent_id"`
	AccountID entitlement.AccountID `json:"account_id"`
	Provider  entitlement.Provider  `json:"provider"`
	ProductID entitlement.ProductID `json:"product_id"`
	DeviceID  string                `json:"device_id,omitempty"`
	ExpiresAt string                `json:"expires_at"`
}

type consumptionExported struct {
	AccountID     entitlement.AccountID `json:"account_id"`
	ConsumptionID string                `json:"consumption_id"`
	Credit        string                `json:"credit"`
	Amount        int64                 `json:"amount"`
	At            string                `json:"at"`
}

// exportAccount gives all that is kept of a person. It is in the audit trail before the first byte goes out.
func (c *apiCall) exportAccount() (answer, error) {
	id, err := c.accountToWrite()
	if err != nil {
		return answer{}, err
	}
	if _, err := c.commit(store.TypeExport, store.ExportAccount{Account: id}); err != nil {
		return answer{}, err
	}
	var whole exported
	err = c.read(c.ctx(), func(reader *store.Reader) error {
		whole, err = c.export(reader, id)
		return err
	})
	if err != nil {
		return answer{}, err
	}
	head, err := json.Marshal(whole)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, stream: func(to io.Writer) error {
		b := bufio.NewWriter(to)
		_, _ = b.Write(head[:len(head)-1]) // what cannot be written is seen at the flush
		if err := c.exportConsumptions(b, whole.AccountIDs); err != nil {
			return err
		}
		if err := c.exportEvents(b, whole.AccountID); err != nil {
			return err
		}
		_, _ = b.WriteString("}\n")
		return b.Flush()
	}}, nil
}

// export reads all that is bounded.
func (c *apiCall) export(reader *store.Reader, id entitlement.AccountID) (exported, error) {
	account, found, err := reader.Account(c.env, id)
	if err != nil {
		return exported{}, err
	}
	if !found {
		return exported{}, problem.New(problem.NotFound, "No such account in this environment.")
	}
	shown, err := c.shownAccount(reader, account.ID)
	if err != nil {
		return exported{}, err
	}
	answered, err := c.appendEntitlements([]byte{'{'}, reader, c.env, account.ID)
	if err != nil {
		return exported{}, err
	}
	e := exported{AccountID: account.ID, Environment: c.env, Revision: shown.Revision, ExportedAt: formatTime(c.now().Unix()), Account: shown,
		Answer: append(answered, '}'), Emails: []emailExported{}, Devices: []deviceExported{}, Accesses: []accessExported{}, Intents: []intentExported{}}
	if e.AccountIDs, _, err = reader.Group(c.env, account.ID); err != nil {
		return exported{}, err
	}
	for _, member := range e.AccountIDs {
		_, history, err := c.emails(reader, member)
		if err != nil {
			return exported{}, err
		}
		for _, one := range history {
			e.Emails = append(e.Emails, emailExported{member, one})
		}
		devices, err := reader.Devices(c.env, member)
		if err != nil {
			return exported{}, err
		}
		for _, d := range devices {
			shown := deviceExported{AccountID: member, Platform: d.Platform, SeenAt: formatTime(d.SeenAt)}
			if text, err := c.sealer.open(c.env, devicePlace(member), d.Sealed); err == nil {
				shown.PushToken = &text
			}
			e.Devices = append(e.Devices, shown)
		}
		intents, err := reader.Intents(c.env, member)
		if err != nil {
			return exported{}, err
		}
		for _, i := range intents {
			e.Intents = append(e.Intents, intentExported{i.ID, member, i.Provider, i.Product, i.Device, formatTime(i.ExpiresAt)})
		}
	}
	for _, a := range account.Accesses {
		e.Accesses = append(e.Accesses, accessExported{a.Module, formatTime(a.RedeemedAt), a.Seconds, optionalTime(a.RevokedAt)})
	}
	return e, nil
}

// exportList writes a member of the export, page by page. fn writes a page's elements and reports whether more follow.
func exportList(to *bufio.Writer, name string, fn func(element func(any) error) (more bool, err error)) error {
	_, _ = to.WriteString(`,"` + name + `":[`)
	first := true
	for {
		more, err := fn(func(v any) error {
			text, err := json.Marshal(v)
			if !first {
				_ = to.WriteByte(',')
			}
			first = false
			_, _ = to.Write(text)
			return err
		})
		if err == nil && more {
			err = to.Flush()
		}
		if err != nil {
			return err
		}
		if !more {
			return to.WriteByte(']')
		}
	}
}

func (c *apiCall) exportConsumptions(to *bufio.Writer, members []entitlement.AccountID) error {
	at, after := 0, ""
	return exportList(to, "consumptions", func(element func(any) error) (bool, error) {
		var list []store.Consumption
		err := c.store.View(func(reader *store.Reader) (err error) {
			list, err = reader.Consumptions(c.env, members[at], after, exportPage)
			return err
		})
		if err != nil {
			return false, err
		}
		for _, one := range list {
			after = one.ID
			if err := element(consumptionExported{one.Account, one.ID, one.Credit, one.Amount, formatTime(one.Stamp)}); err != nil {
				return false, err
			}
		}
		if len(list) < exportPage {
			at, after = at+1, ""
		}
		return at < len(members), nil
	})
}

// errErasedMeanwhile cuts an export off: what follows is no more.
var errErasedMeanwhile = errors.New("the account was erased while it was exported")

func (c *apiCall) exportEvents(to *bufio.Writer, id entitlement.AccountID) error {
	after := uint64(0)
	return exportList(to, "events", func(element func(any) error) (bool, error) {
		var list []store.StoredEvent
		err := c.store.View(func(reader *store.Reader) error {
			_, found, err := reader.Account(c.env, id)
			if err == nil && !found {
				err = errErasedMeanwhile
			}
			if err == nil {
				list, err = reader.OwnEvents(c.env, id, after, exportPage)
			}
			return err
		})
		if err != nil {
			return false, err
		}
		for _, ev := range list {
			after = ev.Seq
			shown, err := c.withData(ev)
			if err == nil {
				err = element(shown)
			}
			if err != nil {
				return false, err
			}
		}
		return len(list) == exportPage, nil
	})
}
