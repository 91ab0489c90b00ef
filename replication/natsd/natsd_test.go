package natsd_test

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/latchkey/latchkey/replication/natsd"
	"github.com/latchkey/latchkey/replication/replicationtest"
)

// Three servers form one cluster: what is published at one is heard at another, also after the third is gone.
func TestClusterCarriesMessagesBetweenServers(t *testing.T) {
	routes := make([]string, 3)
	addrs := make([]string, 3)
	for i := range addrs {
		address, err := replicationtest.Address()
		if err != nil {
			t.Fatal(err)
		}
		addrs[i], routes[i] = address, "nats://"+address
	}
	servers := make([]*natsd.Server, 3)
	for i := range servers {
		s, err := natsd.Start(natsd.Config{Name: fmt.Sprint("w", i+1), Cluster: "c1", Listen: "127.0.0.1:0", ClusterListen: addrs[i], Routes: routes, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		servers[i] = s
	}
	listener, err := nats.Connect(servers[0].ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	heard := make(chan string, 64)
	if _, err := listener.Subscribe("lk.test", func(m *nats.Msg) { heard <- string(m.Data) }); err != nil {
		t.Fatal(err)
	}
	if err := listener.Flush(); err != nil {
		t.Fatal(err)
	}
	speaker, err := nats.Connect(servers[1].ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer speaker.Close()
	// Core NATS keeps nothing, and routes come up by themselves: speak until heard.
	speakUntilHeard := func(word string) {
		t.Helper()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		deadline := time.After(30 * time.Second)
		for {
			select {
			case got := <-heard:
				if got == word {
					return
				}
			case <-tick.C:
				if err := speaker.Publish("lk.test", []byte(word)); err != nil {
					t.Fatal(err)
				}
			case <-deadline:
				t.Fatalf("%q was not heard at the other server within 30 s", word)
			}
		}
	}
	speakUntilHeard("three servers")
	servers[2].Close()
	speakUntilHeard("two servers")
}

// What servers tell of each other is how they want to be reached, and not where they listen.
func TestServersTellOfEachOtherAsAdvertised(t *testing.T) {
	const door = "127.0.0.1:1" // nobody is there
	addrs := make([]string, 2)
	for i := range addrs {
		address, err := replicationtest.Address()
		if err != nil {
			t.Fatal(err)
		}
		addrs[i] = address
	}
	var first string
	for i := range addrs {
		s, err := natsd.Start(natsd.Config{Name: fmt.Sprint("w", i+1), Cluster: "c1", Listen: "127.0.0.1:0", ClusterListen: addrs[i], Routes: []string{"nats://" + addrs[1-i]},
			Advertise: door, ClusterAdvertise: addrs[i], Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if i == 0 {
			first = s.ClientURL()
		}
	}
	told := make(chan []string, 16)
	nc, err := nats.Connect(first, nats.DiscoveredServersHandler(func(nc *nats.Conn) { told <- nc.DiscoveredServers() }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	deadline := time.After(30 * time.Second)
	for servers := nc.DiscoveredServers(); ; {
		for _, s := range servers {
			if s == "nats://"+door {
				return
			}
		}
		select {
		case servers = <-told:
		case <-deadline:
			t.Fatalf("the client was told of %q, want %s", servers, door)
		}
	}
}

func TestStartSaysWhatIsWrongWithAnAddress(t *testing.T) {
	for _, address := range []string{"", "127.0.0.1", "127.0.0.1:http!"} {
		if s, err := natsd.Start(natsd.Config{Name: "w1", Listen: address, Logger: slog.New(slog.DiscardHandler)}); err == nil {
			s.Close()
			t.Errorf("Start with Listen %q: no error", address)
		}
	}
}
