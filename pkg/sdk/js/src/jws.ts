// The signed texts under a token: strict compact JWS, and the certificates that lead from a key to a pinned root.
import { ascii, decodeBase64url, encodeBase64url, integer, isObject, Malformed, optionalText, strictObject, text, type Json } from './bytes.js';
import type { Point, Verifier } from './verifier.js';

const maxLeafSeconds = 72 * 3600;
const maxIssuerSeconds = 400 * 24 * 3600;
const maxLength = 64 * 1024;

/** A token, certificate or list was refused. It takes nothing away: who holds an accepted token goes on with that. */
export class Refused extends Error {
  /** @param reason in the words of vectors.json; that of a certificate is `chain` and the reason. */
  constructor(readonly reason: string) {
    super(`refused: ${reason}`);
    this.name = 'Refused';
  }
}

/** A compact JWS taken apart; nothing of it is verified. */
export interface JWS {
  header: Json;
  claims: Json;
  signed: Uint8Array;
  signature: Uint8Array;
}

/** A certificate whose signature holds. Times are Unix seconds. */
export interface Certificate {
  issuer: string;
  role: string;
  audience: string | undefined;
  environment: string | undefined;
  notBefore: number;
  expiresAt: number;
  key: unknown;
  /** RFC 7638: the kid of what the key signs. */
  thumbprint: string;
}

/** The certificates above a token. */
export interface Chain {
  leaf: Certificate;
  issuer: Certificate;
}

/** Verifies what the pinned roots and the keys below them signed. */
export class Authority {
  private readonly roots: Promise<unknown[]>;

  constructor(
    private readonly verifier: Verifier,
    roots: Point[],
  ) {
    this.roots = Promise.all(roots.map((root) => verifier.importKey(root.x, root.y)));
    this.roots.catch(() => undefined); // whoever verifies hears of it
  }

  /** Says whether jws is signed by one of keys, or by a root. */
  async holds(jws: JWS, keys?: unknown[]): Promise<boolean> {
    if (jws.signature.length !== 64) return false;
    for (const key of keys ?? (await this.roots)) {
      if (await this.verifier.verify(key, jws.signature, jws.signed)) return true;
    }
    return false;
  }

  /** Verifies leaf and issuer up to a root, but for the time. Throws Refused. */
  async chain(certificates: string[]): Promise<Chain> {
    const [leafText, issuerText] = certificates;
    if (certificates.length !== 2 || leafText === undefined || issuerText === undefined) throw new Refused('chain malformed');
    const issuer = await this.issuer(issuerText);
    const leaf = await this.certificate(leafText, [issuer.key]);
    rules(leaf, 'edge', maxLeafSeconds);
    if (leaf.issuer !== issuer.issuer) throw new Refused('chain issuer');
    return { leaf, issuer };
  }

  /** Verifies an issuing key's certificate, but for the time. Throws Refused. */
  async issuer(certificate: string): Promise<Certificate> {
    const issuer = await this.certificate(certificate);
    rules(issuer, 'issuer', maxIssuerSeconds);
    return issuer;
  }

  private async certificate(certificate: string, keys?: unknown[]): Promise<Certificate> {
    const jws = guard('chain ', () => parse(certificate, 'latchkey-cert+jwt'));
    if (!(await this.holds(jws, keys))) throw new Refused('chain signature');
    const c = guard('chain ', () => readCertificate(jws.claims));
    let key: unknown;
    try {
      key = await this.verifier.importKey(c.point.x, c.point.y);
    } catch {
      throw new Refused('chain malformed');
    }
    return { ...c, key, thumbprint: encodeBase64url(await this.verifier.sha256(ascii(c.jwk))) };
  }
}

/** Runs a step of reading and turns its complaint into a refusal. */
export function guard<T>(prefix: string, step: () => T): T {
  try {
    return step();
  } catch (err) {
    if (err instanceof Malformed) throw new Refused(`${prefix}malformed`);
    if (err instanceof Refused) throw new Refused(prefix + err.reason);
    throw err;
  }
}

/** Takes a compact JWS of the given typ apart. Throws Malformed, and Refused for another algorithm. */
export function parse(jws: string, typ: string): JWS {
  if (jws.length > maxLength) throw new Malformed('longer than 64 KiB');
  const parts = jws.split('.');
  const header = strictObject(decodeBase64url(parts[0]!));
  if (header['alg'] !== 'ES256') throw new Refused('signature');
  if ('crit' in header) throw new Malformed('crit');
  optionalText(header, 'kid');
  if (texts(header, 'rvk').length > 2) throw new Malformed('rvk');
  if (header['typ'] !== typ) throw new Malformed('typ');
  if (parts.length !== 3) throw new Malformed('not three parts');
  const claims = strictObject(decodeBase64url(parts[1]!));
  return { header, claims, signed: ascii(`${parts[0]}.${parts[1]}`), signature: decodeBase64url(parts[2]!) };
}

/** An optional array of strings; empty when absent. */
export function texts(o: Json, name: string): string[] {
  const list = name in o ? o[name] : [];
  if (!Array.isArray(list) || list.some((element) => typeof element !== 'string')) throw new Malformed(`${name} is no array of strings`);
  return list as string[];
}

function readCertificate(o: Json): Omit<Certificate, 'key' | 'thumbprint'> & { point: Point; jwk: string } {
  text(o, 'sub');
  const jwk = isObject(o['cnf']) ? o['cnf']['jwk'] : undefined;
  if (!isObject(jwk) || Object.keys(jwk).length !== 4 || jwk['kty'] !== 'EC' || jwk['crv'] !== 'P-256') throw new Malformed('cnf.jwk');
  const [x, y] = [text(jwk, 'x'), text(jwk, 'y')];
  const point = { x: decodeBase64url(x), y: decodeBase64url(y) };
  if (point.x.length !== 32 || point.y.length !== 32) throw new Malformed('cnf.jwk');
  return {
    issuer: text(o, 'iss'),
    role: text(o, 'role'),
    // Present but empty is not absent: an issuer with "aud":"" would pass for one without.
    audience: 'aud' in o ? text(o, 'aud') : undefined,
    environment: 'env' in o ? text(o, 'env') : undefined,
    notBefore: integer(o, 'nbf'),
    expiresAt: integer(o, 'exp'),
    point,
    jwk: `{"crv":"P-256","kty":"EC","x":"${x}","y":"${y}"}`, // RFC 7638
  };
}

function rules(c: Certificate, role: 'issuer' | 'edge', longest: number): void {
  const named = c.audience !== undefined && c.environment !== undefined;
  const nameless = c.audience === undefined && c.environment === undefined;
  if (c.role !== role || !(role === 'edge' ? named : nameless)) throw new Refused('chain malformed');
  if (c.expiresAt <= c.notBefore || c.expiresAt - c.notBefore > longest) throw new Refused('chain lifetime');
}
