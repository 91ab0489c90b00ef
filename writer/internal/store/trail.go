package store

import (
	"slices"
	"strings"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// The audit trail says of each change by the API what it was about and whose credential asked for it. Both are in the command, or are what it came to, so
// that every node writes the same row.

// Refs are the ids that an API command was about, beside its account and its purchases. The zero value is none.
type Refs struct {
	From        entitlement.AccountID `cbor:"1,keyasint,omitempty"` // who had the purchase until then, or the account that was merged
	To          entitlement.AccountID `cbor:"2,keyasint,omitempty"` // who has it since, or into which it was merged
	Merge       string                `cbor:"3,keyasint,omitempty"`
	Grant       string                `cbor:"4,keyasint,omitempty"`
	Intent      string                `cbor:"5,keyasint,omitempty"`
	Consumption string                `cbor:"6,keyasint,omitempty"`
	Code        string                `cbor:"7,keyasint,omitempty"` // its id; the code itself is nowhere
	APIKey      string                `cbor:"8,keyasint,omitempty"` // its name
}

// CallerKind says by what kind of credential a command was asked for.
type CallerKind string

// The kinds of callers. CallerKey has a name, that of the API key; sessions and sign-ins are the app, with what its user has.
const (
	CallerKey     CallerKind = "api_key"
	CallerSession CallerKind = "session" // a session token
	CallerSignIn  CallerKind = "sign_in" // a token of an identity provider
	// CallerOperator has no credential: whoever may use the socket in a writer's data folder.
	CallerOperator CallerKind = "operator"
)

// Caller is whose credential a command was asked for with. The zero value is a writer by itself. Nothing of the credential is in it.
type Caller struct {
	Kind CallerKind
	Name string // of an API key
}

// String returns the caller as commands and rows have it: see CallerOf.
func (c Caller) String() string {
	if c.Name == "" {
		return string(c.Kind)
	}
	return string(c.Kind) + ":" + c.Name
}

// CallerOf reads what Caller.String wrote.
func CallerOf(text string) Caller {
	if name, ok := strings.CutPrefix(text, string(CallerKey)+":"); ok {
		return Caller{CallerKey, name}
	}
	return Caller{Kind: CallerKind(text)}
}

// trace adds to the entry of an API command whose it was and what it was about, and returns the subjects that find it.
func (c *command) trace(row *eventRow, body any, result *Result) (subjects []subject) {
	if c.st.Rules < rulesAccounts { // writers of an older version write rows without these (I17)
		return nil
	}
	row.Caller = c.Caller
	refs := c.refs
	var purchases []entitlement.PurchaseID
	switch body := body.(type) {
	case *PutGrant:
		refs.Grant = body.ID
	case *DeleteGrant:
		refs.Grant = body.ID
	case *EndIntent:
		refs.Intent = body.ID
	case *SubmitIntent:
		refs.Intent = body.ID
	case *PutIntent:
		refs.Intent = result.Intent.ID
	case *Consume:
		refs.Consumption = body.ID
	case *AddAPIKey:
		refs.APIKey = body.Name
	case *RevokeAPIKey:
		refs.APIKey = body.Name
	case *RestorePurchase:
		purchases = append(purchases, body.Purchase)
	case *ClaimPurchase:
		purchases = append(purchases, body.Purchase)
	case *PutLink:
		purchases = append(purchases, body.Purchase)
	case *RedeemLink:
		purchases = append(purchases, result.Moved...)
	}
	if code := result.Code; code != nil { // of PutCode, RedeemCode and RevokeCode
		refs.Code = code.ID
		purchases = append(purchases, code.Purchase)
	}
	if refs != (Refs{}) {
		row.Refs = &refs
	}
	for _, named := range purchases {
		if id, ok := c.purchaseOf(entitlement.Link(named)); ok && !slices.Contains(row.Purchases, id) {
			row.Purchases = append(row.Purchases, id)
			subjects = append(subjects, subject{subjectPurchase, string(id)})
		}
	}
	return subjects
}
