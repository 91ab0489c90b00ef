package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"
)

// Config says what to run.
type Config struct {
	// For is how long faults are injected; starting, converging and judging come on top. Zero injects none.
	For time.Duration
	// AtLeast is how many faults are injected however long that takes, within reason: on a busy machine each takes its time.
	AtLeast int
	// Busy is by how many times more may take what I12 and I19 promise of times, on a machine that does other work too. Zero is 1.
	Busy int
	// Seed decides the faults and their order.
	Seed uint64
	// Programs is the folder of latchkey-writer and latchkey-edge, built with the tag "faults".
	Programs string
	// Dir takes the nodes' folders and logs. It must be empty.
	Dir string
	// Edges is how many there are. Zero: two or three, by the seed.
	Edges int
	// Only lists faults by name; empty: all.
	Only []string
	// Plant lists faults of the programs themselves (pkg/fault) that every node carries: a run with one of them must find it.
	Plant []string
	// Judge, if it is set, sees what the load exchanges with the nodes, at these addresses: it returns what the load asks through in place of base.
	Judge func(base http.RoundTripper, writers, edges []string) http.RoundTripper
	// Out takes the table and the progress.
	Out io.Writer
}

// ErrWrong means that something was lost or answered wrongly: the table says what.
var ErrWrong = errors.New("wrong")

// Result is what a run found.
type Result struct {
	Faults     int
	Acked      int
	Lost       int
	Wrong      int
	Violations []Violation
	History    *History
}

func (r Result) String() string {
	return fmt.Sprintf("chaos: %d faults, %d acknowledged, %d lost, %d wrong", r.Faults, r.Acked, r.Lost, r.Wrong)
}

// run is one run under way.
type run struct {
	config   Config
	cluster  *Cluster
	load     *load
	recorder *recorder

	faultsBuild  bool
	sourcesKnown bool
	noNATS       error
	smallDisk    string
	noSmallDisk  error

	underWay atomic.Int64 // faults
	begun    atomic.Int64 // faults so far
	guests   atomic.Int64 // writers that joined so far
	guest    sync.Mutex   // held while one is there

	mu     sync.Mutex
	counts map[string]int
}

func (r *run) count(what string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[what] += n
}

func (r *run) say(format string, args ...any) { fmt.Fprintf(r.config.Out, format+"\n", args...) }

const writers = 3

// Run injects faults for a while, judges what was seen, and prints the table. Errors: ErrWrong; that the system did not start; ctx.Err.
func Run(ctx context.Context, config Config) (Result, error) {
	r := &run{config: config, recorder: newRecorder(), counts: map[string]int{}}
	r.recorder.h.Busy = config.Busy
	lot := rand.New(rand.NewPCG(config.Seed, 0))
	s := r.shape(lot)
	r.say("seed %d: %d writers, %d edges, NATS %s; again with: make chaos FOR=%s SEED=%d", config.Seed, s.writers, s.edges, natsName(s.outsideNATS), config.For, config.Seed)
	var err error
	if r.cluster, err = startCluster(ctx, s); err != nil {
		return Result{}, fmt.Errorf("start: %w", err)
	}
	err = r.torture(ctx, lot)
	dirs := map[string]string{}
	for _, id := range r.cluster.ids("w") {
		dirs[id] = r.cluster.node(id).Dir
	}
	err = errors.Join(err, r.cluster.stopWith(func() error {
		return errors.Join(r.cluster.readJournals(r.recorder, dirs), r.cluster.readLogs(r.recorder))
	}))
	result := r.judge()
	r.table(result)
	if err != nil {
		return result, err
	}
	if result.Lost+result.Wrong > 0 {
		return result, ErrWrong
	}
	return result, nil
}

func natsName(outside bool) string {
	if outside {
		return "outside"
	}
	return "embedded"
}

// shape draws what the run consists of.
func (r *run) shape(lot *rand.Rand) shape {
	s := shape{dir: r.config.Dir, programs: r.config.Programs, writers: writers, edges: r.config.Edges, log: io.Discard, plant: r.config.Plant, outsideNATS: r.config.Seed%2 == 1}
	drawn := 2 + lot.IntN(2)
	s.edges = cmp.Or(s.edges, drawn)
	r.noNATS = errors.New("even seeds run the writers' own NATS servers")
	if _, err := exec.LookPath("nats-server"); s.outsideNATS && err != nil {
		s.outsideNATS, r.noNATS = false, errors.New("nats-server is not installed")
	}
	if r.noSmallDisk = canMount(); r.noSmallDisk == nil {
		s.tmpfs = "w3"
	}
	r.smallDisk = s.tmpfs
	return s
}

// torture runs the load and the faults.
func (r *run) torture(ctx context.Context, lot *rand.Rand) error {
	r.faultsBuild = r.hasFaultsBuild(ctx)
	var err error
	if r.load, err = newLoad(r.cluster, r.recorder); err != nil {
		return err
	}
	if r.config.Judge != nil {
		addresses := func(kind string) (urls []string) {
			for _, id := range r.cluster.ids(kind) {
				urls = append(urls, r.cluster.url(id))
			}
			return urls
		}
		r.load.client.Transport = r.config.Judge(r.load.client.Transport, addresses("w"), addresses("e"))
	}
	observers, err := startObservers(ctx, r.cluster, r.recorder)
	if err != nil {
		return err
	}
	defer observers.stop()
	if err := r.load.start(ctx, r.config.Seed); err != nil {
		r.load.stop()
		return err
	}
	defer r.load.stop()
	await(ctx, 5*time.Second, func() bool { return r.recorder.acked() >= 20 })
	sources := r.cluster.relay.Sources()
	r.sourcesKnown = sources["w1"] && sources["e1"]
	if err := r.rounds(ctx, lot); err != nil {
		return err
	}
	r.load.stop()
	if err := r.cluster.agree(ctx, r.recorder.h.promised(leaderWithin+freshWithin)); err != nil {
		r.load.strange(err.Error())
	}
	r.load.lookEverywhere(ctx)
	// So that every sample of an edge can be compared, the logs must have been read to their ends.
	await(ctx, 10*time.Second, func() (read bool) {
		r.recorder.with(func(h *History) {
			read = true
			for _, s := range h.Edges {
				for _, log := range h.Logs {
					read = read && (s.Position.N <= log.Newest() || len(log.Broken) > 0)
				}
			}
		})
		return read
	})
	return nil
}

// hasFaultsBuild finds out whether the programs can be broken: a clock that is off shows in a writer's log alone, so the build is asked.
func (r *run) hasFaultsBuild(ctx context.Context) bool {
	out, err := exec.CommandContext(ctx, "go", "version", "-m", filepath.Join(r.config.Programs, "latchkey-writer")).CombinedOutput()
	return err == nil && strings.Contains(string(out), "-tags=faults")
}

// calmFor is how long the system is left alone between two rounds.
const calmFor = time.Second

// rounds injects one to three faults at a time, and sees the system recover after each round.
func (r *run) rounds(ctx context.Context, lot *rand.Rand) error {
	all, impossible := r.possible()
	for name, why := range impossible {
		r.say("%-34s not possible here: %v", name, why)
	}
	if len(all) == 0 {
		return nil
	}
	d := newDeck(all, lot)
	end := time.Now().Add(r.config.For)
	on := func() bool {
		return time.Now().Before(end) || r.injected() < r.config.AtLeast && time.Now().Before(end.Add(reasonable))
	}
	for round := 1; on() && ctx.Err() == nil; round++ {
		chosen, lots := d.deal()
		if err := r.round(ctx, round, chosen, lots); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// reasonable is for how long beyond Config.For a run goes on for Config.AtLeast.
const reasonable = 2 * time.Minute

// injected is how many faults were.
func (r *run) injected() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, times := range r.counts {
		if !strings.HasPrefix(name, " ") && !strings.HasSuffix(name, "(missed)") {
			n += times
		}
	}
	return n
}

// deck deals the faults of one round after the other. What it deals follows from its lot alone.
type deck struct {
	all   []fault
	first []fault // kinds that have not come yet, in an order by lot: a short run has many kinds
	lot   *rand.Rand
}

func newDeck(all []fault, lot *rand.Rand) *deck {
	d := &deck{all: all, first: slices.Clone(all), lot: lot}
	lot.Shuffle(len(d.first), func(i, j int) { d.first[i], d.first[j] = d.first[j], d.first[i] })
	return d
}

// deal returns the faults of the next round, with a lot for each.
func (d *deck) deal() (chosen []fault, lots []*rand.Rand) {
	for range 1 + d.lot.IntN(3) {
		f := draw(d.lot, d.all)
		if len(d.first) > 0 {
			f = d.first[0]
		}
		if f.alone && len(chosen) > 0 {
			break // its turn comes in the next round
		}
		chosen = append(chosen, f)
		d.first = d.first[min(1, len(d.first)):]
		if f.alone {
			break
		}
	}
	for i := range chosen {
		lots = append(lots, rand.New(rand.NewPCG(d.lot.Uint64(), uint64(i))))
	}
	return chosen, lots
}

// draw picks a fault by weight.
func draw(lot *rand.Rand, all []fault) fault {
	sum := 0
	for _, f := range all {
		sum += f.weight
	}
	n := lot.IntN(sum)
	for _, f := range all {
		if n -= f.weight; n < 0 {
			return f
		}
	}
	return all[0]
}

func (r *run) possible() (all []fault, impossible map[string]error) {
	impossible = map[string]error{}
	for _, f := range faults() {
		if len(r.config.Only) > 0 && !slices.Contains(r.config.Only, f.name) {
			continue
		}
		if f.possible != nil {
			if err := f.possible(r); err != nil {
				impossible[f.name] = err
				continue
			}
		}
		all = append(all, f)
	}
	return all, impossible
}

// between the beginnings of a round's faults lies up to this, by lot.
const staggered = 1500 * time.Millisecond

// round injects faults side by side, waits until all are healed, and measures the recovery.
func (r *run) round(ctx context.Context, number int, chosen []fault, lots []*rand.Rand) error {
	restores := r.restores(ctx)
	var names []string
	var all sync.WaitGroup
	for i, f := range chosen {
		names = append(names, f.name)
		all.Go(func() {
			if i > 0 && pause(ctx, lasts(lots[i], 0, staggered)) != nil {
				return
			}
			r.begun.Add(1)
			r.underWay.Add(1)
			defer r.underWay.Add(-1)
			err := f.inject(ctx, r, lots[i])
			switch {
			case err == nil:
				r.count(f.name, 1)
			case ctx.Err() != nil:
			case errors.Is(err, errMoment):
				r.count(f.name+" (missed)", 1)
			default:
				r.count(f.name, 1)
				r.say("round %d: %s: %v", number, f.name, err)
			}
		})
	}
	all.Wait()
	heal := r.recovery(ctx)
	heal.Round, heal.Faults = number, strings.Join(names, " + ")
	heal.Restores = max(0, r.restores(ctx)-restores)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.recorder.with(func(h *History) { h.Heals = append(h.Heals, heal) })
	r.say("round %3d: %-60s leader %8s, edges %8s, %d acknowledged", number, heal.Faults, took(heal.Leader), took(heal.Fresh), r.recorder.acked())
	return pause(ctx, calmFor)
}

// recovery measures how long it takes until messages are acknowledged again, and until every edge is fresh.
func (r *run) recovery(ctx context.Context) (heal Heal) {
	healed := time.Now()
	heal.Leader, heal.Fresh = -1, -1
	if !await(ctx, 2*r.recorder.h.promised(leaderWithin), func() bool { return r.load.ackedSince(healed) }) {
		return heal
	}
	again := time.Now()
	heal.Leader = again.Sub(healed)
	var newest = r.newestAck()
	if await(ctx, 2*r.recorder.h.promised(freshWithin), func() bool { return r.fresh(ctx, again, newest.N) }) {
		heal.Fresh = time.Since(again)
	}
	return heal
}

func (r *run) newestAck() (newest struct{ N uint64 }) {
	r.recorder.with(func(h *History) {
		for _, a := range h.Acks[max(0, len(h.Acks)-200):] {
			newest.N = max(newest.N, a.Revision.N)
		}
	})
	return newest
}

// fresh reports whether every edge shows the revision, and an as_of that is younger than since.
func (r *run) fresh(ctx context.Context, since time.Time, revision uint64) bool {
	for _, id := range r.cluster.ids("e") {
		var s edgeStatus
		if r.cluster.status(ctx, id, &s) != nil || s.Revision < revision {
			return false
		}
		asOf, err := time.Parse(time.RFC3339, s.AsOf)
		if err != nil || asOf.Add(-time.Duration(r.load.off.Load())).Before(since.Truncate(time.Second)) {
			return false
		}
	}
	return true
}

// spread measures, while NATS is disturbed, how soon a change shows at every edge (I12).
func (r *run) spread(ctx context.Context, what string) error {
	// An edge notices within 2 s that NATS is silent; what it takes from then on is judged.
	for range 3 {
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		begun := r.begun.Load()
		if r.underWay.Load() > 1 {
			continue
		}
		began := time.Now()
		if !await(ctx, r.recorder.h.promised(spreadWithin), func() bool { return r.load.ackedSince(began) }) {
			continue
		}
		newest := r.newestAck()
		began = time.Now()
		all := await(ctx, 2*r.recorder.h.promised(spreadWithin), func() bool {
			for _, id := range r.cluster.ids("e") {
				var s edgeStatus
				if r.cluster.status(ctx, id, &s) != nil || s.Revision < newest.N {
					return false
				}
			}
			return true
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		seen := Spread{what, time.Since(began)}
		if r.begun.Load() != begun || !all && r.underWay.Load() > 1 {
			continue // another fault came: NATS alone cannot be judged
		}
		r.recorder.with(func(h *History) { h.Spreads = append(h.Spreads, seen) })
	}
	return nil
}

func (r *run) restores(ctx context.Context) (sum float64) {
	for _, id := range r.cluster.ids("w") {
		sum += r.cluster.metric(ctx, id, "latchkey_writer_store_restores_total")
	}
	return sum
}

// judge runs the checkers.
func (r *run) judge() (result Result) {
	r.recorder.with(func(h *History) {
		result.History, result.Acked = h, len(h.Acks)
		result.Violations = Check(h)
	})
	for _, v := range result.Violations {
		if v.Invariant == "I1" {
			result.Lost++
		} else {
			result.Wrong++
		}
	}
	result.Faults = r.injected()
	return result
}

// violationsShown is how many of each invariant the table shows.
const violationsShown = 8

// table prints what a person wants to see.
func (r *run) table(result Result) {
	t := tabwriter.NewWriter(r.config.Out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "\nfault\tinjected")
	_, impossible := r.possible()
	for _, f := range faults() {
		switch why := impossible[f.name]; {
		case why != nil:
			fmt.Fprintf(t, "%s\tnot possible here: %v\n", f.name, why)
		case len(r.config.Only) == 0 || slices.Contains(r.config.Only, f.name):
			fmt.Fprintf(t, "%s\t%d\n", f.name, r.counts[f.name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.counts)) {
		if strings.HasPrefix(name, " ") || strings.HasSuffix(name, "(missed)") {
			fmt.Fprintf(t, "%s\t%d\n", name, r.counts[name])
		}
	}
	h := result.History
	var leader, fresh, spread []time.Duration
	for _, heal := range h.Heals {
		leader, fresh = append(leader, heal.Leader), append(fresh, heal.Fresh)
	}
	for _, s := range h.Spreads {
		spread = append(spread, s.Took)
	}
	fmt.Fprintln(t, "\nmeasured\t\tp50\tmost")
	for _, row := range []struct {
		name   string
		values []time.Duration
	}{
		{"healed to the first acknowledgement", leader}, {"then to every edge fresh", fresh}, {"acknowledged to every edge, NATS disturbed", spread},
	} {
		if slices.Sort(row.values); len(row.values) > 0 {
			fmt.Fprintf(t, "%s\t%d\t%s\t%s\n", row.name, len(row.values), took(row.values[len(row.values)/2]), took(row.values[len(row.values)-1]))
		}
	}
	fmt.Fprintf(t, "\nchecked\n")
	for _, row := range []struct {
		name string
		n    int
	}{
		{"acknowledgements", len(h.Acks)}, {"looked for at a writer", len(h.Found)}, {"answers of edges", len(h.Answers)}, {"states of writers", len(h.Writers)},
		{"states of edges", len(h.Edges)}, {"changes folded", changes(h)},
	} {
		fmt.Fprintf(t, "%s\t%d\n", row.name, row.n)
	}
	t.Flush()
	shown := map[string]int{}
	for _, v := range result.Violations {
		if shown[v.Invariant]++; shown[v.Invariant] <= violationsShown {
			fmt.Fprintf(r.config.Out, "WRONG %s\n", v)
		}
	}
	for _, invariant := range slices.Sorted(maps.Keys(shown)) {
		if more := shown[invariant] - violationsShown; more > 0 {
			fmt.Fprintf(r.config.Out, "WRONG %s: and %d more\n", invariant, more)
		}
	}
	if len(result.Violations) > 0 {
		fmt.Fprintf(r.config.Out, "the nodes' logs: %s\n", filepath.Join(r.config.Dir, "logs"))
	}
	fmt.Fprintln(r.config.Out, result)
}

func changes(h *History) (n int) {
	if f := h.longest(); f != nil {
		n = int(f.Newest())
	}
	return n
}

// stopWith ends the cluster and calls f when no process runs any more and every folder is still there.
func (c *Cluster) stopWith(f func() error) error {
	c.beforeUnmount = f
	return c.Stop()
}
