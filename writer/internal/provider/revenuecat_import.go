package provider

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// The forms of RevenueCat's exports.
const (
	// RevenueCatScheduled is the scheduled data export: a row for each transaction, with commas, times as "2006-01-02 15:04:05" in UTC.
	RevenueCatScheduled = "scheduled"
	// RevenueCatCustomers is a customer list: a row for each customer with the latest that they bought, with semicolons, times in milliseconds.
	RevenueCatCustomers = "customers"
)

// RevenueCatImport reads the rows of an export. Rows that say the same are the same event, so that a file may be read again.
type RevenueCatImport struct {
	kind    string
	columns map[string]int
}

// ErrRevenueCatExport means that a file is no export that we know: columns are missing.
var ErrRevenueCatExport = errors.New("revenuecat: not an export of this form")

// importPrefix begins the id and the type of an event that was made of an export's row.
const importPrefix = "import."

// NewRevenueCatImport returns a reader of rows under a header. Columns are found by name. Error: ErrRevenueCatExport.
func NewRevenueCatImport(kind string, header []string) (*RevenueCatImport, error) {
	needed := map[string][]string{
		RevenueCatScheduled: {"rc_original_app_user_id", "product_identifier", "start_time", "end_time", "store", "is_sandbox", "store_transaction_id", "updated_at"},
		RevenueCatCustomers: {"app_user_id", "last_seen_at", "latest_store", "latest_product"},
	}[kind]
	if needed == nil {
		return nil, fmt.Errorf("%w: no such form", ErrRevenueCatExport)
	}
	i := &RevenueCatImport{kind: kind, columns: map[string]int{}}
	for at, name := range header {
		i.columns[strings.TrimPrefix(name, "\ufeff")] = at
	}
	for _, name := range needed {
		if _, there := i.columns[name]; !there {
			return nil, fmt.Errorf("%w: the column %s is missing", ErrRevenueCatExport, name)
		}
	}
	return i, nil
}

// Event returns what a row proves in the environment. A row of the other environment, of a customer without a purchase, of an invalidated
// transaction or of one of our own grants is an event of kind entitlement.Unhandled, which need not be stored; one that is not understood is
// entitlement.Unreadable.
func (i *RevenueCatImport) Event(row []string, env entitlement.Environment) entitlement.Event {
	ev := entitlement.Event{Provider: entitlement.RevenueCat, Type: importPrefix + i.kind, Environment: env, Kind: entitlement.Unhandled}
	sum := sha256.New()
	for _, value := range row {
		sum.Write([]byte(strconv.Itoa(len(value)) + ":" + value))
	}
	ev.ID = importPrefix + i.kind + ":" + hex.EncodeToString(sum.Sum(nil)[:16])
	r := importedRow{i, row}
	read := r.scheduled
	if i.kind == RevenueCatCustomers {
		read = r.customer
	}
	sale, owner, at := read(env)
	switch {
	case at < 0:
		ev.Kind = entitlement.Unreadable
		ev.Raw = object{"row": ev.ID}.raw()
	case at > 0:
		ev.Kind, ev.CreatedAt = entitlement.Proof, at
		ev.Objects = sale.objects(&owner)
		for n := range ev.Objects {
			ev.Objects[n].At = at * int64(time.Second)
		}
		ev.Raw = object{"sale": sale.kept()}.raw()
	}
	return ev
}

// Faults names the columns because of which a row is not understood.
func (i *RevenueCatImport) Faults(row []string) (columns []string) {
	r := importedRow{i, row}
	need := func(name string, understood bool) {
		if !understood {
			columns = append(columns, name)
		}
	}
	if i.kind == RevenueCatCustomers {
		need("app_user_id", r.keep("app_user_id", revenueCatUser) != "")
		need("last_seen_at", believed(max(r.time("last_seen_at"), r.time("most_recent_purchase_at"), r.time("most_recent_renewal_at"))))
		return columns
	}
	need("updated_at", believed(r.time("updated_at")))
	need("store", r.keep("store", word) != "")
	need("store_transaction_id", r.keep("store_transaction_id", revenueCatID) != "")
	need("start_time", r.time("start_time") != 0)
	need("end_time", r.time("end_time") != 0 || r.raw("end_time") == "" && !r.lacksEnd())
	need("is_sandbox", r.tells("is_sandbox"))
	return columns
}

// importedRow is one row. Its readers return the version, Unix seconds: 0 for a row that proves nothing, -1 for one that is not understood.
type importedRow struct {
	*RevenueCatImport
	row []string
}

// raw returns a column's text, empty where it is missing.
func (r importedRow) raw(name string) string {
	if at, there := r.columns[name]; there && at < len(r.row) {
		return r.row[at]
	}
	return ""
}

func (r importedRow) keep(name string, k keep) string {
	s, _ := k(gjson.Result{Type: gjson.String, Str: r.raw(name)}).(string)
	return s
}

func (r importedRow) is(name string) bool {
	return slices.Contains([]string{"true", "t", "1"}, strings.ToLower(r.raw(name)))
}

// tells reports whether a column is a boolean.
func (r importedRow) tells(name string) bool {
	return r.is(name) || slices.Contains([]string{"false", "f", "0"}, strings.ToLower(r.raw(name)))
}

// lacksEnd reports whether a row without an end is of what renews, which always has one: it would be given for ever.
func (r importedRow) lacksEnd() bool {
	return r.is("is_auto_renewable") && strings.ToLower(r.raw("store")) != revenueCatPromotional
}

// time returns a column's time in Unix seconds, 0 for none.
func (r importedRow) time(name string) int64 {
	text := r.raw(name)
	if r.kind == RevenueCatCustomers {
		millis, _ := strconv.ParseInt(text, 10, 64)
		return wholeSecond(max(millis, 0))
	}
	for _, layout := range []string{time.DateTime, time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil && t.Unix() > 0 {
			return t.Unix()
		}
	}
	return 0
}

// accountOf returns the account id that a merchant set as an attribute.
func accountOf(attributes string) string {
	v := gjson.Parse(attributes)
	if !gjson.Valid(attributes) || !v.IsObject() {
		return ""
	}
	set := member(v, "account_id")
	if set.IsObject() {
		set = member(set, "value")
	}
	id, _ := accountID(set).(string)
	return id
}

// maxImportTime is the latest second of an export that is believed: nanoseconds hold no more.
const maxImportTime = 7_258_118_400

func believed(at int64) bool { return at > 0 && at <= maxImportTime }

// scheduled reads a transaction.
func (r importedRow) scheduled(env entitlement.Environment) (s pulledSale, owner revenueCatOwner, at int64) {
	if at = r.time("updated_at"); !believed(at) {
		return s, owner, -1
	}
	s.revenueCatSale = revenueCatSale{
		store: strings.ToLower(r.keep("store", word)), transaction: r.keep("store_transaction_id", revenueCatID), original: r.keep("original_store_transaction_id", revenueCatID),
		product: r.keep("product_identifier", revenueCatID), entitlements: namesOf(r.raw("entitlement_identifiers")), startsAt: r.time("start_time"), endsAt: r.time("end_time"),
		trial: r.is("is_trial_period"), family: r.keep("ownership_type", word) == "FAMILY_SHARED", price: priceOf(r.raw("price_in_purchased_currency"), r.raw("purchased_currency")),
	}
	s.endless = r.raw("end_time") == ""
	if s.store == "" || s.transaction == "" || s.startsAt == 0 || s.endsAt == 0 && (!s.endless || r.lacksEnd()) || !r.tells("is_sandbox") {
		return s, owner, -1
	}
	// A row of Play that ends before it begins is a transaction that was invalidated.
	if r.is("is_sandbox") != (env == entitlement.Sandbox) || !s.endless && s.endsAt < s.startsAt || s.promo() && isOurs(s.endsAt*1000, true) {
		return s, owner, 0
	}
	_, told := r.columns["is_auto_renewable"]
	s.recurring = !s.promo() && !s.endless && (!told || r.is("is_auto_renewable"))
	s.termKnown = true
	if refunded := r.time("refunded_at"); refunded != 0 {
		s.revoked, s.revokedAt = 1, refunded
	}
	// A row that changed after its end was replaced by another, and does not say where the subscription stands.
	if grace := r.time("grace_period_end_time"); s.recurring && max(s.endsAt, grace) >= at && s.revoked == 0 {
		s.stands = &entitlement.Renewal{Phase: entitlement.PhaseActive, WillRenew: r.time("unsubscribe_detected_at") == 0, Transaction: s.termID()}
		switch resumes := r.time("auto_resume_time"); {
		case resumes != 0:
			s.stands.Phase, s.stands.ResumesAt = entitlement.PhasePaused, resumes
		case r.time("billing_issues_detected_at") == 0:
		case grace > at:
			s.stands.Phase, s.stands.GraceUntil = entitlement.PhaseBillingGrace, grace
		default:
			s.stands.Phase = entitlement.PhaseBillingRetry
		}
	}
	return s, newRevenueCatOwner(accountOf(r.raw("custom_subscriber_attributes")),
		[]string{r.keep("rc_last_seen_app_user_id_alias", revenueCatUser), r.keep("rc_original_app_user_id", revenueCatUser)}), at
}

// namesOf reads an array of names in any of the ways in which databases write them: ["a","b"], {a,b}.
func namesOf(text string) (names []string) {
	for part := range strings.SplitSeq(strings.Trim(text, "[]{} "), ",") {
		name, _ := revenueCatName(gjson.Result{Type: gjson.String, Str: strings.Trim(part, ` "'`)}).(string)
		if name != "" && len(names) < maxRevenueCatEntitlements {
			names = append(names, name)
		}
	}
	return names
}

// customer reads a customer of a list. It names no transaction, so that it proves no purchase: it says whom to ask about.
func (r importedRow) customer(entitlement.Environment) (s pulledSale, owner revenueCatOwner, at int64) {
	at = max(r.time("last_seen_at"), r.time("most_recent_purchase_at"), r.time("most_recent_renewal_at"))
	owner = newRevenueCatOwner("", []string{r.keep("app_user_id", revenueCatUser)})
	switch {
	case !believed(at) || owner.user == "":
		return s, owner, -1
	case r.raw("latest_product") == "":
		return s, owner, 0
	}
	s.ask = owner.user
	return s, owner, at
}
