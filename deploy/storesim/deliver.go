package storesim

import (
	"bytes"
	"container/heap"
	"context"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	postTimeout    = 10 * time.Second
	maxAnswerBytes = 64 << 10

	// reorderWithin is how long a message is held that others are to overtake.
	reorderWithin = time.Hour
	// repeatWithin is when a message comes once more. Apple's receivers refuse what was signed a week ago.
	repeatWithin = 2 * day
)

// Message is a webhook message on its way.
type Message struct {
	ID       string      `json:"id"` // the provider's id of it, or the simulator's where it has none
	Provider Provider    `json:"provider"`
	Env      Environment `json:"environment"`
	Type     string      `json:"type"`
	Purchase string      `json:"purchase,omitempty"`
	At       time.Time   `json:"at"` // virtual, when it was made
	Body     []byte      `json:"-"`
	Attempts []Attempt   `json:"attempts"`
	Lost     bool        `json:"lost,omitempty"` // by Chaos.Loss
	Done     bool        `json:"done,omitempty"` // a success, or given up
}

// delivered reports whether an attempt was a success.
func (m *Message) delivered() bool {
	return slices.ContainsFunc(m.Attempts, func(a Attempt) bool { return deliveries[m.Provider].success(a.Status) })
}

// Attempt is one posting of a message.
type Attempt struct {
	At     time.Time `json:"at"`     // virtual
	Status int       `json:"status"` // 0: no answer
}

// Count is how a provider's messages fared.
type Count struct {
	Made      int `json:"made"`
	Lost      int `json:"lost"`
	Posted    int `json:"posted"`
	Delivered int `json:"delivered"`
	GivenUp   int `json:"given_up"`
	Pulls     int `json:"pulls"`
	Refused   int `json:"pulls_refused"` // by Chaos, or for a wrong credential
}

// delivery is how a provider delivers. Source of each: what it publishes, or what its users saw.
type delivery struct {
	success func(status int) bool
	retries []time.Duration // after the attempt before; none: at most once
}

func atMost(n int, first time.Duration, factor float64, longest time.Duration) []time.Duration {
	var all []time.Duration
	for range n {
		all = append(all, first)
		first = min(time.Duration(float64(first)*factor), longest)
	}
	return all
}

func is2xx(status int) bool { return status/100 == 2 }

var deliveries = map[Provider]delivery{
	Stripe:     {is2xx, atMost(14, time.Minute, 2, 12*time.Hour)},
	Apple:      {func(s int) bool { return s >= 200 && s <= 206 }, []time.Duration{time.Hour, 12 * time.Hour, day, 2 * day, 3 * day}},
	Google:     {func(s int) bool { return slices.Contains([]int{102, 200, 201, 202, 204}, s) }, atMost(500, 10*time.Second, 2, 10*time.Minute)},
	RevenueCat: {func(s int) bool { return s == 200 }, atMost(5, 5*time.Minute, 2, day)},
	Adapty:     {func(s int) bool { return s >= 200 && s <= 404 }, atMost(9, time.Minute, 2, day)}, // 400 to 404 end it without a success
	Iaptic:     {func(s int) bool { return s == 200 }, atMost(8, time.Minute, 3, day)},
	Web2Wave:   {is2xx, nil}, // the single address; its gateway repeats
}

// send puts a message on its way: at once, or as Chaos has it.
func (s *Sim) send(m *Message) {
	s.serial++
	m.At = s.clock
	s.messages = append(s.messages, m)
	count := s.counts[m.Provider]
	count.Made++
	chaos := s.chaos.at(m.Provider)
	// The dice are thrown whatever they decide, so that one dial changes nothing for the others.
	lost, held, reordered, behind, repeated, again := s.rand.Float64(), s.rand.Float64(), s.rand.Float64(), s.rand.Float64(), s.rand.Float64(), s.rand.Float64()
	if lost < chaos.Loss || chaos.Down {
		m.Lost = true
		count.Lost++
		return
	}
	hold := time.Duration(chaos.Hold) + time.Duration(held*float64(chaos.Delay))
	if reordered < chaos.Reorder {
		hold += time.Duration(behind * float64(reorderWithin))
	}
	s.post(s.clock.Add(hold), m)
	if repeated < chaos.Repeat {
		s.post(s.clock.Add(hold+time.Duration(again*float64(repeatWithin))), m)
	}
}

func (s *Sim) post(at time.Time, m *Message) {
	s.scheduled++
	heap.Push(&s.due, event{at: at, n: s.scheduled, send: m})
}

// deliver posts a message once, and puts it on its way again where its provider would.
func (s *Sim) deliver(ctx context.Context, m *Message) {
	if len(s.config.Writers) == 0 {
		s.mu.Lock()
		m.Done = true
		s.mu.Unlock()
		return
	}
	s.mu.Lock()
	now := s.clock
	repeated := m.Done
	s.counts[m.Provider].Posted++
	s.mu.Unlock()
	header := s.sign(m, now) // of nothing that changes
	status := s.postOnce(ctx, m, header)
	s.mu.Lock()
	defer s.mu.Unlock()
	m.Attempts = append(m.Attempts, Attempt{At: now, Status: status})
	how := deliveries[m.Provider]
	switch tries := len(m.Attempts); {
	case repeated:
	case how.success(status):
		m.Done = true
		s.counts[m.Provider].Delivered++
	case tries <= len(how.retries) && (m.Provider != Apple || m.Env == Production): // Apple's sandbox tries once
		s.post(now.Add(how.retries[tries-1]), m)
	default:
		m.Done = true
		s.counts[m.Provider].GivenUp++
		s.log.Warn("message given up", "provider", m.Provider, "type", m.Type, "status", status)
	}
}

// Deliver posts what became due since the last Deliver, Config.Together at a time and in no order, while the virtual clock stands. What is refused comes
// again as its provider would have it. Error: ctx.Err.
func (s *Sim) Deliver(ctx context.Context) error {
	s.advancing.Lock()
	defer s.advancing.Unlock()
	due := make(chan *Message)
	var posting sync.WaitGroup
	for range min(s.config.Together, len(s.held)) {
		posting.Go(func() {
			for m := range due {
				s.deliver(ctx, m)
			}
		})
	}
	for _, m := range s.held {
		due <- m
	}
	close(due)
	posting.Wait()
	s.held = s.held[:0]
	return ctx.Err()
}

// postOnce returns the answer's status, 0 where no writer answers.
func (s *Sim) postOnce(ctx context.Context, m *Message, header http.Header) int {
	for _, writer := range s.config.Writers {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, writer+"/v1/webhooks/"+string(m.Env)+"/"+string(m.Provider), bytes.NewReader(m.Body))
		if err != nil {
			s.log.Error("message cannot be posted", "error", err)
			return 0
		}
		r.Header = header
		res, err := s.client.Do(r)
		if err != nil {
			continue
		}
		answer, _ := io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes)) // of a broken answer the status counts
		res.Body.Close()
		if !is2xx(res.StatusCode) {
			s.log.Info("message refused", "provider", m.Provider, "type", m.Type, "status", res.StatusCode, "answer", string(answer))
		}
		return res.StatusCode
	}
	return 0
}

// Messages returns every message that was made, the oldest first.
func (s *Sim) Messages() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Message, len(s.messages))
	for i, m := range s.messages {
		list[i] = *m
		list[i].Attempts = slices.Clone(m.Attempts)
	}
	return list
}

// Counts returns how each provider's messages fared.
func (s *Sim) Counts() map[Provider]Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := map[Provider]Count{}
	for p := range maps.Keys(s.counts) {
		counts[p] = *s.counts[p]
	}
	return counts
}

// Header returns the headers with which a message is posted now.
func (s *Sim) Header(m Message) http.Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sign(&m, s.clock)
}

// UnderWay returns the purchases of which a message is still to come: held, or to be posted again. What Latchkey says of them may be what was true before.
func (s *Sim) UnderWay() map[string]bool {
	s.advancing.Lock()
	defer s.advancing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	purchases := map[string]bool{}
	for _, m := range s.held {
		purchases[m.Purchase] = true
	}
	for _, e := range s.due {
		if e.send != nil && !e.send.Done {
			purchases[e.send.Purchase] = true
		}
	}
	return purchases
}
