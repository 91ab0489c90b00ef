package writer

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// What a person pays for twice: bought where nobody asked before, or before two accounts became one. It is found when it is read, from what the accounts have and
// the catalog says, and shown with what to do about it.

// doublesScanned is how many accounts one request looks at: some 20 ms of one read.
const doublesScanned = 2000

func (w *Writer) routeDoubles(s *server) {
	s.handle("GET /v1/doubles", w.reading((*apiCall).listDoubles))
}

// doubleShown is one double.
type doubleShown struct {
	Kind        entitlement.DoubleKind `json:"kind"`
	Group       string                 `json:"group,omitempty"` // of products
	Since       string                 `json:"since"`           // when the second one began
	Keep        doubledShown           `json:"keep"`
	End         []doubledShown         `json:"end"` // to be cancelled, or given back where it renews no more
	Explanation string                 `json:"explanation"`
}

type doubledShown struct {
	Purchase  entitlement.PurchaseID `json:"purchase_id"`
	Store     string                 `json:"store"`
	Product   entitlement.ProductID  `json:"product_id"`
	Began     string                 `json:"began"`
	WillRenew bool                   `json:"will_renew"`
	ManageURL string                 `json:"manage_url,omitempty"`
}

func showDoubled(p entitlement.DoubledPurchase) doubledShown {
	return doubledShown{p.Purchase, p.Store, p.Product, formatTime(p.Began), p.WillRenew, p.ManageURL}
}

// doublesOf lists an account's doubles, never nil.
func (w *Writer) doublesOf(reader *store.Reader, env entitlement.Environment, account *entitlement.Account, index *entitlement.CatalogIndex) ([]doubleShown, error) {
	shown := []doubleShown{}
	if !mayBeDouble(account) {
		return shown, nil
	}
	policy, err := reader.Policy(env)
	if err != nil {
		return nil, err
	}
	now := w.now().Unix()
	began := func(id entitlement.PurchaseID) int64 {
		first, _, _ := firstTerm(reader, env, id, policy)
		return first.StartsAt
	}
	doubles := account.Doubles(index, now, w.cfg.ManageURLs, began)
	trials, err := trialsOf(reader, env, account, policy, now)
	if err != nil {
		return nil, err
	}
	for _, d := range append(doubles, trials...) {
		s := doubleShown{Kind: d.Kind, Group: d.Group, Since: formatTime(d.Since), Keep: showDoubled(d.Keep), End: []doubledShown{}, Explanation: explainDouble(&d)}
		for _, p := range d.End {
			s.End = append(s.End, showDoubled(p))
		}
		shown = append(shown, s)
	}
	return shown, nil
}

// mayBeDouble is the quick look that spares most accounts the other one.
func mayBeDouble(a *entitlement.Account) bool {
	lasting := 0
	for i := range a.Purchases {
		if slices.ContainsFunc(a.Purchases[i].Items, func(i entitlement.Item) bool {
			return i.WillRenew || !i.Recurring && i.AccessUntil == 0 && i.State == entitlement.Live
		}) {
			lasting++
		}
	}
	return lasting > 1 || a.TrialLocked || slices.ContainsFunc(a.Purchases, func(p entitlement.Purchase) bool { return p.TrialUsed }) && len(a.Purchases) > 1
}

// firstTerm returns what a purchase began with, and whose it is. Of what is not known any more it is the zero Term, and nobody's.
func firstTerm(reader *store.Reader, env entitlement.Environment, id entitlement.PurchaseID, policy entitlement.Policy) (entitlement.Term, entitlement.AccountID, error) {
	p, found, err := reader.Purchase(env, id)
	if !found || err != nil {
		return entitlement.Term{}, "", err
	}
	if terms := entitlement.Terms(p.Evidence, policy); len(terms) > 0 {
		return terms[0], p.Owner, nil
	}
	return entitlement.Term{}, p.Owner, nil
}

// trialsOf returns the trials of an account's person, where there were two: its own, and those of whoever a store says is the same person.
func trialsOf(reader *store.Reader, env entitlement.Environment, account *entitlement.Account, policy entitlement.Policy, now int64) ([]entitlement.Double, error) {
	var trials []entitlement.DoubledPurchase
	add := func(id entitlement.PurchaseID, store string) error {
		if slices.ContainsFunc(trials, func(t entitlement.DoubledPurchase) bool { return t.Purchase == id }) {
			return nil
		}
		first, owner, err := firstTerm(reader, env, id, policy)
		if err != nil {
			return err
		}
		trial := entitlement.DoubledPurchase{Purchase: id, Store: store, Product: first.Product, Began: first.StartsAt}
		if a, found, err := reader.Own(env, owner); err != nil {
			return err
		} else if found {
			trial.WillRenew = slices.ContainsFunc(a.Purchases, func(p entitlement.Purchase) bool { return p.ID == id && p.Renews(now) })
		}
		trials = append(trials, trial)
		return nil
	}
	own := false
	for i := range account.Purchases {
		p := &account.Purchases[i]
		if !p.TrialUsed {
			continue
		}
		own = true
		if err := add(p.ID, p.Store); err != nil {
			return nil, err
		}
		others, err := reader.TrialsOfBuyer(env, p.ID)
		if err != nil {
			return nil, err
		}
		for _, id := range others {
			if err := add(id, string(id.Provider())); err != nil {
				return nil, err
			}
		}
	}
	if !own || len(trials) < 2 {
		return nil, nil
	}
	slices.SortFunc(trials, func(a, b entitlement.DoubledPurchase) int {
		if a.Began != b.Began {
			return int(max(min(a.Began-b.Began, 1), -1))
		}
		if a.Purchase < b.Purchase {
			return -1
		}
		return 1
	})
	return []entitlement.Double{{Kind: entitlement.DoubleTrials, Since: trials[1].Began, Keep: trials[0], End: trials[1:]}}, nil
}

// explainDouble says in words what support tells the person.
func explainDouble(d *entitlement.Double) string {
	since := formatTime(d.Since)
	if d.Kind == entitlement.DoubleTrials {
		return fmt.Sprintf("One person has had %d trials; the second began %s with %s.", 1+len(d.End), since, d.End[0].Purchase)
	}
	text := fmt.Sprintf("Billed twice for %s since %s: keep %s", d.Group, since, d.Keep.Purchase)
	if d.Kind == entitlement.DoublePaid {
		text = fmt.Sprintf("Owns %s for ever and has paid for it besides since %s: keep %s", d.Group, since, d.Keep.Purchase)
	}
	for _, p := range d.End {
		what := "refund"
		if p.WillRenew {
			what = "cancel"
		}
		text += fmt.Sprintf("; %s %s", what, p.Purchase)
	}
	return text + "."
}

func (c *apiCall) listDoubles(reader *store.Reader) (answer, error) {
	q := c.r.URL.Query()
	limit, err := pageLimit(q.Get("limit"))
	if err != nil {
		return answer{}, err
	}
	index, err := c.catalogs.index(reader, c.env)
	if err != nil {
		return answer{}, err
	}
	type accountDoubles struct {
		Account entitlement.AccountID `json:"account_id"`
		Doubles []doubleShown         `json:"doubles"`
	}
	list := []accountDoubles{}
	upTo, err := reader.Accounts(c.env, entitlement.AccountID(q.Get("cursor")), doublesScanned, func(account *entitlement.Account) (more bool, err error) {
		doubles, err := c.doublesOf(reader, c.env, account, index)
		if len(doubles) > 0 {
			list = append(list, accountDoubles{account.ID, doubles})
		}
		return len(list) < limit, err
	})
	if err != nil {
		return answer{}, err
	}
	var next *entitlement.AccountID
	if upTo != "" {
		next = &upTo
	}
	return answer{status: http.StatusOK, body: struct {
		Accounts []accountDoubles       `json:"accounts"`
		Next     *entitlement.AccountID `json:"next"`
	}{list, next}}, nil
}
