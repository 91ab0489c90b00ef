package edge_test

import (
	"bytes"
	"net/http"
	"os"
	"testing"

	"github.com/latchkey/latchkey/edge"
	"github.com/latchkey/latchkey/pkg/openapi"
	"github.com/latchkey/latchkey/pkg/openapi/openapitest"
)

// TestMain has every exchange of every test with an edge held to the description of the API, but for what is passed on to writers that a test plays. A run of
// all tests has seen each described route that an edge answers by itself succeed.
func TestMain(m *testing.M) { os.Exit(openapitest.Main(m, openapitest.EdgeAlone)) }

// TestEveryRouteIsDescribed: what an edge serves is what the description has, and nothing else.
func TestEveryRouteIsDescribed(t *testing.T) {
	openapitest.CompareRoutes(t, openapitest.Edge, edge.Routes())
}

// TestTheDescriptionIsServed: the same as by writers, under a tag by which who has it already is spared it.
func TestTheDescriptionIsServed(t *testing.T) {
	r := subscribed(t)
	want, err := openapi.Served()
	if err != nil {
		t.Fatal(err)
	}
	resp, body := r.get(openapi.Path, nil)
	if resp.StatusCode != http.StatusOK || !bytes.Equal(body, want.JSON) || resp.Header.Get("Content-Type") != openapi.MediaType || resp.Header.Get("ETag") != want.ETag {
		t.Errorf("GET %s = %d %v %.200s, want the description", openapi.Path, resp.StatusCode, resp.Header, body)
	}
	if resp, body = r.get(openapi.Path, map[string]string{"If-None-Match": want.ETag}); resp.StatusCode != http.StatusNotModified || len(body) != 0 {
		t.Errorf("with its tag: %d %.200s, want 304", resp.StatusCode, body)
	}
}
