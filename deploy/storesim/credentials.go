package storesim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// Credentials are one environment's secrets: what messages are signed with, and what a pull must show. NewCredentials makes them, ReadCredentials
// reads them from a file.
type Credentials struct {
	Stripe     StripeCredentials     `json:"stripe"`
	Apple      AppleCredentials      `json:"apple"`
	Google     GoogleCredentials     `json:"google"`
	RevenueCat RevenueCatCredentials `json:"revenuecat"`
	Adapty     AdaptyCredentials     `json:"adapty"`
	Iaptic     IapticCredentials     `json:"iaptic"`
	Web2Wave   Web2WaveCredentials   `json:"web2wave"`
}

// StripeCredentials are an account's.
type StripeCredentials struct {
	WebhookSecret string `json:"webhook_secret"` // "whsec_..."
	APIKey        string `json:"api_key"`        // "sk_..." or "rk_..."
}

// AppleCredentials are an app's, and those of the authority that stands for Apple's.
type AppleCredentials struct {
	RootFile   string `json:"root_file"`    // DER, to be pinned in place of Apple Root CA - G3
	ChainFile  string `json:"chain_file"`   // PEM: leaf, intermediate, root
	KeyFile    string `json:"key_file"`     // PKCS#8 PEM, the leaf's
	BundleID   string `json:"bundle_id"`    //
	AppAppleID int64  `json:"app_apple_id"` // told in production alone
	IssuerID   string `json:"issuer_id"`    // of the App Store Server API's key
	APIKeyID   string `json:"api_key_id"`   //
	APIKeyFile string `json:"api_key_file"` // PKCS#8 PEM: the ".p8" that the writer has

	key    *ecdsa.PrivateKey
	chain  [][]byte // leaf, intermediate, root; DER
	apiKey *ecdsa.PublicKey
}

// GoogleCredentials are a Play app's, its push subscription's, and those of the issuer that stands for Google's.
type GoogleCredentials struct {
	OIDCKeyFile string `json:"oidc_key_file"` // PKCS#8 PEM, RSA: signs what comes with each push
	Audience    string `json:"audience"`
	Email       string `json:"email"` // of the push's service account
	Package     string `json:"package"`
	// Service account of the API. An empty file: any assertion is believed.
	ServiceEmail   string `json:"service_email"`
	ServiceKeyFile string `json:"service_key_file"` // PKCS#8 PEM, RSA

	key     *rsa.PrivateKey
	service *rsa.PublicKey
}

// ServiceAccount is the key file of the service account, as Google gives it out; tokens is where it is exchanged.
func (g GoogleCredentials) ServiceAccount(tokens string) ([]byte, error) {
	key, err := os.ReadFile(g.ServiceKeyFile)
	if err != nil {
		return nil, fmt.Errorf("service account: %w", err)
	}
	return encode(object{"type": "service_account", "client_email": g.ServiceEmail, "private_key": string(key), "private_key_id": "1", "token_uri": tokens}), nil
}

// RevenueCatCredentials are a project's.
type RevenueCatCredentials struct {
	Authorization string `json:"authorization"`  // the header's whole value
	SigningSecret string `json:"signing_secret"` // empty: messages carry no signature
	APIKey        string `json:"api_key"`        // of v1 and v2
	Project       string `json:"project"`        // of v2
}

// AdaptyCredentials are an app's.
type AdaptyCredentials struct {
	Authorization string `json:"authorization"` // the header's whole value
	SecretKey     string `json:"secret_key"`
}

// IapticCredentials are an app's.
type IapticCredentials struct {
	Password string `json:"password"` // in the messages' bodies, and the API's secret key
	AppName  string `json:"app_name"`
}

// Web2WaveCredentials are a project's.
type Web2WaveCredentials struct {
	Token  string `json:"token"`
	APIKey string `json:"api_key"`
}

// CredentialsFile is the name of the file that NewCredentials writes.
const CredentialsFile = "storesim.json"

// The extensions by which Apple marks what may sign for the App Store. Source: Apple's app-store-server-library.
var (
	appleLeafOID         = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 6, 11, 1}
	appleIntermediateOID = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 6, 2, 1}
)

// The simulated Apple's certificates are valid from and to these dates, so that no test ever fails by the calendar.
var (
	appleValidFrom = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	appleValidTo   = time.Date(2045, 1, 1, 0, 0, 0, 0, time.UTC)
)

func secret(prefix string) string {
	var b [18]byte
	rand.Read(b[:])
	return prefix + hex.EncodeToString(b[:])
}

// NewCredentials makes credentials of both environments by lot, with the files that they name, and writes them to dir/storesim.json (0600).
func NewCredentials(dir string) (map[Environment]*Credentials, error) {
	all := map[Environment]*Credentials{}
	for _, env := range Environments {
		sub := filepath.Join(dir, string(env))
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return nil, fmt.Errorf("credentials: %w", err)
		}
		mode := map[Environment]string{Production: "live", Sandbox: "test"}[env]
		c := &Credentials{
			Stripe: StripeCredentials{secret("whsec_"), secret("rk_" + mode + "_")},
			Apple: AppleCredentials{RootFile: filepath.Join(sub, "apple-root.der"), ChainFile: filepath.Join(sub, "apple-chain.pem"), KeyFile: filepath.Join(sub, "apple-leaf.pem"),
				BundleID: "com.example.app", AppAppleID: 6400000001, IssuerID: "57246542-96fe-1a63-e053-0824d011072a", APIKeyID: "SIM1234567", APIKeyFile: filepath.Join(sub, "apple-api-key.p8")},
			Google: GoogleCredentials{OIDCKeyFile: filepath.Join(sub, "google-oidc.pem"), Audience: "https://latchkey.example.com/v1/webhooks/" + string(env) + "/google",
				Email: "play-push@latchkey-sim.iam.gserviceaccount.com", Package: "com.example.app", ServiceEmail: "play-api@latchkey-sim.iam.gserviceaccount.com", ServiceKeyFile: filepath.Join(sub, "google-service.pem")},
			RevenueCat: RevenueCatCredentials{secret("Bearer "), secret("whsec_"), secret("sk_"), "proj1ab2c3d4"},
			Adapty:     AdaptyCredentials{secret(""), secret("secret_" + mode + "_")},
			Iaptic:     IapticCredentials{secret(""), "com.example.app"},
			Web2Wave:   Web2WaveCredentials{secret(""), secret("")},
		}
		if err := errors.Join(NewAppleChain(c.Apple.RootFile, c.Apple.ChainFile, c.Apple.KeyFile), writeECKey(c.Apple.APIKeyFile), WriteRSAKey(c.Google.OIDCKeyFile), WriteRSAKey(c.Google.ServiceKeyFile)); err != nil {
			return nil, err
		}
		if err := c.load(); err != nil {
			return nil, err
		}
		all[env] = c
	}
	b, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	return all, os.WriteFile(filepath.Join(dir, CredentialsFile), append(b, '\n'), 0o600)
}

// ReadCredentials reads what NewCredentials wrote, or another in the same form. A provider without its secrets is not simulated.
func ReadCredentials(path string) (map[Environment]*Credentials, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	var all map[Environment]*Credentials
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, fmt.Errorf("credentials: %s: %w", path, err)
	}
	for env, c := range all {
		if err := c.load(); err != nil {
			return nil, fmt.Errorf("credentials: %s: %s: %w", path, env, err)
		}
	}
	return all, nil
}

// load reads the files that c names.
func (c *Credentials) load() error {
	var errs []error
	if c.Apple.KeyFile != "" {
		key, err := readKey[*ecdsa.PrivateKey](c.Apple.KeyFile)
		c.Apple.key = key
		chain, chainErr := os.ReadFile(c.Apple.ChainFile)
		for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
			c.Apple.chain = append(c.Apple.chain, block.Bytes)
		}
		if len(c.Apple.chain) != 3 && chainErr == nil {
			chainErr = fmt.Errorf("%s: want three certificates", c.Apple.ChainFile)
		}
		errs = append(errs, err, chainErr)
	}
	if c.Apple.APIKeyFile != "" {
		key, err := readKey[*ecdsa.PrivateKey](c.Apple.APIKeyFile)
		if err == nil {
			c.Apple.apiKey = &key.PublicKey
		}
		errs = append(errs, err)
	}
	if c.Google.OIDCKeyFile != "" {
		key, err := readKey[*rsa.PrivateKey](c.Google.OIDCKeyFile)
		c.Google.key = key
		errs = append(errs, err)
	}
	if c.Google.ServiceKeyFile != "" {
		key, err := readKey[*rsa.PrivateKey](c.Google.ServiceKeyFile)
		if err == nil {
			c.Google.service = &key.PublicKey
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// readKey reads a PKCS#8 PEM file.
func readKey[K any](path string) (key K, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return key, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return key, fmt.Errorf("%s: no PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return key, fmt.Errorf("%s: %w", path, err)
	}
	key, ok := parsed.(K)
	if !ok {
		return key, fmt.Errorf("%s: a key of another kind", path)
	}
	return key, nil
}

func writeKey(path string, key any) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func writeECKey(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	return writeKey(path, key)
}

// WriteRSAKey makes an RSA key and writes it as PKCS#8 PEM.
func WriteRSAKey(path string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	return writeKey(path, key)
}

// NewAppleChain makes an authority that stands for Apple's, with an intermediate and a leaf that carry Apple's marks, and writes the root (DER), the
// chain (PEM: leaf, intermediate, root) and the leaf's key (PKCS#8 PEM).
func NewAppleChain(rootFile, chainFile, keyFile string) error {
	null := []byte{5, 0}
	var der [3][]byte // root, intermediate, leaf
	var parent *x509.Certificate
	var signer *ecdsa.PrivateKey
	for i, name := range []string{"Simulated Apple Root CA", "Simulated Apple Worldwide Developer Relations CA", "Simulated App Store Receipt Signing"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name}, NotBefore: appleValidFrom, NotAfter: appleValidTo,
			IsCA: i < 2, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
		switch i {
		case 0:
			parent, signer = template, key
		case 1:
			template.ExtraExtensions = []pkix.Extension{{Id: appleIntermediateOID, Value: null}}
			template.MaxPathLenZero = true
		case 2:
			template.ExtraExtensions = []pkix.Extension{{Id: appleLeafOID, Value: null}}
			template.KeyUsage = x509.KeyUsageDigitalSignature
		}
		if der[i], err = x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer); err != nil {
			return fmt.Errorf("certificate: %w", err)
		}
		if parent, err = x509.ParseCertificate(der[i]); err != nil {
			return fmt.Errorf("certificate: %w", err)
		}
		signer = key
	}
	var chain []byte
	for _, certificate := range [][]byte{der[2], der[1], der[0]} {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})...)
	}
	return errors.Join(os.WriteFile(rootFile, der[0], 0o600), os.WriteFile(chainFile, chain, 0o600), writeKey(keyFile, signer))
}
