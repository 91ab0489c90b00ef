package storesim

import (
	"fmt"
	"net/http"
	"time"
)

// web2WaveRace is how long the row that says active comes after the charge's.
const web2WaveRace = 3 * time.Second

func web2WaveTime(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(time.DateTime)
}

func (s *Sim) web2WaveUser(account string) string { return s.uuid("web2wave", account) }

func (s *Sim) tellWeb2Wave(p *Purchase, f Fact) {
	switch f.Kind {
	case Bought:
		s.web2WaveIdentify(p)
		if p.last().Cents > 0 && p.recurs() { // the charge is told before the subscription is active
			row := s.web2WaveRow(p)
			row["status"] = "incomplete"
			s.web2WaveSend(p, "charge.succeeded", row)
			s.schedule(s.clock.Add(web2WaveRace), func() {
				p.ChangedAt = s.clock
				s.web2WaveSend(p, "customer.subscription.updated", s.web2WaveRow(p))
			})
			return
		}
		s.web2WaveSend(p, "customer.subscription.created", s.web2WaveRow(p))
	case PaymentPending:
		s.web2WaveIdentify(p)
		s.web2WaveSend(p, "customer.subscription.created", s.web2WaveRow(p))
	case Renewed, Recovered, Upgraded, Resumed, Resubscribed:
		s.web2WaveSend(p, "charge.succeeded", s.web2WaveRow(p))
	case Expired:
		s.web2WaveSend(p, "customer.subscription.deleted", s.web2WaveRow(p))
	case RenewalFailed, RenewalOff, RenewalOn, PaymentFailed:
		s.web2WaveSend(p, "customer.subscription.updated", s.web2WaveRow(p))
	}
}

// web2WaveIdentify tells the app's own name of the user.
func (s *Sim) web2WaveIdentify(p *Purchase) {
	s.stamp()
	s.send(&Message{ID: s.id(16, "web2wave", len(s.messages)), Provider: Web2Wave, Env: p.Env, Type: "user_property", Purchase: p.ID, Body: encode(object{"type": "user_property",
		"data": object{"project_domain": "quiz.example.com", "user_id": s.web2WaveUser(p.Owner), "property": "external_user_id", "value": p.Owner}})})
}

func web2WaveStatus(p *Purchase) string {
	switch {
	case p.Phase == Pending:
		return "incomplete"
	case p.EndReason == "unpaid":
		return "incomplete_expired"
	case p.Phase == Retry:
		return "past_due"
	case p.Phase == Ended:
		return "canceled"
	case p.last().Trial:
		return "trialing"
	}
	return "active"
}

// web2WaveRow is the subscription's whole row.
func (s *Sim) web2WaveRow(p *Purchase) object {
	t := p.last()
	real, scheduled := 1, "No"
	if p.sandbox() {
		real = 0
	}
	if !p.WillRenew && p.recurs() && p.Phase != Ended {
		scheduled = "Yes"
	}
	next, last, label := t.EndsAt, p.StartedAt, fmt.Sprintf("%d.%02d eur / %d month", t.Product.Cents/100, t.Product.Cents%100, t.Product.Months)
	if p.Phase == Ended {
		next = time.Time{}
	}
	if !p.recurs() {
		label = fmt.Sprintf("%d.%02d eur Lifetime", t.Product.Cents/100, t.Product.Cents%100)
	}
	total := int64(0)
	for _, t := range p.Terms {
		if !t.PaidAt.IsZero() {
			total += t.Cents
			if t.Cents > 0 {
				last = t.PaidAt
			}
		}
	}
	method := s.stripeID("sub", p, -1)
	if !p.recurs() {
		method = s.stripeID("pi", p, 0)
	}
	return object{"id": 100_000 + s.number("web2wave", p.N)%1_000_000_000, "user_id": s.web2WaveUser(p.Owner), "user_email": "", "created_at": web2WaveTime(p.StartedAt), "updated_at": web2WaveTime(p.ChangedAt), "payment_system": 1, "payment_system_label": "Stripe",
		"real_payment": real, "pay_system_id": method, "project_domain": "quiz.example.com", "quiz_id": "10001", "quiz_name": "quiz", "paywall_id": "22", "paywall_name": "paywall", "price_id": t.Product.ID, "plan_id": 31,
		"plan_name": t.Product.ID, "price_label": label, "amount": fmt.Sprintf("%d.00", t.Product.Cents), "amount_real": float64(t.Cents) / 100, "currency": "eur", "canceled_at": web2WaveTime(p.EndedAt), "cancel_at_period_end": 0,
		"cancel_scheduled": scheduled, "customer": s.stripeCustomer(p), "status": web2WaveStatus(p), "next_charge_date": web2WaveTime(next), "last_charge_date": web2WaveTime(last), "charges_count": p.charges(), "phases_num": 1,
		"total_revenue": total, "manage_link": "https://quiz.example.com/manage-subscriptions?user_id=" + s.web2WaveUser(p.Owner), "user_country_code": "NL", "user_platform": "ios"}
}

func (s *Sim) web2WaveSend(p *Purchase, trigger string, row object) {
	row["event_type"] = trigger
	s.send(&Message{ID: s.id(16, "web2wave", len(s.messages)), Provider: Web2Wave, Env: p.Env, Type: "subscription/" + trigger, Purchase: p.ID, Body: encode(object{"type": "subscription", "data": row})})
}

// web2WaveAPI answers what the API answers about a user, with and without the base path /api.
func (s *Sim) web2WaveAPI(mux *http.ServeMux, env Environment) {
	for _, base := range []string{"", "/api"} {
		rows := func(path, query, key string) {
			s.handle(mux, Web2Wave, env, "GET "+base+path, func(r *http.Request) (int, any) {
				account, known := s.web2WaveAccount(r.URL.Query().Get(query))
				if !known {
					return http.StatusUnprocessableEntity, object{"error": 1, "error_msg": "user not found"}
				}
				list := []object{}
				for _, p := range s.ofOwner(Web2Wave, env, account) {
					row := s.web2WaveRow(p)
					if key == "subscription" { // as documented
						delete(row, "real_payment")
					}
					list = append(list, row)
				}
				return http.StatusOK, object{key: list}
			})
		}
		rows("/user/subscriptions", "user", "subscription")
		rows("/subscriptions/list", "user_id", "data")
		s.handle(mux, Web2Wave, env, "GET "+base+"/user/properties", func(r *http.Request) (int, any) {
			user := r.URL.Query().Get("user")
			account, known := s.web2WaveAccount(user)
			if !known {
				return http.StatusUnprocessableEntity, object{"error": 1, "error_msg": "user not found"}
			}
			return http.StatusOK, object{"user_id": user, "user_email": "", "properties": []object{{"property": "external_user_id", "value": account}}}
		})
	}
}

func (s *Sim) web2WaveAccount(user string) (account string, known bool) {
	account = s.index.names[user]
	return account, account != "" && s.web2WaveUser(account) == user
}
