package system

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// bundleID is the example app's.
const bundleID = "com.example.app"

// The files in DIR/apple with which messages are signed as the App Store signs them.
const (
	appleRootFile  = "root.der"
	appleKeyFile   = "leaf.pem"
	appleChainFile = "chain.pem"
)

func (s *System) appleFile(name string) string { return filepath.Join(s.config.Dir, "apple", name) }

// The marks by which a certificate may sign for the App Store: the leaf's and the intermediate's.
var (
	appleLeafMark         = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 6, 11, 1}
	appleIntermediateMark = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 6, 2, 1}
)

// makeApple makes the folder's own App Store authority, once: keys of their own, so that no message of one folder counts in another. The
// certificates are valid for so long that messages of any date can be tried.
func (s *System) makeApple() error {
	dir := filepath.Join(s.config.Dir, "apple")
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	// All files or none.
	if err := errors.Join(os.RemoveAll(dir+".tmp"), os.Mkdir(dir+".tmp", 0o700), writeAppleChain(dir+".tmp")); err != nil {
		return fmt.Errorf("authority of the App Store: %w", err)
	}
	if err := os.Rename(dir+".tmp", dir); err != nil {
		return fmt.Errorf("authority of the App Store: %w", err)
	}
	return nil
}

func writeAppleChain(dir string) error {
	type link struct {
		name string
		ca   bool
		mark asn1.ObjectIdentifier
	}
	var (
		parent    *x509.Certificate
		parentKey *ecdsa.PrivateKey
		chain     []byte
	)
	for i, l := range []link{{"Latchkey Dev Root CA", true, nil}, {"Latchkey Dev Intermediate CA", true, appleIntermediateMark}, {"Latchkey Dev App Store Signing", false, appleLeafMark}} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: l.name},
			NotBefore: time.Date(2020, time.January, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2045, time.January, 1, 0, 0, 0, 0, time.UTC),
			BasicConstraintsValid: true, IsCA: l.ca, KeyUsage: x509.KeyUsageDigitalSignature,
		}
		if l.ca {
			template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
		}
		if l.mark != nil {
			template.ExtraExtensions = []pkix.Extension{{Id: l.mark, Value: asn1.NullBytes}}
		}
		if parent == nil {
			parent, parentKey = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
		if err != nil {
			return err
		}
		if parent, err = x509.ParseCertificate(der); err != nil {
			return err
		}
		parentKey = key
		chain = append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), chain...) // the leaf comes first
		if i == 0 {
			if err := os.WriteFile(filepath.Join(dir, appleRootFile), der, 0o600); err != nil {
				return err
			}
		}
	}
	key, err := x509.MarshalPKCS8PrivateKey(parentKey)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, appleChainFile), chain, 0o600),
		os.WriteFile(filepath.Join(dir, appleKeyFile), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600),
	)
}
