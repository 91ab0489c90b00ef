package chaos

import (
	"bytes"
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
type sockets struct {
	dir string // of the system: a node is known by the configuration that its command line names

	mu     sync.Mutex
	nodes  map[int]string    // by process id
	owners map[string]string // node by the number of a socket
}

func newSockets(dir string) *sockets {
	return &sockets{dir: dir, nodes: map[int]string{}, owners: map[string]string{}}
}

// clientHost is from where the clients dial: a loopback address that no node uses, so that they are known without a search.
const clientHost = "127.0.0.2"

// who is the name of the node that made conn.
func (s *sockets) who(conn net.Conn) string {
	remote := conn.RemoteAddr().(*net.TCPAddr)
	if remote.IP.String() == clientHost {
		return Client
	}
	inode := inodeOf(remote.Port, conn.LocalAddr().(*net.TCPAddr).Port)
	if inode == "" {
		return Client
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for range 3 {
		if name, known := s.owners[inode]; known { // perhaps the search for another connection found it
			return name
		}
		s.owners = map[string]string{}
		for pid, name := range s.nodes {
			for _, inode := range socketsOf(pid) {
				s.owners[inode] = name
			}
		}
		if _, known := s.owners[inode]; !known {
			s.look() // a node may have been started since
		}
	}
	return Client
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

// inodeOf is the number of the socket on this machine that has the ports local and remote. Source: proc_net_tcp of the kernel's
// documentation.
func inodeOf(local, remote int) string {
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return ""
	}
	want := fmt.Appendf(nil, "0100007F:%04X 0100007F:%04X", local, remote)
	at := bytes.Index(table, want)
	if at < 0 {
		return ""
	}
	line, _, _ := bytes.Cut(table[at:], []byte("\n"))
	const inode = 8 // fields after the local address: remote, state, queues, timer, retransmissions, uid, timeout, inode
	fields := strings.Fields(string(line))
	if len(fields) <= inode {
		return ""
	}
	return fields[inode]
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
