// ECDSA over P-256 and SHA-256 in plain JavaScript, to verify only: for platforms without WebCrypto, such as React Native. It handles public data
// alone, so it need not take the same time for every input. Sources: FIPS 186-5 section 6.4.2, FIPS 180-4, SEC 1.
import type { Verifier } from './verifier.js';

const p = 0xffffffff00000001000000000000000000000000ffffffffffffffffffffffffn;
const n = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;
const b = 0x5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604bn;
const generator: Affine = {
  x: 0x6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296n,
  y: 0x4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5n,
};

interface Affine {
  x: bigint;
  y: bigint;
}

/** Jacobian coordinates: x = X/Z^2, y = Y/Z^3. Z = 0 is the point at infinity. */
type Jacobian = readonly [bigint, bigint, bigint];
const infinity: Jacobian = [1n, 1n, 0n];

/** A public key, with the small multiples that verifying adds up. */
export interface P256Key {
  /** i * G + j * Q at 4 * i + j, for i and j from 0 to 3. */
  readonly sums: readonly Jacobian[];
}

/** The verifier of this module: `configure({verifier: p256, ...})`. */
export const p256: Verifier<P256Key> = {
  sha256: async (data) => sha256(data),
  importKey: async (x, y) => importKey(x, y),
  verify: async (key, signature, data) => verify(key, signature, sha256(data)),
};

function importKey(xBytes: Uint8Array, yBytes: Uint8Array): P256Key {
  const [x, y] = [toBigInt(xBytes), toBigInt(yBytes)];
  if (xBytes.length !== 32 || yBytes.length !== 32 || x >= p || y >= p || mod(y * y - (x * x * x - 3n * x + b), p) !== 0n) {
    throw new Error('the point is not on P-256');
  }
  const g: Jacobian = [generator.x, generator.y, 1n];
  const q: Jacobian = [x, y, 1n];
  const sums: Jacobian[] = [];
  for (let i = 0; i < 4; i++) {
    for (let j = 0; j < 4; j++) {
      sums.push(j > 0 ? add(sums[4 * i + j - 1]!, q) : i > 0 ? add(sums[4 * i - 4]!, g) : infinity);
    }
  }
  return { sums };
}

function verify(key: P256Key, signature: Uint8Array, digest: Uint8Array): boolean {
  if (signature.length !== 64) return false;
  const r = toBigInt(signature.subarray(0, 32));
  const s = toBigInt(signature.subarray(32));
  if (r === 0n || r >= n || s === 0n || s >= n) return false;
  const w = invert(s, n);
  const u = mod(toBigInt(digest) * w, n);
  const v = mod(r * w, n);
  // u * G + v * Q, two bits of both in each step.
  let point = infinity;
  for (let shift = 254n; shift >= 0n; shift -= 2n) {
    point = double(double(point));
    const sum = key.sums[Number((u >> shift) & 3n) * 4 + Number((v >> shift) & 3n)]!;
    point = add(point, sum);
  }
  const [X, , Z] = point;
  if (Z === 0n) return false;
  // x mod n = r, without dividing: x is r or, because p > n, r + n.
  const zz = mod(Z * Z, p);
  return mod(r * zz, p) === X || (r + n < p && mod((r + n) * zz, p) === X);
}

function double([X, Y, Z]: Jacobian): Jacobian {
  if (Z === 0n || Y === 0n) return infinity;
  const zz = (Z * Z) % p;
  const yy = (Y * Y) % p;
  const m = (3n * (X - zz) * (X + zz)) % p; // a = -3
  const s = (4n * X * yy) % p;
  const x = mod(m * m - 2n * s, p);
  return [x, mod(m * (s - x) - 8n * yy * yy, p), (2n * Y * Z) % p];
}

function add(a: Jacobian, c: Jacobian): Jacobian {
  if (a[2] === 0n) return c;
  if (c[2] === 0n) return a;
  const [X1, Y1, Z1] = a;
  const [X2, Y2, Z2] = c;
  const z1z1 = (Z1 * Z1) % p;
  const z2z2 = (Z2 * Z2) % p;
  const u1 = (X1 * z2z2) % p;
  const u2 = (X2 * z1z1) % p;
  const s1 = (Y1 * Z2 * z2z2) % p;
  const s2 = (Y2 * Z1 * z1z1) % p;
  if (u1 === u2) return s1 === s2 ? double(a) : infinity;
  const h = u2 - u1;
  const hh = (h * h) % p;
  const hhh = (h * hh) % p;
  const r = s2 - s1;
  const v = (u1 * hh) % p;
  const x = mod(r * r - hhh - 2n * v, p);
  return [x, mod(r * (v - x) - s1 * hhh, p), mod(h * Z1 * Z2, p)];
}

function mod(a: bigint, m: bigint): bigint {
  const rest = a % m;
  return rest < 0n ? rest + m : rest;
}

/** The inverse of a modulo the prime m, by the extended Euclidean algorithm. */
function invert(a: bigint, m: bigint): bigint {
  let [r0, r1, t0, t1] = [m, a, 0n, 1n];
  while (r1 !== 0n) {
    const q = r0 / r1;
    [r0, r1, t0, t1] = [r1, r0 - q * r1, t1, t0 - q * t1];
  }
  return mod(t0, m);
}

function toBigInt(bytes: Uint8Array): bigint {
  let hex = '0x0';
  for (const byte of bytes) hex += (byte < 16 ? '0' : '') + byte.toString(16);
  return BigInt(hex);
}

// FIPS 180-4 section 4.2.2: the fraction bits of the cube roots of the first 64 primes; section 5.3.3: of the square roots of the first 8. They are
// computed, exactly, from the definition.
const primes: bigint[] = [];
for (let c = 2n; primes.length < 64; c++) if (primes.every((prime) => c % prime !== 0n)) primes.push(c);
const fraction = (within: (root: bigint) => boolean): number => {
  let root = 0n; // times 2^32
  for (let bit = 1n << 40n; bit > 0n; bit >>= 1n) if (within(root + bit)) root += bit;
  return Number(root & 0xffffffffn);
};
const constants = primes.map((prime) => fraction((root) => root * root * root <= prime << 96n));
const initial = primes.slice(0, 8).map((prime) => fraction((root) => root * root <= prime << 64n));

/** SHA-256 of data. */
export function sha256(data: Uint8Array): Uint8Array {
  const length = data.length;
  const padded = new Uint8Array(((length + 8) >> 6) * 64 + 64);
  padded.set(data);
  padded[length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 8, Math.floor(length / 0x20000000));
  view.setUint32(padded.length - 4, length << 3);
  const state = new Uint32Array(initial);
  const w = new Uint32Array(64);
  const turn = (value: number, by: number) => (value >>> by) | (value << (32 - by));
  for (let at = 0; at < padded.length; at += 64) {
    for (let i = 0; i < 64; i++) {
      if (i < 16) {
        w[i] = view.getUint32(at + 4 * i);
        continue;
      }
      const [w2, w15] = [w[i - 2]!, w[i - 15]!];
      w[i] = w[i - 16]! + (turn(w15, 7) ^ turn(w15, 18) ^ (w15 >>> 3)) + w[i - 7]! + (turn(w2, 17) ^ turn(w2, 19) ^ (w2 >>> 10));
    }
    let [a, b, c, d, e, f, g, h] = state as unknown as [number, number, number, number, number, number, number, number];
    for (let i = 0; i < 64; i++) {
      const t1 = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + constants[i]! + w[i]!) | 0;
      const t2 = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + t1) | 0, c, b, a, (t1 + t2) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((value, i) => (state[i] = state[i]! + value));
  }
  const out = new Uint8Array(32);
  const result = new DataView(out.buffer);
  state.forEach((value, i) => result.setUint32(4 * i, value));
  return out;
}
