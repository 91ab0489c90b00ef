package mutual

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// The names of the files of an authority.
const (
	AuthorityKeyFile  = "ca.key.pem"
	AuthorityCertFile = "ca.pem"
)

const (
	// authorityLife is how long an authority counts. Its key is needed for each certificate, so that it is not kept as a root of apps is; to
	// change it is two rounds of new files, without a restart.
	authorityLife = 10 * 365 * 24 * time.Hour
	// MaxNodeLife is the longest life of a node's certificate: nothing but its end takes a stolen one away.
	MaxNodeLife = 398 * 24 * time.Hour
	// backdate is how far before now certificates begin: clocks differ.
	backdate = time.Hour
	// serialBits makes serial numbers that nobody has to remember.
	serialBits = 120
)

// ErrExists means that a file is there already. None is ever overwritten.
var ErrExists = errors.New("exists already")

// MakeAuthority makes the authority of one installation in dir, for ten years: ca.key.pem, which belongs where certificates are made and on no node, and ca.pem, which
// every node believes. name is shown to people. Error: ErrExists.
func MakeAuthority(dir, name string, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	template, err := newTemplate(pkix.Name{CommonName: name}, now, authorityLife)
	if err != nil {
		return err
	}
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("sign certificate: %w", err)
	}
	return writePair(dir, AuthorityKeyFile, AuthorityCertFile, key, der)
}

// NodeFiles are the names of the files that MakeNode makes for a node.
func NodeFiles(node string) (certFile, keyFile string) { return node + ".pem", node + ".key.pem" }

// MakeNode makes a key and a certificate for node in dir, for life, with the authority in caDir. A renewal is the same into another
// folder. Error: ErrExists.
func MakeNode(caDir, dir string, node Peer, life time.Duration, now time.Time) error {
	if !nodeName.MatchString(node.Node) {
		return fmt.Errorf("node %q: want 1 to 32 of a-z, 0-9 and -, beginning with a letter or digit", node.Node)
	}
	if !node.Role.Valid() {
		return fmt.Errorf("role %q: want writer, edge or nats", node.Role)
	}
	if life <= 0 || life > MaxNodeLife {
		return fmt.Errorf("a life of %d days: want 1 to %d", life/(24*time.Hour), MaxNodeLife/(24*time.Hour))
	}
	ca, caKey, err := readAuthority(caDir)
	if err != nil {
		return err
	}
	template, err := newTemplate(pkix.Name{CommonName: node.Node, OrganizationalUnit: []string{string(node.Role)}}, now, life)
	if err != nil {
		return err
	}
	if now.After(ca.NotAfter) {
		return fmt.Errorf("authority in %s: %w: make a new one", caDir, ErrExpired)
	}
	if template.NotBefore.Before(ca.NotBefore) {
		template.NotBefore = ca.NotBefore
	}
	if template.NotAfter.After(ca.NotAfter) {
		template.NotAfter = ca.NotAfter
	}
	template.DNSNames = []string{node.Node}
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
	if err != nil {
		return fmt.Errorf("sign certificate: %w", err)
	}
	certFile, keyFile := NodeFiles(node.Node)
	return writePair(dir, keyFile, certFile, key, der)
}

func newTemplate(subject pkix.Name, now time.Time, life time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits))
	if err != nil {
		return nil, fmt.Errorf("draw serial number: %w", err)
	}
	return &x509.Certificate{SerialNumber: serial, Subject: subject, NotBefore: now.Add(-backdate), NotAfter: now.Add(life)}, nil
}

func readAuthority(dir string) (*x509.Certificate, crypto.Signer, error) {
	certPath, keyPath := filepath.Join(dir, AuthorityCertFile), filepath.Join(dir, AuthorityKeyFile)
	var blocks [2]*pem.Block
	for i, path := range []string{certPath, keyPath} {
		text, err := readFile(path)
		if err != nil {
			return nil, nil, fmt.Errorf("authority: %w", err)
		}
		if blocks[i], _ = pem.Decode(text); blocks[i] == nil {
			return nil, nil, fmt.Errorf("authority: %s is not PEM", path)
		}
	}
	ca, err := x509.ParseCertificate(blocks[0].Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("authority: %s: %w", certPath, err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(blocks[1].Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("authority: %s holds no private key in PKCS#8", keyPath)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(ca.PublicKey) {
		return nil, nil, fmt.Errorf("authority: %s is not the key of the first certificate in %s", keyPath, certPath)
	}
	return ca, key, nil
}

// writePair writes a key and its certificate. The key goes first: a certificate without one is of no use.
func writePair(dir, keyFile, certFile string, key *ecdsa.PrivateKey, der []byte) error {
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, certFile)); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", filepath.Join(dir, certFile), errors.Join(ErrExists, err))
	}
	if err := writeNew(filepath.Join(dir, keyFile), "PRIVATE KEY", pkcs8, 0o600); err != nil {
		return err
	}
	return writeNew(filepath.Join(dir, certFile), "CERTIFICATE", der, 0o644)
}

func writeNew(path, kind string, content []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s: %w", path, ErrExists)
	}
	if err != nil {
		return fmt.Errorf("make file: %w", err)
	}
	err = pem.Encode(f, &pem.Block{Type: kind, Bytes: content})
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
