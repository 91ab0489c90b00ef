package natsd_test

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/latchkey/latchkey/pkg/mutual"
	"github.com/latchkey/latchkey/pkg/mutual/mutualtest"
	"github.com/latchkey/latchkey/replication"
	"github.com/latchkey/latchkey/replication/natsd"
	"github.com/latchkey/latchkey/replication/replicationtest"
)

// natsPatience is how long a test waits for what must come.
const natsPatience = 30 * time.Second

// connect opens a client's connection with an identity; refusals of the server arrive in the channel.
func connect(t *testing.T, url string, identity *mutual.Identity) (*nats.Conn, <-chan error) {
	t.Helper()
	refused := make(chan error, 16)
	conn, err := nats.Connect(url, nats.Secure(identity.Config("", mutual.Peer{Role: mutual.RoleWriter})), nats.MaxReconnects(0),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(conn.Close)
	return conn, refused
}

func awaitRefusal(t *testing.T, what string, refused <-chan error) {
	t.Helper()
	select {
	case err := <-refused:
		if !strings.Contains(strings.ToLower(err.Error()), "permissions violation") {
			t.Errorf("%s: %v, want a violation of permissions", what, err)
		}
	case <-time.After(natsPatience):
		t.Errorf("%s: not refused within %s", what, natsPatience)
	}
}

// TestEdgesOnlyListen: what a writer says at one server is heard by an edge at another. What an edge says is heard by nobody; neither may touch
// any other subject; and strangers do not get in, at either port.
func TestEdgesOnlyListen(t *testing.T) {
	authority := mutualtest.New(t)
	addrs, routes := make([]string, 2), make([]string, 2)
	for i := range addrs {
		address, err := replicationtest.Address()
		if err != nil {
			t.Fatal(err)
		}
		addrs[i], routes[i] = address, "tls://"+address
	}
	servers := make([]*natsd.Server, 2)
	for i := range servers {
		id := fmt.Sprint("w", i+1)
		s, err := natsd.Start(natsd.Config{Name: id, Cluster: "c1", Listen: "127.0.0.1:0", ClusterListen: addrs[i], Routes: routes,
			Identity: authority.Identity(mutualtest.Writer(id)), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		servers[i] = s
	}
	if url := servers[0].ClientURL(); !strings.HasPrefix(url, "tls://") {
		t.Errorf("ClientURL is %s, want tls://", url)
	}
	writer, writerRefused := connect(t, servers[0].ClientURL(), authority.Identity(mutualtest.Writer("w1")))
	edge, edgeRefused := connect(t, servers[1].ClientURL(), authority.Identity(mutualtest.Edge("e1")))
	heard := make(chan string, 256)
	if _, err := edge.Subscribe(replication.SubjectHead, func(m *nats.Msg) { heard <- string(m.Data) }); err != nil {
		t.Fatal(err)
	}
	// Core NATS keeps nothing, and routes come up by themselves: speak until heard.
	speakUntilHeard := func(word string) {
		t.Helper()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.After(natsPatience); ; {
			select {
			case got := <-heard:
				if got == word {
					return
				}
				if strings.HasPrefix(got, "forged") {
					t.Fatalf("an edge hears %q", got)
				}
			case <-tick.C:
				if err := writer.Publish(replication.SubjectHead, []byte(word)); err != nil {
					t.Fatal(err)
				}
			case <-deadline:
				t.Fatalf("%q was not heard within %s", word, natsPatience)
			}
		}
	}
	speakUntilHeard("a head")

	for _, subject := range []string{replication.SubjectHead, replication.SubjectChanges, "other"} {
		if err := edge.Publish(subject, []byte("forged by an edge")); err != nil {
			t.Fatal(err)
		}
		awaitRefusal(t, "an edge publishes on "+subject, edgeRefused)
	}
	for _, subject := range []string{">", "_INBOX.>", "$SYS.>"} {
		if _, err := edge.SubscribeSync(subject); err != nil {
			t.Fatal(err)
		}
		awaitRefusal(t, "an edge subscribes to "+subject, edgeRefused)
	}
	if _, err := writer.SubscribeSync(">"); err != nil {
		t.Fatal(err)
	}
	awaitRefusal(t, "a writer subscribes to everything", writerRefused)
	if err := writer.Publish("other", nil); err != nil {
		t.Fatal(err)
	}
	awaitRefusal(t, "a writer publishes elsewhere", writerRefused)
	speakUntilHeard("another head") // and no forged one before it

	strangers := []struct {
		name string
		url  string
		conf *tls.Config
	}{
		{"nobody in particular", servers[0].ClientURL(), &tls.Config{InsecureSkipVerify: true}},
		{"an edge of another authority", servers[0].ClientURL(), mutualtest.New(t).Identity(mutualtest.Edge("e1")).Config("")},
		{"an outside NATS server as a client", servers[0].ClientURL(), authority.Identity(mutual.Peer{Node: "n1", Role: mutual.RoleNATS}).Config("")},
	}
	for _, s := range strangers {
		if conn, err := nats.Connect(s.url, nats.Secure(s.conf), nats.MaxReconnects(0), nats.Timeout(natsPatience)); err == nil {
			conn.Close()
			t.Errorf("%s gets in", s.name)
		}
	}
	// At the port for servers TLS comes first, then a word of the server.
	for _, peer := range []mutual.Peer{mutualtest.Writer("w9"), mutualtest.Edge("e1")} {
		greeted := func() error {
			conn, err := tls.Dial("tcp", addrs[0], authority.Identity(peer).Config(""))
			if err != nil {
				return err
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(natsPatience)); err != nil {
				return err
			}
			_, err = conn.Read(make([]byte, 1))
			return err
		}()
		if want := peer.Role == mutual.RoleWriter; (greeted == nil) != want {
			t.Errorf("a server with the certificate of %s %s: %v, want it let in: %t", peer.Role, peer.Node, greeted, want)
		}
	}
	if conn, err := nats.Connect(strings.Replace(servers[0].ClientURL(), "tls:", "nats:", 1), nats.MaxReconnects(0)); err == nil {
		conn.Close()
		t.Error("plain TCP gets in")
	}
}
