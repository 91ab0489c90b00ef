package provider

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// AdaptyEvents is the export of events that Adapty writes to a bucket once a day, or for a range of days: a row for each event, with commas.
const AdaptyEvents = "events"

// ErrAdaptyExport means that a file is no export that we know: columns are missing.
var ErrAdaptyExport = errors.New("adapty: not an export of this form")

// AdaptyImport reads the rows of an export. Rows about one event are the same event, whatever the file has around them, so that a file may be read
// again, and one that overlaps it.
type AdaptyImport struct {
	columns map[string]int
}

// NewAdaptyImport returns a reader of rows under a header. Columns are found by name: there are more of them every year. Error: ErrAdaptyExport.
func NewAdaptyImport(kind string, header []string) (*AdaptyImport, error) {
	if kind != AdaptyEvents {
		return nil, fmt.Errorf("%w: no such form", ErrAdaptyExport)
	}
	i := &AdaptyImport{columns: map[string]int{}}
	for at, name := range header {
		i.columns[strings.TrimPrefix(name, "\ufeff")] = at
	}
	for _, name := range []string{"profile_id", "event_type", "event_datetime", "transaction_id", "original_transaction_id", "subscription_expires_at", "environment", "store", "product_id"} {
		if _, there := i.columns[name]; !there {
			return nil, fmt.Errorf("%w: the column %s is missing", ErrAdaptyExport, name)
		}
	}
	return i, nil
}

// Faults names the columns because of which a row is not understood: a time is all that it cannot do without.
func (i *AdaptyImport) Faults([]string) (columns []string) { return []string{"event_datetime"} }

// adaptyImported are the columns that a message has in its event_properties, with their names there.
var adaptyImported = map[string]string{
	"environment": "environment", "store": "store", "product_id": "vendor_product_id", "base_plan_id": "base_plan_id", "transaction_id": "transaction_id",
	"original_transaction_id": "original_transaction_id", "cancellation_reason": "cancellation_reason",
}

// Event returns what a row proves in the environment: what a message about the same event does, less what an export does not tell. It has no
// states of access levels and no ends of grants, so those rows, like those of the other environment, are entitlement.Unhandled and need not be
// stored; a row that is not understood is entitlement.Unreadable.
func (i *AdaptyImport) Event(row []string, env entitlement.Environment) entitlement.Event {
	column := func(name string) string {
		if at, there := i.columns[name]; there && at < len(row) {
			return row[at]
		}
		return ""
	}
	kind, properties := column("event_type"), map[string]string{}
	for name, own := range adaptyImported {
		properties[own] = column(name)
	}
	happened, ok := importedTime(column("event_datetime"))
	properties["subscription_expires_at"], _ = importedTime(column("subscription_expires_at"))
	t := adaptyTypes[kind]
	switch t.name {
	case "subscription_started", "subscription_renewed", "trial_started", "trial_converted", "non_subscription_purchase":
		properties["purchase_date"] = happened // the time of these is when the term begins
	}
	// What tells one event from another: no id of it is in an export.
	sum := sha256.New()
	for _, name := range []string{"event_type", "event_datetime", "transaction_id", "original_transaction_id", "profile_id", "product_id", "environment"} {
		sum.Write([]byte(strconv.Itoa(len(column(name))) + ":" + column(name)))
	}
	id := importPrefix + AdaptyEvents + ":" + hex.EncodeToString(sum.Sum(nil)[:16])
	properties["profile_event_id"] = id
	none := entitlement.Event{Provider: entitlement.Adapty, ID: id, Type: importPrefix + AdaptyEvents, Environment: env, Kind: entitlement.Unhandled}
	if of := strings.ToLower(column("environment")); of != "" && of != string(env) || ok && (t.read == nil || t.name == "access_level_updated") {
		return none
	}
	body, err := json.Marshal(map[string]any{"event_type": kind, "event_datetime": happened, "profile_id": column("profile_id"), "customer_user_id": column("customer_user_id"),
		"event_properties": properties})
	ev := none
	if err == nil && ok {
		ev, err = (&Adapty{}).parse(body, env)
	}
	if err != nil || !ok {
		none.Kind, none.Raw = entitlement.Unreadable, object{"row": id}.raw()
		return none
	}
	return ev
}

// The layouts of times in an export, which no page describes: those of messages, and what databases write.
var importedLayouts = append([]string{"2006-01-02 15:04:05", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05 MST", "2006-01-02T15:04:05"}, microLayouts...)

// importedTime returns a time as messages write it, empty for none; ok is false for what is none.
func importedTime(text string) (written string, ok bool) {
	for _, layout := range importedLayouts {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC().Format(time.RFC3339Nano), true
		}
	}
	return "", false
}
