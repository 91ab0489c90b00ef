package provider

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/tidwall/gjson"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

const (
	adaptyGrantPath  = "/api/v2/server-side-api/purchase/profile/grant/access-level/"
	adaptyRevokePath = "/api/v2/server-side-api/purchase/profile/revoke/access-level/"

	// adaptyGrantTime is how its times are written: to the millisecond, which the mark needs.
	adaptyGrantTime = "2006-01-02T15:04:05.000Z07:00"
)

// adaptyLevel is how a level of a profile stands: until when it is open by us, and by others. Zero is not at all.
type adaptyLevel struct{ ours, others time.Time }

// PassOn grants and revokes access levels. Adapty's grants know no environment: a profile's are seen in its app whatever was bought where.
func (a *AdaptyAPI) PassOn(ctx context.Context, customer entitlement.Alias, want []Access) (Passed, error) {
	name := adaptyUserHeader
	if customer.Kind == entitlement.AdaptyProfile {
		name = adaptyProfileHeader
	}
	if customer.Kind.Provider() != entitlement.Adapty || !isUserName(customer.Value) {
		return Passed{}, &PullError{Reason: ErrGone, Detail: "Adapty has no such name"}
	}
	answer, head, err := a.get(ctx, adaptyProfilePath, a.header(name, customer.Value))
	if err != nil {
		return Passed{}, err
	}
	profile := member(answer, "data")
	if !profile.IsObject() {
		return Passed{}, head.fail(ErrAnswer, "no profile in it")
	}
	var done Passed
	there, wanted := a.levels(profile), map[string]bool{}
	for _, access := range want {
		wanted[access.Level] = true
		end := endlessGrant
		if access.EndsAt != 0 {
			end = MarkedEnd(time.Unix(access.EndsAt, 0))
		}
		level := there[access.Level]
		switch {
		case level.ours.Truncate(time.Second).Equal(end.Truncate(time.Second)):
		case !level.others.Before(end):
			done.Open = true // what others gave may be taken back before its end
		default:
			if err := a.tell(ctx, adaptyGrantPath, name, customer.Value, access.Level, "expires_at", end); err != nil {
				return done, err
			}
			done.Granted++
		}
	}
	for level, stands := range there {
		switch {
		case wanted[level] || stands.ours.IsZero():
		case !stands.others.IsZero():
			done.Open = true // to revoke the level might take what was paid for
		default:
			// Adapty tells its end to the microsecond: that of ours is known by what is behind the second.
			now := a.now().UTC()
			end := now.Truncate(time.Second).Add(outboundMark % time.Second)
			if end.Before(now) {
				end = end.Add(time.Second)
			}
			if err := a.tell(ctx, adaptyRevokePath, name, customer.Value, level, "revoke_at", end); err != nil {
				return done, err
			}
			done.Revoked++
		}
	}
	return done, nil
}

// levels returns how the levels of a profile stand now, by their ids.
func (a *AdaptyAPI) levels(profile gjson.Result) map[string]adaptyLevel {
	now, levels := a.now(), map[string]adaptyLevel{}
	member(profile, "access_levels").ForEach(func(_, v gjson.Result) bool {
		o, ok := adaptyEntry(v).(object)
		if !ok || len(levels) == maxAdaptySales {
			return len(levels) < maxAdaptySales
		}
		end := o.instant("expires_at")
		own := adaptyOwn(o.text("store_product_id"), end)
		if end.IsZero() {
			end = endlessGrant.Add(outboundMarkEvery) // later than any of ours
		}
		if id := o.text("access_level_id"); id != "" && end.After(now) {
			level := levels[id]
			if own {
				level.ours = later(level.ours, end)
			} else {
				level.others = later(level.others, end)
			}
			levels[id] = level
		}
		return true
	})
	return levels
}

// tell grants or revokes a level, and reads from the answer that it was done.
func (a *AdaptyAPI) tell(ctx context.Context, path, header, customer, level, what string, at time.Time) error {
	body, err := json.Marshal(map[string]string{"access_level_id": level, what: at.UTC().Format(adaptyGrantTime)})
	if err != nil {
		return err
	}
	answer, head, err := a.ask(ctx, http.MethodPost, path, a.header(header, customer), body)
	if err != nil {
		return err
	}
	if path == adaptyGrantPath && a.levels(member(answer, "data"))[level].ours.Before(at.Truncate(time.Second)) {
		return head.fail(ErrAnswer, "what was granted is not in it")
	}
	return nil
}
