package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/latchkey/latchkey/deploy/storesim"
)

const (
	// oneYear is what a crowd lives through. The keys of a new cluster are good for 400 days.
	oneYear = 365 * 24 * time.Hour
	// sampleEach is how many accounts are looked at in an instant; half of them are such as something happened to since the instant before.
	sampleEach = 250
	// everybodyAfter is after how many instants all accounts are looked at.
	everybodyAfter = 50

	posters = 128 // messages at a time: the writer commits together what comes together
	askers  = 8   // questions at a time
	// deliverEvery is how long a message waits at most until it is posted.
	deliverEvery = 24 * time.Hour

	// settleWithin is how long the writer may take to ask the providers about what their messages left open.
	settleWithin = 2 * time.Minute
	// settleStep is by how much the clock moves meanwhile, and how often: an answer has the version of a whole second, and says nothing of what happened in
	// that same second.
	settleStep  = time.Second
	settlePause = 100 * time.Millisecond
	// quietAfter is how long nothing is asked or settled until everything was asked once, and hopelessAfter until what is open is taken for something that
	// no provider knows any more: longer than the pause before a second question, and than a writer on a busy machine takes to ask the first.
	quietAfter    = 60 * time.Millisecond
	hopelessAfter = 8 * time.Second
	hopelessPolls = 200
)

// yearChaos is what goes wrong with the messages of a year: nothing that is lost, because only a provider could send it again.
var yearChaos = storesim.Chaos{Repeat: 0.05, Reorder: 0.05}

// yearConfig is what a year is like.
type yearConfig struct {
	users    int
	instants int
	seed     uint64
	sample   int // accounts in an instant; 0 is sampleEach
	show     int // how many mistakes are shown
	chaos    storesim.Chaos
	lies     []lie // that tests plant
}

// yearResult is what a year came to.
type yearResult struct {
	users, instants                     int
	facts, deeds, messages, lost, pulls int
	answers, skipped, again, wrong      int
	believed                            map[string]int // lies by how many answers they made wrong
	took                                time.Duration
}

// String is the last line of a year.
func (r yearResult) String() string {
	return fmt.Sprintf("year: %d users, %d facts, %d messages, %d pulls, %d instants, %d answers, %d wrong, %s", r.users, r.facts, r.messages, r.pulls, r.instants, r.answers, r.wrong+r.lost,
		r.took.Round(time.Second))
}

// year is one while it is lived.
type year struct {
	*system
	*crowd
	yearConfig
	dice      *rand.Rand
	sessions  map[string]string // by account
	book      storesim.Book
	seen      int       // facts that were there at the instant before
	delivered time.Time // by the virtual clock: when messages were posted last
	hopeless  int       // purchases about which no provider has an answer
	open      [2]int    // purchases in doubt, and questions asked so far
	quiet     time.Time // since when neither changes
	moved     time.Time // when the clock moved last
	began     time.Time

	posting, settling, judging time.Duration // where the time went

	answers, skipped, again atomic.Int64
	told                    atomic.Int64 // mistakes
	mu                      sync.Mutex   // guards what follows
	out                     io.Writer
	believed                map[string]int
}

// playYear lets a crowd of customers live through a year of virtual time, over all seven providers, and holds what a real edge says of them against the
// oracle at many instants. Mistakes and a last line go to out. Error: it could not be played.
func playYear(ctx context.Context, out io.Writer, c yearConfig) (result yearResult, err error) {
	dir, err := os.MkdirTemp("", "year") // not deep: the path of a unix socket is short
	if err != nil {
		return result, err
	}
	defer os.RemoveAll(dir)
	began := time.Now()
	s, err := startSystem(dir, storesim.Config{Seed: c.seed, Start: start, Chaos: c.chaos})
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	y := &year{system: s, yearConfig: c, crowd: &crowd{stores: s.sim, dice: rand.New(rand.NewPCG(c.seed, 12))}, dice: rand.New(rand.NewPCG(c.seed, 365)),
		sessions: map[string]string{}, began: began, delivered: start, out: out, believed: map[string]int{}}
	if err := y.begin(ctx); err != nil {
		return result, fmt.Errorf("open: %w", err)
	}
	if err := y.live(ctx, start); err != nil {
		return result, err
	}
	result = yearResult{users: c.users, instants: c.instants, facts: len(s.sim.Facts()), deeds: y.crowd.done, answers: int(y.answers.Load()), skipped: int(y.skipped.Load()),
		again: int(y.again.Load()), wrong: int(y.told.Load()), believed: y.believed, took: time.Since(began)}
	for provider, n := range s.sim.Counts() {
		result.messages += n.Posted
		result.pulls += n.Pulls
		if provider != storesim.Web2Wave { // which tries once: what it was not answered in time is kept, and would show in an answer if it were not
			result.lost += n.GivenUp
		}
		if n.GivenUp > 0 {
			fmt.Fprintf(out, "%d messages of %s were refused for good\n", n.GivenUp, provider)
		}
	}
	fmt.Fprintln(out, result)
	fmt.Fprintf(os.Stderr, "  posting took %s, waiting for the writer's questions %s, looking at answers %s\n", y.posting.Round(time.Second), y.settling.Round(time.Second), y.judging.Round(time.Second))
	return result, nil
}

// each does something with every account, askers at a time.
func each(accounts []string, do func(account string) error) error {
	var next atomic.Int64
	errs := make([]error, askers)
	var working sync.WaitGroup
	for i := range askers {
		working.Go(func() {
			for errs[i] == nil {
				n := int(next.Add(1)) - 1
				if n >= len(accounts) {
					return
				}
				errs[i] = do(accounts[n])
			}
		})
	}
	working.Wait()
	return errors.Join(errs...)
}

// begin waits for the nodes and makes the accounts, each with a session for the year.
func (y *year) begin(ctx context.Context) error {
	err := poll(ctx, metricsEvery, startWithin, "a writer and an edge that are ready", func() (bool, error) {
		if err := y.sim.Advance(ctx, settleStep); err != nil {
			return false, err
		}
		y.clock.tick()
		var catalog struct{ Products []struct{} }
		if err := y.call(ctx, http.MethodGet, y.writer+"/v1/catalog", serverKey, "", &catalog); err != nil {
			return false, err
		}
		return len(catalog.Products) > 0 && y.edge.Status().AsOf != "", nil
	})
	if err != nil {
		return err
	}
	grace, err := json.Marshal(map[string]any{"billing_grace": policy.BillingGrace})
	if err != nil {
		return err
	}
	var put struct{}
	if err := y.call(ctx, http.MethodPut, y.writer+"/v1/policy", serverKey, string(grace), &put); err != nil {
		return err
	}
	const sessionSeconds = 366 * 24 * 3600
	return each(make([]string, y.users), func(string) error {
		var account struct {
			ID string `json:"account_id"`
		}
		if err := y.call(ctx, http.MethodPost, y.writer+"/v1/accounts", serverKey, "{}", &account); err != nil {
			return err
		}
		var session struct {
			Token string `json:"session_token"`
		}
		if err := y.call(ctx, http.MethodPost, y.writer+"/v1/accounts/"+account.ID+"/sessions", serverKey, fmt.Sprintf(`{"device_id":"phone","ttl_seconds":%d}`, sessionSeconds), &session); err != nil {
			return err
		}
		y.mu.Lock()
		defer y.mu.Unlock()
		y.accounts = append(y.accounts, account.ID)
		y.sessions[account.ID] = session.Token
		return nil
	})
}

// live lets the year go by, from instant to instant. They are spread over it, each at a random place of its stretch.
func (y *year) live(ctx context.Context, start time.Time) error {
	deeds := y.deeds(start.Add(time.Minute), oneYear-time.Minute)
	shown := time.Now()
	stretch := oneYear / time.Duration(y.instants)
	for n := range y.instants {
		at := start.Add(stretch*time.Duration(n) + time.Duration(y.dice.Int64N(int64(stretch)))).Truncate(time.Second)
		for len(deeds) > 0 && deeds[0].at.Before(at) {
			if err := y.pass(ctx, deeds[0].at); err != nil {
				return err
			}
			y.do(deeds[0])
			deeds = deeds[1:]
		}
		err := y.pass(ctx, at)
		if err == nil {
			err = y.instant(ctx, (n+1)%everybodyAfter == 0 || n == y.instants-1)
		}
		if err == nil {
			err = y.sim.Advance(ctx, shortStep) // what is asked for now must not be as new as what happens next
		}
		if err != nil {
			return fmt.Errorf("instant %d, %s: %w", n, at.Format(time.RFC3339), err)
		}
		if time.Since(shown) >= showEvery {
			shown = time.Now()
			fmt.Fprintf(os.Stderr, "  %s: instant %d of %d, %d facts, %d answers, %d wrong, %s\n", at.Format(time.DateOnly), n+1, y.instants, len(y.sim.Facts()), y.answers.Load(), y.told.Load(),
				time.Since(y.began).Round(time.Second))
		}
	}
	return nil
}

// pass lets time go by. What is due is posted once in deliverEvery.
func (y *year) pass(ctx context.Context, to time.Time) error {
	for y.sim.Now().Before(to) {
		next := y.delivered.Add(deliverEvery)
		if next.After(to) {
			next = to
		}
		if err := y.sim.AdvanceTo(ctx, next); err != nil {
			return err
		}
		if y.sim.Now().Sub(y.delivered) >= deliverEvery {
			if err := y.deliver(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (y *year) deliver(ctx context.Context) error {
	defer spend(&y.posting, time.Now())
	y.delivered = y.sim.Now()
	return y.sim.Deliver(ctx)
}

// spend adds what has passed since began.
func spend(on *time.Duration, began time.Time) { *on += time.Since(began) }

// instant posts what is due, waits until the writer has asked what it has to ask, and holds everybody, or some, to the oracle. Whoever is wrong while a
// question is open is looked at again, until none is.
func (y *year) instant(ctx context.Context, everybody bool) error {
	if err := y.deliver(ctx); err != nil {
		return err
	}
	if err := y.sim.Advance(ctx, settleStep); err != nil {
		return err
	}
	y.moved, y.quiet = time.Now(), time.Now()
	open, err := y.settle(ctx, !everybody)
	if err != nil {
		return err
	}
	y.book.Read(y.sim.Ledger())
	accounts := y.accounts
	if !everybody {
		accounts = y.sampled()
	}
	for {
		wrong, err := y.look(ctx, accounts, !open)
		if err != nil || !open || len(wrong) == 0 {
			return err
		}
		y.again.Add(int64(len(wrong)))
		if open, err = y.settle(ctx, true); err != nil {
			return err
		}
		accounts = wrong
		y.book.Read(y.sim.Ledger())
	}
}

// settle waits until the writer has no question to a provider; where soon is enough, until it is quiet: what was asked is asked again after a pause, where
// the answer left something open. open reports whether any is left.
func (y *year) settle(ctx context.Context, soon bool) (open bool, err error) {
	defer spend(&y.settling, time.Now())
	began, polls := time.Now(), 0
	err = poll(ctx, metricsEvery, settleWithin, "a writer without open questions", func() (bool, error) {
		doubts, err := y.doubts(ctx)
		if err != nil {
			return false, err
		}
		y.hopeless = min(y.hopeless, doubts)
		if open = doubts > y.hopeless; !open {
			return true, nil
		}
		polls++
		state := [2]int{doubts}
		for _, n := range y.sim.Counts() {
			state[1] += n.Pulls
		}
		still := time.Since(y.quiet)
		if state != y.open {
			y.open, y.quiet, still, polls = state, time.Now(), 0, 0
		}
		if still > hopelessAfter && polls > hopelessPolls { // what a provider calls gone stays open
			y.hopeless, open = doubts, false
			return true, nil
		}
		if soon && still > quietAfter && time.Since(began) > quietAfter {
			return true, nil
		}
		if time.Since(y.moved) > settlePause {
			y.moved = time.Now()
			err = y.sim.Advance(ctx, settleStep)
		}
		return false, errors.Join(err, fmt.Errorf("%d purchases are in doubt", doubts))
	})
	return open, err
}

// sampled are accounts by lot: such as something has just happened to, and any.
func (y *year) sampled() []string {
	size := y.sample
	if size == 0 {
		size = sampleEach
	}
	size = min(size, len(y.accounts))
	taken := map[string]bool{}
	var list []string
	take := func(account string) {
		if !taken[account] && len(list) < size {
			taken[account] = true
			list = append(list, account)
		}
	}
	facts := y.sim.Facts()
	fresh := facts[y.seen:]
	y.seen = len(facts)
	for n := 0; n < size && len(list) < size/2 && len(fresh) > 0; n++ {
		for _, account := range y.book.Users(fresh[y.dice.IntN(len(fresh))].Purchase) {
			take(account)
		}
	}
	for len(list) < size {
		take(y.accounts[y.dice.IntN(len(y.accounts))])
	}
	return list
}

// story is all that happened to what an account had.
func (y *year) story(account string) string {
	var b strings.Builder
	for _, purchase := range y.book.Had(account) {
		if p, ok := y.sim.Purchase(purchase); ok {
			fmt.Fprintf(&b, "\n  %s of %s in %s: %s %s", p.ID, p.Provider, p.Store, p.Product.ID, p.Phase)
		}
		for _, f := range y.book.Facts(purchase) {
			fmt.Fprintf(&b, "\n  fact %s %s %s term %d until %s full %v %s%s%s", f.At.Format(time.RFC3339), f.Purchase, f.Kind, f.Term, f.Until.Format(time.RFC3339), f.Full, f.Reason, f.From, f.To)
		}
	}
	return b.String()
}
