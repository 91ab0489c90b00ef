package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// settings are names that tests plant to change how a program behaves, not to break it.
var settings = []string{"frequent-snapshots"}

// TestEveryFaultHasAChecker: what the code can be told to do wrong is in the table, and nothing is in the table that the code does not know.
func TestEveryFaultHasAChecker(t *testing.T) {
	known := map[string]bool{}
	call := regexp.MustCompile(`fault\.Planted\("([^"]+)"\)`)
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") && path != root && path != ".." || entry.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		for _, m := range call.FindAllStringSubmatch(string(text), -1) {
			known[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, f := range faults {
		if listed[f.name] {
			t.Errorf("%s is listed twice", f.name)
		}
		listed[f.name] = true
		if !known[f.name] {
			t.Errorf("%s is planted nowhere", f.name)
		}
		if len(f.by) == 0 || f.what == "" {
			t.Errorf("%s has no checker or no description", f.name)
		}
	}
	for name := range known {
		if !listed[name] && !slices.Contains(settings, name) {
			t.Errorf("%s can be planted and no checker is known to find it", name)
		}
	}
}

// TestEveryCheckerIsThere: a test that was renamed would pass under every fault, because nothing runs.
func TestEveryCheckerIsThere(t *testing.T) {
	for _, f := range faults {
		for _, c := range f.by {
			if c.test == "" {
				continue
			}
			files, err := filepath.Glob(filepath.Join("..", "..", filepath.FromSlash(c.of), "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			found := slices.ContainsFunc(files, func(path string) bool {
				text, err := os.ReadFile(path)
				return err == nil && strings.Contains(string(text), "\nfunc "+c.test+"(t *testing.T)")
			})
			if !found {
				t.Errorf("%s: %s has no %s", f.name, c.of, c.test)
			}
		}
	}
}
