package e2e

import (
	"context"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey/latchkey/edge"
)

// page reads one of the operators' pages.
func page(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// section returns what stands under a heading of the second level.
func section(t *testing.T, text, heading string) string {
	t.Helper()
	_, rest, found := strings.Cut(text, "\n## "+heading+"\n")
	if !found {
		t.Fatalf("no section %q", heading)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	return rest
}

// metric is one metric, as the page or a program has it.
type metric struct {
	kind   string
	labels map[string]map[string]bool // the values of each label
	series map[string]bool            // all labels of each series; not on the page
}

// TestMetricsPageIsComplete: metrics.md names what both programs show and nothing else, with types, labels and their values; and every
// series is there before anything has happened.
func TestMetricsPageIsComplete(t *testing.T) { inEachSize(t, metricsPageIsComplete) }

func metricsPageIsComplete(t *testing.T, size []string) {
	d := start(t, t.TempDir(), size...)
	text := page(t, "metrics.md")
	for heading, base := range map[string]string{"Writer": d.writer(0), "Edge": d.info().Edges[0].URL} {
		t.Run(heading, func(t *testing.T) {
			want, got := documentedMetrics(t, section(t, text, heading)), d.scrape(t, base)
			for _, name := range slices.Sorted(maps.Keys(got)) {
				if _, named := want[name]; !named {
					t.Errorf("%s is shown and not on the page", name)
				}
			}
			for _, name := range slices.Sorted(maps.Keys(want)) {
				compareMetric(t, name, got[name], want[name])
			}
		})
	}
}

func compareMetric(t *testing.T, name string, got, want metric) {
	t.Helper()
	if got.kind != want.kind {
		t.Errorf("%s is shown as %q, on the page as %q", name, got.kind, want.kind)
		return
	}
	combinations := 1
	for label, values := range want.labels {
		combinations *= len(values)
		if !maps.Equal(got.labels[label], values) {
			t.Errorf("%s: label %s is shown with %v, on the page with %v", name, label, slices.Sorted(maps.Keys(got.labels[label])), slices.Sorted(maps.Keys(values)))
		}
	}
	for label := range got.labels {
		if want.labels[label] == nil {
			t.Errorf("%s: label %s is not on the page", name, label)
		}
	}
	// Not every route is on every listener; TestRoutesPageIsComplete holds those.
	if want.labels["route"] == nil && len(got.series) != combinations {
		t.Errorf("%s has %d series at the start, want all %d", name, len(got.series), combinations)
	}
}

var metricRow = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([a-z]+) \\|([^|]*)\\|")

// documentedMetrics reads the rows of a section. The values of a label are listed, or are those of another page.
func documentedMetrics(t *testing.T, text string) map[string]metric {
	t.Helper()
	all := map[string]metric{}
	for _, row := range metricRow.FindAllStringSubmatch(text, -1) {
		m := metric{kind: row[2], labels: map[string]map[string]bool{}}
		for _, part := range strings.Split(row[3], ";") {
			label, list, _ := strings.Cut(strings.TrimSpace(part), ": ")
			if label == "" {
				continue
			}
			values := map[string]bool{}
			switch list {
			case "(api.md)":
				for _, routes := range documentedRoutes(t) {
					maps.Copy(values, routes)
				}
			case "(problems.md)":
				for _, heading := range regexp.MustCompile(`(?m)^## (\S+)$`).FindAllStringSubmatch(page(t, "problems.md"), -1) {
					values[heading[1]] = true
				}
			default:
				for _, value := range strings.Split(list, ", ") {
					values[value] = true
				}
			}
			m.labels[strings.Trim(label, "`")] = values
		}
		if _, twice := all[row[1]]; twice {
			t.Errorf("%s has two rows", row[1])
		}
		all[row[1]] = m
	}
	if rows := strings.Count(text, "\n| `"); rows != len(all) || rows == 0 {
		t.Errorf("%d of %d rows can be read", len(all), rows)
	}
	return all
}

var (
	typeLine   = regexp.MustCompile(`^# TYPE (latchkey_\w+) (\w+)$`)
	sampleLine = regexp.MustCompile(`^(latchkey_\w+?)(?:\{(.*)\})? \S+$`)
	labelPair  = regexp.MustCompile(`(\w+)="([^"]*)"`)
)

// scrape reads a program's own metrics.
func (d *dev) scrape(t *testing.T, base string) map[string]metric {
	t.Helper()
	a, err := d.do(context.Background(), http.MethodGet, base+"/metrics", nil, nil)
	if err != nil || a.status != http.StatusOK {
		t.Fatalf("GET /metrics: %s, %v, want 200", a, err)
	}
	all, name := map[string]metric{}, ""
	for _, line := range strings.Split(string(a.body), "\n") {
		if m := typeLine.FindStringSubmatch(line); m != nil {
			name = m[1]
			all[name] = metric{kind: m[2], labels: map[string]map[string]bool{}, series: map[string]bool{}}
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil || !strings.HasPrefix(m[1], name) || all[name].kind == "histogram" && m[1] != name+"_count" {
			continue
		}
		all[name].series[m[2]] = true
		for _, pair := range labelPair.FindAllStringSubmatch(m[2], -1) {
			if all[name].labels[pair[1]] == nil {
				all[name].labels[pair[1]] = map[string]bool{}
			}
			all[name].labels[pair[1]][pair[2]] = true
		}
	}
	return all
}

// The sections of api.md by the listener of a writer that serves them.
var routeSections = map[string][]string{
	"public":   {"Webhooks", "Server API", "Every program"},
	"internal": {"Internal API"},
	"operator": {"Operator's socket"},
}

// documentedRoutes returns the patterns of a writer's listeners, with the empty one for what has no route.
func documentedRoutes(t *testing.T) map[string]map[string]bool {
	t.Helper()
	text, all := page(t, "api.md"), map[string]map[string]bool{}
	for listener, headings := range routeSections {
		all[listener] = map[string]bool{"": true}
		for _, heading := range headings {
			for _, r := range rowRoutes(section(t, text, heading)) {
				all[listener][r] = true
			}
		}
	}
	return all
}

var routeRow = regexp.MustCompile("(?m)^\\| `((?:GET|POST|PUT|PATCH|DELETE) /[^`]*)` \\|")

func rowRoutes(text string) (routes []string) {
	for _, row := range routeRow.FindAllStringSubmatch(text, -1) {
		routes = append(routes, row[1])
	}
	return routes
}

var seriesRoute = regexp.MustCompile(`^listener="(\w+)",route="([^"]*)",`)

// TestRoutesPageIsComplete: api.md names every route of both programs, and none that does not exist.
func TestRoutesPageIsComplete(t *testing.T) {
	t.Parallel()
	d := start(t, t.TempDir())
	got := map[string]map[string]bool{}
	for series := range d.scrape(t, d.writer(0))["latchkey_writer_http_requests_total"].series {
		m := seriesRoute.FindStringSubmatch(series)
		if m == nil {
			t.Fatalf("series %s has other labels", series)
		}
		if got[m[1]] == nil {
			got[m[1]] = map[string]bool{}
		}
		got[m[1]][m[2]] = true
	}
	for listener, want := range documentedRoutes(t) {
		if !maps.Equal(got[listener], want) {
			t.Errorf("the %s listener has the routes\n%q\nand on the page\n%q", listener, slices.Sorted(maps.Keys(got[listener])), slices.Sorted(maps.Keys(want)))
		}
	}
	text := page(t, "api.md")
	documented := append(rowRoutes(section(t, text, "App API")), rowRoutes(section(t, text, "Every program"))...)
	routes := edge.Routes()
	slices.Sort(documented)
	if !slices.Equal(routes, documented) {
		t.Errorf("an edge has the routes %q, on the page %q", routes, documented)
	}
	for _, route := range documented {
		method, path, _ := strings.Cut(strings.NewReplacer("{", "", "}", "").Replace(route), " ")
		if a, err := d.do(context.Background(), method, d.info().Edges[0].URL+path, nil, nil); err != nil || a.status != http.StatusOK && a.problem() != "invalid-credential" {
			t.Errorf("%s at an edge: %s, %v, want 200 or a demand for a credential", route, a, err)
		}
	}
}
