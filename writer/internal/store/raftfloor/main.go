// Command raftfloor is what the writers' throughput is measured against: the least that a command can cost with the same Raft, the same log
// store, the same entry size and as many processes. Its state machine puts one record an entry into bbolt and does nothing else.
// `make bench` runs it; nobody else should.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	var f floor
	flag.StringVar(&f.id, "id", "", "this node, one of those in -nodes")
	flag.StringVar(&f.nodes, "nodes", "", "all nodes: id=host:port,...")
	flag.StringVar(&f.dir, "dir", "", "folder")
	flag.IntVar(&f.entryBytes, "entry", 1000, "bytes of an entry")
	flag.IntVar(&f.inFlight, "in-flight", 256, "entries proposed at a time")
	flag.DurationVar(&f.lasts, "for", 0, "how long each run lasts")
	flag.Parse()
	if err := f.run(); err != nil {
		fmt.Fprintln(os.Stderr, "raftfloor:", err)
		os.Exit(1)
	}
}
