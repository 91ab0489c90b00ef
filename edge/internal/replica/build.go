package replica

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"

	"github.com/latchkey/latchkey/replication"
)

const (
	// buildBytes is how much one transaction of a build holds in memory.
	buildBytes = 16 << 20
	// buildFill is how full pages are made: records come in key order, and later changes mostly replace records by ones of the same size.
	buildFill = 0.9
)

// build makes a file from a snapshot's records and proves that it has the manifest's state hash, by reading it again. The file has
// its final name and is synced. Errors: replication.ErrRules, replication.ErrDiverged, replication.ErrFrame.
func build(ctx context.Context, dir string, rules uint32, m replication.Manifest, records io.Reader) (*file, error) {
	if m.Rules > rules {
		return nil, fmt.Errorf("snapshot with rules %d, this program knows %d: %w", m.Rules, rules, replication.ErrRules)
	}
	tmp, err := os.CreateTemp(dir, "build-*.tmp")
	if err != nil {
		return nil, fmt.Errorf("build replica: %w", err)
	}
	name := tmp.Name()
	_ = tmp.Close()
	if err := fill(ctx, name, m, records); err != nil {
		_ = os.Remove(name)
		return nil, fmt.Errorf("build replica: %w", err)
	}
	path := name[:len(name)-len(".tmp")] + ".db"
	path = filepath.Join(dir, "replica-"+m.Revision().String()+"-"+filepath.Base(path))
	if err := os.Rename(name, path); err != nil {
		_ = os.Remove(name)
		return nil, fmt.Errorf("build replica: %w", err)
	}
	if err := syncDir(dir); err != nil {
		return nil, fmt.Errorf("build replica: %w", err)
	}
	f, err := openFile(path, rules)
	if err == nil {
		if err = f.verify(ctx.Err); err != nil {
			f.abandon()
		}
	}
	if err != nil {
		_ = os.Remove(path)
		return nil, fmt.Errorf("build replica: %w", err)
	}
	return f, nil
}

// fill writes the records and the position into a new bbolt file.
func fill(ctx context.Context, name string, m replication.Manifest, records io.Reader) (err error) {
	db, err := bbolt.Open(name, 0o600, &bbolt.Options{NoSync: true, NoStatistics: true, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, InitialMmapSize: int(mapAhead)})
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := db.Close(); err == nil {
			err = closeErr
		}
	}()
	var (
		tx     *bbolt.Tx
		bucket *bbolt.Bucket
		size   int
		sum    replication.Hash
	)
	defer func() {
		if tx != nil {
			_ = tx.Rollback()
		}
	}()
	begin := func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if tx, err = db.Begin(true); err != nil {
			return err
		}
		if bucket, err = tx.CreateBucketIfNotExists(bucketName); err != nil {
			return err
		}
		bucket.FillPercent, size = buildFill, 0
		return nil
	}
	commit := func() error {
		done := tx
		tx = nil
		return done.Commit()
	}
	if err := begin(); err != nil {
		return err
	}
	// The position comes first because it sorts first.
	if err := bucket.Put(positionKey, encodeHead(replication.Head{Position: m.Position})); err != nil {
		return err
	}
	err = replication.ReadSnapshot(records, func(r replication.Record) error {
		if !r.Env.Valid() {
			return fmt.Errorf("environment %q: %w", r.Env, replication.ErrFrame)
		}
		hash := r.Hash()
		sum = sum.Add(hash)
		stored := r.StoredWithHash(hash)
		if err := bucket.Put(r.DBKey(), stored); err != nil {
			return err
		}
		if size += len(stored); size < buildBytes {
			return nil
		}
		if err := commit(); err != nil {
			return err
		}
		return begin()
	})
	if err != nil {
		return err
	}
	if sum != m.StateHash {
		return fmt.Errorf("records of %s: %w", m.Revision(), replication.ErrDiverged)
	}
	if err := commit(); err != nil {
		return err
	}
	return db.Sync()
}

// syncDir makes renames in dir survive a power loss.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
