package chaos

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// sockets finds the node at the other end of a connection on this machine: the kernel tells which socket has the address, and which
// process the socket. All nodes dial from 127.0.0.1 with whatever port is free, so the address alone says nothing. Where /proc does not
// tell (only Linux does), everybody is Client.
//
// One search answers all connections that waited when it began: when links heal there are hundreds at once, and a search each would hold up
// the links for longer than their dialers wait.
type sockets struct {
	dir   string         // of the system: a node is known by the configuration that its command line names
	nodes map[int]string // by process id; of the search alone

	mu        sync.Mutex
	next      *search // that has not begun; nil: nobody waits
	searching bool
}

// search is one look at the kernel's tables.
type search struct {
	waiting map[tuple]bool
	found   map[tuple]string
	done    chan struct{}
}

// tuple is a connection's ports: of the one who dialled, and of the relay's door.
type tuple struct{ from, to int }

func newSockets(dir string) *sockets { return &sockets{dir: dir, nodes: map[int]string{}} }

// clientHost is from where the clients dial: a loopback address that no node uses, so that they are known without a search.
const clientHost = "127.0.0.2"

// who is the name of the node that made conn; "" when its other end is gone already.
func (s *sockets) who(conn net.Conn) string {
	remote := conn.RemoteAddr().(*net.TCPAddr)
	if remote.IP.String() == clientHost {
		return Client
	}
	t := tuple{remote.Port, conn.LocalAddr().(*net.TCPAddr).Port}
	s.mu.Lock()
	if s.next == nil {
		s.next = &search{waiting: map[tuple]bool{}, found: map[tuple]string{}, done: make(chan struct{})}
	}
	mine := s.next
	mine.waiting[t] = true
	if !s.searching {
		s.searching = true
		go s.run()
	}
	s.mu.Unlock()
	<-mine.done
	return mine.found[t]
}

// run searches while somebody waits.
func (s *sockets) run() {
	for {
		s.mu.Lock()
		now := s.next
		s.next, s.searching = nil, now != nil
		s.mu.Unlock()
		if now == nil {
			return
		}
		s.search(now)
		close(now.done)
	}
}

// noInode is the number of a socket that no process has open any more.
const noInode = "0"

func (s *sockets) search(now *search) {
	inodes := inodesOf(now.waiting)
	for range 2 {
		owners := map[string]string{}
		for pid, name := range s.nodes {
			for _, inode := range socketsOf(pid) {
				owners[inode] = name
			}
		}
		unknown := 0
		for t, inode := range inodes {
			if now.found[t] = owners[inode]; now.found[t] == "" && inode != noInode {
				now.found[t] = Client
				unknown++
			}
		}
		if unknown == 0 {
			return
		}
		s.look() // a node may have been started since
	}
}

// look finds the processes of the system anew.
func (s *sockets) look() {
	s.nodes = map[int]string{}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return
	}
	for _, path := range lines {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for _, arg := range strings.Split(string(b), "\x00") {
			rest, ours := strings.CutPrefix(arg, filepath.Join(s.dir, "config")+string(filepath.Separator))
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); ours && err == nil {
				s.nodes[pid] = strings.TrimSuffix(rest, ".yaml")
			}
		}
	}
}

// inodesOf finds the numbers of the sockets with these ports on 127.0.0.1. One that is not in the table is gone: it is left out. Without
// the table all are unknown. Source: proc_net_tcp of the kernel's documentation.
func inodesOf(wanted map[tuple]bool) map[tuple]string {
	inodes := map[tuple]string{}
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		for t := range wanted {
			inodes[t] = "unknown"
		}
		return inodes
	}
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		const local, remote, inode = 1, 2, 9
		if len(fields) <= inode {
			continue
		}
		if t := (tuple{portOf(fields[local]), portOf(fields[remote])}); wanted[t] {
			inodes[t] = fields[inode]
		}
	}
	return inodes
}

// portOf reads the port of an address of 127.0.0.1 in the kernel's table; 0 for another one.
func portOf(address string) int {
	text, ours := strings.CutPrefix(address, "0100007F:")
	port, err := strconv.ParseUint(text, 16, 16)
	if !ours || err != nil {
		return 0
	}
	return int(port)
}

// socketsOf lists the numbers of the sockets that the process has open.
func socketsOf(pid int) (inodes []string) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // it has ended
	}
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if inode, ours := strings.CutPrefix(to, "socket:["); err == nil && ours {
			inodes = append(inodes, strings.TrimSuffix(inode, "]"))
		}
	}
	return inodes
}
