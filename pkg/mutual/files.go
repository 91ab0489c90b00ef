package mutual

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
)

const (
	// maxFileBytes bounds a file: a path given by mistake must not fill the memory. A bundle of several authorities holds some kilobytes.
	maxFileBytes = 1 << 20
	// othersMayNot are the bits of a key file's mode that must not be set: all of others', and writing of the group's. The group may read,
	// because that is how an orchestrator hands a secret to a process of another user.
	othersMayNot = 0o037
)

// material is the content of the files at one time.
type material struct {
	cert    tls.Certificate
	between []*x509.Certificate // those that cert brings along, between it and the authority
	roots   *x509.CertPool
	expires time.Time // of cert or of what is above it
}

// chains are the ways from leaf up to an authority that is believed. The time is that at which they are looked for; lifetime says how long
// they hold.
func (m *material) chains(leaf *x509.Certificate, between []*x509.Certificate, at time.Time) ([][]*x509.Certificate, error) {
	pool := x509.NewCertPool()
	for _, c := range between {
		pool.AddCert(c)
	}
	return leaf.Verify(x509.VerifyOptions{
		Roots: m.roots, Intermediates: pool, CurrentTime: at,
		// A node is at either end of its connections, so that either use will do.
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
}

// lifetime is when the best of chains holds: from the latest beginning to the earliest end of its certificates.
func lifetime(chains [][]*x509.Certificate) (begin, end time.Time) {
	for _, chain := range chains {
		from, until := chain[0].NotBefore, chain[0].NotAfter
		for _, c := range chain[1:] {
			if c.NotBefore.After(from) {
				from = c.NotBefore
			}
			if c.NotAfter.Before(until) {
				until = c.NotAfter
			}
		}
		if until.After(end) {
			begin, end = from, until
		}
	}
	return begin, end
}

// stamps tell whether files were replaced.
type stamps [3]stamp

type stamp struct {
	modified time.Time
	size     int64
	inode    uint64
}

func (f Files) stamps() stamps {
	var all stamps
	for i, path := range []string{f.CA, f.Cert, f.Key} {
		if info, err := os.Stat(path); err == nil {
			all[i] = stamp{modified: info.ModTime(), size: info.Size(), inode: inode(info)}
		}
	}
	return all
}

// The fields, as mistakes name them.
const (
	fieldCA   = "tls.ca_file"
	fieldCert = "tls.cert_file"
	fieldKey  = "tls.key_file"
)

// load reads all files and notes everything that is wrong with them.
func (f Files) load(self Peer, m *config.Mistakes) *material {
	roots := loadAuthorities(f.CA, m)
	certPEM, certs := loadCertificates(f.Cert, fieldCert, m)
	keyPEM := loadKey(f.Key, m)
	if len(certs) > 0 {
		peer, err := identify(certs[0])
		switch {
		case err != nil:
			m.Add(fieldCert, "%s: %v", f.Cert, err)
		case peer.Role != self.Role:
			m.Add(fieldCert, "%s is for the role %s, and this is one of role %s", f.Cert, peer.Role, self.Role)
		case peer.Node != self.Node:
			m.Add(fieldCert, "%s is for the node %s, and node.id is %q", f.Cert, peer.Node, self.Node)
		}
	}
	next := &material{roots: roots}
	if len(certs) > 0 && roots != nil {
		// Judged at its own beginning: whether it holds now is another question.
		chains, err := next.chains(certs[0], certs[1:], certs[0].NotBefore)
		if err != nil {
			m.Add(fieldCert, "%s: no authority in tls.ca_file issued it: %v", f.Cert, err)
		}
		_, next.expires = lifetime(chains)
	}
	if len(certs) > 0 && keyPEM != nil {
		pair, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			m.Add(fieldKey, "%s does not go with tls.cert_file: %v", f.Key, err)
			return next
		}
		pair.Leaf = certs[0]
		next.cert, next.between = pair, certs[1:]
	}
	return next
}

func loadAuthorities(path string, m *config.Mistakes) *x509.CertPool {
	_, certs := loadCertificates(path, fieldCA, m)
	if len(certs) == 0 {
		return nil
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		if !c.BasicConstraintsValid || !c.IsCA {
			m.Add(fieldCA, "%s: %q is not the certificate of an authority", path, c.Subject)
			return nil
		}
		pool.AddCert(c)
	}
	return pool
}

// loadCertificates reads a file that holds certificates and nothing else.
func loadCertificates(path, field string, m *config.Mistakes) ([]byte, []*x509.Certificate) {
	text, err := readFile(path)
	if err != nil {
		m.Add(field, "%v", err)
		return nil, nil
	}
	var certs []*x509.Certificate
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			m.Add(field, "%s holds a %s; want certificates alone", path, block.Type)
			return nil, nil
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			m.Add(field, "%s: %v", path, err)
			return nil, nil
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		m.Add(field, "%s holds no certificate in PEM", path)
	}
	return text, certs
}

// loadKey reads the private key's text. No error quotes it.
func loadKey(path string, m *config.Mistakes) []byte {
	text, err := readFile(path)
	if err != nil {
		m.Add(fieldKey, "%v", err)
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		m.Add(fieldKey, "%v", err)
		return nil
	}
	if mode := info.Mode().Perm(); mode&othersMayNot != 0 {
		m.Add(fieldKey, "%s has the mode %04o: others may read or change it; want 0600, or 0640 for a group", path, mode)
		return nil
	}
	if block, _ := pem.Decode(text); block == nil {
		m.Add(fieldKey, "%s holds no private key in PEM", path)
		return nil
	}
	return text
}

func readFile(path string) ([]byte, error) {
	if path == "" {
		return nil, errors.New("must be given, as there is a section tls")
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFileBytes {
		return nil, fmt.Errorf("%s: larger than any file of keys", path)
	}
	return os.ReadFile(path)
}
