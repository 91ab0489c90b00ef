package token

import (
	"fmt"
	"strings"
	"time"
)

// Describe says in words what c allows at time t and until when: what `latchkey-edge verify` prints. c comes from Verify or Inspect.
func Describe(c *GraceClaims, t time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "account %s of %s (%s), cluster %s\n", c.Subject, c.Audience, c.Environment, c.Issuer)
	fmt.Fprintf(&b, "true as of %s, revision %s\n", utc(c.AsOf), c.Revision)
	switch left := c.ExpiresAt - t.Unix(); {
	case left <= 0:
		fmt.Fprintf(&b, "expired at %s: allows nothing any more\n", utc(c.ExpiresAt))
	case t.Unix() < c.notBefore:
		fmt.Fprintf(&b, "not valid before %s: allows nothing yet\n", utc(c.notBefore))
	default:
		fmt.Fprintf(&b, "valid offline until %s (%s left)\n", utc(c.ExpiresAt), time.Duration(left)*time.Second)
	}
	if len(c.Entitlements) == 0 {
		b.WriteString("no entitlements: the account is known and may use nothing\n")
	}
	for i := range c.Entitlements {
		describeEntitlement(&b, c, &c.Entitlements[i], t)
	}
	for _, bal := range c.Balances {
		fmt.Fprintf(&b, "balance %q: %d\n", bal.Credit, bal.Amount)
	}
	return b.String()
}

func describeEntitlement(b *strings.Builder, c *GraceClaims, e *GraceEntitlement, t time.Time) {
	verdict := "denied"
	if c.Allows(e.ID, t) {
		verdict = "allowed until " + utc(min(e.OfflineUntil, c.ExpiresAt))
	}
	fmt.Fprintf(b, "%q: %s; status %s", e.ID, verdict, e.Status)
	if e.Reason != "" && e.Reason != e.Status {
		fmt.Fprintf(b, " (%s)", e.Reason)
	}
	if e.Until == 0 {
		b.WriteString(", paid for ever")
	} else {
		fmt.Fprintf(b, ", paid until %s", utc(e.Until))
	}
	if e.WillRenew {
		b.WriteString(", will renew")
	}
	b.WriteByte('\n')
}

func utc(seconds int64) string { return time.Unix(seconds, 0).UTC().Format(time.RFC3339) }
