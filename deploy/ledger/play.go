package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/writer/writertest"
)

// The shape of a history.
const (
	writers     = 3
	perHistory  = 20_000 // operations
	perEnv      = 40     // accounts
	perBatch    = 100    // operations that are in flight together
	startTime   = 1_790_000_000
	segment     = 1 << 20
	snapshotAge = 5_000 // entries of the log between two snapshots
	deaths      = 30    // one batch in so many a leader does not survive
	erasures    = 300   // one operation in so many is an erasure
)

// errWrong means that a balance or an answer was not the ledger's.
var errWrong = errors.New("wrong")

// total is what was played.
type total struct {
	Histories, Operations, Purchases, Refunds, Consumed, Repeats, Refused, Claimed, Kept, Erased, Kills, Lost, Failed int

	took time.Duration
}

func (t *total) add(o total) {
	t.Histories++
	t.Operations += o.Operations
	t.Purchases += o.Purchases
	t.Refunds += o.Refunds
	t.Consumed += o.Consumed
	t.Repeats += o.Repeats
	t.Refused += o.Refused
	t.Claimed += o.Claimed
	t.Kept += o.Kept
	t.Erased += o.Erased
	t.Kills += o.Kills
	t.Lost += o.Lost
}

func (t *total) print(out io.Writer) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range []struct {
		what string
		n    int
	}{{"messages of purchases", t.Purchases}, {"messages of refunds, and of refunds taken back", t.Refunds}, {"consumptions", t.Consumed}, {"consumptions repeated", t.Repeats},
		{"consumptions refused", t.Refused}, {"purchases that were nobody's and became somebody's", t.Claimed}, {"purchases shown by others than their owners", t.Kept}, {"accounts erased", t.Erased},
		{"leaders killed", t.Kills}, {"commands lost with them, and sent again", t.Lost}} {
		fmt.Fprintf(table, "%s\t%d\n", row.what, row.n)
	}
	fmt.Fprintf(table, "seconds\t%.0f\n", t.took.Seconds())
	table.Flush()
	fmt.Fprintf(out, "ledger: %d histories, %d operations, %d failed\n", t.Histories, t.Operations, t.Failed)
}

// playAll plays histories until there were as many operations. Error: the first thing that is wrong, with how to see it again.
func playAll(operations int, first uint64, workers int) (total, error) {
	began := time.Now()
	type task struct {
		seed uint64
		n    int
	}
	tasks := make(chan task)
	go func() {
		defer close(tasks)
		for seed := first; operations > 0; seed++ {
			n := min(operations, perHistory)
			tasks <- task{seed, n}
			operations -= n
		}
	}()
	var mu sync.Mutex
	var t total
	var errs []error
	var playing sync.WaitGroup
	for range workers {
		playing.Go(func() {
			for task := range tasks {
				played, err := playOne(task.seed, task.n)
				mu.Lock()
				if t.add(played); err != nil {
					t.Failed++
					errs = append(errs, fmt.Errorf("seed %d: %w; again: make sim LEDGER=%d SEED=%d", task.seed, err, task.n, task.seed))
				}
				mu.Unlock()
			}
		})
	}
	playing.Wait()
	t.took = time.Since(began)
	return t, errors.Join(errs...)
}

func playOne(seed uint64, operations int) (total, error) {
	dir, err := scratch()
	if err != nil {
		return total{}, err
	}
	defer os.RemoveAll(dir)
	h := newHistory(seed, dir)
	defer h.cluster.close()
	h.Operations = operations
	for _, stage := range []func() error{h.begin, func() error { return h.play(operations) }, h.end} {
		if err := stage(); err != nil {
			return h.total, err
		}
	}
	return h.total, nil
}

func newHistory(seed uint64, dir string) *history {
	return &history{r: rand.New(rand.NewPCG(seed, 11)), now: startTime, cluster: &cluster{dir: dir}}
}

// scratch makes a folder in memory where there is one.
func scratch() (string, error) {
	if dir, err := os.MkdirTemp("/dev/shm", "latchkey-ledger-"); err == nil {
		return dir, nil
	}
	return os.MkdirTemp("", "latchkey-ledger-")
}

// cluster is the state machines of three writers and the log that a majority of them has. What is committed is decided here; the machines, their
// files and their snapshots are real.
type cluster struct {
	dir       string
	log       []writertest.Entry
	machines  [writers]*writertest.Machine
	snapshots [writers][]byte // the newest that is on its disk
	taken     [writers]uint64 // up to which entry that goes
	leader    int
}

func (c *cluster) open(i int) error {
	m, err := writertest.OpenMachine(filepath.Join(c.dir, strconv.Itoa(i)), segment)
	if err == nil && c.snapshots[i] != nil {
		err = m.Restore(c.snapshots[i])
	}
	c.machines[i] = m
	return err
}

// catchUp applies what the machine lacks of the log, and returns the results.
func (c *cluster) catchUp(i int) ([]writertest.Result, error) {
	lacks := c.log[c.machines[i].Applied():]
	if len(lacks) == 0 {
		return nil, nil
	}
	results, err := c.machines[i].Apply(lacks)
	if at := c.machines[i].Applied(); err == nil && at-c.taken[i] > snapshotAge {
		c.taken[i] = at
		c.snapshots[i], err = c.machines[i].Snapshot()
	}
	return results, err
}

// kill ends the leader's process; another machine leads from now on, and this one starts again with its newest snapshot.
func (c *cluster) kill() error {
	if err := c.machines[c.leader].Close(); err != nil {
		return err
	}
	if err := c.open(c.leader); err != nil {
		return err
	}
	c.leader = (c.leader + 1) % writers
	_, err := c.catchUp(c.leader)
	return err
}

// commit puts commands into the log, and returns what the leader says of them.
func (c *cluster) commit(commands []writertest.Command) ([]writertest.Result, error) {
	for _, command := range commands {
		c.log = append(c.log, writertest.Entry{Index: uint64(len(c.log) + 1), Term: 1, Data: command.Encode()})
	}
	results, err := c.catchUp(c.leader)
	if err != nil {
		return nil, err
	}
	return results[len(results)-len(commands):], nil
}

func (c *cluster) close() {
	for _, m := range c.machines {
		if m != nil {
			_ = m.Close() // its folder goes too
		}
	}
}

// history is one random life of some accounts.
type history struct {
	total
	r       *rand.Rand
	now     int64
	cluster *cluster
	books   map[owner]*book
	owners  []owner
	sold    map[entitlement.Environment][]*sale
	nobodys map[entitlement.Environment][]*sale // when they were drawn
	tells   int                                 // commands, each of which has a correlation id of its own
	index   *entitlement.CatalogIndex
}

type owner struct {
	env entitlement.Environment
	id  entitlement.AccountID
}

// credits are two, sold in packs of their own.
var credits = []string{"coins", "gems"}

// packSizes are how many each pack has.
var packSizes = []int64{10, 25}

func (h *history) begin() error {
	for i := range writers {
		if err := h.cluster.open(i); err != nil {
			return err
		}
	}
	var catalog entitlement.Catalog
	for i, credit := range credits {
		catalog.Products = append(catalog.Products, entitlement.Product{Provider: entitlement.Apple, ID: entitlement.ProductID(credit), Kind: entitlement.KindConsumable, Credits: map[string]int64{credit: packSizes[i]}})
	}
	h.index = entitlement.NewCatalogIndex(&catalog)
	h.books, h.sold, h.nobodys = map[owner]*book{}, map[entitlement.Environment][]*sale{}, map[entitlement.Environment][]*sale{}
	commands := []writertest.Command{h.command(writertest.TypeInit, "", &writertest.Init{Cluster: "ledger", Rules: writertest.RulesVersion})}
	for _, env := range entitlement.Environments {
		debt := env == entitlement.Production // either policy in an environment of its own
		commands = append(commands, h.command(writertest.TypePutCatalog, env, &writertest.PutCatalog{Catalog: catalog}),
			h.command(writertest.TypePutPolicy, env, &writertest.PutPolicy{Policy: entitlement.Policy{Debt: debt}}))
		for n := range perEnv {
			o := owner{env, entitlement.AccountID(fmt.Sprintf("acc_%02d", n))}
			commands = append(commands, h.command(writertest.TypeCreate, env, &writertest.CreateAccount{ID: o.id}))
			h.books[o] = &book{debt: debt, spent: map[string]consumption{}}
			h.owners = append(h.owners, o)
		}
	}
	results, err := h.cluster.commit(commands)
	for i, r := range results {
		if r.Rejection != nil {
			return fmt.Errorf("%w: command %d: %+v", errWrong, i, r.Rejection)
		}
	}
	return err
}

func (h *history) command(t writertest.CommandType, env entitlement.Environment, body any) writertest.Command {
	h.tells++
	c := writertest.NewCommand(t, env, "c"+strconv.Itoa(h.tells), body)
	c.Stamp = h.now
	return c
}

// operation is one command, how it is sent again, and what the ledger says of its result.
type operation struct {
	send  func() writertest.Command
	judge func(writertest.Result) error
}

// play plays operations in batches, some of which a leader does not survive.
func (h *history) play(operations int) error {
	for operations > 0 {
		var batch []operation
		for n := min(operations, 1+h.r.IntN(perBatch)); len(batch) < n; {
			batch = append(batch, h.next()...)
		}
		operations -= len(batch)
		h.now += int64(h.r.IntN(20))
		if err := h.deliver(batch); err != nil {
			return err
		}
		if follower := h.r.IntN(writers); h.r.IntN(8) == 0 {
			if _, err := h.cluster.catchUp(follower); err != nil {
				return err
			}
		}
		if err := h.balances(h.cluster.leader, h.owners[h.r.IntN(len(h.owners))]); err != nil {
			return err
		}
	}
	return nil
}

// deliver commits a batch, sends again what a leader took with it, and holds each answer to the ledger.
func (h *history) deliver(batch []operation) error {
	encode := func() (commands []writertest.Command) {
		for _, o := range batch {
			commands = append(commands, o.send())
		}
		return commands
	}
	judge := func(results []writertest.Result) error {
		for i, r := range results {
			if err := batch[i].judge(r); err != nil {
				return err
			}
		}
		return nil
	}
	commands := encode()
	if h.r.IntN(deaths) > 0 {
		results, err := h.cluster.commit(commands)
		return errors.Join(err, judge(results))
	}
	// The leader dies: before a majority has the rest, and before anybody hears of what survives.
	survives := h.r.IntN(len(batch) + 1)
	h.Kills++
	h.Lost += len(batch) - survives
	unheard, err := h.cluster.commit(commands[:survives])
	if err = errors.Join(err, judge(unheard)); err != nil {
		return err
	}
	if err := h.cluster.kill(); err != nil {
		return err
	}
	if h.r.IntN(2) == 0 { // the caller has given up, and asks anew
		results, err := h.cluster.commit(encode())
		return errors.Join(err, judge(results))
	}
	// The node that received the commands did not learn what became of them, and sends the same ones: what survived has its first answer.
	results, err := h.cluster.commit(commands)
	if err != nil {
		return err
	}
	for i, first := range unheard {
		if again := results[i]; again.Outcome != first.Outcome || again.Balance != first.Balance || (again.Rejection == nil) != (first.Rejection == nil) {
			return fmt.Errorf("%w: the same command once more came to %+v, first to %+v", errWrong, again, first)
		}
	}
	batch = batch[survives:]
	return judge(results[survives:])
}

// next draws what happens next. Of the accounts one in so many is erased, and a new one takes its place.
func (h *history) next() []operation {
	n := h.r.IntN(len(h.owners))
	if h.r.IntN(erasures) > 0 {
		return []operation{h.operation(h.owners[n])}
	}
	h.Erased++
	erased := h.owners[n]
	next := owner{erased.env, entitlement.AccountID(fmt.Sprintf("acc_%02d_%d", n%perEnv, h.Erased))}
	b := h.books[erased]
	opened := &book{debt: b.debt, spent: map[string]consumption{}}
	h.owners[n], h.books[next] = next, opened
	h.nobodys[erased.env] = append(h.nobodys[erased.env], b.sales...)
	return []operation{{
		send: func() writertest.Command {
			return h.command(writertest.TypeErase, erased.env, &writertest.EraseAccount{Account: erased.id})
		},
		judge: func(r writertest.Result) error {
			if (r.Rejection != nil) != b.gone {
				return fmt.Errorf("%w: erasure of %s %s: %+v", errWrong, erased.env, erased.id, r.Rejection)
			}
			b.gone = true
			return nil
		},
	}, {
		send: func() writertest.Command {
			return h.command(writertest.TypeCreate, erased.env, &writertest.CreateAccount{ID: next.id})
		},
		judge: func(r writertest.Result) error {
			if (r.Rejection != nil) != opened.gone {
				return fmt.Errorf("%w: account %s %s: %+v", errWrong, next.env, next.id, r.Rejection)
			}
			return nil
		},
	}}
}

// operation draws something about an account.
func (h *history) operation(o owner) operation {
	b := h.books[o]
	switch n := h.r.IntN(20); {
	case n < 4 || len(b.sales) == 0:
		credit := h.r.IntN(len(credits))
		quantity := int64(1 + h.r.IntN(3))
		// Purchases become known in any order; two may be of one second.
		s := &sale{id: fmt.Sprintf("%s-%d", o.id, len(h.sold[o.env])), credit: credits[credit], amount: packSizes[credit] * quantity, at: startTime - int64(h.r.IntN(50_000)), states: 1}
		if h.sold[o.env] = append(h.sold[o.env], s); h.r.IntN(4) > 0 {
			s.buyer, s.of = o.id, b
			b.sales = append(b.sales, s)
		} else {
			h.nobodys[o.env] = append(h.nobodys[o.env], s)
		}
		return h.tell(o, s, 1, quantity)
	case n < 8:
		s := b.sales[h.r.IntN(len(b.sales))]
		state := 1 + h.r.IntN(s.states) // an old message once more
		if h.r.IntN(2) == 0 {
			s.states++
			state = s.states
			if h.r.IntN(4) == 0 { // one that overtakes those before it
				s.states++
				state = s.states
			}
		}
		return h.tell(o, s, state, s.amount/packSizes[creditOf(s.credit)])
	case n < 10:
		sold := h.sold[o.env]
		if free := h.nobodys[o.env]; len(free) > 0 && h.r.IntN(2) == 0 {
			sold = free
		}
		return h.show(o, b, sold[h.r.IntN(len(sold))])
	}
	return h.consume(o, b)
}

// show is a receipt of a sale, or a restore: it becomes the account's if it is nobody's. What an erased account had gives nobody credits any more.
func (h *history) show(o owner, b *book, s *sale) operation {
	id := entitlement.PurchaseID("apple:" + s.id)
	restored := h.r.IntN(2) == 0
	return operation{
		send: func() writertest.Command {
			if restored {
				return h.command(writertest.TypeRestore, o.env, &writertest.RestorePurchase{Account: o.id, Purchase: id})
			}
			return h.command(writertest.TypeClaim, o.env, &writertest.ClaimPurchase{Account: o.id, Purchase: id})
		},
		judge: func(r writertest.Result) error {
			want, slug := "", ""
			if r.Rejection != nil {
				slug = r.Rejection.Slug
			}
			switch {
			case b.gone || !s.known:
				want = "not-found"
			case s.of == b:
			case s.of == nil:
				h.Claimed++
				s.of, b.sales = b, append(b.sales, s)
			case s.of.gone:
				h.Claimed++
				s.of, s.forfeited = b, true
			default:
				h.Kept++
				want = "alias-taken"
			}
			if slug != want {
				return fmt.Errorf("%w: %s shown by %s %s: %+v, want %q", errWrong, id, o.env, o.id, r.Rejection, want)
			}
			return nil
		},
	}
}

func creditOf(name string) int {
	if name == credits[0] {
		return 0
	}
	return 1
}

// tell is a message about a sale in one of its states: bought, refunded, bought after all, and so on.
func (h *history) tell(o owner, s *sale, state int, quantity int64) operation {
	refunded := state%2 == 0
	tx := &entitlement.Transaction{Sold: entitlement.Sold{Product: entitlement.ProductID(s.credit), Quantity: quantity}, StartsAt: s.at, Store: entitlement.AppStore}
	if refunded {
		tx.RevokedAt = s.at + int64(state)
	}
	ev := entitlement.Event{Provider: entitlement.Apple, ID: fmt.Sprintf("%s-%d", s.id, state), Environment: o.env, Objects: []entitlement.Object{{Kind: entitlement.KindTransaction, ID: s.id, By: entitlement.Apple,
		At: (s.at + int64(state)) * 1e9, Account: s.buyer, Links: []entitlement.Link{entitlement.Link("apple:" + s.id)}, Transaction: tx}}}
	if state > 1 {
		h.Refunds++
	} else {
		h.Purchases++
	}
	return operation{
		send: func() writertest.Command {
			return h.command(writertest.TypeRecordEvent, o.env, &writertest.RecordEvent{Event: ev})
		},
		judge: func(r writertest.Result) error {
			if s.known = true; state > s.newest {
				s.newest, s.current = state, refunded
			}
			if r.Outcome != "recorded" {
				return fmt.Errorf("%w: message %s of %s came to %q %+v", errWrong, ev.ID, o.env, r.Outcome, r.Rejection)
			}
			return nil
		},
	}
}

// consume is a consumption: a new one, or one that was asked for before, as it was or with another amount.
func (h *history) consume(o owner, b *book) operation {
	id, credit, amount := "c"+strconv.Itoa(h.r.IntN(3*perHistory/perEnv)), credits[h.r.IntN(len(credits))], int64(1+h.r.IntN(15))
	if len(b.spent) > 0 && h.r.IntN(4) == 0 {
		id = b.someID(h.r)
		if h.r.IntN(4) > 0 {
			credit, amount = b.spent[id].credit, b.spent[id].amount
		}
	}
	return operation{
		send: func() writertest.Command {
			return h.command(writertest.TypeConsume, o.env, &writertest.Consume{Account: o.id, ID: id, Credit: credit, Amount: amount})
		},
		judge: func(r writertest.Result) error {
			slug := ""
			if r.Rejection != nil {
				slug = r.Rejection.Slug
			}
			what := fmt.Sprintf("%d %s by %s of %s %s", amount, credit, id, o.env, o.id)
			done, repeated := b.spent[id]
			have := b.balance(credit)
			switch {
			case b.gone:
				if slug != "not-found" {
					return fmt.Errorf("%w: %s, who was erased: %+v", errWrong, what, r)
				}
			case repeated && (done.credit != credit || done.amount != amount):
				h.Refused++
				if slug != "idempotency-mismatch" {
					return fmt.Errorf("%w: %s, which was another consumption: %+v", errWrong, what, r)
				}
			case repeated:
				h.Repeats++
				if slug != "" || r.Balance != done.left {
					return fmt.Errorf("%w: %s once more: %+v, want %d left as before", errWrong, what, r, done.left)
				}
			case slug == "" && have >= amount && r.Balance == have-amount:
				h.Consumed++
				b.spent[id] = consumption{credit, amount, r.Balance}
			case slug == "insufficient-balance" && have < amount:
				h.Refused++
			default:
				return fmt.Errorf("%w: %s: %q, %d left; the ledger has %d", errWrong, what, slug, r.Balance, have)
			}
			return nil
		},
	}
}

// someID is one of the account's consumptions, the same for the same seed.
func (b *book) someID(r *rand.Rand) string {
	best, at := "", r.IntN(1<<16)
	for id := range b.spent {
		if n, _ := strconv.Atoi(id[1:]); best == "" || distance(n, at) < distance(mustNumber(best), at) || distance(n, at) == distance(mustNumber(best), at) && id < best {
			best = id
		}
	}
	return best
}

func mustNumber(id string) int {
	n, _ := strconv.Atoi(id[1:]) // ids are made above
	return n
}

func distance(a, b int) int { return max(a-b, b-a) }

// balances holds what one machine answers of an account to the ledger.
func (h *history) balances(machine int, o owner) error {
	if _, err := h.cluster.catchUp(machine); err != nil {
		return err
	}
	return h.cluster.machines[machine].View(func(r *writertest.Reader) error {
		account, found, err := r.Account(o.env, o.id)
		if err != nil || !found {
			return errors.Join(err, fmt.Errorf("%w: account %s is not there", errWrong, o.id))
		}
		view := account.View(h.index, h.now, nil)
		for _, credit := range credits {
			have := int64(0)
			for _, b := range view.Balances {
				if b.Credit == credit {
					have = b.Amount
				}
			}
			if want := h.books[o].balance(credit); have != want {
				return fmt.Errorf("%w: %s %s has %d %s at machine %d, the ledger says %d", errWrong, o.env, o.id, have, credit, machine, want)
			}
		}
		return nil
	})
}

// end holds all accounts of all machines to the ledger, and the machines to each other.
func (h *history) end() error {
	for i, m := range h.cluster.machines {
		if m == nil {
			return fmt.Errorf("%w: machine %d is not there", errWrong, i)
		}
		for _, o := range h.owners {
			if err := h.balances(i, o); err != nil {
				return err
			}
		}
		if first := h.cluster.machines[0]; m.Position() != first.Position() || m.FullHash() != first.FullHash() {
			return fmt.Errorf("%w: machines 0 and %d differ", errWrong, i)
		}
		if err := m.Check(); err != nil {
			return err
		}
	}
	return nil
}
