package writer

import (
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/latchkey/latchkey/pkg/openapi"
	"github.com/latchkey/latchkey/pkg/openapi/openapitest"
)

// TestMain has every exchange of every test with a writer held to the description of the API (startWriter says which addresses those are). A run of all tests
// has seen each described route succeed.
func TestMain(m *testing.M) { os.Exit(openapitest.Main(m, openapitest.Writer)) }

var publicRoute = regexp.MustCompile(`latchkey_writer_http_requests_total\{listener="public",route="([^"]+)"`)

// TestEveryRouteIsDescribed: what a writer serves to the public is what the description has, and nothing else.
func TestEveryRouteIsDescribed(t *testing.T) {
	w := oneWriter(t)
	var routes []string
	for _, m := range publicRoute.FindAllStringSubmatch(w.get("/metrics").text, -1) {
		if !slices.Contains(routes, m[1]) {
			routes = append(routes, m[1])
		}
	}
	openapitest.CompareRoutes(t, openapitest.Writer, routes)
}

// TestTheDescriptionIsServed: whole, under a tag by which who has it already is spared it.
func TestTheDescriptionIsServed(t *testing.T) {
	w := oneWriter(t)
	first := w.get(openapi.Path)
	var doc struct{ OpenAPI string }
	if err := json.Unmarshal([]byte(first.text), &doc); err != nil || first.status != http.StatusOK || doc.OpenAPI != "3.1.1" || first.header.Get("Content-Type") != openapi.MediaType {
		t.Fatalf("GET %s = %d %s %.200s, %v, want OpenAPI 3.1.1", openapi.Path, first.status, first.header.Get("Content-Type"), first.text, err)
	}
	tag := first.header.Get("ETag")
	for held, want := range map[string]int{tag: http.StatusNotModified, `"x", W/` + tag: http.StatusNotModified, `"x"`: http.StatusOK} {
		if again := w.do("GET", openapi.Path, "", header{"If-None-Match": held}); again.status != want || again.header.Get("ETag") != tag {
			t.Errorf("GET %s with If-None-Match %s = %d, ETag %s, want %d, %s", openapi.Path, held, again.status, again.header.Get("ETag"), want, tag)
		}
	}
}
