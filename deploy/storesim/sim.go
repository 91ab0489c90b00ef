package storesim

import (
	"cmp"
	"container/heap"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Rules are how the simulated stores treat a card that fails.
type Rules struct {
	// Grace is how long access goes on while the card is retried, per store. Zero: access stops at once. Stripe has none of its own: the merchant decides.
	Grace map[Store]time.Duration
	// Retry is how long the card is retried in all, per store; then the subscription ends.
	Retry map[Store]time.Duration
	// AcknowledgeWithin is when Play takes a purchase back that nobody acknowledged: three days, there. Zero: never.
	AcknowledgeWithin time.Duration
}

// DefaultRules are the stores' own: Apple's grace is 3, 16 or 28 days of 60; Play's grace and hold make up to 60; Stripe's usual dunning is three weeks.
var DefaultRules = Rules{
	Grace: map[Store]time.Duration{AppStore: 16 * day, PlayStore: 7 * day},
	Retry: map[Store]time.Duration{AppStore: 60 * day, PlayStore: 37 * day, StripeStore: 21 * day},
}

const day = 24 * time.Hour

// Chaos is what goes wrong between the providers and Latchkey. The zero value is nothing. Shares are from 0 to 1.
type Chaos struct {
	// Providers are those at which it does: an outage of one of them, say. None: all.
	Providers []Provider `json:"providers,omitempty"`

	Hold        Duration `json:"hold,omitempty"`         // each message is held for this, and for Delay on top
	Delay       Duration `json:"delay,omitempty"`        // each message is held for up to this
	Reorder     float64  `json:"reorder,omitempty"`      // share of messages that are held behind later ones, for up to an hour more
	Repeat      float64  `json:"repeat,omitempty"`       // share of messages that come once more, even after a success
	Loss        float64  `json:"loss,omitempty"`         // share of messages that never come: pulls must find what they told
	ServerError float64  `json:"server_error,omitempty"` // share of pulls that are answered with 500
	RateLimit   float64  `json:"rate_limit,omitempty"`   // share of pulls that are answered with 429
	Down        bool     `json:"down,omitempty"`         // every pull is answered with 503, and no message is sent
}

// check returns what is wrong with dials that somebody set.
func (c Chaos) check() error {
	for _, p := range c.Providers {
		if !p.valid() {
			return fmt.Errorf("no provider %q", p)
		}
	}
	for _, dial := range []struct {
		name  string
		share float64
	}{{"reorder", c.Reorder}, {"repeat", c.Repeat}, {"loss", c.Loss}, {"server_error", c.ServerError}, {"rate_limit", c.RateLimit}} {
		if dial.share < 0 || dial.share > 1 {
			return fmt.Errorf("%s: want a share from 0 to 1", dial.name)
		}
	}
	return nil
}

// at is what goes wrong at one provider.
func (c Chaos) at(p Provider) Chaos {
	if len(c.Providers) > 0 && !slices.Contains(c.Providers, p) {
		return Chaos{}
	}
	return c
}

// Config is what New needs.
type Config struct {
	// Seed decides everything that chance decides.
	Seed uint64
	// Start is the virtual time at which the simulation begins. Zero is now.
	Start time.Time
	// Products are what can be bought. None: DefaultProducts and CoursePack.
	Products []Product
	// Rules are the stores'. The zero value is DefaultRules.
	Rules Rules
	// Credentials are what messages are signed with and what pulls must show, of each environment. An environment without any has no provider.
	Credentials map[Environment]*Credentials
	// Writers are the addresses to which messages are posted, "http://127.0.0.1:8401": the first, or the next one where it does not answer. None:
	// messages are kept for Messages alone.
	Writers []string
	// Client posts. Nil is one with a timeout of 10 s.
	Client *http.Client
	// Logger takes the log. Nil is slog.Default.
	Logger *slog.Logger
	// Chaos is what goes wrong, and can be changed later by SetChaos.
	Chaos Chaos
	// Together, where it is not 0, is how many messages are posted at a time: those that are due in an Advance then wait for Deliver. A crowd of customers
	// would take very long one message after the other.
	Together int
}

// Sim is a running simulation. It is safe for concurrent use.
type Sim struct {
	config Config
	client *http.Client
	log    *slog.Logger

	advancing sync.Mutex // held through an Advance; mu is not, while a message is posted
	held      []*Message // due, and not posted before Deliver; under advancing

	mu        sync.Mutex
	rand      *rand.Rand // of messages
	answers   *rand.Rand // of pulls, which come in no certain order
	chaos     Chaos
	clock     time.Time
	stamped   time.Time // the last moment that stamp gave
	due       events
	scheduled int64
	customers map[string]*Customer
	purchases map[string]*Purchase
	order     []*Purchase // by N
	index     index
	sold      map[string]Sold
	given     map[adaptyHolder]map[string]time.Time // through Adapty's API
	tags      map[string]object                     // metadata of Stripe's customers, by their ids
	facts     []Fact
	messages  []*Message
	serial    int // of messages
	counts    map[Provider]*Count
	changed   func() // after the clock moved
}

// New returns a simulation in which nothing has happened yet.
func New(c Config) *Sim {
	if c.Start.IsZero() {
		c.Start = time.Now()
	}
	if len(c.Products) == 0 {
		c.Products = append(slices.Clone(DefaultProducts), CoursePack)
	}
	if c.Rules.Grace == nil && c.Rules.Retry == nil {
		c.Rules = DefaultRules
	}
	s := &Sim{config: c, client: c.Client, log: cmp.Or(c.Logger, slog.Default()), chaos: c.Chaos, clock: c.Start.UTC().Truncate(time.Second),
		rand: rand.New(rand.NewPCG(c.Seed, 0x5eed)), answers: rand.New(rand.NewPCG(c.Seed, 0xa45)), index: newIndex(), customers: map[string]*Customer{}, purchases: map[string]*Purchase{}, sold: map[string]Sold{}, tags: map[string]object{}, counts: map[Provider]*Count{}}
	if s.client == nil {
		s.client = &http.Client{Timeout: postTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	for _, p := range Providers {
		s.counts[p] = &Count{}
	}
	return s
}

// Now is the virtual time.
func (s *Sim) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clock
}

// SetChaos changes what goes wrong from now on.
func (s *Sim) SetChaos(c Chaos) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.chaos = c
}

// event is something that happens when the virtual clock comes to it.
type event struct {
	at time.Time
	n  int64 // of equal times the one that was scheduled first
	do func()
	// send, instead of do, is a message to post.
	send *Message
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return cmp.Or(e[i].at.Compare(e[j].at), cmp.Compare(e[i].n, e[j].n)) < 0
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func (s *Sim) schedule(at time.Time, do func()) {
	s.scheduled++
	heap.Push(&s.due, event{at: at, n: s.scheduled, do: do})
}

// Advance moves the virtual clock on by d: everything that is due until then happens in its order, and every message that is due is posted and answered
// before the next thing happens, unless Config.Together leaves that to Deliver. Zero posts what is due now. Error: ctx.Err.
func (s *Sim) Advance(ctx context.Context, d time.Duration) error {
	s.mu.Lock()
	to := s.clock.Add(d)
	s.mu.Unlock()
	return s.AdvanceTo(ctx, to)
}

// AdvanceTo is Advance to a time. One that has passed posts what is due now.
func (s *Sim) AdvanceTo(ctx context.Context, to time.Time) error {
	s.advancing.Lock()
	defer s.advancing.Unlock()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		s.mu.Lock()
		if len(s.due) == 0 || s.due[0].at.After(later(to, s.clock)) {
			s.clock = later(s.clock, to)
			s.mu.Unlock()
			s.moved()
			return nil
		}
		next := heap.Pop(&s.due).(event)
		moved := next.at.After(s.clock)
		s.clock = later(s.clock, next.at)
		if next.do != nil {
			next.do()
		}
		s.mu.Unlock()
		if moved {
			s.moved()
		}
		switch {
		case next.send == nil:
		case s.config.Together > 0:
			s.held = append(s.held, next.send)
		default:
			s.deliver(ctx, next.send)
		}
	}
}

// OnMove sets what is called after each step of the virtual clock: other clocks follow it.
func (s *Sim) OnMove(f func()) {
	s.mu.Lock()
	s.changed = f
	s.mu.Unlock()
	s.moved()
}

func (s *Sim) moved() {
	s.mu.Lock()
	f := s.changed
	s.mu.Unlock()
	if f != nil {
		f()
	}
}

// Next returns when the next thing is due, ok false for never.
func (s *Sim) Next() (at time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.due) == 0 {
		return time.Time{}, false
	}
	return s.due[0].at, true
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// stamp returns the virtual time in milliseconds, later than every other one that it gave: what a provider says twice in one millisecond has no order.
func (s *Sim) stamp() time.Time {
	at := s.clock.Truncate(time.Millisecond)
	if !at.After(s.stamped) {
		at = s.stamped.Add(time.Millisecond)
	}
	s.stamped = at
	return at
}

// id returns an id that is always the same for the same seed and parts: so many hexadecimal digits.
func (s *Sim) id(digits int, parts ...any) string {
	h := sha256.Sum256(fmt.Append(nil, s.config.Seed, parts))
	return hex.EncodeToString(h[:])[:digits]
}

// number is an id of decimal digits.
func (s *Sim) number(parts ...any) int64 {
	h := sha256.Sum256(fmt.Append(nil, s.config.Seed, "number", parts))
	n := int64(0)
	for _, b := range h[:6] {
		n = n<<8 | int64(b)
	}
	return n % 1_000_000_000_000
}

// uuid is an id in the form of a UUID.
func (s *Sim) uuid(parts ...any) string {
	h := []byte(s.id(32, append([]any{"uuid"}, parts...)...))
	h[12], h[16] = '4', '8'
	return fmt.Sprintf("%s-%s-%s-%s-%s", h[:8], h[8:12], h[12:16], h[16:20], h[20:])
}

func (s *Sim) customer(account string) *Customer {
	c := s.customers[account]
	if c == nil {
		c = &Customer{Account: account, N: len(s.customers) + 1}
		s.customers[account] = c
		for _, name := range []string{account, s.adaptyProfile(account), s.revenueCatAliases(account)[1], s.web2WaveUser(account)} {
			s.index.names[name] = account
		}
	}
	return c
}

func (s *Sim) product(id string) (Product, error) {
	for _, p := range s.config.Products {
		if p.ID == id {
			return p, nil
		}
	}
	return Product{}, refuse("nobody sells %q", id)
}

// Purchases returns every purchase as it stands, the oldest first.
func (s *Sim) Purchases() []Purchase {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Purchase, len(s.order))
	for i, p := range s.order {
		list[i] = *p.copy()
	}
	return list
}

// Purchase returns one as it stands.
func (s *Sim) Purchase(id string) (p Purchase, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found := s.purchases[id]; found != nil {
		return *found.copy(), true
	}
	return Purchase{}, false
}

// Facts returns the ledger, the oldest entry first. It is not to be changed.
func (s *Sim) Facts() []Fact {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clip(s.facts) // entries are only ever added
}

// Ledger returns what Oracle reads.
func (s *Sim) Ledger() Ledger {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Ledger{Facts: slices.Clip(s.facts), Sold: maps.Clone(s.sold)}
}
