package mutual

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
)

var (
	discard = slog.New(slog.DiscardHandler)
	w1      = Peer{"w1", RoleWriter}
	w2      = Peer{"w2", RoleWriter}
	e1      = Peer{"e1", RoleEdge}
)

const days = 24 * time.Hour

// authority makes one in a folder of its own.
func authority(t *testing.T, now time.Time) string {
	t.Helper()
	dir := t.TempDir()
	if err := MakeAuthority(dir, "test", now); err != nil {
		t.Fatalf("MakeAuthority: %v", err)
	}
	return dir
}

// files makes a node's files with the authority in ca.
func files(t *testing.T, ca string, node Peer, life time.Duration, now time.Time) Files {
	t.Helper()
	dir := t.TempDir()
	if err := MakeNode(ca, dir, node, life, now); err != nil {
		t.Fatalf("MakeNode(%v): %v", node, err)
	}
	cert, key := NodeFiles(node.Node)
	bundle := filepath.Join(dir, "bundle.pem")
	copyFiles(t, bundle, filepath.Join(ca, AuthorityCertFile))
	return Files{CA: bundle, Cert: filepath.Join(dir, cert), Key: filepath.Join(dir, key)}
}

// copyFiles puts the content of from, one after the other, into a new file that takes the place of to.
func copyFiles(t *testing.T, to string, from ...string) {
	t.Helper()
	var content []byte
	for _, path := range from {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		content = append(content, b...)
	}
	if err := errors.Join(os.WriteFile(to+".new", content, 0o600), os.Rename(to+".new", to)); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, f Files, self Peer, now func() time.Time) *Identity {
	t.Helper()
	var m config.Mistakes
	n := Load(f, self, now, discard, &m)
	if err := m.Err(); err != nil {
		t.Fatalf("Load(%v): %v", self, err)
	}
	return n
}

// meet lets client connect to server and returns what each end says: nil where a byte came through.
func meet(t *testing.T, server, client *tls.Config) (atServer, atClient error) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := inner.Accept()
		if err != nil {
			served <- err
			return
		}
		defer conn.Close()
		secured := tls.Server(conn, server)
		_, err = secured.Write([]byte("x"))
		if err == nil {
			_, err = io.ReadFull(secured, make([]byte, 1))
		}
		served <- err
	}()
	conn, err := tls.Dial("tcp", inner.Addr().String(), client)
	if err == nil {
		if _, err = io.ReadFull(conn, make([]byte, 1)); err == nil {
			_, err = conn.Write([]byte("x"))
		}
		if err != nil {
			conn.Close()
		}
	}
	atServer = <-served
	if conn != nil {
		conn.Close()
	}
	return atServer, err
}

// TestWhoIsAccepted shows for both ends that only the node and the role that were asked for get through, below an authority that is
// believed, while the certificate holds.
func TestWhoIsAccepted(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	ours, theirs := authority(t, now.Add(-365*days)), authority(t, now)
	identity := func(ca string, self Peer) *Identity { return load(t, files(t, ca, self, 90*days, now), self, clock) }
	server := identity(ours, w1)
	old := load(t, files(t, ours, w2, 90*days, now.Add(-91*days)), w2, clock)
	unborn := files(t, ours, w2, 90*days, now.Add(2*days))
	tests := []struct {
		name     string
		client   *tls.Config
		accept   []Peer
		atServer error
		atClient error // nil where the client only sees that it was cut off
	}{
		{"a writer where writers are accepted", identity(ours, w2).Config("", w1), []Peer{{Role: RoleWriter}}, nil, nil},
		{"an edge where both are accepted", identity(ours, e1).Config("", Peer{Role: RoleWriter}), []Peer{{Role: RoleWriter}, {Role: RoleEdge}}, nil, nil},
		{"an edge where writers are accepted", identity(ours, e1).Config("", w1), []Peer{{Role: RoleWriter}}, ErrPeer, nil},
		{"a writer where another one is accepted", identity(ours, w2).Config("", w1), []Peer{{Node: "w3", Role: RoleWriter}}, ErrPeer, nil},
		{"a writer of another authority", identity(theirs, w2).Config("", w1), []Peer{{Role: RoleWriter}}, nil, ErrAuthority},
		{"an expired writer", old.Config("", w1), []Peer{{Role: RoleWriter}}, ErrExpired, nil},
		{"a writer whose clock is ahead", load(t, unborn, w2, clock).Config("", w1), []Peer{{Role: RoleWriter}}, ErrNotYetValid, nil},
		{"a stranger without a certificate", &tls.Config{InsecureSkipVerify: true}, []Peer{{Role: RoleWriter}}, errCutOff, nil},
		{"a stranger with an older TLS", &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}, []Peer{{Role: RoleWriter}}, errCutOff, nil},
		{"a client that wants another node", identity(ours, w2).Config("", Peer{"w3", RoleWriter}), []Peer{{Role: RoleWriter}}, errCutOff, ErrPeer},
		{"a client that wants another role", identity(ours, w2).Config("", Peer{Role: RoleNATS}), []Peer{{Role: RoleWriter}}, errCutOff, ErrPeer},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			atServer, atClient := meet(t, server.Config("", tt.accept...), tt.client)
			wantOpen := tt.atServer == nil && tt.atClient == nil
			if wantOpen && (atServer != nil || atClient != nil) {
				t.Fatalf("server says %v, client says %v, want a connection", atServer, atClient)
			}
			if !wantOpen && (atServer == nil || atClient == nil) {
				t.Fatalf("server says %v, client says %v, want both refused", atServer, atClient)
			}
			if tt.atServer != nil && tt.atServer != errCutOff && !errors.Is(atServer, tt.atServer) {
				t.Errorf("server says %v, want %v", atServer, tt.atServer)
			}
			if tt.atClient != nil && !errors.Is(atClient, tt.atClient) {
				t.Errorf("client says %v, want %v", atClient, tt.atClient)
			}
		})
	}
}

// errCutOff stands for any error of the library: the reason is at the other end.
var errCutOff = errors.New("cut off")

func TestProtocolsDoNotMix(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	ca := authority(t, now)
	a, b := load(t, files(t, ca, w1, days, now), w1, clock), load(t, files(t, ca, w2, days, now), w2, clock)
	if atServer, atClient := meet(t, a.Config("raft/1", w2), b.Config("raft/1", w1)); atServer != nil || atClient != nil {
		t.Errorf("one protocol: server says %v, client says %v", atServer, atClient)
	}
	if atServer, _ := meet(t, a.Config("raft/1", w2), b.Config("", w1)); !errors.Is(atServer, ErrProtocol) {
		t.Errorf("a client that names none: server says %v, want ErrProtocol", atServer)
	}
}

// TestFilesAreReplacedUnderARunningPair changes an authority as operators do: believe both, new certificates, believe the new one alone. At
// each step the pair connects; at the end who still has the old certificate does not.
func TestFilesAreReplacedUnderARunningPair(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	oldCA, newCA := authority(t, now), authority(t, now)
	f1, f2 := files(t, oldCA, w1, 90*days, now), files(t, oldCA, w2, 90*days, now)
	left := load(t, files(t, oldCA, Peer{"w3", RoleWriter}, 90*days, now), Peer{"w3", RoleWriter}, clock)
	a, b := load(t, f1, w1, clock), load(t, f2, w2, clock)
	server, client := a.Config("", w2), b.Config("", w1) // made once, as by a program that runs on
	connects := func(step string) {
		t.Helper()
		if atServer, atClient := meet(t, server, client); atServer != nil || atClient != nil {
			t.Errorf("%s: server says %v, client says %v, want a connection", step, atServer, atClient)
		}
	}
	connects("before")
	for i, f := range []Files{f1, f2} {
		copyFiles(t, f.CA, filepath.Join(oldCA, AuthorityCertFile), filepath.Join(newCA, AuthorityCertFile))
		connects("bundle " + string('1'+rune(i)))
	}
	for i, f := range []Files{f1, f2} {
		self := []Peer{w1, w2}[i]
		before := []*Identity{a, b}[i].Expires()
		next := files(t, newCA, self, 91*days, now)
		copyFiles(t, f.Key, next.Key)
		connects("new key, old certificate of " + self.Node) // the last whole pair stays in use
		if got := []*Identity{a, b}[i].Expires(); !got.Equal(before) {
			t.Errorf("%s expires at %s with half of its files, want still %s", self.Node, got, before)
		}
		copyFiles(t, f.Cert, next.Cert)
		connects("new certificate of " + self.Node)
		if got := []*Identity{a, b}[i].Expires(); got.Sub(before).Round(time.Hour) != days {
			t.Errorf("%s expires at %s, want a day after %s", self.Node, got, before)
		}
	}
	copyFiles(t, left.files.CA, filepath.Join(oldCA, AuthorityCertFile), filepath.Join(newCA, AuthorityCertFile))
	stranger := left.Config("", w1)
	anyWriter := a.Config("", Peer{Role: RoleWriter})
	if atServer, atClient := meet(t, anyWriter, stranger); atServer != nil || atClient != nil {
		t.Errorf("who has the old certificate while both count: %v, %v, want a connection", atServer, atClient)
	}
	for _, f := range []Files{f1, f2} {
		copyFiles(t, f.CA, filepath.Join(newCA, AuthorityCertFile))
		connects("the new authority alone")
	}
	if atServer, _ := meet(t, anyWriter, stranger); !errors.Is(atServer, ErrAuthority) {
		t.Errorf("who has the old certificate afterwards: server says %v, want ErrAuthority", atServer)
	}
}

// TestARenewalAloneEndsAnExpiry: a certificate ends under a running pair, which then no longer connects; the renewed one is enough.
func TestARenewalAloneEndsAnExpiry(t *testing.T) {
	begin := time.Now()
	now := begin
	clock := func() time.Time { return now }
	ca := authority(t, begin)
	f := files(t, ca, w1, 30*days, begin)
	a, b := load(t, f, w1, clock), load(t, files(t, ca, w2, 90*days, begin), w2, clock)
	server, client := a.Config("", w2), b.Config("", w1)
	if atServer, atClient := meet(t, server, client); atServer != nil || atClient != nil {
		t.Fatalf("before: server says %v, client says %v, want a connection", atServer, atClient)
	}
	now = begin.Add(31 * days)
	if _, atClient := meet(t, server, client); !errors.Is(atClient, ErrExpired) {
		t.Errorf("after the end: client says %v, want ErrExpired", atClient)
	}
	if err := a.Check(); !errors.Is(err, ErrExpired) {
		t.Errorf("Check = %v, want ErrExpired", err)
	}
	next := files(t, ca, w1, 30*days, now)
	copyFiles(t, f.Key, next.Key)
	copyFiles(t, f.Cert, next.Cert)
	if atServer, atClient := meet(t, server, client); atServer != nil || atClient != nil {
		t.Errorf("renewed: server says %v, client says %v, want a connection", atServer, atClient)
	}
	if err := a.Check(); err != nil {
		t.Errorf("Check after the renewal = %v", err)
	}
}

func TestCheckSaysWhatTheOthersWouldSay(t *testing.T) {
	now := time.Now()
	at := now
	n := load(t, files(t, authority(t, now), e1, 90*days, now), e1, func() time.Time { return at })
	for _, tt := range []struct {
		at   time.Time
		want error
	}{{now, nil}, {now.Add(89 * days), nil}, {now.Add(91 * days), ErrExpired}, {now.Add(-2 * time.Hour), ErrNotYetValid}} {
		at = tt.at
		if err := n.Check(); !errors.Is(err, tt.want) {
			t.Errorf("Check at %s = %v, want %v", tt.at, err, tt.want)
		}
	}
	if left := n.Expires().Sub(now); left.Round(time.Hour) != 90*days {
		t.Errorf("Expires is %s from now, want 90 days", left)
	}
}

// TestMistakes shows that each mistake is found under its field, and several at once.
func TestMistakes(t *testing.T) {
	now := time.Now()
	ca := authority(t, now)
	write := func(t *testing.T, text string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "file.pem")
		if err := errors.Join(os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tests := []struct {
		name   string
		self   Peer
		change func(*testing.T, *Files)
		want   []string // fields, each with a part of what is said
	}{
		{"nothing is wrong", w1, func(*testing.T, *Files) {}, nil},
		{"a group may read the key", w1, func(t *testing.T, f *Files) { chmod(t, f.Key, 0o640) }, nil},
		{"nothing is given", w1, func(_ *testing.T, f *Files) { *f = Files{} }, []string{fieldCA + " must be given", fieldCert + " must be given", fieldKey + " must be given"}},
		{"files that are not there", w1, func(_ *testing.T, f *Files) { f.CA, f.Key = "/nowhere/ca", "/nowhere/key" }, []string{fieldCA + " no such file", fieldKey + " no such file"}},
		{"a key that others may read", w1, func(t *testing.T, f *Files) { chmod(t, f.Key, 0o644) }, []string{fieldKey + " 0644"}},
		{"a key that a group may change", w1, func(t *testing.T, f *Files) { chmod(t, f.Key, 0o660) }, []string{fieldKey + " 0660"}},
		{"a certificate for another role", Peer{"w1", RoleEdge}, func(*testing.T, *Files) {}, []string{fieldCert + " role writer"}},
		{"a certificate for another node", w2, func(*testing.T, *Files) {}, []string{fieldCert + " node w1"}},
		{"a certificate of another authority", w1, func(t *testing.T, f *Files) { f.CA = filepath.Join(authority(t, now), AuthorityCertFile) }, []string{fieldCert + " no authority"}},
		{"the authority's certificate as a node's", w1, func(_ *testing.T, f *Files) { f.Cert = f.CA }, []string{fieldCert + " one of each", fieldKey + " does not go with"}},
		{"a node's certificate as an authority", w1, func(_ *testing.T, f *Files) { f.CA = f.Cert }, []string{fieldCA + " not the certificate of an authority"}},
		{"another certificate's key", w1, func(t *testing.T, f *Files) { f.Key = files(t, ca, w1, days, now).Key }, []string{fieldKey + " does not go with"}},
		{"a key as a certificate", w1, func(_ *testing.T, f *Files) { f.Cert = f.Key }, []string{fieldCert + " PRIVATE KEY"}},
		{"no PEM at all", w1, func(t *testing.T, f *Files) { f.CA, f.Key = write(t, "canary", 0o600), write(t, "canary", 0o600) },
			[]string{fieldCA + " no certificate", fieldKey + " no private key"}},
		{"a certificate that is torn", w1, func(t *testing.T, f *Files) {
			f.Cert = write(t, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o600)
		},
			[]string{fieldCert + " malformed"}},
		{"a file that is no file of keys", w1, func(t *testing.T, f *Files) { f.CA = write(t, strings.Repeat("x", maxFileBytes+1), 0o600) }, []string{fieldCA + " larger"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := files(t, ca, w1, days, now)
			tt.change(t, &f)
			var m config.Mistakes
			n := Load(f, tt.self, time.Now, discard, &m)
			if (n == nil) != (len(tt.want) > 0) {
				t.Errorf("Load = %v with mistakes %v", n, m)
			}
			matches := len(m) == len(tt.want)
			for i := range min(len(m), len(tt.want)) {
				field, says, _ := strings.Cut(tt.want[i], " ")
				matches = matches && m[i].Field == field && strings.Contains(m[i].Problem, says)
			}
			if !matches {
				t.Errorf("Load found\n%v\nwant %q", m, tt.want)
			}
			if strings.Contains(m.Error(), "canary") {
				t.Errorf("a mistake quotes the file: %v", m)
			}
		})
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// TestListenerKeepsStrangersOut: who accepts from it meets accepted peers alone, and a stranger that says nothing keeps nobody waiting.
func TestListenerKeepsStrangersOut(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	ca := authority(t, now)
	server, edge := load(t, files(t, ca, w1, days, now), w1, clock), load(t, files(t, ca, e1, days, now), e1, clock)
	writer := load(t, files(t, ca, w2, days, now), w2, clock)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Listen(inner, server.Config("", Peer{Role: RoleWriter}), discard)
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	silent, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if conn, err := tls.Dial("tcp", l.Addr().String(), edge.Config("", w1)); err == nil {
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("an edge was let in")
		}
		conn.Close()
	}
	client, err := tls.Dial("tcp", l.Addr().String(), writer.Config("", w1))
	if err != nil {
		t.Fatalf("a writer is not let in: %v", err)
	}
	defer client.Close()
	conn := <-accepted
	state := conn.(*tls.Conn).ConnectionState()
	if peer, ok := PeerOf(&state); !ok || peer != w2 {
		t.Errorf("the accepted connection is of %v, want %v", peer, w2)
	}
	conn.Close()
	if err := l.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	if conn, more := <-accepted; more {
		t.Errorf("a second connection was accepted: %v", conn.RemoteAddr())
	}
	if _, err := silent.Read(make([]byte, 1)); err == nil {
		t.Error("the silent stranger is still connected after Close")
	}
}

func TestMadeFilesAreNeverOverwritten(t *testing.T) {
	now := time.Now()
	ca := authority(t, now)
	if err := MakeAuthority(ca, "test", now); !errors.Is(err, ErrExists) {
		t.Errorf("MakeAuthority again = %v, want ErrExists", err)
	}
	dir := t.TempDir()
	if err := MakeNode(ca, dir, w1, days, now); err != nil {
		t.Fatal(err)
	}
	cert, key := NodeFiles("w1")
	before, err := os.ReadFile(filepath.Join(dir, cert))
	if err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"", key} { // also when only one of the two is there
		if gone != "" {
			if err := os.Remove(filepath.Join(dir, gone)); err != nil {
				t.Fatal(err)
			}
		}
		if err := MakeNode(ca, dir, w1, days, now); !errors.Is(err, ErrExists) {
			t.Errorf("MakeNode again = %v, want ErrExists", err)
		}
	}
	after, err := os.ReadFile(filepath.Join(dir, cert))
	if err != nil || !slices.Equal(before, after) {
		t.Errorf("the certificate changed: %v", err)
	}
	for path, want := range map[string]os.FileMode{filepath.Join(ca, AuthorityKeyFile): 0o600, filepath.Join(ca, AuthorityCertFile): 0o644} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want mode %o", path, info.Mode(), err, want)
		}
	}
}

func TestMakeNodeRefuses(t *testing.T) {
	now := time.Now()
	ca, other := authority(t, now), authority(t, now)
	mixed := t.TempDir()
	copyFiles(t, filepath.Join(mixed, AuthorityCertFile), filepath.Join(ca, AuthorityCertFile))
	copyFiles(t, filepath.Join(mixed, AuthorityKeyFile), filepath.Join(other, AuthorityKeyFile))
	tests := []struct {
		name string
		ca   string
		node Peer
		life time.Duration
		says string
	}{
		{"a name with a dot", ca, Peer{"w.1", RoleWriter}, days, `"w.1"`},
		{"a role that is none", ca, Peer{"w1", "root"}, days, `"root"`},
		{"no life", ca, w1, 0, "0 days"},
		{"too long a life", ca, w1, MaxNodeLife + days, "399 days"},
		{"no authority", t.TempDir(), w1, days, "no such file"},
		{"another authority's key", mixed, w1, days, "is not the key"},
		{"an authority that has expired", authority(t, now.Add(-authorityLife-days)), w1, days, "expired"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := MakeNode(tt.ca, t.TempDir(), tt.node, tt.life, now); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("MakeNode = %v, want an error that says %q", err, tt.says)
			}
		})
	}
}
