package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/fault"
	"github.com/latchkey/latchkey/replication"
)

// Config is what Open needs.
type Config struct {
	// Dir belongs to the replica alone. It is trusted: whoever can write it can grant themselves any entitlement.
	Dir string
	// Rules is the highest rules version that the program knows.
	Rules uint32
	// Logger may be nil.
	Logger *slog.Logger
	// BootID names the time since the machine last started; empty asks the kernel. For tests.
	BootID string
}

// ErrUnproven means that the replica cannot say yet: a record was not found, and the file has not been proven whole since this process
// started, or all of it is in doubt after a power loss. Ask again soon.
var ErrUnproven = errors.New("replica not proven yet")

// File names in Dir.
const (
	currentFile = "CURRENT" // the name of the file that is served
	openMark    = "OPEN"    // the boot id under which the replica was last opened; absent after an orderly end
	floorFile   = "FLOOR"   // the revision that was served from a file found damaged
	dataSuffix  = ".db"
	tempSuffix  = ".tmp"
	badSuffix   = ".bad"
)

const (
	syncEvery  = 30 * time.Second
	bootIDFile = "/proc/sys/kernel/random/boot_id"
)

// Replica is an edge's copy of all records. It implements replication.Replica.
type Replica struct {
	cfg     Config
	lost    chan struct{}
	stop    context.CancelFunc
	workers sync.WaitGroup

	writing sync.Mutex // Apply, Advance, Adopt, Close and the periodic sync
	current atomic.Pointer[file]
	closed  bool // under writing

	mu      sync.Mutex
	updated chan struct{}
	floor   replication.Revision // nothing older is adopted
	doubt   atomic.Bool          // nothing is answered before the file is proven
	damages atomic.Uint64
}

// Open opens the replica in cfg.Dir and serves what is there at once, or nothing if there is nothing. Proving the whole file goes on in
// the background. A damaged file is set aside, not an error.
func Open(cfg Config) (*Replica, error) {
	r, err := open(cfg)
	if err != nil {
		return nil, fmt.Errorf("open replica: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	if f := r.current.Load(); f != nil {
		r.workers.Go(func() { r.prove(ctx, f) })
	}
	r.workers.Go(func() { r.syncNowAndThen(ctx) })
	return r, nil
}

func open(cfg Config) (*Replica, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Replica{cfg: cfg, lost: make(chan struct{}, 1), updated: make(chan struct{})}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	return r, r.load()
}

// load opens the file that CURRENT names and clears away what earlier processes left.
func (r *Replica) load() error {
	if text, err := os.ReadFile(r.path(floorFile)); err == nil {
		r.floor, _ = replication.ParseRevision(strings.TrimSpace(string(text)))
	}
	boot := r.cfg.BootID
	if boot == "" {
		text, err := os.ReadFile(bootIDFile)
		if err != nil {
			return err
		}
		boot = strings.TrimSpace(string(text))
	}
	mark, err := os.ReadFile(r.path(openMark))
	// The file is written without fsync: after a crash of this process the kernel still has everything, after one of the machine it
	// may be torn anywhere.
	doubt := err == nil && string(mark) != boot
	current, named, err := r.choose()
	if err != nil {
		return err
	}
	if err := writeFile(r.path(openMark), []byte(boot)); err != nil {
		return err
	}
	if current == "" {
		return r.clear("")
	}
	f, err := openFile(r.path(current), r.cfg.Rules)
	if errors.Is(err, os.ErrPermission) {
		return err
	}
	if err != nil {
		r.cfg.Logger.Error("replica file cannot be used", "file", current, "error", err)
		r.noteFloor(servedFrom(current))
		r.damages.Add(1)
		if err := r.setAside(r.path(current)); err != nil {
			return err
		}
		return r.clear("")
	}
	r.current.Store(f)
	r.doubt.Store(doubt || !named)
	if err := f.intact(); err != nil {
		r.giveUp(f, err)
	}
	return r.clear(current)
}

// choose returns the name of the file to serve, "" if there is none, and whether CURRENT names it. Should CURRENT be lost, the file that
// goes furthest is as good: each that has its name was proven and up to date when it got it, and is proven again before it answers.
func (r *Replica) choose() (current string, named bool, err error) {
	text, err := os.ReadFile(r.path(currentFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", false, err
	}
	name := filepath.Base(strings.TrimSpace(string(text)))
	if _, err := os.Stat(r.path(name)); err == nil && strings.HasSuffix(name, dataSuffix) {
		return name, true, nil
	}
	files, err := filepath.Glob(r.path("*" + dataSuffix))
	if err != nil {
		return "", false, err
	}
	var furthest replication.Head
	for _, path := range files {
		f, err := openFile(path, r.cfg.Rules)
		if err != nil {
			r.cfg.Logger.Error("replica file cannot be used", "file", filepath.Base(path), "error", err)
			continue
		}
		if head := f.Head(); head.Revision().Compare(r.floor) >= 0 && (current == "" || head.Revision().Compare(furthest.Revision()) > 0) {
			current, furthest = filepath.Base(path), head
		}
		if err := f.close(); err != nil {
			return "", false, err
		}
	}
	return current, false, nil
}

func (r *Replica) path(name string) string { return filepath.Join(r.cfg.Dir, name) }

// clear removes unfinished and replaced files.
func (r *Replica) clear(current string) error {
	entries, err := os.ReadDir(r.cfg.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if name != current && (strings.HasSuffix(name, tempSuffix) || strings.HasSuffix(name, dataSuffix)) {
			if err := os.Remove(r.path(name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// prove recomputes the state hash over the whole file.
func (r *Replica) prove(ctx context.Context, f *file) {
	started := time.Now()
	err := f.verify(ctx.Err)
	switch {
	case err == nil:
		r.trust(f)
		r.cfg.Logger.Info("replica proven", "revision", f.Head().Revision().String(), "duration_seconds", time.Since(started).Seconds())
		r.announce()
	case ctx.Err() == nil && errors.Is(err, replication.ErrCorrupt):
		r.giveUp(f, err)
	}
}

// trust ends the doubt about a file that has been proven, and names it in CURRENT, which may have been lost.
func (r *Replica) trust(f *file) {
	r.writing.Lock()
	defer r.writing.Unlock()
	if r.current.Load() != f || !r.doubt.Swap(false) {
		return
	}
	if err := r.name(f); err != nil {
		r.cfg.Logger.Error("note the proven replica", "error", err)
	}
}

// name makes CURRENT name a file.
func (r *Replica) name(f *file) error {
	return writeFile(r.path(currentFile), []byte(filepath.Base(f.path)+"\n"))
}

func (r *Replica) syncNowAndThen(ctx context.Context) {
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		r.writing.Lock()
		if f := r.current.Load(); f != nil && !r.closed && !f.bad.Load() {
			if err := f.sync(); err != nil {
				r.cfg.Logger.Error("replica sync", "error", err)
			}
		}
		r.writing.Unlock()
	}
}

// Reading is one look at the records: all of it is of one revision. It must be closed, and soon: it keeps pages from being used again.
type Reading struct {
	// Head is the revision, and as_of at the time of Read.
	Head replication.Head
	// Generation names the records: as long as it is the same, they are.
	Generation uint64

	r *Replica
	f *file
	v *view
}

// Read begins a look at the records. Errors: replication.ErrNoData, ErrUnproven.
func (r *Replica) Read() (Reading, error) {
	f := r.current.Load()
	if f == nil {
		return Reading{}, replication.ErrNoData
	}
	if r.doubt.Load() {
		return Reading{}, ErrUnproven
	}
	v, head, gen, err := f.acquire()
	if err != nil {
		return Reading{}, err
	}
	return Reading{Head: head, Generation: gen, r: r, f: f, v: v}, nil
}

// Close ends the look.
func (x *Reading) Close() { x.v.release() }

// Get appends a record's value to dst. Its checksum is compared, and that of every page on the way. Not found is proven only when
// found is false without an error. Errors: ErrUnproven; replication.ErrCorrupt, upon which the whole file is given up.
func (x *Reading) Get(dst []byte, env entitlement.Environment, kind replication.Kind, key string) (value []byte, found bool, err error) {
	value = dst
	err = guard(func() error {
		var stack [128]byte
		stored, ok, err := x.v.tree.get(replication.AppendDBKey(stack[:0], env, kind, key))
		if err != nil || !ok {
			return err
		}
		rec, err := replication.FromStored(env, kind, key, stored)
		if err != nil {
			return err
		}
		value, found = append(dst, rec.Value...), true
		return nil
	})
	if err != nil {
		if errors.Is(err, replication.ErrCorrupt) {
			x.r.giveUp(x.f, err)
		}
		return dst, false, err
	}
	if !found && !x.f.verified.Load() {
		return dst, false, ErrUnproven
	}
	return value, found, nil
}

// Lookup returns one record's value and the head that it was read at. Errors as for Read and Get.
func (r *Replica) Lookup(env entitlement.Environment, kind replication.Kind, key string) (value []byte, head replication.Head, found bool, err error) {
	x, err := r.Read()
	if err != nil {
		return nil, replication.Head{}, false, err
	}
	defer x.Close()
	value, found, err = x.Get(nil, env, kind, key)
	return value, x.Head, found, err
}

// Head implements replication.Moving.
func (r *Replica) Head() replication.Head {
	f := r.current.Load()
	if f == nil {
		return replication.Head{}
	}
	return f.Head()
}

// Proven reports whether the whole file has been proven since this process opened it, and nothing is in doubt.
func (r *Replica) Proven() bool {
	f := r.current.Load()
	return f != nil && f.verified.Load() && !f.bad.Load() && !r.doubt.Load()
}

// Doubted reports whether nothing is answered before the whole file is proven: it may be torn.
func (r *Replica) Doubted() bool {
	f := r.current.Load()
	return f != nil && !f.bad.Load() && r.doubt.Load()
}

// Damages is how often this process has given up a file in which it found damage.
func (r *Replica) Damages() uint64 { return r.damages.Load() }

// Updated returns a channel that is closed at the next change of what Read gives. Take it first, then look.
func (r *Replica) Updated() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.updated
}

func (r *Replica) announce() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.updated)
	r.updated = make(chan struct{})
}

// Lost implements replication.Replica.
func (r *Replica) Lost() <-chan struct{} { return r.lost }

// Apply implements replication.Moving. It is one transaction: after a crash all of the batch is there, or nothing.
func (r *Replica) Apply(to replication.Position, changes [][]byte) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	f := r.usable()
	if f == nil {
		return replication.ErrNoData
	}
	err := f.Apply(to, changes)
	if errors.Is(err, errOutgrown) {
		if f, err = r.reopen(f); err == nil {
			err = f.Apply(to, changes)
		}
	}
	return r.after(f, err)
}

// Advance implements replication.Moving.
func (r *Replica) Advance(h replication.Head) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	f := r.usable()
	if f == nil {
		return replication.ErrNoData
	}
	return r.after(f, f.Advance(h))
}

// usable returns the file that is served. The caller holds r.writing.
func (r *Replica) usable() *file {
	f := r.current.Load()
	if f == nil || r.closed || f.bad.Load() {
		return nil
	}
	return f
}

func (r *Replica) after(f *file, err error) error {
	switch {
	case err == nil:
		r.announce()
	case errors.Is(err, replication.ErrCorrupt) && f != nil:
		r.giveUp(f, err)
	}
	return err
}

// reopen maps a file anew that has outgrown its mapping.
func (r *Replica) reopen(f *file) (*file, error) {
	if err := f.close(); err != nil {
		return f, err
	}
	fresh, err := openFile(f.path, r.cfg.Rules)
	if err != nil {
		return f, err
	}
	fresh.verified.Store(f.verified.Load())
	r.current.Store(fresh)
	return fresh, nil
}

// Build implements replication.Replica.
func (r *Replica) Build(ctx context.Context, m replication.Manifest, records io.Reader) (replication.Copy, error) {
	return build(ctx, r.cfg.Dir, r.cfg.Rules, m, records)
}

// ErrBehind means that a copy is older than what was already served (I7).
var ErrBehind = errors.New("copy is older than what was served")

// Adopt implements replication.Replica. Error: ErrBehind.
func (r *Replica) Adopt(c replication.Copy) error {
	fresh, ok := c.(*file)
	if !ok {
		return fmt.Errorf("adopt %T: not built here", c)
	}
	r.writing.Lock()
	defer r.writing.Unlock()
	if r.closed {
		return replication.ErrNoData
	}
	old := r.current.Load()
	r.mu.Lock()
	floor := r.floor
	r.mu.Unlock()
	if old != nil && old.Head().Revision().Compare(floor) > 0 {
		floor = old.Head().Revision()
	}
	if fresh.Head().Revision().Compare(floor) < 0 && !fault.Planted("edge-goes-back") {
		return fmt.Errorf("%s after %s: %w", fresh.Head().Revision(), floor, ErrBehind)
	}
	if old != nil && old.Head().Epoch == fresh.Head().Epoch {
		// as_of was proven for this history; a snapshot's own head may be a second older.
		if err := fresh.Advance(old.Head()); err != nil {
			return err
		}
	}
	if err := fresh.save(); err != nil {
		return err
	}
	if err := fresh.sync(); err != nil {
		return err
	}
	fault.Point("replica-adopt-synced")
	// Not before: a file that has its name may be served by the next process, whatever becomes of the present one.
	if err := fresh.christen(); err != nil {
		return err
	}
	fault.Point("replica-adopt-christened")
	if err := r.name(fresh); err != nil {
		return err
	}
	fault.Point("replica-adopt-named")
	r.current.Store(fresh)
	r.doubt.Store(false)
	r.announce()
	if old != nil && !old.bad.Load() {
		if err := old.close(); err != nil {
			r.cfg.Logger.Warn("close replaced replica", "error", err)
		}
		fault.Point("replica-adopt-closed")
		_ = os.Remove(old.path)
	}
	fault.Point("replica-adopt-done")
	return nil
}

// giveUp stops using a file in which damage was found. Its data is not deleted: whoever wants to know what happened to the disk finds
// it beside.
func (r *Replica) giveUp(f *file, why error) {
	if f.bad.Swap(true) {
		return
	}
	f.mu.RLock()
	served := f.head.Revision()
	f.mu.RUnlock()
	r.cfg.Logger.Error("replica file damaged: given up", "file", filepath.Base(f.path), "revision", served.String(), "error", why)
	r.damages.Add(1)
	r.noteFloor(served)
	if err := r.setAside(f.path); err != nil {
		r.cfg.Logger.Error("set damaged replica aside", "error", err)
	}
	f.abandon()
	r.announce()
	select {
	case r.lost <- struct{}{}:
	default:
	}
}

// noteFloor remembers that nothing older may be adopted, also by the next process.
func (r *Replica) noteFloor(served replication.Revision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if served.Compare(r.floor) <= 0 {
		return
	}
	r.floor = served
	if err := writeFile(r.path(floorFile), []byte(served.String()+"\n")); err != nil {
		r.cfg.Logger.Error("note the served revision", "error", err)
	}
}

// setAside renames a damaged file and drops the one set aside before it.
func (r *Replica) setAside(path string) error {
	old, err := filepath.Glob(r.path("*" + badSuffix))
	if err != nil {
		return err
	}
	for _, name := range old {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return os.Rename(path, path+badSuffix)
}

// Close writes the newest as_of, syncs and closes the file. Reads that are open are waited for.
func (r *Replica) Close() error {
	r.stop()
	r.workers.Wait()
	r.writing.Lock()
	defer r.writing.Unlock()
	if r.closed {
		return nil
	}
	f := r.usable()
	r.closed = true
	if f == nil {
		return nil
	}
	err := f.save()
	if errors.Is(err, replication.ErrCorrupt) {
		r.giveUp(f, err) // which does not wait for a lock that damage may have left inside bbolt
		return fmt.Errorf("close replica: %w", err)
	}
	err = errors.Join(err, f.sync())
	if closeErr := f.close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("close replica: %w", err)
	}
	return os.Remove(r.path(openMark))
}

// writeFile replaces a small file so that after a crash it has the old content or the new one.
func writeFile(path string, content []byte) error {
	tmp := path + tempSuffix
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	fault.Point("replica-file-written")
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}
