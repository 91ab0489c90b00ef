package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"
)

// The state file is not synced, so after a crash of the machine it may hold anything. A crash of the process alone loses nothing that it
// wrote: the kernel has it. So a start goes on with the file that it finds if a voucher says that it was written since the machine
// booted; in any other case the state is made anew from the newest snapshot and the log, which takes longer.
//
// A start takes the voucher away, and gives it back when it has recomputed every hash of the file: a damaged one kills at most one start.

const (
	voucherFile = "state.kept"
	bootIDFile  = "/proc/sys/kernel/random/boot_id" // Source: random(4)
)

// voucher names a state file and the run of the machine in which all of it was written.
type voucher struct {
	BootID string `json:"boot_id"`
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
}

// errUnproven means that a state file that was kept over a restart is not what its hashes say.
var errUnproven = errors.New("the kept state does not verify")

// bootID identifies the machine's present run, or is empty where there is no telling.
func bootID() string {
	id, err := os.ReadFile(bootIDFile)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// voucherOf makes the voucher of the state file that is there now.
func (f *fsm) voucherOf() (voucher, error) {
	info, err := os.Stat(filepath.Join(f.dir, stateFile))
	if err != nil {
		return voucher{}, err
	}
	sys, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return voucher{}, errors.ErrUnsupported
	}
	return voucher{BootID: f.bootID, Device: uint64(sys.Dev), Inode: sys.Ino}, nil
}

// vouch says that everything in the state file was written by us and since the machine booted.
func (f *fsm) vouch() error {
	if f.bootID == "" {
		return nil
	}
	v, err := f.voucherOf()
	if err != nil {
		return err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(f.dir, voucherFile), b, 0o600)
}

// disown takes the voucher away: the state file that is there must not outlive this process.
func (f *fsm) disown() error { return disown(f.dir) }

func disown(dir string) error {
	if err := os.Remove(filepath.Join(dir, voucherFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// keep goes on with the state file that is there, if it is vouched for. Where it is not, f is as it was.
func (f *fsm) keep() error {
	path := filepath.Join(f.dir, voucherFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := f.disown(); err != nil {
		return err
	}
	var said voucher
	now, err := f.voucherOf()
	if err != nil || json.Unmarshal(b, &said) != nil || f.bootID == "" || said != now {
		return nil
	}
	if err := f.reopen(); err != nil {
		f.log.Warn("the state on the disk cannot be used and is made anew", "error", err)
		return nil
	}
	f.kept = true
	f.proving.Store(true)
	return nil
}

// reopen opens the state file and the journal that belongs to it.
func (f *fsm) reopen() (err error) {
	// A damaged file makes bbolt panic, and it may be damaged where the hashes have not looked yet.
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("%w: %v", errUnproven, fault)
		}
	}()
	db, err := openState(filepath.Join(f.dir, stateFile), f.mmapBytes)
	if err != nil {
		return err
	}
	var st state
	err = db.Update(func(tx *bolt.Tx) error {
		if err := makeBuckets(tx); err != nil {
			return err
		}
		st, err = stateOf(tx)
		return err
	})
	if err == nil {
		err = f.journal.open(&st, "")
	}
	if err != nil {
		return errors.Join(err, f.journal.close(), db.Close())
	}
	f.db, f.state = db, st
	f.metrics.observe(&st)
	return nil
}

// fits reports whether a kept state goes with Raft's files: nothing was compacted that it lacks, and it has nothing that they lack.
func (f *fsm) fits(logs raft.LogStore, snapshots raft.SnapshotStore) (bool, error) {
	list, err := snapshots.List()
	if err != nil {
		return false, err
	}
	last, err := logs.LastIndex()
	if err != nil {
		return false, err
	}
	if len(list) > 0 {
		if f.state.Applied < list[0].Index {
			return false, nil
		}
		last = max(last, list[0].Index)
	}
	return f.state.Applied <= last, nil
}

// discard gives a kept state up.
func (f *fsm) discard() error {
	f.kept = false
	f.proving.Store(false)
	if err := errors.Join(f.journal.close(), f.db.Close()); err != nil {
		return err
	}
	return f.startEmpty()
}

// prove recomputes every hash of a kept state, as of now, and vouches for it. A state that does not verify ends the process; the next start
// makes it anew.
func (f *fsm) prove(ctx context.Context) {
	err := f.verifyNow(ctx)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		f.fail(fmt.Errorf("%w: %w", errUnproven, err))
		return
	}
	if err := f.vouch(); err != nil {
		f.log.Warn("vouch for the state", "error", err)
	}
	f.proving.Store(false)
}

// Proving reports whether the state is that of an earlier process and its hashes are still being recomputed. Records verify at every read
// all the same; other rows are as the disk gives them.
func (s *Store) Proving() bool { return s.fsm.proving.Load() }

func (f *fsm) verifyNow(ctx context.Context) (err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("read the state: %v", fault)
		}
	}()
	tx, err := f.begin()
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // a read transaction
	_, err = verifyTx(ctx, tx)
	return err
}
