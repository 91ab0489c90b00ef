package e2e

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// TestUnusedConnectionGetsNoWrongAnswer: a connection that a client opened ahead of its need is given up after a while. What the edge
// says then could be taken for the answer to a request that has just been sent, so it must be nothing, or 408: send it again.
func TestUnusedConnectionGetsNoWrongAnswer(t *testing.T) {
	t.Parallel()
	d := start(t, t.TempDir())
	for _, sent := range []string{"", "GET /v1/entitl"} {
		connection, err := net.Dial("tcp", strings.TrimPrefix(d.info().Edges[0].URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		if _, err := io.WriteString(connection, sent); err != nil {
			t.Fatal(err)
		}
		if err := connection.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(connection)
		if err != nil {
			t.Fatalf("after %q the connection stays open: %v", sent, err)
		}
		if len(said) > 0 && !strings.HasPrefix(string(said), "HTTP/1.1 408 ") {
			t.Errorf("after %q the edge says %.100s, want nothing or 408", sent, said)
		}
	}
}
