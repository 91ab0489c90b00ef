package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

type config struct {
	only     string
	programs string // folder of the built programs, absolute once taking begins
	results  string
	accounts int
}

// figure is one result. README.md says how each was taken.
type figure struct {
	Name  string   `json:"name"`
	Value float64  `json:"value"`
	Unit  string   `json:"unit"`
	Goal  *float64 `json:"goal"`  // for "of floor", "of undisturbed" and "a second" the least, for times the most that Value may be; null where there is none
	Floor *float64 `json:"floor"` // what the floor program reached, answers a second; null where there is none
	Min   float64  `json:"min"`   // of the single runs, in Unit
	Max   float64  `json:"max"`
	Runs  int      `json:"runs"`
}

// ofFloor is the unit of figures that are measured against a floor program.
const ofFloor = "of floor"

// ofUndisturbed is the unit of figures that are measured against the same without the disturbance.
const ofUndisturbed = "of undisturbed"

// aSecond is the unit of rates.
const aSecond = "a second"

func (f figure) holds() bool {
	switch {
	case f.Goal == nil:
		return true
	case f.Unit == ofFloor, f.Unit == ofUsual, f.Unit == ofUndisturbed, f.Unit == aSecond:
		return f.Value >= *f.Goal
	}
	return f.Value < *f.Goal
}

func goal(g float64) *float64 { return &g }

// takers are the figures by name. One function may yield several that come from the same runs.
var takers = map[string]func(context.Context, config) ([]figure, error){
	"account_lookup":       takeLookup,
	"adapters":             takeAdapters,
	"edge_beside_usual":    takeUsual,
	"answer_1000":          takeLarge,
	"edge_check_again":     takeAgain,
	"edge_check_cost":      takeCost,
	"edge_check_fresh":     takeFresh,
	"edge_check_304":       takeNotModified,
	"edge_check_half_peak": takeHalfPeak,
	"edge_check_changing":  takeChanging,
	"edge_open":            takeOpens,
	"edge_refusals":        takeRefusals,
	"edge_start_1m":        takeStart,
	"production_in_flood":  takeFlood,
	"idle_streams_memory":  takeStreams,
	"import_revenuecat":    takeImport,
	"intents":              takeIntents,
	"propagation":          takePropagation,
	"purchase_to_edge":     takePurchases,
	"receipt_to_edge":      takeReceipts,
	"rebootstrap_1m":       takeRebootstrap,
	"herd":                 takeHerd,
	"webhooks":             takeWebhooks,
	"writer_disk":          takeWriterDisk,
	"writer_restart_1m":    takeRestart,
	"year_10000":           takeYear,

	"failover":               takeFailover,
	"propagation_500":        takePropagation500,
	"webhooks_follower_down": takeFollowerDown,
}

var errUsage = errors.New("wrong usage")

func takeAll(ctx context.Context, config config) error {
	names := slices.Sorted(maps.Keys(takers))
	if config.only != "" {
		if takers[config.only] == nil {
			return fmt.Errorf("%w: no figure %q; there are: %s", errUsage, config.only, strings.Join(names, " "))
		}
		names = []string{config.only}
	}
	var err error
	if config.programs, err = filepath.Abs(config.programs); err != nil {
		return err
	}
	var figures []figure
	for _, name := range names {
		fmt.Fprintf(os.Stderr, "taking %s\n", name)
		taken, err := takers[name](ctx, config)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		figures = append(figures, taken...)
	}
	printTable(os.Stdout, figures)
	path, err := keep(config.results, figures)
	if err != nil {
		return err
	}
	fmt.Println(path)
	return nil
}

func printTable(w io.Writer, figures []figure) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "name\tvalue\tunit\tgoal\tfloor\tmin\tmax\truns\t")
	for _, f := range figures {
		floor, aim, verdict := "-", "-", ""
		if f.Goal != nil {
			aim, verdict = fmt.Sprintf("%.3g", *f.Goal), "holds"
		}
		if f.Floor != nil {
			floor = fmt.Sprintf("%.0f/s", *f.Floor)
		}
		if !f.holds() {
			verdict = "MISSED"
		}
		fmt.Fprintf(t, "%s\t%.3g\t%s\t%s\t%s\t%.3g\t%.3g\t%d\t%s\n", f.Name, f.Value, f.Unit, aim, floor, f.Min, f.Max, f.Runs, verdict)
	}
	t.Flush()
}

// keep writes the figures into a file named by date and machine.
func keep(dir string, figures []figure) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("results: %w", err)
	}
	b, err := json.MarshalIndent(figures, "", " ")
	if err != nil {
		return "", fmt.Errorf("results: %w", err)
	}
	path := filepath.Join(dir, time.Now().UTC().Format("2006-01-02T150405Z")+"-"+machine()+".json")
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return "", fmt.Errorf("results: %w", err)
	}
	return path, nil
}

// machine names what the figures were taken on: system, architecture, cores and the processor's name where the system tells it.
func machine() string {
	name := fmt.Sprintf("%s-%s-%dcores", runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return name
	}
	for _, line := range strings.Split(string(b), "\n") {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			plain := strings.FieldsFunc(strings.ToLower(value), func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
			return name + "-" + strings.Join(plain, "-")
		}
	}
	return name
}

func sortByName(figures []figure) {
	slices.SortFunc(figures, func(a, b figure) int { return strings.Compare(a.Name, b.Name) })
}

// spread is the least and the greatest of values, and the one in the middle.
func spread(values []float64) (least, middle, greatest float64) {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[0], sorted[len(sorted)/2], sorted[len(sorted)-1]
}
