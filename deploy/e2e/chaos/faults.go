package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// fault is one way to break the system. inject does it, waits for as long as it lasts, and returns when it is healed: when the last
// process runs again, the last link is whole. Its error is that of ctx, or that the fault could not be had at this moment.
type fault struct {
	name   string
	weight int
	// alone keeps other faults away for as long as it lasts: it needs the machine in a known state.
	alone bool
	// possible tells why the fault cannot be had here, or nil.
	possible func(*run) error
	inject   func(ctx context.Context, r *run, lot *rand.Rand) error
}

// errMoment means that a fault could not be had at this moment: there was no leader to kill, say.
var errMoment = errors.New("not at this moment")

// faults are all that is known, in the order of the table.
func faults() []fault {
	return []fault{
		{name: "kill the leader", weight: 4, inject: killOne(leaders)},
		{name: "kill a follower", weight: 2, inject: killOne(followers)},
		{name: "kill an edge", weight: 2, inject: killOne(edges)},
		{name: "kill a majority of writers", weight: 1, inject: killSome(2)},
		{name: "kill all writers", weight: 1, inject: killSome(9)},
		{name: "a follower is away for long", weight: 1, inject: away},
		{name: "freeze the leader", weight: 3, inject: freeze(leaders)},
		{name: "freeze a follower", weight: 1, inject: freeze(followers)},
		{name: "freeze an edge", weight: 1, inject: freeze(edges)},
		{name: "crash a writer at a named point", weight: 5, possible: builtWithFaults, inject: crashAt("w", writerPoints)},
		{name: "crash an edge at a named point", weight: 3, possible: builtWithFaults, inject: crashAt("e", edgePoints)},
		{name: "cut the leader off", weight: 3, possible: relayKnows, inject: cutOff(leaders)},
		{name: "cut a follower off", weight: 1, possible: relayKnows, inject: cutOff(followers)},
		{name: "cut all writers from one another", weight: 1, possible: relayKnows, inject: cutAll},
		{name: "cut one direction of the leader", weight: 3, possible: relayKnows, inject: oneWay},
		{name: "cut an edge from all writers", weight: 2, possible: relayKnows, inject: cutEdge},
		{name: "cut writers from NATS", weight: 1, possible: outsideNATS, inject: cutNATS("w")},
		{name: "cut edges from NATS", weight: 1, possible: relayKnows, inject: cutNATS("e")},
		{name: "stop NATS", weight: 1, possible: outsideNATS, inject: stopNATS},
		{name: "forge NATS", weight: 2, inject: forgeNATS},
		{name: "slow links", weight: 2, inject: slowLinks},
		{name: "drop all connections", weight: 1, inject: dropConnections},
		{name: "disk full", weight: 1, possible: hasSmallDisk, inject: fillDisk},
		{name: "fsync fails on a writer", weight: 2, possible: canTrace, inject: failSync("w")},
		{name: "fsync fails on an edge", weight: 1, possible: canTrace, inject: failSync("e")},
		{name: "a bit of an edge's file flips", weight: 2, inject: spoilEdge(flipBit)},
		{name: "an edge's file is torn", weight: 1, inject: spoilEdge(tear)},
		{name: "a writer's last write is torn", weight: 2, inject: tearWriter},
		{name: "a bit of a writer's snapshot flips", weight: 1, alone: true, inject: flipSnapshot},
		{name: "a bit of a writer's state flips", weight: 1, alone: true, inject: flipState},
		{name: "a bit of a writer's log flips", weight: 2, alone: true, inject: flipLog},
		{name: "one writer's clock is off", weight: 2, possible: builtWithFaults, inject: clockOfOne},
		{name: "all clocks jump ahead", weight: 1, alone: true, possible: builtWithFaults, inject: clockOfAll},
		{name: "one more writer joins and leaves", weight: 1, possible: canJoin, inject: joinAndLeave},
		{name: "hand leadership on", weight: 1, inject: transfer},
	}
}

// crashPoint is an instruction at which a build with the tag "faults" can kill itself.
type crashPoint struct {
	name  string
	often bool // it is passed all the time under load: not the first time is meant, but one by lot
	copy  bool // it is on the way of an edge's new copy, so the edge must lose its data to come there
}

var writerPoints = []crashPoint{
	{name: "log-before-sync", often: true},     // a batch of Raft's log is encoded and not on the disk
	{name: "log-after-sync", often: true},      // it is on this disk and nobody was told
	{name: "vote-after-sync"},                  // a vote is on the disk and was not sent
	{name: "journal-written", often: true},     // the journal has the batch, the state does not
	{name: "state-before-commit", often: true}, // the transaction is complete and not committed
	{name: "state-after-commit", often: true},  // committed, and nobody who waits was woken
	{name: "committed-not-answered"},           // a message is committed, its sender has no answer
	{name: "change-before-publish"},            // a batch of changes is signed and not sent to NATS
	{name: "snapshot-written"},                 // a Raft snapshot is written and not named
	{name: "snapshot-named"},                   // it is named, and the log behind it is whole
	{name: "restore-before-rename"},            // a snapshot is unpacked and verified beside the present state
	{name: "restore-after-rename"},             // it is in its place and not in use
}

var edgePoints = []crashPoint{
	{name: "replica-apply", often: true},           // a batch is verified
	{name: "replica-commit", often: true},          // its transaction is complete and not committed
	{name: "replica-committed", often: true},       // committed, and no reader sees it
	{name: "replica-applied", often: true},         // readers see it
	{name: "replica-build-filling", copy: true},    // a part of a downloaded copy is written
	{name: "replica-build-filled", copy: true},     // all of it
	{name: "replica-build-proven", copy: true},     // read back, and not up to date
	{name: "replica-adopt-synced", copy: true},     // up to date, and without a name
	{name: "replica-adopt-christened", copy: true}, // with its name, and CURRENT does not have it
	{name: "replica-adopt-named", copy: true},      // CURRENT names it, and readers have the old one
	{name: "replica-adopt-done", copy: true},       // the old one is gone
	{name: "replica-file-written", copy: true},     // a small file stands beside the one that it replaces
}

// Why a fault cannot be had.

func builtWithFaults(r *run) error {
	if !r.faultsBuild {
		return errors.New("the programs are not built with -tags faults")
	}
	return nil
}

func relayKnows(r *run) error {
	if !r.sourcesKnown {
		return errors.New("the system does not tell which process a connection is from")
	}
	return nil
}

func outsideNATS(r *run) error {
	if r.cluster.nats == nil {
		return r.noNATS
	}
	return nil
}

func hasSmallDisk(r *run) error {
	if r.smallDisk == "" {
		return r.noSmallDisk
	}
	return nil
}

func canTrace(*run) error {
	if _, err := exec.LookPath("strace"); err != nil {
		return errors.New("strace is not installed")
	}
	if out, err := exec.Command("strace", "-e", "trace=none", "true").CombinedOutput(); err != nil {
		return fmt.Errorf("strace cannot trace here: %.100s", bytes.TrimSpace(out))
	}
	return nil
}

// Whom a fault is about.

type target func(ctx context.Context, r *run, lot *rand.Rand) (string, error)

func leaders(ctx context.Context, r *run, _ *rand.Rand) (id string, err error) {
	if !await(ctx, 3*time.Second, func() bool { id = r.cluster.leader(ctx); return id != "" }) {
		return "", fmt.Errorf("%w: no leader", errMoment)
	}
	if !slices.Contains(r.cluster.ids("w"), id) {
		return "", fmt.Errorf("%w: a writer leads that is only a guest", errMoment)
	}
	return id, nil
}

func followers(ctx context.Context, r *run, lot *rand.Rand) (string, error) {
	leader, err := leaders(ctx, r, lot)
	if err != nil {
		return "", err
	}
	return pick(lot, slices.DeleteFunc(r.cluster.ids("w"), func(id string) bool { return id == leader })), nil
}

func edges(_ context.Context, r *run, lot *rand.Rand) (string, error) {
	return pick(lot, r.cluster.ids("e")), nil
}

func anyOf(prefix string) target {
	return func(_ context.Context, r *run, lot *rand.Rand) (string, error) {
		return pick(lot, r.cluster.ids(prefix)), nil
	}
}

func pick[T any](lot *rand.Rand, all []T) T { return all[lot.IntN(len(all))] }

// lasts draws how long a fault lasts.
func lasts(lot *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(lot.Int64N(int64(most-least)))
}

// Processes.

// kill ends nodes as a power cut would, at an instant by lot, and returns when others run in their place.
func (r *run) kill(ctx context.Context, ids ...string) error {
	pids := map[string]int{}
	for _, id := range ids {
		pids[id] = r.cluster.node(id).PID
		r.cluster.signal(id, syscall.SIGKILL)
	}
	for _, id := range ids {
		if !r.cluster.up(ctx, id, pids[id]) {
			return r.notUp(ctx, id)
		}
	}
	return nil
}

func (r *run) notUp(ctx context.Context, id string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.load.strange(id + " does not come up again")
	return fmt.Errorf("%s does not come up again", id)
}

// down kills a node, keeps it down, calls f while it is, and starts it again with env.
func (r *run) down(ctx context.Context, id string, f func() error, env ...string) error {
	pid := r.cluster.node(id).PID
	r.cluster.hold(id)
	r.cluster.signal(id, syscall.SIGKILL)
	gone := r.cluster.gone(ctx, id, pid, 5*time.Second)
	var err error
	if gone && f != nil {
		err = f()
	}
	r.cluster.release(id, env...)
	if !gone {
		return fmt.Errorf("%w: %s does not end", errMoment, id)
	}
	if !r.cluster.up(ctx, id, pid) {
		return errors.Join(err, r.notUp(ctx, id))
	}
	return err
}

func killOne(whom target) func(context.Context, *run, *rand.Rand) error {
	return func(ctx context.Context, r *run, lot *rand.Rand) error {
		id, err := whom(ctx, r, lot)
		if err != nil {
			return err
		}
		return r.kill(ctx, id)
	}
}

func killSome(n int) func(context.Context, *run, *rand.Rand) error {
	return func(ctx context.Context, r *run, lot *rand.Rand) error {
		ids := r.cluster.ids("w")
		lot.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		return r.kill(ctx, ids[:min(n, len(ids))]...)
	}
}

// away keeps a follower down until the others have forgotten the part of the log that it lacks: it must be given a snapshot.
func away(ctx context.Context, r *run, lot *rand.Rand) error {
	id, err := followers(ctx, r, lot)
	if err != nil {
		return err
	}
	return r.down(ctx, id, func() error { return pause(ctx, lasts(lot, 8*time.Second, 16*time.Second)) })
}

func freeze(whom target) func(context.Context, *run, *rand.Rand) error {
	return func(ctx context.Context, r *run, lot *rand.Rand) error {
		id, err := whom(ctx, r, lot)
		if err != nil {
			return err
		}
		r.cluster.signal(id, syscall.SIGSTOP)
		defer r.cluster.signal(id, syscall.SIGCONT)
		return pause(ctx, lasts(lot, time.Second, 8*time.Second))
	}
}

// crashAt starts a node so that it kills itself at a point, and waits until it has.
func crashAt(prefix string, points []crashPoint) func(context.Context, *run, *rand.Rand) error {
	return func(ctx context.Context, r *run, lot *rand.Rand) error {
		id, point, count := pick(lot, r.cluster.ids(prefix)), pick(lot, points), 1
		if point.often {
			count += lot.IntN(60)
		}
		spoil := func() error { return nil }
		if point.copy {
			spoil = func() error { return r.forget(id) }
		}
		if err := r.down(ctx, id, spoil, fmt.Sprintf("LATCHKEY_FAULT_CRASH=%s:%d", point.name, count)); err != nil {
			return err
		}
		pid := r.cluster.node(id).PID
		if !r.cluster.gone(ctx, id, pid, crashWithin) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.count("  point not reached: "+point.name, 1)
			return r.kill(ctx, id) // so that it does not crash in a later round
		}
		r.count("  point reached: "+point.name, 1)
		if !r.cluster.up(ctx, id, pid) {
			return r.notUp(ctx, id)
		}
		return nil
	}
}

// crashWithin is how long a node may take to come to its point under load.
const crashWithin = 8 * time.Second

// forget makes an edge lose its data, while it is down.
func (r *run) forget(id string) error {
	files, err := filepath.Glob(filepath.Join(r.cluster.node(id).Dir, "replica", "*.db"))
	for _, path := range files {
		err = errors.Join(err, os.Truncate(path, 1000))
	}
	return err
}

// Links.

// between are the rules that cut one side from the other, for links of some kinds, in both directions.
func between(a, b []string, reset bool, kinds ...string) []Rule {
	return []Rule{{From: a, To: b, Kinds: kinds, Cut: true, Reset: reset}, {From: b, To: a, Kinds: kinds, Cut: true, Reset: reset}}
}

// impose holds rules for a while.
func (r *run) impose(ctx context.Context, d time.Duration, rules ...Rule) error {
	var lifts []func()
	for _, rule := range rules {
		lifts = append(lifts, r.cluster.relay.Impose(rule))
	}
	err := pause(ctx, d)
	for _, lift := range lifts {
		lift()
	}
	return err
}

func without(all []string, some ...string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(id string) bool { return slices.Contains(some, id) })
}

// cutOff parts a writer from the other writers; clients and edges still reach all.
func cutOff(whom target) func(context.Context, *run, *rand.Rand) error {
	return func(ctx context.Context, r *run, lot *rand.Rand) error {
		id, err := whom(ctx, r, lot)
		if err != nil {
			return err
		}
		rules := between([]string{id}, without(r.cluster.ids("w"), id), lot.IntN(3) == 0, KindRaft, KindInternal, KindRoute)
		return r.impose(ctx, lasts(lot, 2*time.Second, 8*time.Second), rules...)
	}
}

func cutAll(ctx context.Context, r *run, lot *rand.Rand) error {
	ids := r.cluster.ids("w")
	return r.impose(ctx, lasts(lot, 2*time.Second, 6*time.Second), between(ids, ids, lot.IntN(3) == 0, KindRaft, KindInternal, KindRoute)...)
}

// oneWay cuts what the leader sends to the others, or what they send to it.
func oneWay(ctx context.Context, r *run, lot *rand.Rand) error {
	id, err := leaders(ctx, r, lot)
	if err != nil {
		return err
	}
	rules := between([]string{id}, without(r.cluster.ids("w"), id), false, KindRaft, KindInternal)
	return r.impose(ctx, lasts(lot, 2*time.Second, 8*time.Second), rules[lot.IntN(2)])
}

func cutEdge(ctx context.Context, r *run, lot *rand.Rand) error {
	id := pick(lot, r.cluster.ids("e"))
	kinds := []string{KindInternal, KindNATS}
	if lot.IntN(2) == 0 {
		kinds = kinds[:1] // NATS still reaches it
	}
	return r.impose(ctx, lasts(lot, 2*time.Second, 8*time.Second), between([]string{id}, nil, lot.IntN(3) == 0, kinds...)...)
}

// cutNATS cuts writers or edges from NATS, and sees that changes show all the same (I12).
func cutNATS(prefix string) func(context.Context, *run, *rand.Rand) error {
	return func(ctx context.Context, r *run, lot *rand.Rand) error {
		var lifts []func()
		for _, rule := range between(r.cluster.ids(prefix), nil, false, KindNATS) {
			lifts = append(lifts, r.cluster.relay.Impose(rule))
		}
		err := r.spread(ctx, "NATS cut from "+prefix)
		for _, lift := range lifts {
			lift()
		}
		return err
	}
}

func stopNATS(ctx context.Context, r *run, _ *rand.Rand) error {
	r.cluster.nats.kill()
	err := r.spread(ctx, "NATS stopped")
	return errors.Join(err, r.cluster.nats.start())
}

// slowLinks delays every link, each direction by a lot of its own, for a while.
func slowLinks(ctx context.Context, r *run, lot *rand.Rand) error {
	var rules []Rule
	all := slices.Concat(r.cluster.ids("w"), r.cluster.ids("e"), []string{NATS, Client})
	for _, from := range all {
		rules = append(rules, Rule{From: []string{from}, Delay: lasts(lot, 0, 120*time.Millisecond)})
	}
	return r.impose(ctx, lasts(lot, 3*time.Second, 8*time.Second), rules...)
}

func dropConnections(ctx context.Context, r *run, lot *rand.Rand) error {
	for range 3 + lot.IntN(5) {
		r.cluster.relay.Impose(Rule{Reset: true})()
		if err := pause(ctx, lasts(lot, 100*time.Millisecond, 900*time.Millisecond)); err != nil {
			return err
		}
	}
	return nil
}

// forgeNATS repeats, reorders and alters what it hears, for a while, as whoever owns the NATS server could.
func forgeNATS(ctx context.Context, r *run, lot *rand.Rand) error {
	address := fmt.Sprintf("127.0.0.1:%d", r.cluster.port+31)
	if r.cluster.nats != nil {
		address = r.cluster.nats.address
	}
	c, err := dialNATS(address)
	if err != nil {
		return fmt.Errorf("%w: %w", errMoment, err)
	}
	defer c.close()
	heard := make(chan natsMessage, 256)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			m, err := c.next()
			if err != nil {
				return
			}
			select {
			case heard <- m:
			default: // enough for a lie
			}
		}
	}()
	defer func() { c.close(); <-done }()
	over := time.After(lasts(lot, 3*time.Second, 7*time.Second))
	var kept []natsMessage
	for told := 0; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-over:
			return r.spread(ctx, "NATS forged")
		case m := <-heard:
			if len(m.data) == 0 {
				break // one of our own
			}
			kept = append(kept, natsMessage{m.subject, bytes.Clone(m.data)})
			if len(kept) > 500 {
				kept = kept[1:]
			}
		case <-time.After(10 * time.Millisecond):
		}
		if len(kept) == 0 {
			continue
		}
		lie := pick(lot, kept)
		lie.data = bytes.Clone(lie.data)
		switch lot.IntN(4) {
		case 0: // repeated and late, as it was
		case 1: // a bit of it
			lie.data[lot.IntN(len(lie.data))] ^= 1 << lot.IntN(8)
		case 2: // the other subject
			lie.subject = pick(lot, kept).subject
		default: // cut short
			lie.data = lie.data[:lot.IntN(len(lie.data)+1)]
		}
		if err := c.publish(lie); err != nil {
			return nil // it was stopped meanwhile
		}
		told++
	}
}

// Disks.

// fillDisk leaves a writer's disk without room for a while.
func fillDisk(ctx context.Context, r *run, lot *rand.Rand) error {
	dir := r.cluster.node(r.smallDisk).Dir
	has, err := used(dir)
	if err != nil {
		return err
	}
	left := lot.Int64N(256 << 10)
	if lot.IntN(2) == 0 {
		left = 100 << 20 // nearly full: the writer must leave the lead before anything fails
	}
	if err := resize(dir, has+left); err != nil {
		return err
	}
	err = pause(ctx, lasts(lot, 3*time.Second, 8*time.Second))
	pid := r.cluster.node(r.smallDisk).PID
	if err := resize(dir, tmpfsBytes); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	// It may have ended itself, again and again while the disk was full.
	if !await(ctx, 20*time.Second, func() bool {
		n := r.cluster.node(r.smallDisk)
		return n.PID != 0 && (n.PID == pid || pid == 0 || n.PID != pid) && r.cluster.status(ctx, n.ID, &struct{}{}) == nil
	}) {
		return r.notUp(ctx, r.smallDisk)
	}
	return nil
}

// failSync makes every fsync of a node fail, until it ends itself or for a while.
func failSync(prefix string) func(context.Context, *run, *rand.Rand) error {
	return func(ctx context.Context, r *run, lot *rand.Rand) error {
		id := pick(lot, r.cluster.ids(prefix))
		pid := r.cluster.node(id).PID
		if pid == 0 {
			return errMoment
		}
		tracing := exec.Command("strace", "-f", "-q", "-o", filepath.Join(r.cluster.dir, "strace.out"), "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO", "-p", fmt.Sprint(pid))
		tracing.SysProcAttr = attributes()
		if err := tracing.Start(); err != nil {
			return fmt.Errorf("%w: %w", errMoment, err)
		}
		ended := r.cluster.gone(ctx, id, pid, lasts(lot, 3*time.Second, 6*time.Second))
		_ = tracing.Process.Signal(syscall.SIGINT)
		_ = tracing.Wait()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !ended {
			return nil
		}
		if !r.cluster.up(ctx, id, pid) {
			return r.notUp(ctx, id)
		}
		return nil
	}
}

// largest is the file that holds most, of those that a pattern names.
func largest(pattern string) (path string, content []byte, err error) {
	files, err := filepath.Glob(pattern)
	for _, f := range files {
		b, readErr := os.ReadFile(f)
		if err = errors.Join(err, readErr); len(b) > len(content) {
			path, content = f, b
		}
	}
	if path == "" {
		err = errors.Join(err, fmt.Errorf("%w: no file %s", errMoment, filepath.Base(pattern)))
	}
	return path, content, err
}

func flipBit(path string, content []byte, lot *rand.Rand) error {
	at := lot.IntN(len(content))
	return overwrite(path, int64(at), []byte{content[at] ^ 1<<lot.IntN(8)})
}

// tear puts noise where a page was being written.
func tear(path string, content []byte, lot *rand.Rand) error {
	const page = 4096
	at := lot.IntN(len(content)/page) * page
	noise := make([]byte, lot.IntN(page))
	for i := range noise {
		noise[i] = byte(lot.Uint32())
	}
	return overwrite(path, int64(at), noise)
}

func overwrite(path string, at int64, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, at)
	return errors.Join(err, f.Close())
}

// spoilEdge damages an edge's replica while it is down.
func spoilEdge(how func(path string, content []byte, lot *rand.Rand) error) func(context.Context, *run, *rand.Rand) error {
	return func(ctx context.Context, r *run, lot *rand.Rand) error {
		id := pick(lot, r.cluster.ids("e"))
		return r.down(ctx, id, func() error {
			path, content, err := largest(filepath.Join(r.cluster.node(id).Dir, "replica", "*.db"))
			if err != nil {
				return err
			}
			return how(path, content, lot)
		})
	}
}

// tearWriter puts noise behind the last bytes of a writer's log and journal, as of a write that the power cut short: nothing that
// was synced.
func tearWriter(ctx context.Context, r *run, lot *rand.Rand) error {
	id := pick(lot, r.cluster.ids("w"))
	return r.down(ctx, id, func() error {
		noise := make([]byte, 16+lot.IntN(3000))
		for i := range noise {
			noise[i] = byte(lot.Uint32())
		}
		dir := r.cluster.node(id).Dir
		files, err := filepath.Glob(filepath.Join(dir, "raft", "*.wal"))
		if err != nil || len(files) == 0 {
			return errors.Join(errMoment, err)
		}
		slices.Sort(files)
		tail := files[len(files)-1]
		content, err := os.ReadFile(tail)
		if err != nil {
			return err
		}
		end := len(bytes.TrimRight(content, "\x00"))
		const word = 8 // frames are padded with zeros to this
		end = (end + word - 1) / word * word
		if end+len(noise) < len(content) {
			if err := overwrite(tail, int64(end), noise); err != nil {
				return err
			}
		}
		path, journal, err := largest(filepath.Join(dir, "journal", "*.seg"))
		if err != nil {
			return err
		}
		return overwrite(path, int64(len(journal)), noise)
	})
}

// flipSnapshot turns a bit of a writer's newest Raft snapshot over, while it is down. The writer must take the older one, or refuse to start;
// then the bit is mended, as an operator would bring another disk.
func flipSnapshot(ctx context.Context, r *run, lot *rand.Rand) error {
	id := pick(lot, r.cluster.ids("w"))
	return r.damaged(ctx, id, lot, func() (string, error) {
		all, err := filepath.Glob(filepath.Join(r.cluster.node(id).Dir, "snapshots", "*", "state.bin"))
		if err != nil || len(all) == 0 {
			return "", errors.Join(fmt.Errorf("%w: no snapshot yet", errMoment), err)
		}
		return slices.MaxFunc(all, func(a, b string) int { return modified(a).Compare(modified(b)) }), nil
	})
}

func modified(path string) time.Time {
	st, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return st.ModTime()
}

// flipState turns a bit of a writer's state file over, while it is down: the file is derived, and must not be believed without proof.
func flipState(ctx context.Context, r *run, lot *rand.Rand) error {
	id := pick(lot, r.cluster.ids("w"))
	return r.damaged(ctx, id, lot, func() (string, error) {
		path := filepath.Join(r.cluster.node(id).Dir, "state.db")
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("%w: %w", errMoment, err)
		}
		return path, nil
	})
}

// flipLog turns a bit of a writer's log over, while it is down: what it reads there it must neither believe nor pass on, and it must not vote
// as if nothing were missing. A writer that refuses to start gets the bit back.
func flipLog(ctx context.Context, r *run, lot *rand.Rand) error {
	id := pick(lot, r.cluster.ids("w"))
	return r.damaged(ctx, id, lot, func() (string, error) {
		all, err := filepath.Glob(filepath.Join(r.cluster.node(id).Dir, "raft", "*.wal"))
		if err != nil || len(all) == 0 {
			return "", errors.Join(errMoment, err)
		}
		return slices.Max(all), nil
	})
}

// damaged flips a bit of a file while the node is down. If it then does not come up, or ends itself, the bit is flipped back.
func (r *run) damaged(ctx context.Context, id string, lot *rand.Rand, choose func() (string, error)) error {
	var path string
	var position int64
	var was byte
	turn := func(b byte) error { return overwrite(path, position, []byte{b}) }
	pid := r.cluster.node(id).PID
	r.cluster.hold(id)
	r.cluster.signal(id, syscall.SIGKILL)
	if !r.cluster.gone(ctx, id, pid, 5*time.Second) {
		r.cluster.release(id)
		return fmt.Errorf("%w: %s does not end", errMoment, id)
	}
	err := func() (err error) {
		if path, err = choose(); err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		written := len(bytes.TrimRight(content, "\x00")) // files of the log are made whole at once
		if written == 0 {
			return fmt.Errorf("%w: nothing written yet", errMoment)
		}
		position = int64(lot.IntN(written))
		was = content[position]
		return turn(was ^ 1<<lot.IntN(8))
	}()
	r.cluster.release(id)
	if err != nil {
		return errors.Join(err, r.upAgain(ctx, id, pid))
	}
	// It shows within seconds whether it can live with that: it reads all that it applies.
	fine := await(ctx, damageShows, func() bool { return r.cluster.node(id).PID != 0 && r.cluster.status(ctx, id, &struct{}{}) == nil }) &&
		!r.endsItself(ctx, id, damageShows/2)
	if fine {
		r.count("  damage survived", 1)
		return nil
	}
	r.count("  damage refused", 1)
	pid = r.cluster.node(id).PID
	r.cluster.hold(id)
	r.cluster.signal(id, syscall.SIGKILL)
	if pid != 0 {
		r.cluster.gone(ctx, id, pid, 5*time.Second)
	}
	err = turn(was)
	r.cluster.release(id)
	return errors.Join(err, r.upAgain(ctx, id, pid))
}

// damageShows is how long a writer gets to come up with a damaged file.
const damageShows = 8 * time.Second

// endsItself reports whether the node's process ends within the time.
func (r *run) endsItself(ctx context.Context, id string, within time.Duration) bool {
	pid := r.cluster.node(id).PID
	return r.cluster.gone(ctx, id, pid, within)
}

func (r *run) upAgain(ctx context.Context, id string, pid int) error {
	if r.cluster.up(ctx, id, pid) {
		return nil
	}
	return r.notUp(ctx, id)
}

// Clocks.

// clockOfOne puts one writer's clock off by up to ten minutes, and right again.
func clockOfOne(ctx context.Context, r *run, lot *rand.Rand) error {
	id, err := anyOf("w")(ctx, r, lot)
	if lot.IntN(2) == 0 {
		id, err = leaders(ctx, r, lot)
	}
	if err != nil {
		return err
	}
	r.load.clocks.Store(true)
	all := time.Duration(r.load.off.Load())
	off := lasts(lot, 3*time.Second, 10*time.Minute)
	if lot.IntN(2) == 0 {
		off = -off
	}
	if err := r.cluster.setClock(id, all+off); err != nil {
		return err
	}
	err = pause(ctx, lasts(lot, 3*time.Second, 10*time.Second))
	return errors.Join(err, r.cluster.setClock(id, all))
}

// clockOfAll lets all clocks jump ahead alike, and leaves them there: behind the last stamp nothing would be proposed.
func clockOfAll(ctx context.Context, r *run, lot *rand.Rand) error {
	r.load.clocks.Store(true)
	off := time.Duration(r.load.off.Load()) + lasts(lot, time.Second, 10*time.Minute)
	now := time.Now()
	r.recorder.with(func(h *History) { h.Shifts = append(h.Shifts, Shift{now, off}) })
	var errs []error
	for _, id := range r.cluster.ids("w") {
		errs = append(errs, r.cluster.setClock(id, off))
	}
	r.load.off.Store(int64(off))
	return errors.Join(append(errs, pause(ctx, 2*time.Second))...)
}

// Members.

func transfer(ctx context.Context, r *run, lot *rand.Rand) error {
	id, err := leaders(ctx, r, lot)
	if err != nil {
		return err
	}
	if _, err := r.cluster.run(ctx, id, "transfer"); err != nil {
		return fmt.Errorf("%w: %w", errMoment, err)
	}
	return nil
}
