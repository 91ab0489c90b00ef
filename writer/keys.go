package writer

import (
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/latchkey/latchkey/pkg/config"
	"github.com/latchkey/latchkey/pkg/entitlement"
	"github.com/latchkey/latchkey/pkg/token"
)

// The names of the files that MakeKeys makes. Private keys have the mode 0600.
const (
	rootKeyFile       = "root.key.pem"
	rootPublicFile    = "root.pub.pem"
	spareKeyFile      = "root-spare.key.pem"
	sparePublicFile   = "root-spare.pub.pem"
	issuerKeyFile     = "issuer.key.pem"
	issuerCertFile    = "issuer.cert"
	sessionKeyPattern = "session-%s.key.pem"
)

// maxKeyFileBytes bounds a key file; one holds a few hundred bytes.
const maxKeyFileBytes = 64 << 10

// backdate is how far before now certificates begin. A device judges a token at the time that it trusts, which may be
// that of an answer made before the certificate; and clocks differ.
const backdate = 5 * time.Minute

// ErrKeysExist means that the folder holds keys already. They are never overwritten: apps have their roots pinned.
var ErrKeysExist = errors.New("keys exist already")

// MakeKeys makes all keys of a new cluster in dir: two roots (active and spare), an issuing key certified by the active root for
// 400 days, a session key for each environment, and the key that seals e-mail addresses. The roots' private keys belong offline afterwards; a writer needs neither.
// Error: ErrKeysExist.
func MakeKeys(dir, cluster string, envs []entitlement.Environment) error {
	return MakeKeysAt(dir, cluster, envs, time.Now())
}

// MakeKeysAt is MakeKeys for a cluster whose clock (Config.Now) is another: the 400 days begin at now.
func MakeKeysAt(dir, cluster string, envs []entitlement.Environment, now time.Time) error {
	if err := checkCluster(cluster); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	root, err := makeKey(dir, rootKeyFile, rootPublicFile)
	if err != nil {
		return err
	}
	if _, err := makeKey(dir, spareKeyFile, sparePublicFile); err != nil {
		return err
	}
	if _, err := certifyIssuer(dir, root, cluster, now); err != nil {
		return err
	}
	for _, env := range envs {
		if _, err := makeKey(dir, fmt.Sprintf(sessionKeyPattern, env), ""); err != nil {
			return err
		}
	}
	return makeContactKey(dir)
}

func checkCluster(cluster string) error {
	if !clusterName.MatchString(cluster) {
		return fmt.Errorf("cluster %q: want 1 to 64 of A-Z, a-z, 0-9, _ and -, beginning with a letter or digit", cluster)
	}
	return nil
}

// MakeIssuer makes the cluster's next issuing key in dir, certified for 400 days by the root whose private key is in rootFile, and returns when it ends. Every
// writer gets both files in place of the present ones, with a restart; what the present one has certified counts until its own end. Error:
// ErrKeysExist.
func MakeIssuer(dir, rootFile, cluster string) (until time.Time, err error) {
	if err := checkCluster(cluster); err != nil {
		return until, err
	}
	text, err := os.ReadFile(rootFile)
	if err != nil {
		return until, fmt.Errorf("root key: %w", err)
	}
	root, err := token.ParsePrivateKeyPEM(text)
	if err != nil {
		return until, fmt.Errorf("root key %s: %w", rootFile, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return until, fmt.Errorf("make folder: %w", err)
	}
	return certifyIssuer(dir, root, cluster, time.Now())
}

// certifyIssuer makes an issuing key in dir and has root certify it.
func certifyIssuer(dir string, root *ecdsa.PrivateKey, cluster string, now time.Time) (until time.Time, err error) {
	issuer, err := makeKey(dir, issuerKeyFile, "")
	if err != nil {
		return until, err
	}
	begin := now.Add(-backdate).Unix()
	end := begin + token.MaxIssuerSeconds
	cert, err := token.IssueCertificate(root, token.Certificate{
		Issuer: cluster, Subject: "issuer-" + time.Unix(begin, 0).UTC().Format(time.DateOnly), Role: token.RoleIssuer,
		NotBefore: begin, ExpiresAt: end, Key: &issuer.PublicKey,
	})
	if err != nil {
		return until, fmt.Errorf("certify issuing key: %w", err)
	}
	return time.Unix(end, 0), makeFile(dir, issuerCertFile, []byte(cert+"\n"), 0o644)
}

// makeKey makes a key pair; without publicFile only the private half is written.
func makeKey(dir, privateFile, publicFile string) (*ecdsa.PrivateKey, error) {
	key, err := token.GenerateKey()
	if err != nil {
		return nil, err
	}
	text, err := token.MarshalPrivateKeyPEM(key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", privateFile, err)
	}
	if err := makeFile(dir, privateFile, text, 0o600); err != nil {
		return nil, err
	}
	if publicFile == "" {
		return key, nil
	}
	if text, err = token.MarshalPublicKeyPEM(&key.PublicKey); err != nil {
		return nil, fmt.Errorf("%s: %w", publicFile, err)
	}
	return key, makeFile(dir, publicFile, text, 0o644)
}

func makeFile(dir, name string, content []byte, mode fs.FileMode) error {
	path := filepath.Join(dir, name)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s: %w", path, ErrKeysExist)
	}
	if err != nil {
		return fmt.Errorf("make key file: %w", err)
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// keyring is the private keys that a writer works with.
type keyring struct {
	issuer      *ecdsa.PrivateKey
	issuerText  string // its certificate
	issuerCert  token.Certificate
	roots       token.Roots
	sessions    map[entitlement.Environment]*token.SessionSigner
	sessionJWKs map[entitlement.Environment][]byte // the public halves, as the records of kind keys hold them
}

// loadKeys reads the files that the configuration names and notes everything that is wrong with them.
func (c *Config) loadKeys(m *config.Mistakes) *keyring {
	k := &keyring{sessions: map[entitlement.Environment]*token.SessionSigner{}, sessionJWKs: map[entitlement.Environment][]byte{}}
	if len(c.Trust.RootPublicKeys) == 0 {
		m.Add("trust.root_public_keys", "must name the pinned roots' files")
	}
	for i, path := range c.Trust.RootPublicKeys {
		at := fmt.Sprintf("trust.root_public_keys[%d]", i)
		if text := readKeyFile(path, at, m); text != nil {
			if key, err := token.ParsePublicKeyPEM(text); err != nil {
				m.Add(at, "%s: %v", path, err)
			} else {
				k.roots = append(k.roots, key)
			}
		}
	}
	k.issuer = readPrivateKey(c.Keys.IssuerKeyFile, "keys.issuer_key_file", m)
	if text := readKeyFile(c.Keys.IssuerCertFile, "keys.issuer_cert_file", m); text != nil {
		k.issuerText = strings.TrimSpace(string(text))
		c.checkIssuer(k, m)
	}
	for _, env := range slices.Sorted(maps.Keys(c.Environments)) {
		if env.Valid() {
			k.loadSession(env, c.Keys.SessionKeyFiles[env], m)
		}
	}
	for _, env := range slices.Sorted(maps.Keys(c.Keys.SessionKeyFiles)) {
		if _, ok := c.Environments[env]; !ok {
			m.Add("keys.session_key_files."+string(env), "no such environment here")
		}
	}
	return k
}

// checkIssuer tries the issuing key: a writer's certificate made with it must verify up to a pinned root now.
func (c *Config) checkIssuer(k *keyring, m *config.Mistakes) {
	const at = "keys.issuer_cert_file"
	var err error
	if k.issuerCert, err = token.ParseCertificate(k.issuerText); err != nil {
		m.Add(at, "%v", err)
		return
	}
	if c.Node.Cluster != "" && k.issuerCert.Issuer != c.Node.Cluster {
		m.Add(at, "belongs to the cluster %q, and node.cluster is %q", k.issuerCert.Issuer, c.Node.Cluster)
		return
	}
	if k.issuer == nil || len(k.roots) == 0 || c.Node.ID == "" || c.Node.Cluster == "" {
		return // said already
	}
	if _, err := newSigner(k, c.Node.Cluster, c.Node.ID, c.now()); err != nil {
		m.Add(at, "does not go with keys.issuer_key_file and trust.root_public_keys: %v", err)
	}
}

func (k *keyring) loadSession(env entitlement.Environment, path string, m *config.Mistakes) {
	at := "keys.session_key_files." + string(env)
	key := readPrivateKey(path, at, m)
	if key == nil {
		return
	}
	signer, err := token.NewSessionSigner(key)
	if err != nil {
		m.Add(at, "%v", err)
		return
	}
	jwk, err := token.PublicJWK(&key.PublicKey)
	if err != nil {
		m.Add(at, "%v", err)
		return
	}
	text, err := json.Marshal(jwk)
	if err != nil {
		m.Add(at, "%v", err)
		return
	}
	k.sessions[env], k.sessionJWKs[env] = signer, text
}

func readPrivateKey(path, at string, m *config.Mistakes) *ecdsa.PrivateKey {
	text := readKeyFile(path, at, m)
	if text == nil {
		return nil
	}
	key, err := token.ParsePrivateKeyPEM(text)
	if err != nil {
		m.Add(at, "%s: %v", path, err)
		return nil
	}
	return key
}

func readKeyFile(path, at string, m *config.Mistakes) []byte {
	if path == "" {
		m.Add(at, "must be given")
		return nil
	}
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxKeyFileBytes {
		err = fmt.Errorf("%s: larger than any key", path)
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(path)
	}
	if err != nil {
		m.Add(at, "%v", err)
		return nil
	}
	return text
}
