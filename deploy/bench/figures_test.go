package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/deploy/bench/rival"
)

// TestKeptFigures: the file has the form that others read, a missing floor or goal included, and a missed goal is seen as one.
func TestKeptFigures(t *testing.T) {
	floor := 1000.0
	tests := []struct {
		figure figure
		holds  bool
		json   string
	}{
		{figure{"a", 0.7, ofFloor, goal(0.7), &floor, 0.6, 0.8, 5}, true, `{"name":"a","value":0.7,"unit":"of floor","goal":0.7,"floor":1000,"min":0.6,"max":0.8,"runs":5}`},
		{figure{"b", 0.69, ofFloor, goal(0.7), &floor, 0.6, 0.8, 5}, false, `{"name":"b","value":0.69,"unit":"of floor","goal":0.7,"floor":1000,"min":0.6,"max":0.8,"runs":5}`},
		{figure{"c", 1000, "ms", goal(1000), nil, 1, 2, 3}, false, `{"name":"c","value":1000,"unit":"ms","goal":1000,"floor":null,"min":1,"max":2,"runs":3}`},
		{figure{"d", 5, "us of CPU a webhook", nil, nil, 1, 2, 3}, true, `{"name":"d","value":5,"unit":"us of CPU a webhook","goal":null,"floor":null,"min":1,"max":2,"runs":3}`},
		{figure{"e", 2000, aSecond, goal(2000), nil, 1, 2, 1}, true, `{"name":"e","value":2000,"unit":"a second","goal":2000,"floor":null,"min":1,"max":2,"runs":1}`},
		{figure{"g", 1.69, ofUsual, goal(1.7), &floor, 1, 2, 5}, false, `{"name":"g","value":1.69,"unit":"of the usual","goal":1.7,"floor":1000,"min":1,"max":2,"runs":5}`},
		{figure{"f", 1999, aSecond, goal(2000), nil, 1, 2, 1}, false, `{"name":"f","value":1999,"unit":"a second","goal":2000,"floor":null,"min":1,"max":2,"runs":1}`},
	}
	var figures []figure
	var want []any
	for _, tt := range tests {
		if got := tt.figure.holds(); got != tt.holds {
			t.Errorf("%s: holds = %t, want %t", tt.figure.Name, got, tt.holds)
		}
		figures = append(figures, tt.figure)
		var v any
		if err := json.Unmarshal([]byte(tt.json), &v); err != nil {
			t.Fatal(err)
		}
		want = append(want, v)
	}
	path, err := keep(t.TempDir(), figures)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(path, ".json") || !strings.Contains(path, "cores") {
		t.Errorf("kept in %s, want a name with the machine", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("kept %s, want %v", b, want)
	}
}

// TestSameAnswer: the rival is measured only if it says what the edge says, and signs it; times may differ.
func TestSameAnswer(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	answer := func(asOf, id string) []byte {
		token, err := rival.Session(key, "issuer", "app", id, "phone")
		if err != nil {
			t.Fatal(err)
		}
		return []byte(`{"account_id":"acc_1","as_of":"` + asOf + `","entitlements":[{"id":"` + id + `","offline_until":"` + asOf + `"}],"grace_token":"` + token + `"}`)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		theirs []byte
		key    *ecdsa.PublicKey
		want   error
	}{
		{"the same at another time", answer("2026-01-02T00:00:00Z", "pro"), &key.PublicKey, nil},
		{"something else", answer("2026-01-02T00:00:00Z", "free"), &key.PublicKey, errOtherAnswer},
		{"signed by another key", answer("2026-01-02T00:00:00Z", "pro"), &other.PublicKey, errOtherAnswer},
	} {
		if err := sameAnswer(answer("2026-01-01T00:00:00Z", "pro"), tt.theirs, tt.key); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

// TestAllocationFigures: what a signature of crypto/ecdsa allocates is the floor, and a kind of answer that is missing is an error.
func TestAllocationFigures(t *testing.T) {
	const out = "BenchmarkCheck/fresh-2 \t 26329\t 96188 ns/op\t 3916 B/op\t 56 allocs/op\nBenchmarkCheck/again-2 \t 100\t 2879 ns/op\t 0 B/op\t 0 allocs/op\n" +
		"BenchmarkCheck/not_modified-2 \t 100\t 4656 ns/op\t 0 B/op\t 5 allocs/op\nBenchmarkCheck/bare_signature \t 100\t 108417 ns/op\t 6068 B/op\t 50 allocs/op\n"
	figures, err := allocationFigures(out)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]struct {
		value float64
		holds bool
	}{
		"edge_check_304_allocations": {5, true}, "edge_check_again_allocations": {0, true}, "edge_check_fresh_allocations": {56, false},
		"floor_signature_allocations": {50, true},
	}
	for _, f := range figures {
		if w, ok := want[f.Name]; !ok || f.Value != w.value || f.holds() != w.holds {
			t.Errorf("%s = %g, holds %t; want %g, %t", f.Name, f.Value, f.holds(), w.value, w.holds)
		}
	}
	if len(figures) != len(want) {
		t.Errorf("%d figures, want %d", len(figures), len(want))
	}
	if _, err := allocationFigures("BenchmarkCheck/fresh-2 1 5 ns/op 1 B/op 1 allocs/op\n"); err == nil {
		t.Error("one kind of answer alone gives figures")
	}
}

// TestAdapterFigures: the figures are those of the benchmarks' lines, whatever processors the name ends with, and a provider that is missing is an error.
func TestAdapterFigures(t *testing.T) {
	var out strings.Builder
	for benchmark := range adapterBenchmarks {
		for _, ns := range []string{"3000000", "15000.5", "2000000"} {
			out.WriteString("Benchmark" + benchmark + "-2   \t 681\t " + ns + " ns/op\t 97125 B/op\t 215 allocs/op\n")
		}
	}
	figures, err := adapterFigures(out.String())
	if err != nil || len(figures) != len(adapterBenchmarks) {
		t.Fatalf("%d figures, %v, want %d", len(figures), err, len(adapterBenchmarks))
	}
	for _, f := range figures {
		if f.Value != 2 || f.Min != 0.0150005 || f.Max != 3 || f.Runs != 3 {
			t.Errorf("%+v, want 2 ms between 0.0150005 and 3 in 3 runs", f)
		}
		if apple := f.Name == "adapter_apple"; (f.Goal != nil) != apple || f.holds() == apple {
			t.Errorf("%+v: only Apple has a goal, and 2 ms misses it", f)
		}
	}
	if _, err := adapterFigures("BenchmarkWebhook 1 5 ns/op\n"); err == nil || !strings.Contains(err.Error(), "apple") {
		t.Errorf("one line alone gives %v, want to know who is missing", err)
	}
}

// TestYearIsRead: the figures of a year are those of its last line, mistakes included.
func TestYearIsRead(t *testing.T) {
	got, err := yearFigures("2027-01-01T00:00:00Z: acc_1: something\nyear: 10000 users, 55000 facts, 80000 messages, 67000 pulls, 1000 instants, 600000 answers, 2 wrong, 9m59s\n")
	want := []figure{{Name: "year_10000", Value: 599, Unit: "s", Goal: goal(600), Min: 599, Max: 599, Runs: 1},
		{Name: "year_10000_wrong", Value: 2, Unit: "answers", Goal: goal(1), Min: 2, Max: 2, Runs: 1}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("yearFigures = %+v, %v, want %+v", got, err, want)
	}
	if _, err := yearFigures("instant 3: not within 20s"); err == nil {
		t.Error("a year that did not end has figures")
	}
}

// Of each provider the slowest purchase counts, against the same goal: six fast ones hide no slow one.
func TestTheSlowestPurchaseOfAProviderCounts(t *testing.T) {
	var took []time.Duration
	for n := range purchasesEach {
		took = append(took, time.Duration(n+1)*10*time.Millisecond)
	}
	took[purchasesEach-1] = 2 * time.Second
	if got := slowest("purchase_to_edge_google", took); got.Name != "purchase_to_edge_google_p99" || got.Value != 2000 || got.Min != 10 || got.Runs != purchasesEach || got.holds() {
		t.Errorf("slowest = %+v", got)
	}
}
