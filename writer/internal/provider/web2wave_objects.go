package provider

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// The shapes below are the allow-list. Messages and answers write numbers as texts and texts as numbers, so every field is read in all the forms
// that were seen. What a merchant types, such as a plan's name, is kept only where it has the form of an id.
var (
	web2waveSubscription = map[string]keep{
		"id": web2waveIdent, "user_id": ident, "status": word, "event_type": word,
		"created_at": web2waveTime, "updated_at": web2waveTime, "last_charge_date": web2waveTime, "next_charge_date": web2waveTime, "canceled_at": web2waveTime,
		"payment_system_label": word, "real_payment": web2waveFlag, "pay_system_id": ident, "customer": ident,
		"price_id": ident, "plan_id": web2waveIdent, "plan_name": ident, "price_label": web2wavePriceLabel,
		"amount": web2waveMinor, "currency": word, "cancel_at_period_end": web2waveFlag, "cancel_scheduled": web2waveFlag,
		"charges_count": web2waveNumber, "phases_num": web2waveNumber, "total_revenue": web2waveMinor,
	}

	web2waveProperty = map[string]keep{"user_id": ident, "property": word, "value": web2waveValues}
)

const (
	// web2waveJoin stands between the values of a property that has several.
	web2waveJoin = "||"
	// maxWeb2WaveValues bounds how many are read.
	maxWeb2WaveValues = 32
)

// web2waveValues keeps those values of a property that are ids.
func web2waveValues(v gjson.Result) any {
	if v.Type != gjson.String {
		return nil
	}
	var ids []string
	for value := range strings.SplitSeq(v.Str, web2waveJoin) {
		if id, ok := ident(gjson.Result{Type: gjson.String, Str: value}).(string); ok && len(ids) < maxWeb2WaveValues {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	return strings.Join(ids, web2waveJoin)
}

// web2waveIdent keeps an id that may be written as a number.
func web2waveIdent(v gjson.Result) any {
	if n, ok := number(v).(int64); ok {
		return strconv.FormatInt(n, 10)
	}
	return ident(v)
}

// web2waveNumber keeps an integer that may be written as a text.
func web2waveNumber(v gjson.Result) any {
	if v.Type == gjson.String {
		if n, err := strconv.ParseInt(strings.TrimSpace(v.Str), 10, 64); err == nil {
			return n
		}
		return nil
	}
	return number(v)
}

// web2waveFlag keeps a boolean, which is written as 1 and 0, "1" and "0", "Yes" and "No".
func web2waveFlag(v gjson.Result) any {
	if v.IsBool() {
		return v.Type == gjson.True
	}
	if n, ok := web2waveNumber(v).(int64); ok && (n == 0 || n == 1) {
		return n == 1
	}
	if v.Type == gjson.String {
		switch strings.ToLower(v.Str) {
		case "yes", "true":
			return true
		case "no", "false":
			return false
		}
	}
	return nil
}

// web2waveMinor keeps an amount in the currency's smallest unit: a number, or a text like "1398.00". Parts of the unit are cut.
func web2waveMinor(v gjson.Result) any {
	text := v.Str
	if v.Type == gjson.Number {
		text = v.Raw
	} else if v.Type != gjson.String {
		return nil
	}
	whole, part, _ := strings.Cut(text, ".")
	if n, err := strconv.ParseInt(whole, 10, 64); err == nil && isText(part+"0", maxWordBytes, func(c byte) bool { return '0' <= c && c <= '9' }) {
		return n
	}
	return nil
}

// The layouts of times: Web2Wave's own, which is UTC by what was observed, and the one that its API's clients read.
var web2waveLayouts = []string{time.DateTime, time.RFC3339Nano, "2006-01-02T15:04:05", time.DateOnly}

// web2waveTime keeps a time, as RFC 3339. Unix seconds are taken too.
func web2waveTime(v gjson.Result) any {
	if n, ok := number(v).(int64); ok {
		return web2waveKept(time.Unix(n, 0))
	}
	if v.Type != gjson.String || len(v.Str) > maxWordBytes {
		return nil
	}
	for _, layout := range web2waveLayouts {
		if t, err := time.Parse(layout, v.Str); err == nil {
			return web2waveKept(t)
		}
	}
	return nil
}

// web2waveKept returns a time as it is kept, or nil for one that is none: "0000-00-00 00:00:00", and what nanoseconds cannot hold.
func web2waveKept(t time.Time) any {
	if t = t.UTC(); t.Year() < 2000 || t.Year() > 2200 {
		return nil
	}
	return t.Truncate(time.Microsecond).Format(time.RFC3339Nano)
}

// time returns a kept time; zero for none.
func (o object) time(name string) time.Time {
	t, _ := time.Parse(time.RFC3339Nano, o.text(name))
	return t
}

// unix is time in Unix seconds; 0 for none.
func (o object) unix(name string) int64 {
	if t := o.time(name); !t.IsZero() {
		return t.Unix()
	}
	return 0
}

// What is kept of a price's label, which Web2Wave makes: "13.98 usd / 1 week", "49.00 usd Lifetime".
const web2waveLifetime = "lifetime"

var (
	web2waveDuration = regexp.MustCompile(`^P[1-9][0-9]{0,2}[DWMY]$`)
	web2wavePeriod   = regexp.MustCompile(`(?i)/\s*0*([1-9][0-9]{0,2})\s*(day|week|month|year)s?\s*$`)
)

// web2wavePriceLabel keeps how often a price is paid, as an ISO 8601 duration, or that it is paid once.
func web2wavePriceLabel(v gjson.Result) any {
	if v.Type != gjson.String || len(v.Str) > maxIDBytes {
		return nil
	}
	if strings.Contains(strings.ToLower(v.Str), web2waveLifetime) {
		return web2waveLifetime
	}
	if web2waveDuration.MatchString(v.Str) { // as it was kept before
		return v.Str
	}
	if m := web2wavePeriod.FindStringSubmatch(v.Str); m != nil {
		return "P" + m[1] + strings.ToUpper(m[2][:1])
	}
	return nil
}

const (
	// web2waveUnknownEnd is how long a subscription lasts that runs and has no next charge: a month and some days, in which it is asked about.
	web2waveUnknownEnd = 35 * 24 * time.Hour
	// web2waveRaceEnd is how long a charge counts whose subscription does not say until when: the row that does follows within seconds.
	web2waveRaceEnd = 10 * time.Minute
	// web2waveRaceAge is how long after a charge an answer may still have the status from before it: ten times what was seen.
	web2waveRaceAge = time.Minute

	// maxWeb2WaveVersionCharges is how many charges a version tells apart within one moment: a thousand weeks are nineteen years.
	maxWeb2WaveVersionCharges = 999
)

// web2waveRanks says which status is further on, of two rows with one version.
var web2waveRanks = map[string]uint8{"incomplete": 1, "trialing": 2, "active": 3, "past_due": 4, "unpaid": 5, "paused": 6, "incomplete_expired": 7, "canceled": 8}

// web2waveRow is one subscription, from a message or from an answer.
type web2waveRow struct {
	object
	at      int64  // version, Unix nanoseconds
	status  string // in the known spelling
	charged bool   // the message is about money that came
	// unsettled: the status may be that from before a charge, so that it must be asked for again.
	unsettled bool
	links     []entitlement.Link
	objects   []entitlement.Object
	subject   string // the subscription's id
	customer  string
}

// web2waveRowEvent is the event of a message with a subscription.
func web2waveRowEvent(o object, env entitlement.Environment) (entitlement.Event, error) {
	at := o.time("updated_at")
	if o.text("id") == "" {
		return entitlement.Event{}, errWeb2WaveRow
	}
	if at.IsZero() {
		return entitlement.Event{}, errWeb2WaveVersion
	}
	if real, told := o["real_payment"].(bool); told {
		env = entitlement.Sandbox
		if real {
			env = entitlement.Production
		}
	}
	// Rows of one second are told apart by the charges that they count.
	version := at.UnixNano() + min(max(o.int("charges_count"), 0), maxWeb2WaveVersionCharges)
	row := newWeb2WaveRow(o, version)
	row.read()
	row.identify(0, web2waveNames{})
	if row.customer != "" {
		row.hint(row.customer, version)
	}
	if sub := row.stripeSubscription(); sub != "" {
		row.add(entitlement.Object{Kind: entitlement.KindHint, ID: sub, At: version, Hint: &entitlement.Hint{Of: entitlement.KindSubscription, Echo: true}})
	}
	return entitlement.Event{Provider: entitlement.Web2Wave, Environment: env, Type: web2waveTypeSubscription, CreatedAt: at.Unix(), Objects: row.objects,
		ID: web2waveID("subscription", o.text("id"), o.text("event_type"), o.text("updated_at"), o.text("status"), strconv.FormatInt(o.int("charges_count"), 10),
			o.text("canceled_at"), o.text("next_charge_date")),
		Raw: object{"type": web2waveTypeSubscription, "data": o}.raw()}, nil
}

func newWeb2WaveRow(o object, version int64) *web2waveRow {
	r := &web2waveRow{object: o, at: version, status: strings.ToLower(o.text("status")), subject: o.text("id"), customer: o.text("user_id")}
	if r.status == "trialling" {
		r.status = "trialing"
	}
	if r.status == "cancelled" {
		r.status = "canceled"
	}
	kind := o.text("event_type")
	r.charged = kind == "charge.succeeded" || strings.HasPrefix(kind, "PAYMENT.") && strings.HasSuffix(kind, ".COMPLETED")
	r.links = []entitlement.Link{web2waveLink(r.subject)}
	if id := r.text("pay_system_id"); r.store() == string(entitlement.Stripe) && (strings.HasPrefix(id, "sub_") || strings.HasPrefix(id, "pi_")) {
		r.links = append(r.links, entitlement.Link("stripe:"+id))
	}
	return r
}

// store is who took the money.
func (r *web2waveRow) store() string { return strings.ToLower(r.text("payment_system_label")) }

// stripeSubscription returns the id by which Stripe knows the subscription, or "".
func (r *web2waveRow) stripeSubscription() string {
	if id := r.text("pay_system_id"); r.store() == string(entitlement.Stripe) && strings.HasPrefix(id, "sub_") {
		return id
	}
	return ""
}

func (r *web2waveRow) add(o entitlement.Object) {
	o.Links = slices.Clone(r.links)
	r.objects = append(r.objects, o)
}

// hint says that the customer is to be asked about: rows come seconds before the status that belongs to them, and refunds do not come at all.
func (r *web2waveRow) hint(customer string, at int64) {
	r.objects = append(r.objects, entitlement.Object{Kind: entitlement.KindHint, ID: customer, At: at, By: entitlement.Web2Wave,
		Hint: &entitlement.Hint{Of: entitlement.KindCustomer}, Links: []entitlement.Link{web2waveCustomerLink(customer)}})
}

func web2waveLink(subscription string) entitlement.Link {
	return entitlement.Link("web2wave:" + subscription)
}

func web2waveCustomerLink(customer string) entitlement.Link {
	return entitlement.Link("web2wave:customer:" + customer)
}

// read adds what the row proves: the term that its last charge paid for, and where the subscription stands.
func (r *web2waveRow) read() {
	if t := r.term(); t != nil {
		r.add(entitlement.Object{Kind: entitlement.KindTransaction, ID: r.termID(t), At: r.at, By: entitlement.Web2Wave, Transaction: t})
	}
	if standing := r.standing(); standing != nil {
		r.add(entitlement.Object{Kind: entitlement.KindRenewal, ID: r.subject, At: r.at, Rank: web2waveRanks[r.status], Partial: r.unsettled, By: entitlement.Web2Wave,
			Renewal: standing})
	}
	if r.text("price_label") == web2waveLifetime && r.unix("next_charge_date") == 0 {
		r.takeBack()
	}
}

// takeBack adds whether what was paid once is still given: no term of it has an end, so that where the subscription stands cannot end it.
func (r *web2waveRow) takeBack() {
	taken := &entitlement.Revocation{Transaction: r.subject}
	switch r.status {
	case "active", "trialing":
		taken.Undone = true
	case "canceled":
		taken.RevokedAt, taken.Reason = max(r.unix("canceled_at"), r.unix("updated_at")), entitlement.ReasonRevoked
	case "paused", "unpaid", "incomplete_expired":
		taken.RevokedAt, taken.Reason = r.unix("updated_at"), entitlement.ReasonRevoked
	default: // of a payment under way, or one that failed
		return
	}
	if !r.charged || !r.unpaid() {
		r.add(entitlement.Object{Kind: entitlement.KindRevocation, ID: r.subject, At: r.at, Rank: web2waveRanks[r.status], By: entitlement.Web2Wave, Revocation: taken})
	}
}

// termID is the subscription and how often it was charged: each charge is one term. A short answer does not count charges; then the end has to do.
func (r *web2waveRow) termID(t *entitlement.Transaction) string {
	if _, counted := r.object["charges_count"]; counted || t.EndsAt == 0 {
		return r.subject + ":" + strconv.FormatInt(r.int("charges_count"), 10)
	}
	return r.subject + ":until:" + strconv.FormatInt(t.EndsAt, 10)
}

// term returns what the last charge bought, nil where the row proves none: in the other statuses its next date is that of another try.
func (r *web2waveRow) term() *entitlement.Transaction {
	t := &entitlement.Transaction{Chain: r.subject, Sold: r.sold(), Recurring: true, Store: r.store(), StartsAt: r.unix("last_charge_date"),
		EndsAt: r.unix("next_charge_date"), Trial: r.status == "trialing"}
	count := r.int("charges_count")
	if t.StartsAt == 0 && count <= 1 {
		t.StartsAt = r.unix("created_at")
	}
	switch {
	case r.charged:
		if t.StartsAt == 0 {
			t.StartsAt = r.unix("updated_at")
		}
		t.Trial = false
		if r.paidOnce(t) {
			break
		}
		if t.EndsAt <= t.StartsAt { // the row was written before the charge moved its date
			t.EndsAt = r.unix("updated_at") + int64(web2waveRaceEnd/time.Second)
		}
	case r.status == "active" || r.status == "trialing":
		if r.paidOnce(t) || t.EndsAt != 0 {
			break
		}
		from := t.StartsAt
		if from == 0 {
			from = time.Unix(0, r.at).Truncate(24 * time.Hour).Unix()
		}
		t.EndsAt = from + int64(web2waveUnknownEnd/time.Second)
	case count == 0 && r.status == "incomplete":
		t.State = entitlement.TransactionPending
	case count == 0 && r.status == "incomplete_expired":
		t.State = entitlement.TransactionFailed
	default:
		return nil
	}
	return t
}

// paidOnce makes t a sale for ever, where the price is one and no other charge will come.
func (r *web2waveRow) paidOnce(t *entitlement.Transaction) bool {
	if r.text("price_label") != web2waveLifetime || t.EndsAt != 0 {
		return false
	}
	t.Recurring, t.Trial = false, false
	return true
}

func (r *web2waveRow) sold() entitlement.Sold {
	var names []entitlement.ProductID
	for _, name := range []string{"price_id", "plan_id", "plan_name"} {
		if id := entitlement.ProductID(r.text(name)); id != "" && !slices.Contains(names, id) {
			names = append(names, id)
		}
	}
	var s entitlement.Sold
	if len(names) > 0 {
		s.Product, s.Also = names[0], names[1:]
	}
	if len(s.Also) == 0 {
		s.Also = nil
	}
	if amount, ok := r.object["amount"].(int64); ok && amount >= 0 {
		s.Price = &entitlement.Price{Amount: amount, Currency: strings.ToUpper(r.text("currency"))}
		if period := r.text("price_label"); period != web2waveLifetime {
			s.Price.Period = period
		}
	}
	return s
}

// standing returns where the subscription stands, nil where that is not to be believed: a charge's own row still has the status from before it.
func (r *web2waveRow) standing() *entitlement.Renewal {
	out := &entitlement.Renewal{}
	switch r.status {
	case "active", "trialing":
		out.Phase, out.WillRenew = entitlement.PhaseActive, !r.is("cancel_scheduled") && !r.is("cancel_at_period_end")
	case "canceled":
		// Stripe's canceled_at is when the cancel was asked for, which may be long before it took effect.
		out.Phase, out.EndedAt = entitlement.PhaseExpired, max(r.unix("canceled_at"), r.unix("updated_at"))
	case "paused":
		out.Phase = entitlement.PhasePaused
	case "past_due":
		out.Phase, out.WillRenew = entitlement.PhaseBillingGrace, true // as long as the policy says
	case "unpaid":
		out.Phase = entitlement.PhaseBillingRetry
	case "incomplete":
		out.Phase = entitlement.PhasePending
	case "incomplete_expired":
		out.Phase = entitlement.PhaseNever
	default:
		return nil
	}
	if r.charged && r.unpaid() {
		return nil
	}
	return out
}

// unpaid reports whether the status says that the last charge did not come.
func (r *web2waveRow) unpaid() bool {
	return r.status == "past_due" || r.status == "unpaid" || r.status == "incomplete"
}

// web2waveNames are what a user's properties say about who they are elsewhere.
type web2waveNames struct {
	account entitlement.AccountID
	aliases []entitlement.Alias
}

// web2waveAliases are the properties that name a user elsewhere. An e-mail address never does.
var web2waveAliases = map[string]entitlement.AliasKind{
	"external_user_id": entitlement.Custom, "revenuecat_profile_id": entitlement.RevenueCatAppUser, "adapty_profile_id": entitlement.AdaptyProfile,
}

// learn adds what a property says; the values are ids. Of several account ids the last one counts.
func (n *web2waveNames) learn(property, values string) {
	kind, names := web2waveAliases[property]
	for value := range strings.SplitSeq(values, web2waveJoin) {
		switch {
		case !names || value == "":
		case property == "external_user_id" && accountID(gjson.Result{Type: gjson.String, Str: value}) != nil:
			n.account = entitlement.AccountID(value)
		default:
			n.aliases = append(n.aliases, entitlement.Alias{Kind: kind, Value: value})
		}
	}
}

// identify adds whose the subscription is: an object of its own, so that a message, which knows the user's id alone (at 0), takes nothing back of
// what an answer said about that user.
func (r *web2waveRow) identify(at int64, n web2waveNames) {
	if r.customer == "" {
		return
	}
	r.add(entitlement.Object{Kind: entitlement.KindCustomer, ID: "subscription:" + r.subject, At: at, By: entitlement.Web2Wave, Account: n.account,
		Aliases: n.of(r.customer), Customer: &entitlement.Customer{}})
}

// of returns all names of a user, sorted.
func (n *web2waveNames) of(customer string) []entitlement.Alias {
	all := append([]entitlement.Alias{{Kind: entitlement.Web2WaveUser, Value: customer}}, n.aliases...)
	slices.SortFunc(all, func(a, b entitlement.Alias) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Value, b.Value))
	})
	return slices.Compact(all)
}

// web2wavePropertyEvent is the event of a changed property. It has no time, so that it says that there is something to ask for rather than what counts:
// one question for each value.
func web2wavePropertyEvent(o object, env entitlement.Environment) entitlement.Event {
	customer, name, value := o.text("user_id"), o.text("property"), o.text("value")
	ev := entitlement.Event{Provider: entitlement.Web2Wave, Environment: env, Type: "user_property", ID: web2waveID("user_property", customer, name, value)}
	if _, names := web2waveAliases[name]; !names {
		delete(o, "value") // quizzes put passwords and answers there
		ev.Kind, ev.Raw = entitlement.Unhandled, object{"type": "user_property", "data": o}.raw()
		return ev
	}
	var n web2waveNames
	n.learn(name, value)
	ev.Raw = object{"type": "user_property", "data": o}.raw()
	ev.Objects = []entitlement.Object{{Kind: entitlement.KindHint, ID: customer + web2waveAsked + web2waveQuestion(name, value), By: entitlement.Web2Wave,
		Account: n.account, Aliases: n.of(customer), Hint: &entitlement.Hint{Of: entitlement.KindCustomer}, Links: []entitlement.Link{web2waveCustomerLink(customer)}}}
	return ev
}

// web2waveAsked stands between a customer and what is asked about them, in the id of a hint. No customer's id has it.
const web2waveAsked = "#"

func web2waveQuestion(name, value string) string {
	sum := sha256.Sum256([]byte(name + "=" + value))
	return hex.EncodeToString(sum[:8])
}
