package chaos

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// dialer is this test program in the role of a node: it dials the address and stays until its standard input ends.
func TestMain(m *testing.M) {
	if address := os.Getenv("CHAOS_TEST_DIAL"); address != "" {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		os.Stdin.Read(make([]byte, 1))
		return
	}
	os.Exit(m.Run())
}

// TestRelayKnowsWhoDials: processes that dial from one address are told apart by the configuration that they were started with, a hundred
// connections at once; clients are known by their address.
func TestRelayKnowsWhoDials(t *testing.T) {
	if runtime.GOOS != "linux" {
		return // nothing tells there, and the faults that need it are said to be impossible
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := newSockets(dir)
	var mu sync.Mutex
	seen := map[string]int{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	want := map[string]int{"w1": 3, "w2": 4, "e1": 1, Client: 5}
	var started sync.WaitGroup
	accepted := make(chan net.Conn, 100)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	for name, n := range want {
		for range n {
			if name == Client {
				conn, err := dialAsClient(t.Context(), "tcp", l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				continue
			}
			node := exec.Command(self, "serve", "--config", filepath.Join(dir, "config", name+".yaml"))
			node.Env = append(os.Environ(), "CHAOS_TEST_DIAL="+l.Addr().String())
			in, err := node.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := node.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { in.Close(); node.Wait() })
		}
	}
	for range 3 + 4 + 1 + 5 {
		conn := <-accepted
		defer conn.Close()
		started.Go(func() {
			name := s.who(conn)
			mu.Lock()
			defer mu.Unlock()
			seen[name]++
		})
	}
	started.Wait()
	for name, n := range want {
		if seen[name] != n {
			t.Errorf("%d connections are of %s, want %d; all: %v", seen[name], name, n, seen)
		}
	}
}
