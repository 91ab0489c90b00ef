package deploy_test

import (
	"go/constant"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestLimitsPageIsRight compares the operators' table of limits with the constants that it names.
func TestLimitsPageIsRight(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(b), "\n## Limits\n")
	if !found {
		t.Fatal("operations.md has no section Limits")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	rows := regexp.MustCompile("(?m)^\\| ([^|]+) \\| ([^|]+) \\| (?:`([^`]+)` (\\w+))? ?\\| [^|]+ \\| [^|]+ \\|$").FindAllStringSubmatch(section, -1)
	if table := strings.Count(section, "\n| ") - 1; len(rows) < 25 || len(rows) != table+1 && len(rows) != table {
		t.Fatalf("%d rows are as they should be, of %d", len(rows), table)
	}
	for _, row := range rows {
		name, value, file, constant := row[1], row[2], row[3], row[4]
		if constant == "" {
			continue // the heading, and what is so by construction
		}
		source, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		m := regexp.MustCompile(`(?m)^\s*(?:const )?` + constant + `\s+(?:[\w.]+\s+)?=\s*([^/\n]+)`).FindSubmatch(source)
		if m == nil {
			t.Errorf("%s: %s has no constant %s", name, file, constant)
			continue
		}
		if said, is := amount(t, value), evaluate(t, string(m[1])); said != is {
			t.Errorf("%s: the page says %s, %s is %d", name, value, constant, is)
		}
	}
}

var units = map[string]float64{"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "s": float64(time.Second), "h": float64(time.Hour)}

// amount reads "1.25 MiB", "8 s" or "4,096".
func amount(t *testing.T, text string) int64 {
	t.Helper()
	number, unit, _ := strings.Cut(strings.TrimSpace(text), " ")
	n, err := strconv.ParseFloat(strings.ReplaceAll(number, ",", ""), 64)
	factor, known := units[unit]
	if err != nil || !known {
		t.Errorf("%q is no amount", text)
	}
	return int64(n * factor)
}

// evaluate computes a constant expression of Go, in which time.Second and time.Hour may stand.
func evaluate(t *testing.T, expression string) int64 {
	t.Helper()
	for name, d := range map[string]time.Duration{"time.Second": time.Second, "time.Hour": time.Hour} {
		expression = strings.ReplaceAll(expression, name, strconv.FormatInt(int64(d), 10))
	}
	v, err := types.Eval(token.NewFileSet(), nil, token.NoPos, expression)
	if err != nil {
		t.Errorf("%s: %v", expression, err)
		return 0
	}
	n, _ := constant.Int64Val(constant.ToInt(v.Value))
	return n
}
