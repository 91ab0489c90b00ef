package writer

import (
	"cmp"
	"maps"
	"net/http"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/problem"
	"github.com/latchkey/latchkey/writer/internal/store"
)

// maxBillingGrace is the longest billing grace of a policy: two months, longer than any provider retries a card.
const maxBillingGrace = 60 * 24 * 3600

func (w *Writer) routeCatalog(s *server) {
	s.handle("GET /v1/catalog", w.reading((*apiCall).showCatalog))
	s.handle("PUT /v1/catalog", w.writing((*apiCall).putCatalog))
	s.handle("GET /v1/policy", w.reading((*apiCall).showPolicy))
	s.handle("PUT /v1/policy", w.writing((*apiCall).putPolicy))
}

// showCatalog answers with what putCatalog takes.
func (c *apiCall) showCatalog(reader *store.Reader) (answer, error) {
	catalog, err := reader.Catalog(c.env)
	if err != nil {
		return answer{}, err
	}
	catalog.Products = append([]entitlement.Product{}, catalog.Products...) // an array, even without products
	return answer{status: http.StatusOK, body: catalog}, nil
}

func (c *apiCall) putCatalog() (answer, error) {
	var catalog entitlement.Catalog
	if err := c.decode(&catalog); err != nil {
		return answer{}, err
	}
	if catalog.Products == nil {
		return answer{}, wrong("products", "must be given")
	}
	if err := catalog.Validate(); err != nil {
		return answer{}, problem.New(problem.InvalidRequest, sentence(err.Error()))
	}
	key, err := c.idempotency()
	if err != nil {
		return answer{}, err
	}
	result, err := c.commit(store.TypePutCatalog, store.PutCatalog{Catalog: catalog, Idempotency: key})
	return answer{status: http.StatusOK, body: written{Revision: result.Revision.String()}}, err
}

// policyShown is the policy as the API has it. Billing grace is in seconds, by provider.
type policyShown struct {
	BillingGrace  map[entitlement.Provider]int64 `json:"billing_grace"`
	SandboxAccess entitlement.SandboxAccess      `json:"sandbox_access,omitempty"` // empty: testers
	Sharing       string                         `json:"sharing,omitempty"`        // empty: provider
	Transfer      entitlement.Transfer           `json:"transfer,omitempty"`       // empty: transfer
	ClawBack      string                         `json:"claw_back,omitempty"`      // empty: floor_zero
	TrialLock     string                         `json:"trial_lock,omitempty"`     // empty: account_and_store
}

// What a refund does with credits that were spent.
const (
	clawBackFloor = "floor_zero" // it takes the unspent ones
	clawBackDebt  = "debt"       // the balance may fall below zero
)

// By what a person who used a trial is known.
const (
	trialByStore   = "account_and_store" // the account, and what a store calls them
	trialByPayment = "payment"           // these, and the card that they pay with
)

// Whether what a provider shares beside the owner gives access.
const (
	sharingProvider = "provider"
	sharingOff      = "off"
)

func (c *apiCall) showPolicy(reader *store.Reader) (answer, error) {
	policy, err := reader.Policy(c.env)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: showPolicy(&policy)}, nil
}

func showPolicy(p *entitlement.Policy) policyShown {
	shown := policyShown{BillingGrace: p.BillingGrace, SandboxAccess: cmp.Or(p.SandboxAccess, entitlement.SandboxTesters), Sharing: sharingProvider}
	if shown.BillingGrace == nil {
		shown.BillingGrace = map[entitlement.Provider]int64{} // an object, even if it is empty
	}
	if p.SharingOff {
		shown.Sharing = sharingOff
	}
	shown.Transfer, shown.ClawBack, shown.TrialLock = cmp.Or(p.Transfer, entitlement.TransferAlways), clawBackFloor, trialByStore
	if p.Debt {
		shown.ClawBack = clawBackDebt
	}
	if p.TrialByPayment {
		shown.TrialLock = trialByPayment
	}
	return shown
}

// policy returns what a request asks for. Error: a problem.
func (p *policyShown) policy() (entitlement.Policy, error) {
	switch p.SandboxAccess {
	case "", entitlement.SandboxNone, entitlement.SandboxTesters, entitlement.SandboxAnyone:
	default:
		return entitlement.Policy{}, wrong("sandbox_access", "want %s, %s or %s", entitlement.SandboxNone, entitlement.SandboxTesters, entitlement.SandboxAnyone)
	}
	switch p.Sharing {
	case "", sharingProvider, sharingOff:
	default:
		return entitlement.Policy{}, wrong("sharing", "want %s or %s", sharingProvider, sharingOff)
	}
	switch p.Transfer {
	case "", entitlement.TransferAlways, entitlement.TransferNever, entitlement.TransferIfInactive:
	default:
		return entitlement.Policy{}, wrong("transfer", "want %s, %s or %s", entitlement.TransferAlways, entitlement.TransferNever, entitlement.TransferIfInactive)
	}
	switch p.ClawBack {
	case "", clawBackFloor, clawBackDebt:
	default:
		return entitlement.Policy{}, wrong("claw_back", "want %s or %s", clawBackFloor, clawBackDebt)
	}
	switch p.TrialLock {
	case "", trialByStore, trialByPayment:
	default:
		return entitlement.Policy{}, wrong("trial_lock", "want %s or %s", trialByStore, trialByPayment)
	}
	if p.BillingGrace == nil { // not given: {} is none at all
		p.BillingGrace = maps.Clone(entitlement.DefaultPolicy.BillingGrace)
	}
	policy := entitlement.Policy{BillingGrace: p.BillingGrace, SandboxAccess: p.SandboxAccess, SharingOff: p.Sharing == sharingOff,
		Transfer: p.Transfer, Debt: p.ClawBack == clawBackDebt, TrialByPayment: p.TrialLock == trialByPayment}
	if policy.Transfer == entitlement.TransferAlways {
		policy.Transfer = "" // what holds where nothing is said
	}
	if policy.SandboxAccess == entitlement.SandboxTesters {
		policy.SandboxAccess = "" // what holds where nothing is said
	}
	return policy, nil
}

func (c *apiCall) putPolicy() (answer, error) {
	var req policyShown
	if err := c.decode(&req); err != nil {
		return answer{}, err
	}
	for provider, seconds := range req.BillingGrace {
		if !provider.Valid() {
			return answer{}, wrong("billing_grace", "no such provider")
		}
		if seconds < 0 || seconds > maxBillingGrace {
			return answer{}, wrong("billing_grace", "want 0 to %d seconds", maxBillingGrace)
		}
	}
	key, err := c.idempotency()
	if err != nil {
		return answer{}, err
	}
	policy, err := req.policy()
	if err != nil {
		return answer{}, err
	}
	if policy.TrialByPayment && c.sealer == nil {
		return answer{}, problem.New(problem.NotConfigured, "trial_lock payment knows cards by an index that is made with contacts.key, and none is configured. Configure one on every writer, 64 hexadecimal digits by lot, and put the policy again.")
	}
	result, err := c.commit(store.TypePutPolicy, store.PutPolicy{Policy: policy, Idempotency: key})
	return answer{status: http.StatusOK, body: written{Revision: result.Revision.String()}}, err
}
