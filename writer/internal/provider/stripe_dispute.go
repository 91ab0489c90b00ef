package provider

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"
)

// A dispute that was lost takes its subscription back until a term is paid after the loss. The dispute itself says that it was lost and not since when;
// the message that said so does, which Stripe keeps for a while whether it came or not.

const disputeLost = "lost"

// pulledDispute is a dispute with the time since which it is lost, where that was asked for: it has the version of that second's end, which is newer than any
// message of it and older than what was paid afterwards.
func (m *stripeMessage) pulledDispute(o object) error {
	pulled := *m
	if closed := when(o, "closed_at"); closed > 0 && closed < m.at/int64(time.Second) {
		pulled.at = (closed+1)*int64(time.Second) - 1
	}
	err := pulled.dispute(o)
	m.objects = pulled.objects
	return err
}

// completeDispute adds to a lost dispute since when it is. What was lost before the oldest message that Stripe keeps has been so since then at the latest.
// Where a key may not read messages, or nothing is found, the answer's own time counts.
func (a *StripeAPI) completeDispute(ctx context.Context, answer gjson.Result, left time.Time) (string, error) {
	dispute, _ := fields(stripeDispute)(answer).(object)
	if dispute.text("status") != disputeLost {
		return answer.Raw, nil
	}
	opened, kept := when(dispute, "created"), left.Add(-stripeKeepsEvents).Unix()
	closed, whole, err := a.lostAt(ctx, dispute.text("id"), max(opened, kept))
	switch {
	case errors.Is(err, ErrCredential):
		return answer.Raw, nil
	case err != nil:
		return "", err
	case closed == 0 && whole && 0 < opened && opened < kept:
		closed = kept
	}
	if closed == 0 {
		return answer.Raw, nil
	}
	return fmt.Sprintf(`%s,"closed_at":%d}`, strings.TrimSuffix(strings.TrimSpace(answer.Raw), "}"), closed), nil
}

// lostAt returns when the first message since a time said that a dispute is lost, after the last one that said otherwise; 0: none does. whole is false where
// there are more messages than we read.
func (a *StripeAPI) lostAt(ctx context.Context, id string, since int64) (at int64, whole bool, err error) {
	for message, err := range a.events(ctx, maxStripePages, "types[]", "charge.dispute.created", "types[]", "charge.dispute.updated", "types[]", "charge.dispute.closed",
		"created[gte]", strconv.FormatInt(since, 10)) {
		if errors.Is(err, errMoreEvents) {
			return at, false, nil
		}
		if err != nil {
			return 0, false, err
		}
		said, _ := fields(stripeDispute)(member(member(message, "data"), "object")).(object)
		if said.text("id") != id {
			continue
		}
		if said.text("status") != disputeLost {
			break
		}
		at = stripeHeadOf(message).(object).int("created")
	}
	return at, true, nil
}
