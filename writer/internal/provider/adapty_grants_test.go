package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
)

// fakeAdapty has one profile with levels, and does what it is told.
type fakeAdapty struct {
	levels []props
	told   []string // what it was told, in order
	status int      // of answers to what changes something; 0: as it should be
	deaf   bool     // it answers and does nothing
}

func (f *fakeAdapty) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Api-Key "+adaptyKey || r.Header.Get("adapty-customer-user-id") != "user-1" && r.Header.Get("adapty-profile-id") != adaptyBuyer {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if r.Method == http.MethodPost {
		var body map[string]string
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || f.status != 0 {
			w.WriteHeader(max(f.status, http.StatusBadRequest))
			return
		}
		level, what := body["access_level_id"], "grant"
		end, err := time.Parse(time.RFC3339Nano, body["expires_at"]+body["revoke_at"])
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if strings.Contains(r.URL.Path, "revoke") {
			what = "revoke"
		}
		f.told = append(f.told, fmt.Sprintf("%s %s %s", what, level, end.UTC().Format("2006-01-02T15:04:05.000")))
		if !f.deaf {
			f.levels = slices.DeleteFunc(f.levels, func(l props) bool {
				return l["access_level_id"] == level && l["store_product_id"] == adaptyServerSide
			})
			f.levels = append(f.levels, adaptyGrantOf(level, end))
		}
	}
	fmt.Fprint(w, marshal(props{"data": props{"profile_id": adaptyBuyer, "access_levels": f.levels}}))
}

// adaptyGrantOf is a grant as Adapty's API shows it: in whole seconds.
func adaptyGrantOf(level string, end time.Time) props {
	return props{"access_level_id": level, "store": "adapty", "store_product_id": adaptyServerSide, "store_transaction_id": "g-" + level, "expires_at": end.UTC().Format("2006-01-02T15:04:05-07:00")}
}

// What Latchkey grants is made so at Adapty, once; what others gave or sold there is left alone (R25).
func TestGrantsArePassedOnToAdapty(t *testing.T) {
	now := time.Date(2026, 11, 22, 6, 0, 0, 0, time.UTC)
	month := now.AddDate(0, 1, 0)
	marked := MarkedEnd(month)
	sold := func(end any) props {
		return props{"access_level_id": "premium", "store": "app_store", "store_product_id": "com.example.pro", "store_transaction_id": "1", "expires_at": end}
	}
	premium := []Access{{"premium", month.Unix()}}
	user := entitlement.Alias{Kind: entitlement.AdaptyCustomerUser, Value: "user-1"}
	tests := []struct {
		name     string
		customer entitlement.Alias
		levels   []props
		want     []Access
		told     string
		open     bool
	}{
		{"nothing there", user, nil, premium, "[grant premium 2026-12-22T06:46:17.613]", false},
		{"by the profile's id", entitlement.Alias{Kind: entitlement.AdaptyProfile, Value: adaptyBuyer}, nil, premium, "[grant premium 2026-12-22T06:46:17.613]", false},
		{"granted before", user, []props{adaptyGrantOf("premium", marked)}, premium, "[]", false},
		{"granted for longer", user, []props{adaptyGrantOf("premium", marked.AddDate(0, 1, 0))}, premium, "[grant premium 2026-12-22T06:46:17.613]", false},
		{"for ever", user, nil, []Access{{"premium", 0}}, "[grant premium 2100-01-01T00:46:17.613]", false},
		{"taken back", user, []props{adaptyGrantOf("premium", marked)}, nil, "[revoke premium 2026-11-22T06:00:00.613]", false},
		{"taken back, and over already", user, []props{adaptyGrantOf("premium", now.Add(-13*time.Minute-43*time.Second))}, nil, "[]", false},
		{"another level", user, []props{adaptyGrantOf("premium", marked)}, []Access{{"gold", month.Unix()}}, "[grant gold 2026-12-22T06:46:17.613 revoke premium 2026-11-22T06:00:00.613]", false},
		{"sold for less", user, []props{sold("2026-12-01T00:00:00+00:00")}, premium, "[grant premium 2026-12-22T06:46:17.613]", false},
		{"sold for longer", user, []props{sold("2027-12-01T00:00:00+00:00")}, premium, "[]", true},
		{"sold for ever", user, []props{sold(nil)}, []Access{{"premium", 0}}, "[]", true},
		{"taken back, and sold besides", user, []props{adaptyGrantOf("premium", marked), sold(nil)}, nil, "[]", true},
		{"another's grant", user, []props{adaptyGrantOf("premium", month)}, nil, "[]", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fake := &fakeAdapty{levels: tt.levels}
			api := adaptyGranter(t, fake, now)
			for range 2 { // the second time nothing is left to be done
				done, err := api.PassOn(context.Background(), tt.customer, tt.want)
				if err != nil || done.Open != tt.open {
					t.Fatalf("PassOn = %+v, %v", done, err)
				}
			}
			if got := fmt.Sprint(fake.told); got != tt.told {
				t.Errorf("told %s, want %s", got, tt.told)
			}
		})
	}
	for _, tt := range []struct {
		name     string
		fake     *fakeAdapty
		customer entitlement.Alias
		want     error
	}{
		{"a profile that is not there yet", &fakeAdapty{}, entitlement.Alias{Kind: entitlement.AdaptyCustomerUser, Value: "user-2"}, ErrGone},
		{"another provider's name", &fakeAdapty{}, entitlement.Alias{Kind: entitlement.IapticUsername, Value: "user-1"}, ErrGone},
		{"too many requests", &fakeAdapty{status: http.StatusTooManyRequests}, user, ErrLimited},
		{"down", &fakeAdapty{status: http.StatusBadGateway}, user, ErrUnavailable},
		{"no such level", &fakeAdapty{status: http.StatusBadRequest}, user, ErrAnswer},
		{"it answers and does nothing", &fakeAdapty{deaf: true}, user, ErrAnswer},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := adaptyGranter(t, tt.fake, now).PassOn(context.Background(), tt.customer, premium); !errors.Is(err, tt.want) {
				t.Errorf("PassOn: %v, want %v", err, tt.want)
			}
		})
	}
}

// What we granted and revoked comes back and counts for nothing, by messages and by what a profile shows.
func TestWhatAdaptyEchoesCountsForNothing(t *testing.T) {
	now := time.Date(2026, 11, 22, 6, 0, 0, 0, time.UTC)
	fake := &fakeAdapty{}
	api := adaptyGranter(t, fake, now)
	user := entitlement.Alias{Kind: entitlement.AdaptyCustomerUser, Value: "user-1"}
	if _, err := api.PassOn(context.Background(), user, []Access{{"premium", 0}}); err != nil {
		t.Fatal(err)
	}
	ev, err := api.Pull(context.Background(), entitlement.KindCustomer, adaptyUser+"user-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range ev.Objects {
		if o.Kind != entitlement.KindCustomer {
			t.Errorf("the profile tells of %+v", o)
		}
	}
}

func adaptyGranter(t *testing.T, fake *fakeAdapty, now time.Time) *AdaptyAPI {
	t.Helper()
	s := httptest.NewServer(fake)
	t.Cleanup(s.Close)
	api, err := NewAdaptyAPI(AdaptyAPIConfig{Key: adaptyKey, BaseURL: s.URL, Environment: entitlement.Production, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	return api
}
