package writer

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// Limits of accounts. The state machine has limits of its own behind these, for what adds up over many requests.
const (
	maxAliasesPerRequest  = 32
	maxAliasBytes         = 512 // a Google purchase token has about 200, an OIDC issuer and subject together less than 512
	maxAttributes         = 64
	maxAttributeNameBytes = 64
	maxAttributeBytes     = 1024
	maxDeviceBytes        = 128
	maxReasonBytes        = 500
)

// How long a session may live. The default is a month; a year bounds what a stolen one is worth where nobody ends it.
const (
	defaultSessionTTL = 30 * 24 * 3600
	minSessionTTL     = 60
	maxSessionTTL     = entitlement.MaxSessionSeconds
)

// maxGrantDays is a hundred years: who wants longer says null, which never ends.
const maxGrantDays = 36_525

var entitlementName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func (w *Writer) routeAccounts(s *server) {
	s.handle("POST /v1/accounts", w.writing((*apiCall).createAccount))
	s.handle("GET /v1/accounts/{id}", w.reading((*apiCall).showAccount))
	s.handle("PATCH /v1/accounts/{id}", w.writing((*apiCall).patchAccount))
	s.handle("POST /v1/accounts/{id}/aliases", w.writing((*apiCall).addAlias))
	s.handle("POST /v1/accounts/{id}/sessions", w.writing((*apiCall).startSession))
	s.handle("DELETE /v1/accounts/{id}/sessions", w.writing((*apiCall).endSessions))
	s.handle("GET /v1/accounts/{id}/entitlements", w.reading((*apiCall).showEntitlements))
	s.handle("POST /v1/accounts/{id}/grants", w.writing((*apiCall).putGrant))
	s.handle("DELETE /v1/accounts/{id}/grants/{grant_id}", w.writing((*apiCall).deleteGrant))
}

// written is the part that every answer to a write has. Revision is the least one at which all of its effects are visible.
type written struct {
	AccountID entitlement.AccountID `json:"account_id,omitempty"`
	Revision  string                `json:"revision"`
}

func (c *apiCall) createAccount() (answer, error) {
	var req struct {
		Aliases    []entitlement.Alias `json:"aliases"`
		Attributes map[string]string   `json:"attributes"`
	}
	if err := c.decode(&req); err != nil {
		return answer{}, err
	}
	if len(req.Aliases) > maxAliasesPerRequest {
		return answer{}, wrong("aliases", "more than %d", maxAliasesPerRequest)
	}
	for _, a := range req.Aliases {
		if err := checkAlias(a); err != nil {
			return answer{}, err
		}
	}
	kept := make([]entitlement.Alias, len(req.Aliases))
	for i, a := range req.Aliases {
		kept[i] = asKept(a)
	}
	if err := checkAttributes(req.Attributes); err != nil {
		return answer{}, err
	}
	key, err := c.veiledKey()
	if err != nil {
		return answer{}, err
	}
	command := store.CreateAccount{ID: entitlement.AccountID(newThing("acc_", key)), Attributes: req.Attributes, Idempotency: key}
	command.Aliases, command.Personal = c.aliasesToKeep(c.env, kept...)
	if c.sealsPersonal() && len(req.Attributes) > 0 {
		s, err := c.sealingText("attribute")
		if err != nil {
			return answer{}, err
		}
		var texts []store.Sealed
		command.Changes, texts = s.sealAttributes(c.env, command.ID, req.Attributes, nil)
		command.Attributes, command.Personal = nil, append(command.Personal, texts...)
	}
	result, err := c.commit(store.TypeCreate, command)
	if err != nil {
		return answer{}, err
	}
	status := http.StatusCreated
	if result.Existing {
		status = http.StatusOK
	}
	return answer{status: status, body: struct {
		written
		Environment entitlement.Environment `json:"environment"`
		Aliases     []entitlement.Alias     `json:"aliases"` // that the request named, all of which are the account's now
		Created     bool                    `json:"created"`
	}{written{result.Account, result.Revision.String()}, c.env, append([]entitlement.Alias{}, req.Aliases...), !result.Existing}}, nil
}

func checkAlias(a entitlement.Alias) error {
	switch {
	case !slices.Contains(entitlement.AliasKinds, a.Kind):
		return wrong("kind", "no such kind of alias")
	case a.Value == "" || len(a.Value) > maxAliasBytes:
		return wrong("value", "want 1 to %d bytes", maxAliasBytes)
	case strings.ContainsFunc(a.Value, unicode.IsControl):
		return wrong("value", "has control characters")
	}
	return nil
}

func checkAttributes(attributes map[string]string) error {
	if len(attributes) > maxAttributes {
		return wrong("attributes", "more than %d", maxAttributes)
	}
	for name, value := range attributes {
		if name == "" || len(name) > maxAttributeNameBytes {
			return wrong("attributes", "names have 1 to %d bytes", maxAttributeNameBytes)
		}
		if len(value) > maxAttributeBytes {
			return wrong("attributes", "values have at most %d bytes", maxAttributeBytes)
		}
	}
	return nil
}

func (c *apiCall) patchAccount() (answer, error) {
	var req struct {
		Attributes map[string]*string `json:"attributes"` // null or "" deletes one
		Tester     *bool              `json:"tester"`
		Email      json.RawMessage    `json:"email"` // null is not absent: none from now on
	}
	if err := c.decode(&req); err != nil {
		return answer{}, err
	}
	attributes := map[string]string{}
	for name, value := range req.Attributes {
		attributes[name] = ""
		if value != nil {
			attributes[name] = *value
		}
	}
	if err := checkAttributes(attributes); err != nil {
		return answer{}, err
	}
	if req.Email != nil {
		return c.putContact(req.Email, attributes, req.Tester)
	}
	command := store.PatchAccount{Attributes: attributes, Tester: req.Tester}
	if c.sealsPersonal() && len(attributes) > 0 {
		return c.patchAttributes(command)
	}
	return c.onAccount(http.StatusOK, store.TypePatch, func(id entitlement.AccountID, key *store.Idempotency) any {
		command.Account, command.Idempotency = id, key
		return command
	})
}

// patchAttributes commits a change of attributes with their texts sealed.
func (c *apiCall) patchAttributes(command store.PatchAccount) (answer, error) {
	s, err := c.sealingText("attribute")
	if err != nil {
		return answer{}, err
	}
	id, err := c.accountToWrite()
	if err != nil {
		return answer{}, err
	}
	clear, err := c.clearAttributes(id)
	if err != nil {
		return answer{}, err
	}
	if command.Idempotency, err = c.veiledKey(); err != nil {
		return answer{}, err
	}
	command.Account = id
	command.Changes, command.Personal = s.sealAttributes(c.env, id, command.Attributes, clear)
	command.Attributes = nil
	result, err := c.commit(store.TypePatch, command)
	return answer{status: http.StatusOK, body: written{result.Account, result.Revision.String()}}, err
}

func (c *apiCall) addAlias() (answer, error) {
	var req entitlement.Alias
	if err := c.decode(&req); err != nil {
		return answer{}, err
	}
	if err := checkAlias(req); err != nil {
		return answer{}, err
	}
	kept, texts := c.aliasesToKeep(c.env, asKept(req))
	return c.onAccount(http.StatusOK, store.TypeAddAlias, func(id entitlement.AccountID, key *store.Idempotency) any {
		if len(texts) > 0 {
			key = c.veiled(c.sealer, key)
		}
		return store.AddAlias{Account: id, Alias: kept[0], Personal: texts, Idempotency: key}
	})
}

func (c *apiCall) endSessions() (answer, error) {
	return c.onAccount(http.StatusOK, store.TypeEndSessions, func(id entitlement.AccountID, key *store.Idempotency) any {
		return store.EndSessions{Account: id, Idempotency: key}
	})
}

// onAccount commits the command that body makes for the account in the path, and answers with its revision.
func (c *apiCall) onAccount(status int, t store.CommandType, body func(entitlement.AccountID, *store.Idempotency) any) (answer, error) {
	result, err := c.commitOnAccount(t, body)
	return answer{status: status, body: written{result.Account, result.Revision.String()}}, err
}

func (c *apiCall) commitOnAccount(t store.CommandType, body func(entitlement.AccountID, *store.Idempotency) any) (store.Result, error) {
	key, err := c.idempotency()
	if err != nil {
		return store.Result{}, err
	}
	id, err := c.accountToWrite()
	if err != nil {
		return store.Result{}, err
	}
	return c.commit(t, body(id, key))
}

// startSession issues what an app shows to an edge. The token is signed from the committed result alone, so that the repeat of a
// request under an Idempotency-Key gives the same token.
func (c *apiCall) startSession() (answer, error) {
	var req struct {
		Device string `json:"device_id"`
		TTL    *int64 `json:"ttl_seconds"`
	}
	if err := c.decode(&req); err != nil {
		return answer{}, err
	}
	if err := checkDevice(req.Device); err != nil {
		return answer{}, err
	}
	ttl := int64(defaultSessionTTL)
	if req.TTL != nil {
		ttl = *req.TTL
	}
	if ttl < minSessionTTL || ttl > maxSessionTTL {
		return answer{}, wrong("ttl_seconds", "want %d to %d", minSessionTTL, maxSessionTTL)
	}
	result, err := c.commitOnAccount(store.TypeStartSession, func(id entitlement.AccountID, key *store.Idempotency) any {
		return store.StartSession{Account: id, Device: req.Device, TTLSeconds: ttl, Idempotency: key}
	})
	if err != nil {
		return answer{}, err
	}
	issued, err := c.signSession(result, req.Device, ttl)
	return answer{status: http.StatusCreated, body: issued}, err
}

func (c *apiCall) putGrant() (answer, error) {
	var req struct {
		Entitlement  string          `json:"entitlement"`
		DurationDays *int64          `json:"duration_days"`
		ExpiresAt    json.RawMessage `json:"expires_at"` // null is not absent: never
		Reason       string          `json:"reason"`
	}
	if err := c.decode(&req); err != nil {
		return answer{}, err
	}
	if !entitlementName.MatchString(req.Entitlement) {
		return answer{}, wrong("entitlement", "want 1 to 64 letters, digits, dots, dashes or underscores")
	}
	if len(req.Reason) > maxReasonBytes {
		return answer{}, wrong("reason", "longer than %d bytes", maxReasonBytes)
	}
	grant := store.PutGrant{Entitlement: req.Entitlement, Reason: req.Reason}
	switch {
	case (req.DurationDays == nil) == (req.ExpiresAt == nil):
		return answer{}, wrong("expires_at", "give either duration_days or expires_at; null never ends")
	case req.DurationDays != nil:
		if *req.DurationDays < 1 || *req.DurationDays > maxGrantDays {
			return answer{}, wrong("duration_days", "want 1 to %d", maxGrantDays)
		}
		grant.DurationSeconds = *req.DurationDays * 24 * 3600
	case string(req.ExpiresAt) != "null":
		var at time.Time
		if err := json.Unmarshal(req.ExpiresAt, &at); err != nil || at.Unix() <= c.now().Unix() {
			return answer{}, wrong("expires_at", "want null or a time to come, such as 2027-01-31T00:00:00Z")
		}
		grant.EndsAt = at.Unix()
	}
	var sealing *sealer
	if req.Reason != "" && c.sealsPersonal() {
		var err error
		if sealing, err = c.sealingText("reason"); err != nil {
			return answer{}, err
		}
		grant.Reason = ""
	}
	result, err := c.commitOnAccount(store.TypePutGrant, func(id entitlement.AccountID, key *store.Idempotency) any {
		grant.Account, grant.ID, grant.Idempotency = id, newThing("grant_", key), key
		if sealing != nil {
			grant.Idempotency = c.veiled(sealing, key)
			grant.Personal = []store.Sealed{{Name: store.ReasonText(grant.ID), Text: sealing.seal(c.env, reasonPlace(id, grant.ID), req.Reason)}}
		}
		return grant
	})
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusCreated, body: struct {
		GrantID string `json:"grant_id"`
		written
	}{grant.ID, written{result.Account, result.Revision.String()}}}, nil
}

func (c *apiCall) deleteGrant() (answer, error) {
	if err := checkID("grant_", c.r.PathValue("grant_id")); err != nil {
		return answer{}, err
	}
	return c.onAccount(http.StatusOK, store.TypeDeleteGrant, func(id entitlement.AccountID, key *store.Idempotency) any {
		return store.DeleteGrant{Account: id, ID: c.r.PathValue("grant_id"), Idempotency: key}
	})
}
