package writer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	"github.com/latchkey/latchkey/writer/internal/store"
)

// handleBackup streams everything that this node holds. Unless local is given it first learns from the leader what was acknowledged, so that all
// of that is in it.
func (w *Writer) handleBackup(rw http.ResponseWriter, r *http.Request) error {
	if r.URL.Query().Get("local") == "" {
		if err := w.catchUp(r.Context()); err != nil {
			return err
		}
	}
	// The state is copied into the data folder first. A log that finds no room ends the process.
	if disk, state := w.DiskStatus(), w.store.Stats().StateBytes; disk.FreeBytes-state < disk.ReserveBytes {
		return unavailable(fmt.Sprintf("A backup needs %d MiB more in the data folder than may be used.", (disk.ReserveBytes-disk.FreeBytes+state)>>20+1))
	}
	b, err := w.store.Backup()
	if err != nil {
		return unavailable(sentence(err.Error()))
	}
	defer b.Close()
	w.log.InfoContext(r.Context(), "backup begins", "revision", b.Position.Revision().String(), "bytes", b.Size)
	h := rw.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.FormatInt(b.Size, 10))
	if _, err := b.WriteTo(&steadyWriter{rw}); err != nil {
		return err
	}
	w.log.InfoContext(r.Context(), "backup taken", "revision", b.Position.Revision().String(), "bytes", b.Size)
	return nil
}

// StreamBackup writes a backup of the running writer to to. It ends with a checksum and is not verified here. local takes what this writer has
// without asking whether a leader has more. Error: ErrNotRunning.
func (o *Operator) StreamBackup(ctx context.Context, to io.Writer, local bool, progress store.Progress) error {
	path := "/backup"
	if local {
		path += "?local=1"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://writer"+path, nil)
	if err != nil {
		return err
	}
	patient := http.Client{Transport: o.client.Transport} // as long as it takes
	res, err := patient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return refusal(res)
	}
	n, err := io.Copy(to, store.Counted(ctx, res.Body, res.ContentLength, progress))
	if err == nil && n != res.ContentLength {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Backup writes a backup of the running writer into the new file at path and reads it back: when it returns without an error every hash was
// recomputed and the file is on the disk. Until then the file has another name. Errors: ErrNotRunning, store.ErrBackup, os.ErrExist.
func (o *Operator) Backup(ctx context.Context, path string, local bool, progress, verifying store.Progress) (c store.Contents, err error) {
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return c, errors.Join(fmt.Errorf("%s: %w", path, os.ErrExist), err)
	}
	unproven := path + ".tmp"
	file, err := os.OpenFile(unproven, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return c, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(unproven))
		}
	}()
	// A file that was there had perhaps another mode.
	err = errors.Join(file.Chmod(0o600), o.StreamBackup(ctx, file, local, progress))
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return c, err
	}
	if c, err = store.VerifyBackup(ctx, unproven, verifying); err != nil {
		return c, err
	}
	if err := os.Rename(unproven, path); err != nil {
		return c, err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return c, nil //nolint:nilerr // the backup is there and proven
	}
	return c, errors.Join(folder.Sync(), folder.Close())
}

// RestoreConfig is where a restore of this node goes. alone makes it the only voter; the configured ones are meant otherwise.
func (c *Config) RestoreConfig(alone bool) store.RestoreConfig {
	r := store.RestoreConfig{Dir: c.Node.DataDir, Cluster: c.Node.Cluster, SegmentBytes: c.segment}
	for _, v := range c.Cluster.Voters {
		if !alone || v.ID == c.Node.ID {
			r.Voters = append(r.Voters, store.Voter{ID: v.ID, Addr: v.Raft})
		}
	}
	return r
}
