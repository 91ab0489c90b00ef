package deploy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEveryGuaranteeHasACheckerThatIsThere: the operators' page lists I1 to I20, each with a checker, and every test that it names exists.
func TestEveryGuaranteeHasACheckerThatIsThere(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	var tests strings.Builder
	for path, text := range sources(t) {
		if strings.HasSuffix(path, "_test.go") {
			tests.WriteString(text)
		}
	}
	name := regexp.MustCompile("`(Test[A-Za-z0-9]+)`")
	for n := 1; n <= 20; n++ {
		row := regexp.MustCompile(fmt.Sprintf(`(?m)^\| I%d \|.*$`, n)).FindString(string(page))
		named := name.FindAllStringSubmatch(row, -1)
		if len(named) == 0 {
			t.Errorf("I%d has no test on the page: %q", n, row)
		}
		for _, m := range named {
			if !strings.Contains(tests.String(), "func "+m[1]+"(t *testing.T)") {
				t.Errorf("I%d: there is no %s", n, m[1])
			}
		}
	}
}
