package storesim

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Stores answers, at one address, what every provider's own API answers about an environment: their paths do not meet. Credentials are checked as the
// providers check them, and Chaos makes answers fail.
func (s *Sim) Stores(env Environment) http.Handler {
	mux := http.NewServeMux()
	s.stripeAPI(mux, env)
	s.appleAPI(mux, env)
	s.googleAPI(mux, env)
	s.revenueCatAPI(mux, env)
	s.adaptyAPI(mux, env)
	s.iapticAPI(mux, env)
	s.web2WaveAPI(mux, env)
	return mux
}

// handle answers one call of a provider's API. answer is called with the ledger held.
func (s *Sim) handle(mux *http.ServeMux, p Provider, env Environment, pattern string, answer func(*http.Request) (int, any)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		status, body := s.answer(w, r, p, env, answer)
		at := s.clock
		s.mu.Unlock()
		// A provider's clock is the virtual one.
		w.Header().Set("Date", at.UTC().Format(http.TimeFormat))
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(status)
		if body != nil {
			json.NewEncoder(w).Encode(body) // whoever asked is gone where this fails
		}
	})
}

func (s *Sim) answer(w http.ResponseWriter, r *http.Request, p Provider, env Environment, answer func(*http.Request) (int, any)) (int, any) {
	count := s.counts[p]
	count.Pulls++
	failed, limited := s.answers.Float64(), s.answers.Float64()
	status, body, chaos := 0, any(nil), s.chaos.at(p)
	switch {
	case chaos.Down:
		status = http.StatusServiceUnavailable
	case failed < chaos.ServerError:
		status = http.StatusInternalServerError
	case limited < chaos.RateLimit:
		status, body = http.StatusTooManyRequests, s.limited(w, p)
	case s.config.Credentials[env] == nil || !s.allowed(r, p, env):
		status, body = http.StatusUnauthorized, unauthorized[p]
	default:
		return answer(r)
	}
	count.Refused++
	return status, body
}

// appleTokenSeconds is how long a token for the App Store Server API may hold.
const appleTokenSeconds = 3600

// retryAfter is how long a 429 asks for patience.
const retryAfter = time.Second

// limited is a 429 in the provider's own words: Apple's Retry-After is the millisecond at which to come again.
func (s *Sim) limited(w http.ResponseWriter, p Provider) any {
	w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
	switch p {
	case Apple:
		w.Header().Set("Retry-After", strconv.FormatInt(s.clock.Add(retryAfter).UnixMilli(), 10))
		return appleError(4290000)
	case Google:
		return googleError(http.StatusTooManyRequests, "rateLimitExceeded")
	case RevenueCat:
		return object{"object": "error", "type": "rate_limit_error", "message": "too many requests", "retryable": true, "backoff_ms": retryAfter.Milliseconds()}
	case Stripe:
		return stripeError("invalid_request_error", "rate_limit")
	case Iaptic:
		return object{"ok": false, "status": 429, "code": "TooManyRequests", "message": "slow down"}
	}
	return object{"error": "too many requests"}
}

var unauthorized = map[Provider]any{
	Stripe: stripeError("invalid_request_error", "api_key_expired"), Google: googleError(http.StatusUnauthorized, "authError"),
	RevenueCat: object{"code": 7225, "message": "invalid API key", "object": "error", "type": "authentication_error"},
	Adapty:     object{"errors": []any{object{"source": nil, "errors": []any{"not authenticated"}}}, "error_code": "not_authenticated", "status_code": 401},
	Iaptic:     object{"ok": false, "status": 401, "code": "Unauthorized", "message": "wrong credentials"}, Web2Wave: object{"error": 1, "error_msg": "wrong api key"},
}

// allowed tells whether a call shows what its provider asks for.
func (s *Sim) allowed(r *http.Request, p Provider, env Environment) bool {
	c := s.config.Credentials[env]
	authorization := r.Header.Get("Authorization")
	bearer := strings.TrimPrefix(authorization, "Bearer ")
	switch p {
	case Stripe:
		user, _, basic := r.BasicAuth()
		return c.Stripe.APIKey != "" && (bearer == c.Stripe.APIKey || basic && user == c.Stripe.APIKey)
	case Apple:
		for _, c := range s.config.Credentials { // a key is the team's: it opens both environments
			if c.Apple.apiKey == nil {
				continue
			}
			said, ok := claims(bearer, c.Apple.apiKey)
			issued, _ := said["iat"].(float64)
			expires, _ := said["exp"].(float64)
			// Not held to the virtual clock, which may jump while a request is on its way.
			if ok && issued < expires && expires <= issued+appleTokenSeconds && said["aud"] == "appstoreconnect-v1" && said["iss"] == c.Apple.IssuerID && said["bid"] == c.Apple.BundleID {
				return true
			}
		}
		return false
	case Google:
		return strings.HasPrefix(r.URL.Path, "/token") || strings.HasPrefix(r.URL.Path, "/oauth2/") || bearer != "" && bearer == s.googleToken(env)
	case RevenueCat:
		return c.RevenueCat.APIKey != "" && (authorization == c.RevenueCat.APIKey || bearer == c.RevenueCat.APIKey)
	case Adapty:
		return c.Adapty.SecretKey != "" && authorization == "Api-Key "+c.Adapty.SecretKey
	case Iaptic:
		pair := c.Iaptic.AppName + ":" + c.Iaptic.Password
		user, password, basic := r.BasicAuth()
		return c.Iaptic.Password != "" && (basic && user+":"+password == pair || bearer == base64.StdEncoding.EncodeToString([]byte(pair)))
	case Web2Wave:
		return c.Web2Wave.APIKey != "" && r.Header.Get("api-key") == c.Web2Wave.APIKey
	}
	return false
}

func queryInt(r *http.Request, name string) int {
	n, _ := strconv.Atoi(r.URL.Query().Get(name)) // what is no number is not there
	return max(n, 0)
}
