package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestProfile: at the end all three profiles are there, and a folder that cannot be made is said at the start.
func TestProfile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "profiles")
	stop, err := profile(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cpu", "allocs", "block"} {
		if info, err := os.Stat(filepath.Join(dir, name+".pprof")); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v, %v; want a profile", name, info, err)
		}
	}
	if _, err := profile(filepath.Join(dir, "cpu.pprof")); err == nil {
		t.Error("profiles into a file are no mistake")
	}
}
