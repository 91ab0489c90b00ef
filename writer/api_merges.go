package writer

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// Support makes two accounts one where they are one person's, after it has seen what that would do.

func (w *Writer) routeMerges(s *server) {
	s.handle("POST /v1/accounts/{id}/merges", w.writing((*apiCall).merge))
	s.handle("DELETE /v1/accounts/{id}/merges/{merge_id}", w.writing((*apiCall).undoMerge))
}

// merge merges another account into the one in the path, or says what that would do.
func (c *apiCall) merge() (answer, error) {
	var req struct {
		From    string `json:"from"`
		Preview bool   `json:"preview"`
	}
	if err := c.decode(&req); err != nil {
		return answer{}, err
	}
	if req.From == "" {
		return answer{}, wrong("from", "is missing")
	}
	if err := checkAccountName(req.From); err != nil {
		return answer{}, err
	}
	from := entitlement.AccountID(req.From)
	if strings.Contains(req.From, ":") || req.Preview {
		var shown mergePreview
		err := c.read(c.ctx(), func(reader *store.Reader) (err error) {
			if from, err = c.accountNamed(reader, req.From); err != nil || !req.Preview {
				return err
			}
			into, err := c.account(reader)
			if err == nil {
				shown, err = c.previewMerge(reader, from, into)
			}
			return err
		})
		if err != nil || req.Preview {
			return answer{status: http.StatusOK, body: shown}, err
		}
	}
	var id string
	result, err := c.commitOnAccount(store.TypeMerge, func(into entitlement.AccountID, key *store.Idempotency) any {
		id = newThing("merge_", key)
		return store.MergeAccounts{ID: id, From: from, Into: into, Idempotency: key}
	})
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusCreated, body: struct {
		MergeID string `json:"merge_id"`
		written
	}{id, written{result.Account, result.Revision.String()}}}, nil
}

func (c *apiCall) undoMerge() (answer, error) {
	if err := checkID("merge_", c.r.PathValue("merge_id")); err != nil {
		return answer{}, err
	}
	return c.onAccount(http.StatusOK, store.TypeUndoMerge, func(id entitlement.AccountID, key *store.Idempotency) any {
		return store.UndoMerge{Account: id, ID: c.r.PathValue("merge_id"), Idempotency: key}
	})
}

// mergePreview is what a merge would do.
type mergePreview struct {
	AccountID entitlement.AccountID `json:"account_id"` // that would answer for both
	Preview   bool                  `json:"preview"`
	Revision  string                `json:"revision"` // at which this was seen
	Into      mergeSide             `json:"into"`
	From      mergeSide             `json:"from"`
	Merged    json.RawMessage       `json:"merged"` // what both would be answered with
	Conflicts []mergeConflict       `json:"conflicts"`
}

type mergeSide struct {
	Accounts  []entitlement.AccountID  `json:"accounts"` // that are one already, the one that answers for them first
	Aliases   []aliasShown             `json:"aliases"`
	Purchases []entitlement.PurchaseID `json:"purchases"`
	Grants    []string                 `json:"grants"`
	Now       json.RawMessage          `json:"now"` // what it is answered with
}

// mergeConflict is what a person would have twice. It hinders no merge: it is what support should know before.
type mergeConflict struct {
	Kind  string `json:"kind"`            // "trials": both have used one. "subscriptions", "paid_twice": both have paid for the group
	Group string `json:"group,omitempty"` // of products
}

func (c *apiCall) previewMerge(reader *store.Reader, from, into entitlement.AccountID) (mergePreview, error) {
	p, rejection, err := reader.PreviewMerge(c.env, from, into)
	if err != nil {
		return mergePreview{}, err
	}
	if rejection != nil {
		return mergePreview{}, rejectedAs(rejection)
	}
	index, err := c.catalogs.index(reader, c.env)
	if err != nil {
		return mergePreview{}, err
	}
	now := c.now().Unix()
	view := func(a *entitlement.Account) (entitlement.View, json.RawMessage) {
		v := a.View(index, now, c.cfg.ManageURLs)
		return v, append(v.AppendJSON([]byte{'{'}, c.env, now+graceSeconds), '}')
	}
	shown := mergePreview{AccountID: p.Merged.ID, Preview: true, Revision: reader.Position().Revision().String(), Conflicts: []mergeConflict{}}
	side := func(a *entitlement.Account, all []entitlement.AccountID, names []store.NamedAlias) (entitlement.View, mergeSide) {
		v, now := view(a)
		s := mergeSide{Accounts: all, Aliases: showAliases(c.shownAliases(reader, names), len(all) > 1), Purchases: []entitlement.PurchaseID{}, Grants: []string{}, Now: now}
		for i := range a.Purchases {
			s.Purchases = append(s.Purchases, a.Purchases[i].ID)
		}
		for i := range a.Grants {
			s.Grants = append(s.Grants, a.Grants[i].ID)
		}
		return v, s
	}
	var intoView, fromView entitlement.View
	intoView, shown.Into = side(&p.Into, p.IntoAll, p.IntoName)
	fromView, shown.From = side(&p.From, p.FromAll, p.FromName)
	_, shown.Merged = view(&p.Merged)
	if intoView.TrialUsed && fromView.TrialUsed {
		shown.Conflicts = append(shown.Conflicts, mergeConflict{Kind: "trials"})
	}
	for _, one := range intoView.Blocked {
		at := slices.IndexFunc(fromView.Blocked, func(other entitlement.BlockedGroup) bool { return other.Group == one.Group })
		switch {
		case at < 0:
		case one.Reason == entitlement.BlockedSubscription && fromView.Blocked[at].Reason == entitlement.BlockedSubscription:
			shown.Conflicts = append(shown.Conflicts, mergeConflict{"subscriptions", one.Group})
		default:
			shown.Conflicts = append(shown.Conflicts, mergeConflict{"paid_twice", one.Group})
		}
	}
	return shown, nil
}

// aliasShown is an alias, with the account that it was given to where several are one.
type aliasShown struct {
	entitlement.Alias
	Account entitlement.AccountID `json:"account_id,omitempty"`
}

func showAliases(names []store.NamedAlias, merged bool) []aliasShown {
	shown := []aliasShown{}
	for _, n := range names {
		a := aliasShown{Alias: n.Alias}
		if merged {
			a.Account = n.Account
		}
		shown = append(shown, a)
	}
	return shown
}

// mergeShown is one merge as GET of an account shows it.
type mergeShown struct {
	MergeID   string                `json:"merge_id"`
	From      entitlement.AccountID `json:"from"`
	Into      entitlement.AccountID `json:"into"`
	At        string                `json:"at"`
	UndoUntil string                `json:"undo_until"`
}

func showMerges(merges []store.Merge) []mergeShown {
	shown := []mergeShown{}
	for _, m := range merges {
		shown = append(shown, mergeShown{m.ID, m.From, m.Into, formatTime(m.Stamp), formatTime(m.UndoUntil())})
	}
	return shown
}

// rejectedAs is the problem of what the state machine refused.
func rejectedAs(r *store.Rejection) error {
	p := problem.New(problem.Slug(r.Slug), sentence(r.Detail))
	if r.Slug == store.SlugNotFound && !strings.Contains(r.Detail, " ") { // the state machine names the thing alone
		p = problem.Newf(problem.NotFound, "No such %s in this environment.", r.Detail)
	}
	if r.Owner != "" {
		p = p.With("owner", string(r.Owner))
	}
	return p
}
