package provider

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

const (
	// IapticBase is where iaptic's API is.
	IapticBase = "https://validator.iaptic.com"

	// iapticRequestsPerSecond is a guess: no limit is documented.
	iapticRequestsPerSecond = 5
	iapticBurst             = 5
)

// The ways of showing iaptic's API the app's name and key.
const (
	IapticBearer = "bearer" // what its newest client does
	IapticBasic  = "basic"
)

// Mistakes in an IapticAPIConfig, for saying which field is wrong.
var (
	ErrIapticApp    = errors.New("iaptic: app name")
	ErrIapticKey    = errors.New("iaptic: API key")
	ErrIapticScheme = errors.New("iaptic: scheme")
	ErrIapticBase   = errors.New("iaptic: address of the API")
)

// IapticAPIConfig is what NewIapticAPI needs.
type IapticAPIConfig struct {
	// App is the app's name at iaptic.
	App string
	// Key is its secret key, or a master key.
	Key string
	// Scheme is IapticBearer or IapticBasic. Empty is IapticBearer. The third way that iaptic knows, in the address, would leave the key in logs.
	Scheme string
	// BaseURL is where the API is. Empty is IapticBase. http:// is for loopback addresses.
	BaseURL string
	// Environment is whose purchases they are: those of the other one are passed over.
	Environment entitlement.Environment
	// Now is the clock that gives answers their version. Nil is time.Now.
	Now func() time.Time
}

// IapticAPI asks iaptic for all that a user has.
type IapticAPI struct {
	*jsonAPI
	authorization string
	env           entitlement.Environment
	now           func() time.Time
}

// NewIapticAPI returns a Puller. Errors: ErrIapticApp, ErrIapticKey, ErrIapticScheme, ErrIapticBase; they do not quote the key.
func NewIapticAPI(c IapticAPIConfig) (*IapticAPI, error) {
	if !isIdent(c.App) {
		return nil, fmt.Errorf("%w: want the app's name at iaptic", ErrIapticApp)
	}
	if err := checkAPIKey(c.Key, ErrIapticKey); err != nil {
		return nil, err
	}
	scheme := map[string]string{"": "Bearer ", IapticBearer: "Bearer ", IapticBasic: "Basic "}[c.Scheme]
	if scheme == "" {
		return nil, fmt.Errorf("%w: want %s or %s", ErrIapticScheme, IapticBearer, IapticBasic)
	}
	if err := CheckIapticBase(c.BaseURL); err != nil {
		return nil, err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &IapticAPI{jsonAPI: newJSONAPI(cmp.Or(c.BaseURL, IapticBase), iapticRequestsPerSecond, iapticBurst),
		authorization: scheme + base64.StdEncoding.EncodeToString([]byte(c.App+":"+c.Key)), env: c.Environment, now: c.Now}, nil
}

// CheckIapticBase returns ErrIapticBase for an address that the key may not be sent to, or nil. Empty is IapticBase.
func CheckIapticBase(base string) error { return checkBase(base, ErrIapticBase) }

// Provider returns entitlement.Iaptic.
func (a *IapticAPI) Provider() entitlement.Provider { return entitlement.Iaptic }

// Targets returns the users: purchases are asked for by who has them. What names none is left out.
func (a *IapticAPI) Targets(e entitlement.Evidence, doubts []entitlement.Doubt) []entitlement.Doubt {
	return customerTargets(e, doubts, entitlement.Iaptic, func(alias entitlement.Alias) string {
		if alias.Kind == entitlement.IapticUsername {
			return alias.Value
		}
		return ""
	})
}

// Due returns the user of a subscription that should have renewed and of which nothing was told since.
func (a *IapticAPI) Due(e entitlement.Evidence, asked func(id string) time.Time, now time.Time) []entitlement.Doubt {
	for _, alias := range e.Identity().Aliases {
		if alias.Kind == entitlement.IapticUsername {
			return customerDue(e, entitlement.Iaptic, alias.Value, asked, now)
		}
	}
	return nil
}

// Pull asks for what a user has. A user who is not there is an answer too.
func (a *IapticAPI) Pull(ctx context.Context, kind entitlement.ObjectKind, id string) (entitlement.Event, error) {
	if kind != entitlement.KindCustomer || !isUserName(id) || strings.Trim(id, ".") == "" { // ".." is another address
		return entitlement.Event{}, &PullError{Reason: ErrGone, Detail: "iaptic cannot be asked for it"}
	}
	left := a.now()
	answer, head, err := a.get(ctx, "/v3/customers/"+url.PathEscape(id)+"/purchases", http.Header{"Authorization": {a.authorization}})
	gone := errors.Is(err, ErrGone) && head.status == http.StatusNotFound
	if err != nil && !gone {
		return entitlement.Event{}, err
	}
	at := time.Unix(version(left, head.header), 0)
	ev := entitlement.Event{Provider: entitlement.Iaptic, ID: fmt.Sprintf("pull:%s:%d", id, left.UnixNano()), Environment: a.env, Type: pullPrefix + string(kind),
		CreatedAt: at.Unix(), Objects: []entitlement.Object{{Kind: entitlement.KindCustomer, ID: id, By: entitlement.Iaptic, At: at.UnixNano(),
			Links: []entitlement.Link{iapticCustomerLink(id)}, Customer: &entitlement.Customer{Gone: gone}}}}
	raw := object{"applicationUsername": id}
	if !gone {
		purchases, kept := iapticPurchases(member(answer, "purchases"))
		if purchases == nil {
			return entitlement.Event{}, head.fail(ErrAnswer, "no purchases in it")
		}
		if of := member(answer, "applicationUsername"); of.Exists() && of.Str != id {
			return entitlement.Event{}, head.fail(ErrAnswer, "the purchases of another user")
		}
		for _, o := range purchases {
			if iapticEnvironmentOf(o) == a.env {
				ev.Objects = append(ev.Objects, newIapticSale(o, id, at).read()...)
			}
		}
		if !kept.Cut {
			ev.Objects = append(ev.Objects, entitlement.WholeList(entitlement.Iaptic, id, at.UnixNano()))
		}
		raw["purchases"] = kept
	}
	ev.Raw = raw.raw()
	return ev, nil
}
