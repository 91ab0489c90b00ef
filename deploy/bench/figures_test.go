package main

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
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
