package writer

import (
	"fmt"
	"net/http"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// Where money and access disagree: paid for and locked, open without a payment, charged after a cancel. It is found when it is read, from what the providers
// have proved, and nothing is done about it by itself.

// mismatchesScanned is how many purchases one request looks at: some 20 ms of one read.
const mismatchesScanned = 1000

func (w *Writer) routeMismatches(s *server) {
	s.handle("GET /v1/mismatches", w.reading((*apiCall).listMismatches))
}

// mismatchShown is one mismatch.
type mismatchShown struct {
	Kind        entitlement.MismatchKind `json:"kind"`
	Item        string                   `json:"item_id,omitempty"`
	Since       string                   `json:"since"`
	Explanation string                   `json:"explanation"`
}

// showMismatches lists those of a purchase, never nil.
func showMismatches(id entitlement.PurchaseID, mismatches []entitlement.Mismatch) []mismatchShown {
	shown := []mismatchShown{}
	for _, m := range mismatches {
		shown = append(shown, mismatchShown{m.Kind, m.Item, formatTime(m.Since), explainMismatch(id, m)})
	}
	return shown
}

// explainMismatch says in words what support looks at.
func explainMismatch(id entitlement.PurchaseID, m entitlement.Mismatch) string {
	text := map[entitlement.MismatchKind]string{
		entitlement.PaidButUnclaimed:   "%s is paid for since %s and nobody has it: link it to its account.",
		entitlement.PaidButUnmapped:    "%s is paid for since %s and the catalog does not say what it gives: add its product.",
		entitlement.PaidButLocked:      "%s gives no access since %s although what was paid for lasts on and was not given back.",
		entitlement.OpenButUnpaid:      "%s gives access since %s without a payment: its provider goes on all the same, or has not said how the renewal went.",
		entitlement.ChargedAfterCancel: "%s was charged for a term from %s on although it was cancelled before: refund it, or see whether it was taken up again.",
		entitlement.ProvidersDisagree:  "Of those that tell of %s one has ended it and one has not, as of %s: ask both.",
	}[m.Kind]
	return fmt.Sprintf(text, id, formatTime(m.Since))
}

func (c *apiCall) listMismatches(reader *store.Reader) (answer, error) {
	q := c.r.URL.Query()
	limit, err := pageLimit(q.Get("limit"))
	if err != nil {
		return answer{}, err
	}
	index, err := c.catalogs.index(reader, c.env)
	if err != nil {
		return answer{}, err
	}
	policy, err := reader.Policy(c.env)
	if err != nil {
		return answer{}, err
	}
	scanned, err := reader.Purchases(c.env, entitlement.PurchaseID(q.Get("cursor")), mismatchesScanned)
	if err != nil {
		return answer{}, err
	}
	type purchaseMismatches struct {
		Purchase   entitlement.PurchaseID `json:"purchase_id"`
		Account    *entitlement.AccountID `json:"account_id"` // null: nobody has it
		Mismatches []mismatchShown        `json:"mismatches"`
	}
	list, now := []purchaseMismatches{}, c.now().Unix()
	var next *entitlement.PurchaseID
	for i := range scanned {
		p := &scanned[i]
		mismatches, err := c.mismatchesOf(reader, p, policy, index, now)
		if err != nil {
			return answer{}, err
		}
		if found := showMismatches(p.ID, mismatches); len(found) > 0 {
			m := purchaseMismatches{Purchase: p.ID, Mismatches: found}
			if p.Owner != "" {
				m.Account = &p.Owner
			}
			list = append(list, m)
		}
		if len(list) == limit || i+1 == mismatchesScanned {
			next = &p.ID
			break
		}
	}
	return answer{status: http.StatusOK, body: struct {
		Purchases []purchaseMismatches    `json:"purchases"`
		Next      *entitlement.PurchaseID `json:"next"`
	}{list, next}}, nil
}

// mismatchesOf finds those of a purchase: as its owner's account shows it, which knows also what other purchases say of it.
func (c *apiCall) mismatchesOf(reader *store.Reader, p *store.PurchaseDetail, policy entitlement.Policy, index *entitlement.CatalogIndex, now int64) ([]entitlement.Mismatch, error) {
	if p.Owner != "" {
		account, _, err := reader.Account(c.env, p.Owner)
		if err != nil {
			return nil, err
		}
		for i := range account.Purchases {
			if owned := &account.Purchases[i]; owned.ID == p.ID {
				return entitlement.MismatchesOf(owned, p.Evidence, policy, index, true, now), nil
			}
		}
	}
	return entitlement.Mismatches(p.Evidence, policy, index, p.Owner != "" || p.Erased, now), nil
}
