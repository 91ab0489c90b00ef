package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// bothSignatures returns what crypto/ecdsa and we make of a digest.
func bothSignatures(t testing.TB, key *ecdsa.PrivateKey, digest [sha256.Size]byte) (theirs, ours [signatureBytes]byte) {
	t.Helper()
	if err := rawSignature(&theirs, derSignature(t, key, digest[:])); err != nil {
		t.Fatal(err)
	}
	signer, err := newRawSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	work := scratches.Get().(*scratch) // one that was used before, as in service
	defer scratches.Put(work)
	work.digest = digest
	if err := signer.sign(work); err != nil {
		t.Fatal(err)
	}
	return theirs, work.raw
}

// A signature is byte for byte the one that crypto/ecdsa makes by RFC 6979, whatever the key and the digest.
func TestSignaturesAreThoseOfCryptoECDSA(t *testing.T) {
	const keys, digests = 50, 20
	n := elliptic.P256().Params().N
	beside := func(d int64) (digest [sha256.Size]byte) {
		new(big.Int).Add(n, big.NewInt(d)).FillBytes(digest[:])
		return digest
	}
	special := [][sha256.Size]byte{{}, {31: 1}, beside(-1), beside(0), beside(1)}
	all := special[0]
	for i := range all {
		all[i] = 0xff
	}
	special = append(special, all)
	for i := range keys {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		switch i { // keys at the ends of their range
		case 0:
			key = keyOf(t, "0000000000000000000000000000000000000000000000000000000000000001")
		case 1:
			key = keyOf(t, "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632550")
		}
		tried := special
		for range digests {
			var digest [sha256.Size]byte
			_, _ = rand.Read(digest[:])
			tried = append(tried, digest)
		}
		for _, digest := range tried {
			if theirs, ours := bothSignatures(t, key, digest); theirs != ours {
				t.Fatalf("key %x, digest %x: %x, crypto/ecdsa makes %x", privateBytes(t, key), digest, ours, theirs)
			}
		}
	}
}

func privateBytes(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	b, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func keyOf(t testing.TB, private string) *ecdsa.PrivateKey {
	t.Helper()
	b, err := hex.DecodeString(private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), b)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// RFC 6979 appendix A.2.5, and a message whose first candidate for a nonce is not below the order (found by Go's authors; one in 2^32 is such).
func TestSignaturesAreThoseOfRFC6979(t *testing.T) {
	key := keyOf(t, "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721")
	for message, want := range map[string]string{
		"sample": "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8",
		"test":   "f1abb023518351cd71d881567b1ea663ed3efcf6c5132b354f28d3b0b7d38367019f4113742a2b14bd25926b49c649155f267e60d3814b4c0cc84250e46f0083",
		"wv[vnX": "efd9073b652e76da1b5a019c0e4a2e3fa529b035a6abb91ef67f0ed7a1f212343db4706c9d9f4a4fe13bb5e08ef0fab53a57dbab2061c83a35fa411c68d2ba33",
	} {
		if _, ours := bothSignatures(t, key, sha256.Sum256([]byte(message))); hex.EncodeToString(ours[:]) != want {
			t.Errorf("%q: %x, want %s", message, ours, want)
		}
	}
}

// The inverse is math/big's, also at the ends of the range.
func TestInverseIsThatOfMathBig(t *testing.T) {
	n := elliptic.P256().Params().N
	if got := orderLimbs.bytes(); n.Cmp(new(big.Int).SetBytes(got[:])) != 0 {
		t.Fatalf("the order is %x, want %x", got, n)
	}
	var numbers []*big.Int
	for d := range int64(100) {
		numbers = append(numbers, big.NewInt(1+d), new(big.Int).Sub(n, big.NewInt(1+d)), new(big.Int).Lsh(big.NewInt(1), uint(d)))
	}
	for range 2000 {
		a, err := rand.Int(rand.Reader, new(big.Int).Sub(n, big.NewInt(1)))
		if err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, a.Add(a, big.NewInt(1)))
	}
	for _, a := range numbers {
		var in, want [coordinateBytes]byte
		a.FillBytes(in[:])
		new(big.Int).ModInverse(a, n).FillBytes(want[:])
		if got := inverse(&in); got != want {
			t.Fatalf("1/%x = %x, want %x", a, got, want)
		}
	}
}

// A key that is kept elsewhere, behind crypto.Signer, makes the same tokens.
func TestAKeyKeptElsewhereSignsTheSame(t *testing.T) {
	key := fixedKey(t, "session")
	var tokens [2]string
	for i, signer := range []crypto.Signer{key, elsewhere{key}} {
		s, err := NewSessionSigner(signer)
		if err != nil {
			t.Fatal(err)
		}
		if tokens[i], err = s.Sign(sessionClaimsOf()); err != nil {
			t.Fatal(err)
		}
	}
	if tokens[0] != tokens[1] {
		t.Errorf("%s by the key, %s by its signer", tokens[0], tokens[1])
	}
}

// elsewhere hides a key.
type elsewhere struct{ crypto.Signer }

// Where Go's FIPS 140 module must make every signature it does, and the tokens are the same.
func TestUnderFIPSTheModuleSigns(t *testing.T) {
	const child = "LATCHKEY_TEST_FIPS"
	key := fixedKey(t, "edge")
	if os.Getenv(child) != "" {
		signer, err := newRawSigner(key)
		if err != nil {
			t.Fatal(err)
		}
		if _, ours := signer.(*p256Key); ours || !fips140.Enabled() {
			t.Fatalf("enabled %t, signed by %T", fips140.Enabled(), signer)
		}
		fmt.Printf("token %s\n", signGrace(t, answer()))
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestUnderFIPSTheModuleSigns$")
	cmd.Env = append(os.Environ(), child+"=1", "GODEBUG=fips140=on")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if want := "token " + signGrace(t, answer()) + "\n"; !strings.Contains(string(out), want) {
		t.Errorf("under FIPS 140:\n%swant %s", out, want)
	}
}

func FuzzSignaturesAreThoseOfCryptoECDSA(f *testing.F) {
	f.Add([]byte("key"), []byte("message"))
	f.Fuzz(func(t *testing.T, seed, message []byte) {
		private := sha256.Sum256(seed)
		key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), private[:])
		if err != nil {
			return // zero, or beyond the order
		}
		if theirs, ours := bothSignatures(t, key, sha256.Sum256(message)); theirs != ours {
			t.Fatalf("%x, crypto/ecdsa makes %x", ours, theirs)
		}
	})
}
