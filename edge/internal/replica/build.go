package replica

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.etcd.io/bbolt"

	"github.com/latchkey/latchkey/pkg/fault"
	"github.com/latchkey/latchkey/replication"
)

const (
	// buildBytes is how much one transaction of a build holds in memory.
	buildBytes = 16 << 20
	// buildFill is how full pages are made: records come in key order, and later changes mostly replace records by ones of the same size.
	buildFill = 0.9
)

// build makes a file from a snapshot's records and proves that it has the manifest's state hash, by reading it again. The file is synced, and has a name that no
// process begins with: it may be older than what was served. Errors: replication.ErrRules, replication.ErrDiverged, replication.ErrFrame.
func build(ctx context.Context, dir string, rules uint32, m replication.Manifest, records io.Reader) (*file, error) {
	if m.Rules > rules {
		return nil, fmt.Errorf("snapshot with rules %d, this program knows %d: %w", m.Rules, rules, replication.ErrRules)
	}
	tmp, err := os.CreateTemp(dir, "build-*"+tempSuffix)
	if err != nil {
		return nil, fmt.Errorf("build replica: %w", err)
	}
	name := tmp.Name()
	_ = tmp.Close()
	if err := fill(ctx, name, m, records); err != nil {
		_ = os.Remove(name)
		return nil, fmt.Errorf("build replica: %w", err)
	}
	fault.Point("replica-build-filled")
	f, err := openFile(name, rules)
	if err == nil {
		if err = f.verify(ctx.Err); err != nil {
			f.abandon()
		}
	}
	if err != nil {
		_ = os.Remove(name)
		return nil, fmt.Errorf("build replica: %w", err)
	}
	fault.Point("replica-build-proven")
	return f, nil
}

// christen gives a file that build has made the name of one that is served.
func (f *file) christen() error {
	dir, name := filepath.Split(f.path)
	path := filepath.Join(dir, filePrefix+f.Head().Revision().String()+"-"+strings.TrimSuffix(name, tempSuffix)+dataSuffix)
	if err := os.Rename(f.path, path); err != nil {
		return err
	}
	f.path = path
	return syncDir(dir)
}

// filePrefix begins the name of each data file; the revision at which it was first served follows: "replica-1-4711-build-123.db".
const filePrefix = "replica-"

// servedFrom reads the revision at which a file was first served from its name; the zero value for another name.
func servedFrom(name string) replication.Revision {
	rev, _, _ := strings.Cut(strings.TrimPrefix(name, filePrefix), "-build-")
	at, err := replication.ParseRevision(rev)
	if err != nil {
		return replication.Revision{}
	}
	return at
}

// fill writes the records and the position into a new bbolt file.
func fill(ctx context.Context, name string, m replication.Manifest, records io.Reader) (err error) {
	db, err := bbolt.Open(name, 0o600, &bbolt.Options{NoSync: true, NoStatistics: true, FreelistType: bbolt.FreelistMapType, InitialMmapSize: int(mapAhead)})
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
		fault.Point("replica-build-filling")
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
