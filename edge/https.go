package edge

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
)

// HTTPSConfig is what the edge shows to apps when it ends TLS itself. It is another certificate than that of TLS between the nodes: apps know the edge by its
// public name, and show no certificate.
type HTTPSConfig struct {
	// CertFile is the certificate with those between it and an authority that apps believe, PEM, of a P-256 key: any other costs several times as much for
	// each app that opens. KeyFile is its private key, mode 0600, or 0640 for a group. Both are read again when they have changed.
	CertFile string `config:"cert_file"`
	KeyFile  string `config:"key_file"`

	// TicketSecretFile holds at least 32 bytes that all edges behind one address share: an app then resumes at any of them, and after a restart. Without
	// it each edge makes ticket keys of its own, in memory.
	TicketSecretFile string `config:"ticket_secret_file"`
}

const (
	// certificateLook is how often at most the files are looked at: a handshake costs some 200 us, two of these a few.
	certificateLook = time.Second

	// ticketKeyLife is how long tickets are made with one key of the shared secret. They are taken for as long again, so that an app that was used
	// yesterday resumes today.
	ticketKeyLife = 24 * time.Hour

	minTicketSecretBytes = 32
	maxTicketSecretBytes = 4 << 10
	maxCertificateFile   = 1 << 20

	// othersMayNot are the bits of a secret file's mode that must not be set: all of others', and writing of the group's.
	othersMayNot = 0o037
)

// https is the edge's certificate towards apps, and its ticket keys.
type https struct {
	files HTTPSConfig
	now   func() time.Time
	log   *slog.Logger
	conf  *tls.Config

	current atomic.Pointer[tls.Certificate]
	look    atomic.Int64 // when the files are looked at next, nanoseconds of the monotonic clock since began
	began   time.Time

	mu      sync.Mutex
	read    fileStamps // of the files that current was read from
	refused fileStamps // of files that were wrong
	secret  []byte     // nil: the library makes its own keys
	period  int64      // that the ticket keys are of
}

// loadHTTPS reads the files and notes everything that is wrong with them; it then returns nil.
func loadHTTPS(files HTTPSConfig, now func() time.Time, log *slog.Logger, m *config.Mistakes) *https {
	h := &https{files: files, now: now, log: log, began: time.Now(), read: files.stamps()}
	var mistakes config.Mistakes
	cert, secret := files.load(&mistakes)
	if len(mistakes) > 0 {
		*m = append(*m, mistakes...)
		return nil
	}
	h.conf = &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { h.refresh(); return h.current.Load(), nil },
	}
	h.current.Store(cert)
	h.secret = secret
	h.rotate()
	return h
}

// load reads all files and notes what is wrong with them.
func (f HTTPSConfig) load(m *config.Mistakes) (*tls.Certificate, []byte) {
	certPEM := readSmall(f.CertFile, "https.cert_file", maxCertificateFile, false, m)
	keyPEM := readSmall(f.KeyFile, "https.key_file", maxCertificateFile, true, m)
	var cert *tls.Certificate
	if certPEM != nil && keyPEM != nil {
		pair, err := tls.X509KeyPair(certPEM, keyPEM)
		switch pub, ok := publicKey(pair); {
		case err != nil:
			m.Add("https.key_file", "%s and %s are no pair: %v", f.KeyFile, f.CertFile, err)
		case !ok || pub.Curve != elliptic.P256():
			m.Add("https.cert_file", "%s is not of an ECDSA key on P-256", f.CertFile)
		default:
			cert = &pair
		}
	}
	if f.TicketSecretFile == "" {
		return cert, nil
	}
	secret := readSmall(f.TicketSecretFile, "https.ticket_secret_file", maxTicketSecretBytes, true, m)
	if secret != nil && len(secret) < minTicketSecretBytes {
		m.Add("https.ticket_secret_file", "%s has %d bytes; want %d at least", f.TicketSecretFile, len(secret), minTicketSecretBytes)
	}
	return cert, secret
}

func publicKey(pair tls.Certificate) (*ecdsa.PublicKey, bool) {
	if pair.Leaf == nil {
		return nil, false
	}
	pub, ok := pair.Leaf.PublicKey.(*ecdsa.PublicKey)
	return pub, ok
}

// readSmall reads a file; of a secret's mode it demands that others may not read it.
func readSmall(path, field string, limit int64, secret bool, m *config.Mistakes) []byte {
	if path == "" {
		m.Add(field, "is missing")
		return nil
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
	case info.Size() > limit:
		err = fmt.Errorf("%s: larger than %d bytes", path, limit)
	case secret && info.Mode().Perm()&othersMayNot != 0:
		err = fmt.Errorf("%s has the mode %04o: others may read or change it; want 0600, or 0640 for a group", path, info.Mode().Perm())
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(path)
	}
	if err != nil {
		m.Add(field, "%v", err)
		return nil
	}
	return text
}

// fileStamps tell whether files were replaced.
type fileStamps [3]fs.FileInfo

func (f HTTPSConfig) stamps() fileStamps {
	var all fileStamps
	for i, path := range []string{f.CertFile, f.KeyFile, f.TicketSecretFile} {
		if info, err := os.Stat(path); path != "" && err == nil {
			all[i] = info
		}
	}
	return all
}

func (s fileStamps) same(o fileStamps) bool {
	for i, a := range s {
		b := o[i]
		if (a == nil) != (b == nil) || a != nil && (!os.SameFile(a, b) || a.Size() != b.Size() || !a.ModTime().Equal(b.ModTime())) {
			return false
		}
	}
	return true
}

// refresh takes over files that have changed, and new ticket keys when they are due. It is called for each handshake, and looks once a second.
func (h *https) refresh() {
	since, due := int64(time.Since(h.began)), h.look.Load()
	if since < due || !h.look.CompareAndSwap(due, since+int64(certificateLook)) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.rotate()
	seen := h.files.stamps()
	if seen.same(h.read) || seen.same(h.refused) {
		return
	}
	var mistakes config.Mistakes
	cert, secret := h.files.load(&mistakes)
	if len(mistakes) > 0 {
		// A key and its certificate are replaced one after the other.
		h.refused = seen
		h.log.Warn("https files not taken over, the last ones stay in use", "error", mistakes.Err())
		return
	}
	h.current.Store(cert)
	h.secret, h.read, h.refused, h.period = secret, seen, fileStamps{}, 0
	h.log.Info("https files read again", "expires", cert.Leaf.NotAfter.UTC().Format(time.RFC3339))
}

// rotate sets the ticket keys of the present period: tickets are made with today's, those of yesterday are taken, and those of tomorrow, which an edge
// whose clock is ahead makes.
func (h *https) rotate() {
	period := h.now().Unix() / int64(ticketKeyLife/time.Second)
	if h.secret == nil || period == h.period {
		return
	}
	var keys [][32]byte
	for _, p := range []int64{period, period - 1, period + 1} {
		key, err := hkdf.Key(sha256.New, h.secret, nil, fmt.Sprintf("latchkey session ticket key %d", p), 32)
		if err != nil {
			h.log.Error("ticket keys", "error", err) // never for 32 bytes of SHA-256
			return
		}
		keys = append(keys, [32]byte(key))
	}
	h.conf.SetSessionTicketKeys(keys)
	h.period = period
}

var errHTTPSExpired = errors.New("the certificate has expired: apps refuse it")

// check says what is wrong with the certificate at present.
func (h *https) check() error {
	if !h.now().Before(h.current.Load().Leaf.NotAfter) {
		return errHTTPSExpired
	}
	return nil
}

// ends is when the certificate ends.
func (h *https) ends() time.Time { return h.current.Load().Leaf.NotAfter }
