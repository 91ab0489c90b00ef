import { decodeBase64url, encodeBase64url, Malformed } from './bytes.js';

/** What the SDK needs of cryptography. WebCrypto gives it in browsers; `@latchkey/sdk/p256` gives it where there is none, as in React Native. */
export interface Verifier<Key = unknown> {
  /** SHA-256. */
  sha256(data: Uint8Array): Promise<Uint8Array>;
  /** Takes the 32-byte coordinates of a P-256 point. Rejects when they are not on the curve. */
  importKey(x: Uint8Array, y: Uint8Array): Promise<Key>;
  /** Says whether signature, r and s of 32 bytes each, is ECDSA with SHA-256 over data under key. */
  verify(key: Key, signature: Uint8Array, data: Uint8Array): Promise<boolean>;
}

/** The coordinates of a public key, 32 bytes each. */
export interface Point {
  x: Uint8Array;
  y: Uint8Array;
}

/** WebCrypto as a Verifier, or undefined where the platform has none (React Native; a page that is not served by HTTPS). */
export function webCryptoVerifier(): Verifier<CryptoKey> | undefined {
  const subtle = (globalThis.crypto as Crypto | undefined)?.subtle;
  if (!subtle) return undefined;
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  return {
    sha256: async (data) => new Uint8Array(await subtle.digest('SHA-256', data as BufferSource)),
    importKey: (x, y) => subtle.importKey('jwk', { kty: 'EC', crv: 'P-256', x: encodeBase64url(x), y: encodeBase64url(y) }, algorithm, false, ['verify']),
    verify: (key, signature, data) => subtle.verify(algorithm, key, signature as BufferSource, data as BufferSource),
  };
}

// The DER of an SPKI for an uncompressed P-256 point, up to the point itself (RFC 5480).
const spkiPrefix = [
  0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/** Reads a root as the writers' `root.pub.pem` holds it: one SPKI PEM of a P-256 key. */
export function parseRoot(pem: string): Point {
  const match = /^\s*-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----\s*$/.exec(pem);
  const encoded = match?.[1]?.replace(/\s|=/g, '').replace(/\+/g, '-').replace(/\//g, '_');
  const der = encoded === undefined ? undefined : decodeBase64url(encoded);
  if (!der || der.length !== spkiPrefix.length + 64 || spkiPrefix.some((byte, i) => der[i] !== byte)) {
    throw new Malformed('a root is not the PEM of a P-256 public key');
  }
  return { x: der.slice(-64, -32), y: der.slice(-32) };
}
