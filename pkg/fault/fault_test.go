package fault

import (
	"testing"
	"time"
)

// A build without the tag cannot be broken, whatever its environment says.
func TestNothingIsPlantedWithoutTheTag(t *testing.T) {
	if Enabled {
		return // this run is of the other build
	}
	t.Setenv("LATCHKEY_FAULT_PLANT", "lose-a-change")
	t.Setenv("LATCHKEY_FAULT_CRASH", "here")
	Point("here")
	if Planted("lose-a-change") {
		t.Error(`Planted("lose-a-change") = true in a build without the tag`)
	}
	want := time.Unix(1_800_000_000, 0)
	if got := Clock(func() time.Time { return want })(); !got.Equal(want) {
		t.Errorf("Clock = %s, want %s", got, want)
	}
}
