package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/fips140"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"filippo.io/bigmod"
	"filippo.io/nistec"
)

// An answer costs its signature, and crypto/ecdsa makes 55 objects for each, most of them for a nonce of one use. Here the same signature, byte for byte the
// one that RFC 6979 and crypto/ecdsa give, is made from the parts that crypto/ecdsa is made of, in memory that is used again: constant in time wherever the
// private key or the nonce is looked at, two thirds of the time, no garbage.

// rawSigner makes the r || s of RFC 7518 section 3.4 of work's digest, in work.
type rawSigner interface {
	sign(work *scratch) error
}

// newRawSigner returns the fastest way to sign with signer: a key that is kept elsewhere signs by itself, and where Go's FIPS 140 module must make every signature, it does.
func newRawSigner(signer crypto.Signer) (rawSigner, error) {
	key, here := signer.(*ecdsa.PrivateKey)
	if !here || fips140.Enabled() {
		return derSigner{signer}, nil
	}
	b, err := key.Bytes()
	if err != nil || len(b) != coordinateBytes {
		return nil, fmt.Errorf("%w: not a P-256 private key", ErrKey)
	}
	return &p256Key{d: [coordinateBytes]byte(b)}, nil
}

// derSigner signs with crypto.Signer, which gives ASN.1.
type derSigner struct{ signer crypto.Signer }

func (s derSigner) sign(work *scratch) error {
	// Without a source of randomness the signature is that of RFC 6979.
	der, err := s.signer.Sign(nil, work.digest[:], crypto.SHA256)
	if err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	return rawSignature(&work.raw, der)
}

// p256Key is a private key in the form that its own signatures need.
type p256Key struct{ d [coordinateBytes]byte }

// arithmetic is what one signature reckons with.
type arithmetic struct {
	k, blind, e, r, s bigmod.Nat
	point             nistec.P256Point
}

// order is n, the order of P-256's base point (SEC 2 section 2.4.2).
var (
	orderLimbs = limbs{0xf3b9cac2fc632551, 0xbce6faada7179e84, 0xffffffffffffffff, 0xffffffff00000000}
	order      = func() *bigmod.Modulus {
		b := orderLimbs.bytes()
		m, err := bigmod.NewModulus(b[:])
		if err != nil {
			panic(err) // a constant
		}
		return m
	}()
)

// sign is FIPS 186-5 section 6.4.1 with the nonce of RFC 6979 section 3.2.
func (key *p256Key) sign(work *scratch) error {
	a := &work.arithmetic
	if _, err := a.e.SetOverflowingBytes(work.digest[:], order); err != nil {
		return err
	}
	var h, nonce [coordinateBytes]byte
	fill(&h, &a.e)
	for candidates := newNonces(&key.d, &h); ; {
		nonce = candidates.next()
		if _, err := a.k.SetBytes(nonce[:], order); err == nil && a.k.IsZero() == 0 {
			break
		}
	}
	if _, err := a.point.ScalarBaseMult(nonce[:]); err != nil {
		return err
	}
	x, err := a.point.BytesX()
	if err != nil {
		return err
	}
	if _, err := a.r.SetOverflowingBytes(x, order); err != nil {
		return err
	}
	if _, err := a.s.SetBytes(key.d[:], order); err != nil {
		return err
	}
	a.s.Mul(&a.r, order)
	a.s.Add(&a.e, order)
	// s = (e + rd) / k, as (e + rd) * blind / (k * blind): how long the inverse takes says something of k * blind, which is a number by lot, and nothing of k.
	var by [coordinateBytes]byte
	for {
		_, _ = rand.Read(by[:]) // never fails, see crypto/rand
		if _, err := a.blind.SetOverflowingBytes(by[:], order); err != nil {
			return err
		}
		if a.blind.IsZero() == 0 {
			break
		}
	}
	a.s.Mul(&a.blind, order)
	a.k.Mul(&a.blind, order)
	fill(&by, &a.k)
	by = inverse(&by)
	if _, err := a.k.SetBytes(by[:], order); err != nil {
		return err
	}
	a.s.Mul(&a.k, order)
	if a.r.IsZero() == 1 || a.s.IsZero() == 1 {
		return errors.New("a signature of zero: the arithmetic is broken") // once in 2^256
	}
	fill((*[coordinateBytes]byte)(work.raw[:coordinateBytes]), &a.r)
	fill((*[coordinateBytes]byte)(work.raw[coordinateBytes:]), &a.s)
	return nil
}

// fill writes x, a number modulo the order, with the highest byte first: Nat.Bytes without its allocation.
func fill(dst *[coordinateBytes]byte, x *bigmod.Nat) {
	const wordBytes = bits.UintSize / 8
	for i, word := range x.Bits() {
		for j := range wordBytes {
			dst[coordinateBytes-1-i*wordBytes-j] = byte(word >> (8 * j))
		}
	}
}

// nonces is HMAC_DRBG with SHA-256 as RFC 6979 section 3.2 uses it.
type nonces struct {
	k, v [sha256.Size]byte
	used bool
}

// newNonces is steps b to g. h is the digest modulo the order.
func newNonces(d, h *[coordinateBytes]byte) nonces {
	var n nonces
	for i := range n.v {
		n.v[i] = 1
	}
	var seed [2 * coordinateBytes]byte
	copy(seed[:], d[:])
	copy(seed[coordinateBytes:], h[:])
	n.update(0, seed[:])
	n.update(1, seed[:])
	return n
}

// update takes seed in.
func (n *nonces) update(separator byte, seed []byte) {
	var message [sha256.Size + 1 + 2*coordinateBytes]byte
	copy(message[:], n.v[:])
	message[sha256.Size] = separator
	n.k = mac(&n.k, message[:sha256.Size+1+copy(message[sha256.Size+1:], seed)])
	n.v = mac(&n.k, n.v[:])
}

// next is step h: the next candidate, which need not be below the order.
func (n *nonces) next() [coordinateBytes]byte {
	if n.used {
		n.update(0, nil)
	}
	n.used = true
	n.v = mac(&n.k, n.v[:])
	return n.v
}

// mac is HMAC-SHA-256 (RFC 2104) of a message of at most 97 bytes, on the stack: crypto/hmac makes five objects for a key, and every key here is used once.
func mac(key *[sha256.Size]byte, message []byte) [sha256.Size]byte {
	var inner [sha256.BlockSize + sha256.Size + 1 + 2*coordinateBytes]byte
	var outer [sha256.BlockSize + sha256.Size]byte
	copy(inner[:], key[:])
	copy(outer[:], key[:])
	for i := range sha256.BlockSize {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	sum := sha256.Sum256(inner[:sha256.BlockSize+copy(inner[sha256.BlockSize:], message)])
	copy(outer[sha256.BlockSize:], sum[:])
	return sha256.Sum256(outer[:])
}

// limbs is a number below 2^256, the lowest 64 bits first.
type limbs [4]uint64

func (x *limbs) bytes() (b [coordinateBytes]byte) {
	for i, limb := range x {
		binary.BigEndian.PutUint64(b[8*(len(x)-1-i):], limb)
	}
	return b
}

// inverse returns 1/a modulo the order, for 0 < a < n, by the binary algorithm (Knuth 4.5.2, exercise 39). How long it takes depends on a, which must not be a secret.
func inverse(a *[coordinateBytes]byte) [coordinateBytes]byte {
	// What holds all along: a*x = u and a*y = v, modulo the order; v is odd.
	var u limbs
	for i := range u {
		u[i] = binary.BigEndian.Uint64(a[8*(len(u)-1-i):])
	}
	v := orderLimbs
	x, y := limbs{1}, limbs{}
	for u != (limbs{}) {
		for u[0]&1 == 0 {
			u.halve(0)
			x.halve(x.add(&orderLimbs, -(x[0] & 1)))
		}
		if u.less(&v) {
			u, v, x, y = v, u, y, x
		}
		u.subtract(&v)
		x.add(&orderLimbs, -x.subtract(&y))
	}
	return y.bytes()
}

// The limbs are written out: a loop over them takes twice as long.

// add adds y, as far as mask has bits: all of them or none, which costs no branch that nobody could predict.
func (x *limbs) add(y *limbs, mask uint64) (carry uint64) {
	x[0], carry = bits.Add64(x[0], y[0]&mask, 0)
	x[1], carry = bits.Add64(x[1], y[1]&mask, carry)
	x[2], carry = bits.Add64(x[2], y[2]&mask, carry)
	x[3], carry = bits.Add64(x[3], y[3]&mask, carry)
	return carry
}

func (x *limbs) subtract(y *limbs) (borrow uint64) {
	x[0], borrow = bits.Sub64(x[0], y[0], 0)
	x[1], borrow = bits.Sub64(x[1], y[1], borrow)
	x[2], borrow = bits.Sub64(x[2], y[2], borrow)
	x[3], borrow = bits.Sub64(x[3], y[3], borrow)
	return borrow
}

func (x *limbs) less(y *limbs) bool {
	difference := *x
	return difference.subtract(y) != 0
}

// halve shifts x to the right by one bit, and carry in.
func (x *limbs) halve(carry uint64) {
	x[0] = x[1]<<63 | x[0]>>1
	x[1] = x[2]<<63 | x[1]>>1
	x[2] = x[3]<<63 | x[2]>>1
	x[3] = carry<<63 | x[3]>>1
}
