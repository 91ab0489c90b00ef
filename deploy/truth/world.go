package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/latchkey/latchkey/deploy/storesim"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer"
	"github.com/latchkey/latchkey/writer/writertest"
)

// historiesPerMachine is how many histories share a state machine, whose file costs some milliseconds to make.
const historiesPerMachine = 200

// stage is what the histories of one worker have in common: keys, adapters, state machines.
type stage struct {
	dir         string
	credentials map[storesim.Environment]*storesim.Credentials
	adapters    map[entitlement.Environment]map[entitlement.Provider]writertest.Adapter
	pullers     map[entitlement.Environment]map[entitlement.Provider]writertest.Puller
	present     atomic.Pointer[world]
	catalog     *entitlement.CatalogIndex
	machines    [2]*writertest.Machine // as the messages came, and in another order
	indexes     [2]uint64
	played      int
}

// nowhere is the address of the providers' APIs, which are asked in this process.
const nowhere = "http://127.0.0.1:1"

func newStage(dir string) (*stage, error) {
	s := &stage{dir: dir}
	var err error
	if s.credentials, err = storesim.NewCredentials(dir); err != nil {
		return nil, err
	}
	config := &writer.Config{Now: func() time.Time { return s.present.Load().sim.Now() }, Environments: map[entitlement.Environment]writer.EnvironmentConfig{}}
	for env := range s.credentials {
		if config.Environments[entitlement.Environment(env)], err = environment(dir, env, s.credentials, nowhere); err != nil {
			return nil, err
		}
	}
	if s.adapters, err = config.Adapters(); err != nil {
		return nil, err
	}
	if s.pullers, err = config.Pullers(); err != nil {
		return nil, err
	}
	catalog := catalogOf(storesim.DefaultProducts)
	s.catalog = entitlement.NewCatalogIndex(&catalog)
	return s, nil
}

// catalogOf maps every product under the name of its store, as latchkey-dev does.
func catalogOf(products []storesim.Product) entitlement.Catalog {
	providers := map[storesim.Store]entitlement.Provider{storesim.StripeStore: entitlement.Stripe, storesim.AppStore: entitlement.Apple, storesim.PlayStore: entitlement.Google}
	var c entitlement.Catalog
	for _, p := range products {
		product := entitlement.Product{Provider: providers[p.Store], ID: entitlement.ProductID(p.ID), Plan: p.ID}
		switch p.Kind {
		case storesim.Recurring:
			product.Kind, product.Entitlements, product.Group = entitlement.KindRecurring, []string{p.Entitlement}, p.Entitlement
		case storesim.NonConsumable:
			product.Kind, product.Entitlements = entitlement.KindNonConsumable, []string{p.Entitlement}
		default:
			product.Kind, product.Credits = entitlement.KindConsumable, map[string]int64{"coins": 100}
		}
		c.Products = append(c.Products, product)
	}
	return c
}

// machine opens new state machines where the present ones have played enough.
func (s *stage) renewMachines() error {
	if s.played++; s.machines[0] != nil && s.played%historiesPerMachine != 0 {
		return nil
	}
	if err := s.closeMachines(); err != nil {
		return err
	}
	for i := range s.machines {
		dir, err := os.MkdirTemp(s.dir, "machine")
		if err != nil {
			return err
		}
		if s.machines[i], err = writertest.OpenMachine(dir, 1<<30); err != nil {
			return err
		}
		s.indexes[i] = 0
		if err := s.apply(i, 1, writertest.NewCommand(writertest.TypeInit, "", "", &writertest.Init{Cluster: "truth", Rules: writertest.RulesVersion})); err != nil {
			return err
		}
		for env := range s.credentials {
			if err := s.apply(i, 1, writertest.NewCommand(writertest.TypePutPolicy, entitlement.Environment(env), "policy "+string(env), &writertest.PutPolicy{Policy: policy})); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *stage) closeMachines() error {
	for i, m := range s.machines {
		if m == nil {
			continue
		}
		s.machines[i] = nil
		if err := m.Close(); err != nil {
			return err
		}
	}
	old, err := filepath.Glob(filepath.Join(s.dir, "machine*"))
	for _, dir := range old {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

func (s *stage) close() error {
	return s.closeMachines()
}

// apply commits commands to one of the machines.
func (s *stage) apply(machine int, stamp int64, commands ...writertest.Command) error {
	if len(commands) == 0 {
		return nil
	}
	entries := make([]writertest.Entry, len(commands))
	for i, c := range commands {
		entries[i] = s.entry(machine, stamp, c)
	}
	_, err := s.machines[machine].Apply(entries)
	return err
}

// entry is the next one of a machine's log.
func (s *stage) entry(machine int, stamp int64, c writertest.Command) writertest.Entry {
	data := c.Encode()
	writertest.SetStamp(data, stamp)
	s.indexes[machine]++
	return writertest.Entry{Index: s.indexes[machine], Term: 1, Data: data}
}

// world is one history.
type world struct {
	*stage
	seed    uint64
	rand    *rand.Rand
	env     entitlement.Environment
	sim     *storesim.Sim
	apis    http.Handler        // the providers' own
	waiting []writertest.Entry  // to be committed
	events  []entitlement.Event // as they were recorded; pulled ones too
	asked   map[string]bool     // doubts that no answer settles
	told    []string            // what was done, for people
	resent  int                 // lost messages that were sent again

	punctual bool // every message comes at once: each step can be held against the oracle
	shares   bool // the aggregators' apps share what another customer shows; else they move it
	fault    error
}

// RoundTrip implements http.RoundTripper: it is what the simulated providers post to.
func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	name := entitlement.Provider(parts[len(parts)-1])
	status := http.StatusOK
	if err := w.take(name, writertest.Request{Header: r.Header, Body: body}); err != nil {
		status = http.StatusInternalServerError
		w.fault = errors.Join(w.fault, fmt.Errorf("%s: %w: %s", name, err, body))
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader([]byte("{}"))), Request: r}, nil
}

func (w *world) take(name entitlement.Provider, r writertest.Request) error {
	adapter := w.adapters[w.env][name]
	if adapter == nil {
		return fmt.Errorf("no adapter for %s", name)
	}
	if err := adapter.Verify(r, w.sim.Now()); err != nil {
		return err
	}
	ev, err := adapter.Parse(r.Body, w.env)
	if err != nil {
		return err
	}
	if ev.Kind == entitlement.Unreadable {
		return fmt.Errorf("unreadable: %s", ev.Raw)
	}
	w.record(ev)
	return nil
}

// record commits an event to the first machine before anybody looks at it.
func (w *world) record(ev entitlement.Event) {
	w.events = append(w.events, ev)
	w.waiting = append(w.waiting, w.entry(0, w.sim.Now().Unix(), w.command(len(w.events), ev)))
}

// look runs fn in a read transaction of a machine.
func (w *world) look(machine int, fn func(*writertest.Reader) error) error {
	if len(w.waiting) > 0 {
		if _, err := w.machines[0].Apply(w.waiting); err != nil {
			return err
		}
		w.waiting = w.waiting[:0]
	}
	return w.machines[machine].View(fn)
}

func (w *world) command(n int, ev entitlement.Event) writertest.Command {
	return writertest.NewCommand(writertest.TypeRecordEvent, w.env, fmt.Sprint(w.seed, n), &writertest.RecordEvent{Event: ev})
}

// pull asks the providers about everything that is in doubt, as the leader does, and about all of the purchases that the accounts have where a
// message may be lost.
func (w *world) pull(ctx context.Context, accounts []entitlement.AccountID, lost bool) error {
	for range 4 { // an answer may raise the next question
		var asks []entitlement.Evidence
		err := w.look(0, func(r *writertest.Reader) error {
			rows, err := r.Pulls(w.env, "", 10_000)
			for _, row := range rows {
				p, _, err := r.Purchase(w.env, row.ID)
				if err != nil {
					return err
				}
				asks = append(asks, p.Evidence)
			}
			return err
		})
		if err != nil {
			return err
		}
		any := false
		if lost {
			more, err := w.owned(accounts)
			if err != nil {
				return err
			}
			asks = append(asks, more...)
			if any, err = w.askCustomers(ctx, accounts); err != nil {
				return err
			}
		}
		for _, e := range asks {
			asked, err := w.ask(ctx, e, lost)
			if err != nil {
				return err
			}
			any = any || asked
		}
		if !any {
			return nil
		}
		lost = false
	}
	return nil
}

// askCustomers asks for everything that an aggregator has under an account's id.
func (w *world) askCustomers(ctx context.Context, accounts []entitlement.AccountID) (asked bool, err error) {
	for name := range w.pullers[w.env] {
		for _, id := range accounts {
			customer := entitlement.Evidence{Objects: []entitlement.Object{{Kind: entitlement.KindHint, ID: string(id), By: name, At: 1,
				Links: []entitlement.Link{entitlement.CustomerLink(name, string(id))}, Hint: &entitlement.Hint{Of: entitlement.KindCustomer}}}}
			again, err := w.ask(ctx, customer, false)
			if asked = asked || again; err != nil {
				return asked, err
			}
		}
	}
	return asked, nil
}

func (w *world) owned(accounts []entitlement.AccountID) (all []entitlement.Evidence, err error) {
	err = w.look(0, func(r *writertest.Reader) error {
		for _, id := range accounts {
			detail, _, err := r.AccountDetail(w.env, id)
			if err != nil {
				return err
			}
			for _, p := range detail.Purchases {
				all = append(all, p.Evidence)
			}
		}
		return nil
	})
	return all, err
}

func (w *world) ask(ctx context.Context, e entitlement.Evidence, whole bool) (asked bool, err error) {
	doubts := e.Doubts()
	if whole {
		doubts = nil
		for _, o := range e.Objects {
			if o.Hint == nil {
				doubts = append(doubts, entitlement.Doubt{Kind: o.Kind, ID: o.ID, From: o.At, By: o.By})
			}
		}
	}
	for name, api := range w.pullers[w.env] {
		own := slices.DeleteFunc(slices.Clone(doubts), func(d entitlement.Doubt) bool { return d.Provider() != name })
		for _, target := range api.Targets(e, own) {
			key := fmt.Sprint(name, target.Kind, target.ID, w.sim.Now().Unix())
			if w.asked[key] {
				continue
			}
			w.asked[key] = true
			ev, there, err := w.answer(ctx, question{name, target.Kind, target.ID})
			if err == nil && !there {
				continue
			}
			if err != nil {
				return asked, fmt.Errorf("pull %s %s %s: %w", name, target.Kind, target.ID, err)
			}
			asked = true
			w.record(ev)
		}
	}
	return asked, nil
}

// question is one that the leader asks of a provider.
type question struct {
	by   entitlement.Provider
	kind entitlement.ObjectKind
	id   string
}

// answer is what the provider says now. there is false where it knows nothing.
func (w *world) answer(ctx context.Context, q question) (ev entitlement.Event, there bool, err error) {
	ctx = writertest.InProcess(ctx, w.apis)
	api := w.pullers[w.env][q.by]
	ev, err = api.Pull(ctx, q.kind, q.id)
	if errors.Is(err, writertest.ErrCredential) { // an access token of the history before
		ev, err = api.Pull(ctx, q.kind, q.id)
	}
	if errors.Is(err, writertest.ErrGone) {
		return ev, false, nil
	}
	return ev, err == nil, err
}

// view is what an account may use now, by one of the machines.
func (w *world) view(machine int, id entitlement.AccountID, at int64) (active bool, record []byte, err error) {
	err = w.look(machine, func(r *writertest.Reader) error {
		account, ok, err := r.Account(w.env, id)
		if err != nil || !ok {
			return errors.Join(err, fmt.Errorf("account %s is there: %v", id, ok))
		}
		account.CreatedAt = 0 // by the machine's clock, which other histories have moved
		record = entitlement.Encode(account)
		for _, e := range account.View(w.catalog, at, nil).Entitlements {
			active = active || e.ID == "pro" && e.Status.Active()
		}
		return nil
	})
	return active, record, err
}
