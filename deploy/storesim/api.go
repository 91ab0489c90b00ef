package storesim

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration whose text may count days and weeks: "30d", "2w", "1d12h".
type Duration time.Duration

// ParseDuration reads one. It is never negative.
func ParseDuration(text string) (Duration, error) {
	wrong := fmt.Errorf("duration %q: want as in 30d, 2w or 1d12h", text)
	rest, total := "", time.Duration(0)
	for left := text; left != ""; {
		digits := strings.IndexFunc(left, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
		if digits < 1 {
			return 0, wrong
		}
		letters := strings.IndexFunc(left[digits:], func(r rune) bool { return r >= '0' && r <= '9' })
		if letters < 0 {
			letters = len(left) - digits
		}
		number, unit := left[:digits], left[digits:digits+letters]
		left = left[digits+letters:]
		length, long := map[string]time.Duration{"w": 7 * day, "d": day}[unit]
		if !long {
			rest += number + unit
			continue
		}
		n, err := strconv.Atoi(number)
		if err != nil || n > maxDays {
			return 0, wrong
		}
		total += time.Duration(n) * length
	}
	if rest != "" || text == "" {
		d, err := time.ParseDuration(rest)
		if err != nil {
			return 0, wrong
		}
		total += d
	}
	return Duration(total), nil
}

// maxDays bounds what can be written: a century.
const maxDays = 36525

// String writes whole days as days.
func (d Duration) String() string {
	if whole := time.Duration(d) / day; whole > 0 && time.Duration(d)%day == 0 {
		return fmt.Sprintf("%dd", whole)
	}
	return time.Duration(d).String()
}

// MarshalText and UnmarshalText are the form in JSON.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is ParseDuration.
func (d *Duration) UnmarshalText(b []byte) error {
	parsed, err := ParseDuration(string(b))
	*d = parsed
	return err
}

// Request is the body of every action of the control API: each takes the members that it needs.
type Request struct {
	Order
	Purchase string   `json:"purchase,omitempty"`
	For      Duration `json:"for,omitempty"`     // advance, extend, pause
	Until    string   `json:"until,omitempty"`   // advance: RFC 3339, instead of for
	Term     *int     `json:"term,omitempty"`    // refund, reverse-refund; absent or negative: the last one
	Cents    int64    `json:"cents,omitempty"`   // refund; 0: all
	With     string   `json:"with,omitempty"`    // share, unshare, transfer: an account
	Outcome  string   `json:"outcome,omitempty"` // close-dispute: won or lost; settle: paid or failed
	Chaos    *Chaos   `json:"chaos,omitempty"`
}

func (r Request) term() int {
	if r.Term == nil {
		return -1
	}
	return *r.Term
}

// Answer is what an action of the control API answers.
type Answer struct {
	Now      time.Time `json:"now"`                // the virtual time
	Purchase *Purchase `json:"purchase,omitempty"` // as it stands now
	Facts    []Fact    `json:"facts,omitempty"`    // that the action wrote
}

const maxRequestBytes = 64 << 10

// Control is the HTTP API by which tests drive the simulation, under /sim/v1/; docs/storesim.md lists it. What is due is posted before an action answers.
func (s *Sim) Control() http.Handler {
	mux := http.NewServeMux()
	actions := map[string]func(r *http.Request, q Request) (string, error){
		"advance": s.advance,
		"buy":     func(_ *http.Request, q Request) (string, error) { p, err := s.Buy(q.Order); return p.ID, err },
		"resubscribe": func(_ *http.Request, q Request) (string, error) {
			p, err := s.Resubscribe(q.Purchase)
			return p.ID, err
		},
		"renew":  func(r *http.Request, q Request) (string, error) { return q.Purchase, s.Renew(r.Context(), q.Purchase) },
		"cancel": func(_ *http.Request, q Request) (string, error) { return q.Purchase, s.Cancel(q.Purchase) },
		"resume": func(_ *http.Request, q Request) (string, error) { return q.Purchase, s.Resume(q.Purchase) },
		"pause": func(_ *http.Request, q Request) (string, error) {
			return q.Purchase, s.Pause(q.Purchase, time.Duration(q.For))
		},
		"extend": func(_ *http.Request, q Request) (string, error) {
			return q.Purchase, s.Extend(q.Purchase, time.Duration(q.For))
		},
		"fail-card": func(_ *http.Request, q Request) (string, error) { return q.Purchase, s.FailCard(q.Purchase) },
		"recover":   func(_ *http.Request, q Request) (string, error) { return q.Purchase, s.Recover(q.Purchase) },
		"change":    func(_ *http.Request, q Request) (string, error) { return q.Purchase, s.Change(q.Purchase, q.Product) },
		"refund": func(_ *http.Request, q Request) (string, error) {
			return q.Purchase, s.Refund(q.Purchase, q.term(), q.Cents)
		},
		"reverse-refund": func(_ *http.Request, q Request) (string, error) {
			return q.Purchase, s.ReverseRefund(q.Purchase, q.term())
		},
		"dispute": func(_ *http.Request, q Request) (string, error) { return q.Purchase, s.Dispute(q.Purchase) },
		"close-dispute": func(_ *http.Request, q Request) (string, error) {
			won, err := outcome(q, "won", "lost")
			if err != nil {
				return "", err
			}
			return q.Purchase, s.CloseDispute(q.Purchase, won)
		},
		"settle": func(_ *http.Request, q Request) (string, error) {
			paid, err := outcome(q, "paid", "failed")
			if err != nil {
				return "", err
			}
			return q.Purchase, s.Settle(q.Purchase, paid)
		},
		"transfer": func(_ *http.Request, q Request) (string, error) { return q.Purchase, s.Transfer(q.Purchase, q.With) },
		"share":    func(_ *http.Request, q Request) (string, error) { return q.Purchase, s.Share(q.Purchase, q.With) },
		"unshare":  func(_ *http.Request, q Request) (string, error) { return q.Purchase, s.Unshare(q.Purchase, q.With) },
		"chaos": func(_ *http.Request, q Request) (string, error) {
			if q.Chaos == nil {
				q.Chaos = &Chaos{}
			}
			if err := q.Chaos.check(); err != nil {
				return "", err
			}
			s.SetChaos(*q.Chaos)
			return "", nil
		},
	}
	for name, do := range actions {
		mux.HandleFunc("POST /sim/v1/"+name, func(w http.ResponseWriter, r *http.Request) {
			var q Request
			decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequestBytes))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(&q); err != nil {
				reply(w, http.StatusBadRequest, object{"error": "request: " + err.Error()})
				return
			}
			s.mu.Lock()
			written := len(s.facts)
			s.mu.Unlock()
			id, err := do(r, q)
			if err == nil {
				err = s.Advance(r.Context(), 0) // what is due now is posted before we answer
			}
			if err != nil {
				replyError(w, err)
				return
			}
			reply(w, http.StatusOK, s.describe(id, written))
		})
	}
	for path, show := range map[string]func(r *http.Request) (any, error){
		"clock":     func(*http.Request) (any, error) { return object{"now": s.Now()}, nil },
		"purchases": func(*http.Request) (any, error) { return object{"purchases": s.Purchases()}, nil },
		"facts":     func(*http.Request) (any, error) { return object{"facts": s.Facts()}, nil },
		"messages":  func(*http.Request) (any, error) { return object{"messages": s.Messages()}, nil },
		"counts":    func(*http.Request) (any, error) { return object{"counts": s.Counts()}, nil },
		"entitled":  s.entitled,
		"proof":     s.proof,
	} {
		mux.HandleFunc("GET /sim/v1/"+path, func(w http.ResponseWriter, r *http.Request) {
			shown, err := show(r)
			if err != nil {
				replyError(w, err)
				return
			}
			reply(w, http.StatusOK, shown)
		})
	}
	return mux
}

// outcome reports whether a request's outcome is the good one of two.
func outcome(q Request, good, bad string) (bool, error) {
	if q.Outcome != good && q.Outcome != bad {
		return false, fmt.Errorf("outcome %q: want %s or %s", q.Outcome, good, bad)
	}
	return q.Outcome == good, nil
}

// replyError answers 409 for what the provider would not do, and 400 for what is no question.
func replyError(w http.ResponseWriter, err error) {
	status := http.StatusBadRequest
	if errors.Is(err, ErrRefused) {
		status = http.StatusConflict
	}
	reply(w, status, object{"error": err.Error()})
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) // whoever asked is gone where this fails
}

func (s *Sim) advance(r *http.Request, q Request) (string, error) {
	if q.Until == "" {
		return "", s.Advance(r.Context(), time.Duration(q.For))
	}
	at, err := time.Parse(time.RFC3339, q.Until)
	if err != nil {
		return "", fmt.Errorf("until: want a time as in 2026-11-22T06:00:00Z")
	}
	return "", s.AdvanceTo(r.Context(), at)
}

// describe is what an action came to.
func (s *Sim) describe(id string, written int) Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := Answer{Now: s.clock, Facts: append([]Fact(nil), s.facts[written:]...)}
	if p := s.purchases[id]; p != nil {
		a.Purchase = p.copy()
	}
	return a
}

// entitled is the oracle's word.
func (s *Sim) entitled(r *http.Request) (any, error) {
	q := r.URL.Query()
	env, at := cmp.Or(Environment(q.Get("environment")), Sandbox), s.Now()
	if !slices.Contains(Environments, env) {
		return nil, fmt.Errorf("environment %q: want sandbox or production", env)
	}
	for _, name := range []string{"account", "entitlement"} {
		if q.Get(name) == "" {
			return nil, fmt.Errorf("which %s?", name)
		}
	}
	if text := q.Get("at"); text != "" {
		given, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return nil, fmt.Errorf("at: want a time as in 2026-11-22T06:00:00Z")
		}
		at = given
	}
	by := s.Ledger().EntitledBy(DefaultPromises, env, q.Get("account"), q.Get("entitlement"), at)
	return object{"at": at, "entitled": len(by) > 0, "by": append([]string{}, by...)}, nil
}

func (s *Sim) proof(r *http.Request) (any, error) { return s.Proof(r.URL.Query().Get("purchase")) }

// Proof is what the app has of a purchase to show as a receipt: one of the receipts of Latchkey's POST /v1/receipts. Error: ErrRefused, where its provider
// gives apps none.
func (s *Sim) Proof(id string) (map[string]any, error) {
	s.mu.Lock()
	p := s.purchases[id]
	if p != nil {
		p = p.copy()
	}
	s.mu.Unlock()
	if p == nil {
		return nil, refuse("no purchase %q", id)
	}
	switch p.Provider {
	case Apple:
		signed, err := s.SignedTransaction(id, -1)
		return object{"provider": Apple, "signed_transaction": signed}, err
	case Google:
		token, err := s.PurchaseToken(id)
		return object{"provider": Google, "package": s.config.Credentials[p.Env].Google.Package, "purchase_token": token}, err
	case Stripe:
		return object{"provider": Stripe, "checkout_session_id": s.stripeID(stripeSession(p), p, -1)}, nil
	}
	return nil, refuse("%s gives apps nothing to show", p.Provider)
}
