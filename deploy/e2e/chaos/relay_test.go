package chaos

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// echo is a server that answers each line with itself.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(conn, conn)
			}()
		}
	}()
	return l.Addr().String()
}

// line is one connection through the relay.
type line struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func dial(t *testing.T, address string) *line {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &line{t, conn, bufio.NewReader(conn)}
}

func (l *line) say(word string) {
	l.t.Helper()
	if _, err := fmt.Fprintln(l.conn, word); err != nil {
		l.t.Fatalf("say %s: %v", word, err)
	}
}

// hears returns the next line, or "" when none comes within the time.
func (l *line) hears(within time.Duration) (string, error) {
	l.conn.SetReadDeadline(time.Now().Add(within))
	text, err := l.in.ReadString('\n')
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "", nil
	}
	return strings.TrimSpace(text), err
}

// soon is how long is waited for what must come.
const soon = 30 * time.Second

// silence is how long nothing must come for a link to count as cut.
const silence = 100 * time.Millisecond

func TestRelayCutsEachDirectionByItself(t *testing.T) {
	tests := []struct {
		name string
		rule Rule
	}{
		{"there", Rule{From: []string{"a"}, To: []string{"b"}, Cut: true}},
		{"back", Rule{From: []string{"b"}, To: []string{"a"}, Cut: true}},
		{"all of this kind", Rule{Kinds: []string{KindRaft}, Cut: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := NewRelay(func(net.Conn) string { return "a" })
			defer r.Close()
			door, err := r.Listen(echo(t), "b", KindRaft)
			if err != nil {
				t.Fatal(err)
			}
			open := dial(t, door)
			open.say("one")
			if got, err := open.hears(soon); got != "one" {
				t.Fatalf("through a whole link came %q, %v, want one", got, err)
			}
			lift := r.Impose(tt.rule)
			fresh := dial(t, door) // the relay accepts, and goes no further
			for _, l := range []*line{open, fresh} {
				l.say("two")
				if got, err := l.hears(silence); got != "" || err != nil {
					t.Errorf("through a cut link came %q, %v, want nothing", got, err)
				}
			}
			lift()
			for _, l := range []*line{open, fresh} {
				if got, err := l.hears(soon); got != "two" {
					t.Errorf("after the cut came %q, %v, want what was sent meanwhile", got, err)
				}
			}
		})
	}
}

func TestRelayLeavesOtherLinksAlone(t *testing.T) {
	r := NewRelay(func(net.Conn) string { return "a" })
	defer r.Close()
	door, err := r.Listen(echo(t), "b", KindRaft)
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range []Rule{{From: []string{"c"}, Cut: true}, {To: []string{"c"}, Reset: true}, {Kinds: []string{KindNATS}, Cut: true, Reset: true}} {
		r.Impose(rule)
	}
	l := dial(t, door)
	l.say("one")
	if got, err := l.hears(soon); got != "one" {
		t.Errorf("came %q, %v, want one", got, err)
	}
}

func TestRelayResetsConnections(t *testing.T) {
	r := NewRelay(func(net.Conn) string { return "a" })
	defer r.Close()
	door, err := r.Listen(echo(t), "b", KindRaft)
	if err != nil {
		t.Fatal(err)
	}
	old := dial(t, door)
	old.say("one")
	if got, err := old.hears(soon); got != "one" {
		t.Fatalf("came %q, %v, want one", got, err)
	}
	lift := r.Impose(Rule{From: []string{"a"}, Reset: true})
	if got, err := old.hears(soon); err == nil {
		t.Errorf("the open connection brought %q, want its end", got)
	}
	if got, err := dial(t, door).hears(soon); err == nil {
		t.Errorf("a new connection brought %q, want its end", got)
	}
	lift()
	again := dial(t, door)
	again.say("two")
	if got, err := again.hears(soon); got != "two" {
		t.Errorf("afterwards came %q, %v, want two", got, err)
	}
}

func TestRelayDelays(t *testing.T) {
	r := NewRelay(func(net.Conn) string { return "a" })
	defer r.Close()
	door, err := r.Listen(echo(t), "b", KindRaft)
	if err != nil {
		t.Fatal(err)
	}
	const each = 60 * time.Millisecond
	r.Impose(Rule{Delay: each})
	l := dial(t, door)
	sent := time.Now()
	l.say("one")
	got, err := l.hears(soon)
	if took := time.Since(sent); got != "one" || took < 2*each {
		t.Errorf("came %q, %v after %s, want one after %s at least: each way is delayed", got, err, took, 2*each)
	}
}

func TestRelayPassesTheEndOn(t *testing.T) {
	r := NewRelay(func(net.Conn) string { return "a" })
	defer r.Close()
	door, err := r.Listen(echo(t), "b", KindRaft)
	if err != nil {
		t.Fatal(err)
	}
	l := dial(t, door)
	l.say("one")
	if err := l.conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := l.hears(soon); got != "one" {
		t.Errorf("came %q, %v, want one: the other direction is open", got, err)
	}
	if _, err := l.hears(soon); !errors.Is(err, io.EOF) {
		t.Errorf("then %v, want the end", err)
	}
}
