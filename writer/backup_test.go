package writer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestABackupTakesNoRoomThatTheLogNeeds: the copy of the state that a backup begins with must never be what fills the disk.
func TestABackupTakesNoRoomThatTheLogNeeds(t *testing.T) {
	cfg := testConfigs(t, 1)[0]
	const reserve = 1 << 30
	disk := newTestDisk(8 << 30)
	cfg.statFS, cfg.Node.DiskReserveBytes = disk.stat, reserve
	w := startWriter(t, cfg)
	w.awaitReady()
	op, path := NewOperator(cfg.Node.DataDir), filepath.Join(t.TempDir(), "backup")
	disk.free.Store(reserve + 1000)
	w.disk.Look()
	if _, err := op.Backup(t.Context(), path, false, nil, nil); err == nil || !strings.Contains(err.Error(), "1 MiB more in the data folder") {
		t.Errorf("without room: %v, want a refusal that says how much is needed", err)
	}
	if left, err := filepath.Glob(path + "*"); err != nil || len(left) > 0 {
		t.Errorf("a refused backup leaves %v, %v", left, err)
	}
	disk.free.Store(8 << 30)
	w.disk.Look()
	c, err := op.Backup(t.Context(), path, true, nil, nil)
	if info, statErr := os.Stat(path); err != nil || statErr != nil || info.Mode().Perm() != 0o600 || c.Position != w.store.Position() {
		t.Errorf("with room: %+v, %v, %v, %v", c, err, info, statErr)
	}
}
