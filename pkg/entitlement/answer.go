package entitlement

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// AppendJSON appends the members `"entitlements"`, `"balances"`, `"purchase"` and `"trial"` of an answer (contract section 4) to dst, with commas
// between and no braces around; `"unconfirmed"` comes after them where there is any. exp is that of the token beside it and bounds every offline_until; 0 leaves them out. What ends never has no
// time. Nothing is allocated but for text that needs escapes.
func (v *View) AppendJSON(dst []byte, env Environment, exp int64) []byte {
	dst = append(dst, `"entitlements":[`...)
	for i := range v.Entitlements {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = v.Entitlements[i].appendJSON(dst, env, exp)
	}
	dst = append(dst, `],"balances":{`...)
	for i, b := range v.Balances {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, b.Credit)
		dst = append(dst, ':')
		dst = strconv.AppendInt(dst, max(b.Amount, 0), 10) // what is owed is the operator's matter
	}
	dst = append(dst, `},"purchase":{"allowed":`...)
	dst = strconv.AppendBool(dst, len(v.Blocked) == 0)
	if len(v.Blocked) == 0 {
		dst = append(dst, `,"reason":null,"manage_url":null`...)
	} else {
		dst = appendText(dst, "reason", v.Blocked[0].Reason)
		dst = appendText(dst, "manage_url", v.Blocked[0].ManageURL)
	}
	dst = append(dst, `,"blocked_groups":[`...)
	for i, b := range v.Blocked {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"group":`...)
		dst = appendString(dst, b.Group)
		dst = appendText(dst, "reason", b.Reason)
		dst = appendText(dst, "store", b.Store)
		dst = appendText(dst, "manage_url", b.ManageURL)
		dst = append(dst, '}')
	}
	dst = append(dst, `]},"trial":{"eligible":`...)
	dst = strconv.AppendBool(dst, !v.TrialUsed)
	dst = append(dst, '}')
	for i := range v.Unconfirmed {
		if i == 0 {
			dst = append(dst, `,"unconfirmed":[`...)
		} else {
			dst = append(dst, ',')
		}
		dst = v.Unconfirmed[i].appendJSON(dst)
	}
	if len(v.Unconfirmed) > 0 {
		dst = append(dst, ']')
	}
	return dst
}

// appendJSON appends what the buyer of w tells support, beside the account.
func (w *Awaited) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"reference":`...)
	dst = appendString(dst, w.ID)
	dst = appendText(dst, "provider", string(w.Provider))
	dst = appendText(dst, "product_id", string(w.Product))
	return append(appendTime(dst, "submitted_at", w.ToldAt()), '}')
}

func (e *Entitlement) appendJSON(dst []byte, env Environment, exp int64) []byte {
	dst = append(dst, `{"id":`...)
	dst = appendString(dst, e.ID)
	dst = appendBool(dst, "active", e.Status.Active())
	dst = appendText(dst, "status", string(e.Status))
	dst = appendText(dst, "reason", string(e.Reason))
	dst = appendTime(dst, "expires_at", e.ExpiresAt)
	dst = appendTime(dst, "access_until", e.AccessUntil)
	if exp > 0 {
		dst = appendTime(dst, "offline_until", e.OfflineUntil(exp))
	}
	dst = appendBool(dst, "will_renew", e.WillRenew)
	dst = appendBool(dst, "trial", e.Trial)
	switch {
	case e.Granted:
		dst = append(dst, `,"ownership":"granted"`...)
	case e.Ownership != "":
		dst = appendText(dst, "ownership", string(e.Ownership))
	default:
		dst = append(dst, `,"ownership":"purchased"`...)
	}
	dst = appendBool(dst, "sandbox", e.Sandbox || env == Sandbox && !e.Granted)
	dst = appendText(dst, "plan", e.Plan)
	dst = appendText(dst, "next_plan", e.NextPlan)
	dst = append(dst, `,"price":`...)
	dst = e.Price.appendJSON(dst)
	dst = appendText(dst, "manage_url", e.ManageURL)
	dst = appendText(dst, "provider", string(e.Provider))
	dst = appendText(dst, "store", e.Store)
	dst = appendText(dst, "product_id", string(e.Product))
	dst = appendText(dst, "purchase_id", string(e.Purchase))
	dst = append(dst, `,"other_purchases":[`...)
	for i := range e.Others {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = e.Others[i].appendJSON(dst)
	}
	return append(dst, `]}`...)
}

func (o *OtherPurchase) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"purchase_id":`...)
	dst = appendString(dst, string(o.Purchase))
	dst = appendText(dst, "provider", string(o.Provider))
	dst = appendText(dst, "store", o.Store)
	dst = appendText(dst, "product_id", string(o.Product))
	dst = appendBool(dst, "active", o.Status.Active())
	dst = appendText(dst, "status", string(o.Status))
	dst = appendTime(dst, "expires_at", o.ExpiresAt)
	dst = appendTime(dst, "access_until", o.AccessUntil)
	dst = appendBool(dst, "will_renew", o.WillRenew)
	dst = appendText(dst, "manage_url", o.ManageURL)
	return append(dst, '}')
}

// appendJSON appends null for a price that is not known.
func (p *Price) appendJSON(dst []byte) []byte {
	if p == nil {
		return append(dst, `null`...)
	}
	dst = append(dst, `{"amount":"`...)
	dst = appendAmount(dst, p.Amount, MinorDigits(p.Currency))
	dst = append(dst, '"')
	dst = appendText(dst, "currency", p.Currency)
	dst = appendText(dst, "period", p.Period)
	return append(dst, '}')
}

// appendAmount writes an amount of the smallest unit with its decimal point: 999 with 2 digits is 9.99.
func appendAmount(dst []byte, n int64, digits int) []byte {
	if n < 0 {
		dst = append(dst, '-')
		n = -max(n, -maxAmount)
	}
	unit := int64(1)
	for range digits {
		unit *= 10
	}
	dst = strconv.AppendInt(dst, n/unit, 10)
	if digits == 0 {
		return dst
	}
	dst = append(dst, '.')
	for rest := n % unit; unit > 1; rest %= unit {
		unit /= 10
		dst = append(dst, byte('0'+rest/unit))
	}
	return dst
}

// Currencies whose smallest unit is not a hundredth, as Stripe counts them (docs.stripe.com/currencies). ISK and UGX have no smaller unit
// either, but Stripe goes on counting them in hundredths.
var (
	zeroDecimal  = []string{"BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF"}
	threeDecimal = []string{"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"}
)

// MinorDigits is how many digits of an amount in a currency, ISO 4217 in upper case, are behind the decimal point.
func MinorDigits(currency string) int {
	switch {
	case slices.Contains(zeroDecimal, currency):
		return 0
	case slices.Contains(threeDecimal, currency):
		return 3
	}
	return 2
}

// AppendTime appends t, Unix seconds, as JSON shows times: RFC 3339, UTC, whole seconds, in quotes.
func AppendTime(dst []byte, t int64) []byte {
	dst = append(dst, '"')
	dst = time.Unix(clampTime(t), 0).UTC().AppendFormat(dst, time.RFC3339)
	return append(dst, '"')
}

// appendTime appends `,"name":"time"`, or nothing for 0.
func appendTime(dst []byte, name string, t int64) []byte {
	if t == 0 {
		return dst
	}
	return AppendTime(appendName(dst, name), t)
}

// appendText appends `,"name":"value"`, with null for an empty value.
func appendText(dst []byte, name, value string) []byte {
	dst = appendName(dst, name)
	if value == "" {
		return append(dst, `null`...)
	}
	return appendString(dst, value)
}

func appendBool(dst []byte, name string, value bool) []byte {
	return strconv.AppendBool(appendName(dst, name), value)
}

func appendName(dst []byte, name string) []byte {
	dst = append(dst, `,"`...)
	dst = append(dst, name...)
	return append(dst, `":`...)
}

func appendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			b, err := json.Marshal(s)
			if err != nil { // never for a string
				return append(dst, `""`...)
			}
			return append(dst, b...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}
