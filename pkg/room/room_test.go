package room

import (
	"errors"
	"log/slog"
	"testing"
)

func TestReserve(t *testing.T) {
	for _, tt := range []struct {
		name       string
		size, want int64
	}{
		{"a fiftieth", 50 << 30, 1 << 30},
		{"at least room for Raft's files", 10 << 30, 512 << 20},
		{"at most what is ever needed", 1 << 40, 2 << 30},
		{"of a small file system a quarter", 1 << 30, 256 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := reserveOf(tt.size); got != tt.want {
				t.Errorf("reserveOf(%d) = %d, want %d", tt.size, got, tt.want)
			}
		})
	}
}

func TestADiskIsLowUntilThereIsClearlyRoom(t *testing.T) {
	var free int64
	stat := func(string) (int64, int64, error) {
		if free < 0 {
			return 0, 0, errors.New("the file system does not answer")
		}
		return free, 100 << 30, nil
	}
	w := Watch{Extra: func() int64 { return 88 << 20 }, Stat: stat, Logger: slog.New(slog.DiscardHandler)}
	const reserve = 2<<30 + 88<<20
	for i, step := range []struct {
		free int64
		low  bool
	}{
		{10 << 30, false}, {reserve, false}, {reserve - 1, true}, {reserve, true}, {reserve + reserve/again - 1, true}, {-1, true},
		{reserve + reserve/again, false}, {-1, false}, {0, true},
	} {
		free = step.free
		if s := w.Look(); s.Low != step.low || s.ReserveBytes != reserve || step.free >= 0 && s.FreeBytes != step.free {
			t.Errorf("step %d, %d bytes free: %+v, want low %t below %d", i, step.free, s, step.low, int64(reserve))
		}
	}
	if free = 1 << 40; !w.Status().Low {
		t.Error("the file system is asked at each call")
	}
	free = 100
	own := Watch{Reserve: 77, Extra: w.Extra, Stat: stat, Logger: w.Logger}
	if s := own.Status(); s.ReserveBytes != 77 || s.Low {
		t.Errorf("with a reserve of 77 and 100 free: %+v", s)
	}
}

func TestARealDisk(t *testing.T) {
	free, size, err := Disk(t.TempDir())
	if err != nil || free <= 0 || size < free {
		t.Errorf("Disk = %d of %d bytes, %v", free, size, err)
	}
	if _, _, err := Disk("/nowhere"); err == nil {
		t.Error("a folder that is not there has room")
	}
}
