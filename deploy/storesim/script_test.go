package storesim

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// tellAfter is how long after an action its messages have come and a provider can be asked about it: an answer has the version of a whole second.
const tellAfter = 2 * time.Second

// stage is a writer and a simulation on which one script after the other is played: the clocks are everybody's.
type stage struct {
	*node
	sim     *Sim
	playing sync.Mutex // held by the script that is played
}

// customerOf is an account as a script names it.
type customerOf struct {
	id  string
	env Environment
}

// playedKey is the key of a *scripted among a script's values.
type playedKey struct{}

// scripted is one script that is played.
type scripted struct {
	t testing.TB
	*stage
	name  string
	named map[string]customerOf
	ids   []string          // of its purchases
	apps  map[string]string // session tokens, by account's name and device
}

// TestLives plays the lives of subscriptions in testdata/scripts on a real writer, which hears of them by webhooks and, where a provider does not say enough,
// asks. After each action the writer must come to say what the script says, and the oracle must agree with it.
//
// The commands: account NAME [ENVIRONMENT]; buy PROVIDER PRODUCT NAME PURCHASE [QUANTITY], or store-tells for an aggregator's store that sends its own messages too; coins NAME NUMBER; offer PROVIDER PRODUCT NAME PURCHASE TERMS CENTS; price NAME AMOUNT; advance DURATION; renew, cancel, resume, fail-card, recover, dispute,
// resubscribe PURCHASE; reverse-refund PURCHASE [TERM]; refund PURCHASE [TERM [CENTS]]; won, lost PURCHASE; change PURCHASE PRODUCT; transfer PURCHASE NAME; forge PURCHASE ENVIRONMENT, which posts
// its first message to another environment's address; entitled NAME; status NAME STATUS REASON; refresh NAME has the providers asked. mute loses every message until unmute. Of the app: device NAME
// DEVICE signs in; show NAME DEVICE PURCHASE OUTCOME shows its receipt; logout NAME ends all sessions. Of the merchant: catalog PRODUCT... puts a catalog in
// place that has these besides the usual ones; retired PRODUCT; grant NAME and take-back NAME, of support; opened NAME: Adapty has a grant of ours open.
// PURCHASE+ is what took over from a purchase at Play. With ! before it, an action must be refused by the provider, or by the writer, and access must be closed (R57, R130, R132, R135).
func TestLives(t *testing.T) {
	t.Parallel()
	stores, fronts := map[Environment]string{}, map[Environment]*httptest.Server{}
	for _, env := range Environments {
		fronts[env] = httptest.NewUnstartedServer(nil)
		stores[env] = "http://" + fronts[env].Listener.Addr().String()
		t.Cleanup(fronts[env].Close)
	}
	st := &stage{node: startNode(t, stores)}
	sim := New(Config{Seed: 1, Credentials: credentials, Writers: []string{st.url}, Products: append(slices.Clone(DefaultProducts), renamed...), Logger: slog.New(slog.DiscardHandler)})
	for env, front := range fronts {
		front.Config.Handler = sim.Stores(env)
		front.Start()
	}
	st.sim = sim
	st.follow(sim.Now)
	commands := map[string]func(*scripted, *testscript.TestScript, bool, []string){
		"account": (*scripted).account, "buy": (*scripted).buy, "advance": (*scripted).advance, "forge": (*scripted).forge,
		"transfer": withAnother((*Sim).Transfer), "share": withAnother((*Sim).Share), "unshare": withAnother((*Sim).Unshare), "entitled": (*scripted).entitled, "status": (*scripted).status, "mute": (*scripted).mute, "unmute": (*scripted).unmute,
		"refresh": (*scripted).refresh, "device": (*scripted).device, "show": (*scripted).show, "logout": (*scripted).logout, "catalog": (*scripted).catalog, "retired": (*scripted).retired,
		"offer": (*scripted).offer, "price": (*scripted).price, "coins": (*scripted).coins, "grant": (*scripted).grant, "take-back": (*scripted).takeBack, "opened": (*scripted).opened,
	}
	for name, do := range actions {
		commands[name] = func(s *scripted, ts *testscript.TestScript, neg bool, args []string) {
			if len(args) == 0 {
				ts.Fatalf("%s of what?", name)
			}
			s.done(ts, neg, do(s.sim, s.called(args[0]), args[1:]))
		}
	}
	p := testscript.Params{Dir: "testdata/scripts", RequireUniqueNames: true, Cmds: map[string]func(*testscript.TestScript, bool, []string){}}
	for name, do := range commands {
		p.Cmds[name] = func(ts *testscript.TestScript, neg bool, args []string) {
			do(ts.Value(playedKey{}).(*scripted), ts, neg, args)
		}
	}
	p.Setup = func(env *testscript.Env) error {
		st.playing.Lock()
		s := &scripted{t: env.T().(testing.TB), stage: st, name: filepath.Base(env.WorkDir), named: map[string]customerOf{}, apps: map[string]string{}}
		env.Values[playedKey{}] = s
		env.Defer(func() {
			defer st.playing.Unlock()
			sim.SetChaos(Chaos{})
			for _, id := range s.ids { // so that nothing renews while others are played
				if err := sim.Cancel(id); err != nil && !errors.Is(err, ErrRefused) {
					s.t.Error(err)
				}
			}
		})
		return nil
	}
	testscript.Run(t, p)
}

// actions are what can happen to a purchase.
var actions = map[string]func(s *Sim, id string, rest []string) error{
	"renew":     func(s *Sim, id string, _ []string) error { return s.Renew(context.Background(), id) },
	"cancel":    func(s *Sim, id string, _ []string) error { return s.Cancel(id) },
	"resume":    func(s *Sim, id string, _ []string) error { return s.Resume(id) },
	"fail-card": func(s *Sim, id string, _ []string) error { return s.FailCard(id) },
	"recover":   func(s *Sim, id string, _ []string) error { return s.Recover(id) },
	"dispute":   func(s *Sim, id string, _ []string) error { return s.Dispute(id) },
	"won":       func(s *Sim, id string, _ []string) error { return s.CloseDispute(id, true) },
	"lost":      func(s *Sim, id string, _ []string) error { return s.CloseDispute(id, false) },
	"resubscribe": func(s *Sim, id string, _ []string) error {
		_, err := s.Resubscribe(id)
		return err
	},
	"refund": func(s *Sim, id string, rest []string) error {
		if len(rest) < 2 {
			return s.Refund(id, termOf(rest), 0)
		}
		cents, err := strconv.ParseInt(rest[1], 10, 64)
		return errors.Join(err, s.Refund(id, termOf(rest), cents))
	},
	"reverse-refund": func(s *Sim, id string, rest []string) error { return s.ReverseRefund(id, termOf(rest)) },
	"change":         func(s *Sim, id string, rest []string) error { return s.Change(id, strings.Join(rest, " ")) },
}

// termOf is the term that a script names, or the last one.
func termOf(rest []string) int {
	if len(rest) == 0 {
		return -1
	}
	n, err := strconv.Atoi(rest[0])
	if err != nil {
		return 1 << 30 // which no purchase has
	}
	return n
}

// done tells of what was done, if it was as the script says.
func (s *scripted) done(ts *testscript.TestScript, refused bool, err error) {
	switch {
	case refused && !errors.Is(err, ErrRefused):
		ts.Fatalf("was not refused: %v", err)
	case !refused:
		ts.Check(err)
		ts.Check(s.sim.Advance(s.t.Context(), tellAfter))
	}
}

func (s *scripted) account(ts *testscript.TestScript, _ bool, args []string) {
	env := Sandbox
	if len(args) > 1 {
		env = Environment(args[1])
	}
	if len(args) == 0 || !slices.Contains(Environments, env) {
		ts.Fatalf("want: account NAME [sandbox|production]")
	}
	s.named[args[0]] = customerOf{id: s.newAccount(s.t, env), env: env}
}

// called is the name in the simulation of a script's purchase. With a + behind it, it is that of the purchase which took over from it.
func (s *scripted) called(purchase string) string {
	name, takenOver := strings.CutSuffix(purchase, "+")
	id := s.name + " " + name
	for _, p := range s.sim.Purchases() {
		if takenOver && p.Replaces == id {
			return p.ID
		}
	}
	return id
}

// customer is the account that a script made under a name.
func (s *scripted) customer(ts *testscript.TestScript, name string) customerOf {
	c, ok := s.named[name]
	if !ok {
		ts.Fatalf("nobody made account %q", name)
	}
	return c
}

// withAnother is a command that does something with a purchase and another customer.
func withAnother(do func(s *Sim, id, other string) error) func(*scripted, *testscript.TestScript, bool, []string) {
	return func(s *scripted, ts *testscript.TestScript, neg bool, args []string) {
		if len(args) != 2 {
			ts.Fatalf("want: PURCHASE NAME")
		}
		s.done(ts, neg, do(s.sim, s.called(args[0]), s.customer(ts, args[1]).id))
	}
}

func (s *scripted) buy(ts *testscript.TestScript, neg bool, args []string) {
	o := Order{}
	switch len(args) {
	case 4:
	case 5:
		if o.StoreTells = args[4] == "store-tells"; !o.StoreTells {
			var err error
			o.Quantity, err = strconv.Atoi(args[4])
			ts.Check(err)
		}
	default:
		ts.Fatalf("want: buy PROVIDER PRODUCT NAME PURCHASE [QUANTITY|store-tells]")
	}
	s.order(ts, neg, args, o)
}

// order buys what the first arguments say.
func (s *scripted) order(ts *testscript.TestScript, neg bool, args []string, o Order) {
	c := s.customer(ts, args[2])
	o.Provider, o.Env, o.Product, o.Account, o.Name = Provider(args[0]), c.env, args[1], c.id, s.called(args[3])
	p, err := s.sim.Buy(o)
	if err == nil {
		s.ids = append(s.ids, p.ID)
	}
	s.done(ts, neg, err)
}

// offer buys with an introductory offer: so many terms for so many cents each.
func (s *scripted) offer(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 6 {
		ts.Fatalf("want: offer PROVIDER PRODUCT NAME PURCHASE TERMS CENTS")
	}
	terms, err := strconv.Atoi(args[4])
	ts.Check(err)
	cents, err := strconv.ParseInt(args[5], 10, 64)
	ts.Check(err)
	s.order(ts, neg, args, Order{OfferTerms: terms, OfferCents: cents})
}

// price awaits what the writer says that pro costs.
func (s *scripted) price(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("want: price NAME AMOUNT")
	}
	s.await(ts, s.customer(ts, args[0]), `"price":{"amount":"`+args[1]+`"`)
}

// coins awaits how many coins the writer says that an account has.
func (s *scripted) coins(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("want: coins NAME NUMBER")
	}
	s.await(ts, s.customer(ts, args[0]), `"balances":{"coins":`+args[1]+`}`)
}

// await asks the writer until its answer has a text.
func (s *scripted) await(ts *testscript.TestScript, c customerOf, want string) {
	for deadline := time.Now().Add(settleWithin); ; <-time.After(20 * time.Millisecond) {
		_, _, answer := s.said(c)
		if strings.Contains(answer, want) {
			ts.Check(s.sim.Advance(s.t.Context(), time.Second)) // as in settle: a question of this second must not be as new as what the script does next
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("want %s; the writer says %s", want, answer)
		}
		ts.Check(s.sim.Advance(s.t.Context(), time.Second))
	}
}

func (s *scripted) advance(ts *testscript.TestScript, _ bool, args []string) {
	d, err := ParseDuration(strings.Join(args, " "))
	ts.Check(err)
	ts.Check(s.sim.Advance(s.t.Context(), time.Duration(d)))
}

// forge posts the first message about a purchase where it does not belong, as if to sell a test purchase for a real one.
func (s *scripted) forge(ts *testscript.TestScript, refused bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("want: forge PURCHASE ENVIRONMENT")
	}
	messages := s.sim.Messages()
	i := slices.IndexFunc(messages, func(m Message) bool { return m.Purchase == s.called(args[0]) })
	if i < 0 {
		ts.Fatalf("nobody told of %q", args[0])
	}
	m := messages[i]
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.url+"/v1/webhooks/"+args[1]+"/"+string(m.Provider), strings.NewReader(string(m.Body)))
	ts.Check(err)
	r.Header = s.sim.Header(m)
	res, err := http.DefaultClient.Do(r)
	ts.Check(err)
	res.Body.Close()
	if is2xx(res.StatusCode) == refused {
		ts.Fatalf("POST of %s to %s: status %d", m.Type, args[1], res.StatusCode)
	}
}

// shown is what the writer says of pro.
type shown struct{ ID, Status, Reason string }

// said is the writer's word on an account, now.
func (s *scripted) said(c customerOf) (said shown, active bool, answer string) {
	_, b := s.node.ask(s.t, c.env, http.MethodGet, "/v1/accounts/"+c.id+"/entitlements", nil)
	var all struct {
		Entitlements []struct {
			shown
			Active bool
		}
	}
	if err := json.Unmarshal(b, &all); err != nil {
		return shown{}, false, err.Error() + ": " + string(b)
	}
	for _, e := range all.Entitlements {
		if e.ID == "pro" {
			return e.shown, e.Active, string(b)
		}
	}
	return shown{}, false, string(b)
}

// settle asks the writer until it says what is wanted: pulls take their time, and none can be awaited. A provider's clock goes on meanwhile.
func (s *scripted) settle(ts *testscript.TestScript, c customerOf, want string, ok func(said shown, active bool) bool) {
	for deadline := time.Now().Add(settleWithin); ; <-time.After(20 * time.Millisecond) {
		said, active, answer := s.said(c)
		if ok(said, active) {
			break
		}
		if time.Now().After(deadline) {
			_, unclaimed := s.node.ask(s.t, c.env, http.MethodGet, "/v1/unclaimed", nil)
			ts.Fatalf("want %s at %s; the writer says %s\nfacts:\n%s\nunclaimed: %s", want, s.sim.Now(), answer, factsOf(s.sim, c.id), unclaimed)
		}
		ts.Check(s.sim.Advance(s.t.Context(), time.Second))
	}
	_, active, answer := s.said(c)
	if by := s.sim.Ledger().EntitledBy(DefaultPromises, c.env, c.id, "pro", s.sim.Now()); active != (len(by) > 0) {
		ts.Fatalf("%s: the oracle says by %v, the writer %s\nfacts:\n%s", s.sim.Now(), by, answer, factsOf(s.sim, c.id))
	}
	ts.Check(s.sim.Advance(s.t.Context(), time.Second)) // so that what the script does next has a second of its own
}

func (s *scripted) entitled(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("want: entitled NAME")
	}
	s.settle(ts, s.customer(ts, args[0]), "access "+strconv.FormatBool(!neg), func(_ shown, active bool) bool { return active != neg })
}

func (s *scripted) status(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 || neg {
		ts.Fatalf("want: status NAME STATUS REASON")
	}
	s.settle(ts, s.customer(ts, args[0]), args[1]+" "+args[2], func(said shown, _ bool) bool { return said == shown{"pro", args[1], args[2]} })
}

// grant gives an account pro, of which its backend knows and no provider.
func (s *scripted) grant(ts *testscript.TestScript, _ bool, args []string) {
	c := s.customer(ts, strings.Join(args, " "))
	status, b := s.node.ask(s.t, c.env, http.MethodPost, "/v1/accounts/"+c.id+"/grants", object{"entitlement": "pro", "duration_days": 30})
	if status != http.StatusCreated {
		ts.Fatalf("grant: %d %s", status, b)
	}
}

// takeBack ends all that an account was granted.
func (s *scripted) takeBack(ts *testscript.TestScript, _ bool, args []string) {
	c := s.customer(ts, strings.Join(args, " "))
	for _, g := range s.held(ts, c).Grants {
		if status, b := s.node.ask(s.t, c.env, http.MethodDelete, "/v1/accounts/"+c.id+"/grants/"+g.ID, nil); !is2xx(status) {
			ts.Fatalf("take back: %d %s", status, b)
		}
	}
}

// held is what the writer holds of an account.
type held struct {
	Purchases []struct {
		ID string `json:"purchase_id"`
	}
	Grants []struct {
		ID string `json:"grant_id"`
	}
}

func (s *scripted) held(ts *testscript.TestScript, c customerOf) (h held) {
	_, b := s.node.ask(s.t, c.env, http.MethodGet, "/v1/accounts/"+c.id, nil)
	ts.Check(json.Unmarshal(b, &h))
	return h
}

// opened awaits that Adapty has what was granted here, or has it no more, and that what it tells of that is no purchase (R25).
func (s *scripted) opened(ts *testscript.TestScript, neg bool, args []string) {
	c := s.customer(ts, strings.Join(args, " "))
	for deadline := time.Now().Add(settleWithin); ; <-time.After(20 * time.Millisecond) {
		s.sim.mu.Lock()
		end, given := s.sim.given[adaptyHolder{c.env, c.id}]["premium"]
		open := given && end.After(s.sim.clock)
		s.sim.mu.Unlock()
		if open != neg {
			break
		}
		if time.Now().After(deadline) {
			ts.Fatalf("Adapty has it open: %t, until %s", open, end)
		}
		ts.Check(s.sim.Advance(s.t.Context(), time.Second))
	}
	ts.Check(s.sim.Advance(s.t.Context(), tellAfter))
	if !slices.ContainsFunc(s.sim.Messages(), func(m Message) bool { return m.Provider == Adapty && m.Purchase == "" && len(m.Attempts) > 0 }) {
		ts.Fatalf("Adapty told nobody of it")
	}
	for _, p := range s.held(ts, c).Purchases {
		if strings.HasPrefix(p.ID, "adapty:") {
			ts.Fatalf("what was granted came back as the purchase %s", p.ID)
		}
	}
}
