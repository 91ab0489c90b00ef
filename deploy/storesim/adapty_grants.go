package storesim

import (
	"cmp"
	"encoding/json"
	"net/http"
	"time"
)

// Access that somebody gave through Adapty's server-side API: its end by the level, for each profile of an environment. Adapty tells of a change as of any
// access, with a product of its own.

// adaptyServerSide is the product of such access.
const adaptyServerSide = "adapty_server_side_product"

// adaptyHolder is a profile in one environment.
type adaptyHolder struct {
	env     Environment
	account string
}

// adaptyGrantAPI answers what grants and revokes access levels.
func (s *Sim) adaptyGrantAPI(mux *http.ServeMux, env Environment) {
	change := func(path, field string, endOf func(named time.Time) time.Time) {
		s.handle(mux, Adapty, env, "POST /api/v2/server-side-api/purchase/profile/"+path+"/access-level/{$}", func(r *http.Request) (int, any) {
			account := s.adaptyAsked(r)
			if account == "" {
				return adaptyUnknown()
			}
			var body map[string]*string
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body["access_level_id"] == nil {
				return adaptyRefused("the body is wrong")
			}
			level, named := *body["access_level_id"], time.Time{}
			if at := body[field]; at != nil {
				var err error
				if named, err = time.Parse(time.RFC3339Nano, *at); err != nil {
					return adaptyRefused(field + " is no time")
				}
			}
			if !s.adaptyHasLevel(level) {
				return adaptyRefused("the access level does not exist")
			}
			s.adaptyGive(env, account, level, endOf(named), path == "revoke")
			return http.StatusOK, object{"data": s.adaptyData(env, account)}
		})
	}
	change("grant", "expires_at", func(named time.Time) time.Time { return named })
	change("revoke", "revoke_at", func(named time.Time) time.Time {
		if named.IsZero() {
			return s.clock
		}
		return named
	})
}

// adaptyAsked returns whose profile a call is about, or an empty account.
func (s *Sim) adaptyAsked(r *http.Request) string {
	user, profile := r.Header.Get("adapty-customer-user-id"), r.Header.Get("adapty-profile-id")
	if account := s.index.names[cmp.Or(user, profile)]; account != "" && (account == user || s.adaptyProfile(account) == profile) {
		return account
	}
	return ""
}

func adaptyUnknown() (int, any) {
	return http.StatusNotFound, object{"errors": []any{object{"source": nil, "errors": []any{"profile does not exist"}}}, "error_code": "profile_does_not_exist", "status_code": 404}
}

func adaptyRefused(why string) (int, any) {
	return http.StatusBadRequest, object{"errors": []any{object{"source": "non_field_errors", "errors": []any{why}}}, "error_code": "base_error", "status_code": 400}
}

// adaptyHasLevel reports whether the merchant has made an access level: each that a product gives.
func (s *Sim) adaptyHasLevel(level string) bool {
	for _, p := range s.config.Products {
		if level != "" && aggregatorEntitlement(Adapty, p) == level {
			return true
		}
	}
	return false
}

// adaptyGive sets when a given level ends, zero for never, and tells of it.
func (s *Sim) adaptyGive(env Environment, account, level string, end time.Time, revoked bool) {
	holder := adaptyHolder{env, account}
	if revoked {
		if _, given := s.given[holder][level]; !given {
			return
		}
	}
	if s.given == nil {
		s.given = map[adaptyHolder]map[string]time.Time{}
	}
	if s.given[holder] == nil {
		s.given[holder] = map[string]time.Time{}
	}
	s.given[holder][level] = end
	at := s.stamp()
	id, reason := s.uuid("adapty", len(s.messages)), any(nil)
	if revoked {
		reason = "adapty_revoked"
	}
	transaction := s.uuid("adapty given", string(env), account, level)
	s.send(&Message{ID: id, Provider: Adapty, Env: env, Type: "access_level_updated", Body: encode(object{"profile_id": s.adaptyProfile(account), "customer_user_id": account, "email": nil,
		"event_type": "access_level_updated", "event_datetime": adaptyTime(at), "event_api_version": 1, "profiles_sharing_access_level": nil,
		"event_properties": object{"profile_event_id": id, "profile_id": s.adaptyProfile(account), "environment": appleEnvironments[env], "store": "adapty", "vendor_product_id": adaptyServerSide, "base_plan_id": nil,
			"transaction_id": transaction, "original_transaction_id": transaction, "access_level_id": level, "is_active": end.IsZero() || end.After(s.clock.Add(time.Second)), "starts_at": nil,
			"activated_at": adaptyTime(at), "expires_at": adaptyTime(end), "is_lifetime": end.IsZero(), "is_in_grace_period": false, "is_refund": false, "will_renew": false, "cancellation_reason": reason}})})
}

// adaptyGiven lists what somebody gave a profile, as it shows it.
func (s *Sim) adaptyGiven(env Environment, account string) []object {
	var levels []object
	for _, p := range s.config.Products { // in an order that stays
		level := aggregatorEntitlement(Adapty, p)
		end, given := s.given[adaptyHolder{env, account}][level]
		if !given || len(levels) > 0 && levels[len(levels)-1]["access_level_id"] == level {
			continue
		}
		transaction := s.uuid("adapty given", string(env), account, level)
		levels = append(levels, object{"access_level_id": level, "store": "adapty", "store_product_id": adaptyServerSide, "store_transaction_id": transaction, "store_original_transaction_id": transaction,
			"offer": nil, "starts_at": nil, "purchased_at": nil, "originally_purchased_at": nil, "expires_at": adaptyAPITime(end), "renewal_cancelled_at": nil, "billing_issue_detected_at": nil,
			"is_in_grace_period": false, "cancellation_reason": nil})
	}
	return levels
}
