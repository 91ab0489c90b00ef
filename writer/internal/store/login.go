package store

import (
	"slices"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/replication"
)

// An app has a session from its first launch: of an account that nobody is known to have, which is anonymous. Who signs in later keeps what was bought
// before. Deciding that in one command is what makes two devices that sign in at one moment end up in one account.

// login gives the app an account: a new anonymous one, or that of who signs in.
func (c *command) login(body *Login) Result {
	if body.New == "" || len(body.New) > maxIDBytes || len(body.Merge) > maxIDBytes || body.Alias != nil && body.To != nil {
		return rejected(SlugInvalidRequest, "account id, merge id or identity")
	}
	for _, s := range []*Session{body.From, body.To} {
		if rejection := c.sessionEnded(s); rejection != nil {
			return Result{Rejection: rejection}
		}
	}
	var to entitlement.AccountID
	switch {
	case body.To != nil:
		to = body.To.Account
	case body.Alias == nil:
		c.signOut(body.From)
		return c.madeAnonymous(body.New)
	case body.Alias.Kind != entitlement.OIDCSubject || !validAlias(*body.Alias):
		return rejected(SlugInvalidRequest, "alias")
	default:
		to = c.aliasOwner(*body.Alias)
	}
	from := entitlement.AccountID("")
	if body.From != nil {
		from = body.From.Account
	}
	if to == "" {
		return c.identified(from, body)
	}
	return c.entered(from, to, body.Merge, body.Device, c.anonymous(from))
}

// sessionEnded says why a session does not count; nil for none is nil.
func (c *command) sessionEnded(s *Session) *Rejection {
	if s == nil {
		return nil
	}
	a := c.account(s.Account)
	switch {
	case a == nil:
		return &Rejection{Slug: SlugInvalidCredential, Detail: "the session's account is not there"}
	case s.SignIn && s.IssuedAt < a.acc.SessionsFrom, !s.SignIn && a.acc.SessionEnded(s.Device, s.IssuedAt):
		return &Rejection{Slug: SlugSessionEnded, Detail: "this session was ended, or all of the account, after it was issued"}
	}
	return nil
}

// signOut ends the session of who leaves for a new anonymous account, and what its device has of every account that is merged with that of the session: the
// token of any of them shows what all have. nil is for none. An account that is nobody's has no other name than its session, which stays valid: with it what was
// bought would be lost.
func (c *command) signOut(s *Session) {
	if s == nil || s.SignIn || c.anonymous(s.Account) {
		return
	}
	for _, id := range c.mergedUnder(c.survivor(s.Account)) {
		if id == s.Account || s.Device != "" { // what others of the device are is not known of one without a name
			c.account(id).acc.SignOut(s.Device, s.IssuedAt, c.now)
		}
	}
}

func (c *command) madeAnonymous(id entitlement.AccountID) Result {
	if c.known(id) { // an id that somebody made up; ours are drawn by lot
		return rejected(SlugInvalidRequest, "account id")
	}
	result := c.newAccount(id, &accountRow{CreatedAt: c.now, Anonymous: true}, nil)
	result.Anonymous, result.what = true, "session.started"
	return result
}

// newAccount makes an account.
func (c *command) newAccount(id entitlement.AccountID, details *accountRow, aliases []entitlement.Alias) Result {
	c.accounts = append(c.accounts, &accountEdit{id: id, acc: entitlement.Account{ID: id, CreatedAt: c.now}})
	return Result{Account: id, Rejection: c.addAliases(id, details, aliases)}
}

// identified gives an identity that nobody has to the account that the app has so far, if that is anonymous, else to a new one.
func (c *command) identified(from entitlement.AccountID, body *Login) Result {
	aliases := []entitlement.Alias{*body.Alias}
	if !c.anonymous(from) {
		if c.known(body.New) {
			return rejected(SlugInvalidRequest, "account id")
		}
		return c.newAccount(body.New, &accountRow{CreatedAt: c.now}, aliases)
	}
	var details accountRow
	c.decode(bucketAccounts, envKey(c.Env, string(from)), &details)
	return Result{Account: from, Existing: true, Stamp: c.account(from).acc.NextSession(body.Device, c.now), Rejection: c.addAliases(from, &details, aliases)}
}

// entered leads the app from one account to another, which exists. One that comes along is merged into it, under the id merge; of any other nothing moves. One
// that cannot be merged, because of its size or that of the group, is left behind: whoever signs in must not be locked out for that.
func (c *command) entered(from, to entitlement.AccountID, merge, device string, comes bool) Result {
	result := Result{Account: to, Existing: true, Anonymous: c.anonymous(to), Stamp: c.account(to).acc.NextSession(device, c.now)}
	if merge == "" || c.survivor(from) == c.survivor(to) || !comes {
		return result
	}
	if merged := c.mergeAccounts(&MergeAccounts{ID: merge, From: c.survivor(from), Into: to}); merged.Rejection == nil {
		result.Merge, result.what = merge, auditMerged
	}
	return result
}

// anonymous reports whether nobody is known to have the account: a session made it and all that it is merged with, whichever of them survives, and nothing has
// named any of them since. No account is not anonymous.
func (c *command) anonymous(id entitlement.AccountID) bool {
	return !slices.ContainsFunc(c.mergedUnder(c.survivor(id)), func(member entitlement.AccountID) bool { return !c.nobodys(member) })
}

// nobodys reports whether a session made the account itself and nothing has named it since, whatever it is merged with.
func (c *command) nobodys(id entitlement.AccountID) bool {
	var row accountRow
	return c.decode(bucketAccounts, envKey(c.Env, string(id)), &row) && row.anonymous()
}

// anonymous is the same of the row alone. What a store calls a buyer names nobody: who was tagged before the first login takes along what they bought.
func (row *accountRow) anonymous() bool {
	return row.Anonymous && !slices.ContainsFunc(row.Aliases, func(a entitlement.Alias) bool { return a.Kind.Identifies() })
}

// Edges find the account of a sign-in token by a pointer, whose key is a hash of the subject: see entitlement.SubjectKey. There is one for each alias of
// that kind, to the account that has it.

// pointTo writes the pointer of an alias, if it is one that edges look for.
func (c *command) pointTo(a entitlement.Alias, id entitlement.AccountID) {
	if a.Kind == entitlement.OIDCSubject && c.st.Rules >= rulesAccounts {
		pointer := entitlement.Pointer{Account: id}
		c.write(replication.Record{Env: c.Env, Kind: replication.KindPointer, Key: a.SubjectKey(), Value: entitlement.Encode(&pointer)})
	}
}
