// Grace tokens: what an edge signed about one account. readToken takes a token apart and verifies it up to a pinned root; refusal says whether it
// may be believed by somebody who expects a given account at a given time; allows is the offline rule. The procedure is the one that the Go package
// pkg/token states, and vectors.json holds both to it.
import { integer, isObject, Malformed, optionalBoolean, optionalInteger, optionalText, text, type Json } from './bytes.js';
import { Authority, guard, parse, Refused, texts, type Chain } from './jws.js';
import { Revocations } from './revocations.js';
import type { Point, Verifier } from './verifier.js';

/** The longest life of a token after its as_of, in seconds. */
export const graceSeconds = 24 * 3600;
const freshSeconds = 60;
/** One signed entitlement. Times are Unix seconds. */
export interface SignedEntitlement {
  id: string;
  status: string;
  reason?: string;
  /** The end of the paid term, for display; absent: never ends. */
  until?: number;
  /** Access without a newer answer ends here, exclusive; absent: never allowed. */
  offlineUntil?: number;
  willRenew: boolean;
  plan?: string;
  trial: boolean;
}

/** The claims of a grace token. Times are Unix seconds. */
export interface Claims {
  issuer: string;
  audience: string;
  subject: string;
  environment: string;
  issuedAt: number;
  expiresAt: number;
  asOf: number;
  freshUntil: number;
  /** Orders answers, together with asOf: `<epoch>-<revision>`. */
  revision: string;
  nonce?: string;
  device?: string;
  balances: Record<string, number>;
  entitlements: SignedEntitlement[];
}

/** A token whose signatures hold up to a pinned root. Whether it counts now is refusal's question. */
export interface Token {
  text: string;
  claims: Claims;
  /** Thumbprints of the edge's key, which signed it, and of the issuing key above. */
  leaf: string;
  issuer: string;
  /** Valid from this Unix second on, by the certificates. */
  notBefore: number;
  chainExpiresAt: number;
  /** The token's own nbf, if it has one. */
  ownNotBefore: number;
  /** What its claims contradict: their certificates or each other. Such a token never counts. */
  flaw: string | undefined;
}

/** What an app knows without the token. */
export interface Expected {
  audience: string;
  environment: string;
  subject: string;
  /** What was sent with the request; absent: any. */
  nonce?: string;
}

/** Verifies tokens up to pinned roots. It keeps the last chain that it verified: the next token of the same edge costs one signature. */
export class Reader {
  readonly revocations: Revocations;
  private readonly authority: Authority;
  private last: { certificates: string; chain: Promise<Chain> } | undefined;

  constructor(verifier: Verifier, roots: Point[]) {
    this.authority = new Authority(verifier, roots);
    this.revocations = new Revocations(this.authority);
  }

  /**
   * Throws Refused unless every signature holds up to a root. What the token is worth, and to whom, refusal says. Lists of revoked keys in its header
   * are learned in any case.
   */
  async read(tokenText: string): Promise<Token> {
    const jws = guard('', () => parse(tokenText, 'latchkey-grace+jwt'));
    for (const list of texts(jws.header, 'rvk')) await this.revocations.learn(list);
    const chain = await this.chain(guard('', () => texts(jws.header, 'crt')));
    if (jws.header['kid'] !== chain.leaf.thumbprint) throw new Refused('chain');
    const claims = guard('', () => readClaims(jws.claims));
    if (!(await this.authority.holds(jws, [chain.leaf.key]))) throw new Refused('signature');
    return {
      text: tokenText,
      claims,
      leaf: chain.leaf.thumbprint,
      issuer: chain.issuer.thumbprint,
      notBefore: Math.max(chain.leaf.notBefore, chain.issuer.notBefore),
      chainExpiresAt: Math.min(chain.leaf.expiresAt, chain.issuer.expiresAt),
      ownNotBefore: guard('', () => optionalInteger(jws.claims, 'nbf')) ?? -Infinity,
      flaw: flaw(claims, chain),
    };
  }

  /**
   * Says why token does not count for who expects `expected` at the Unix second `at`, in the words of vectors.json: undefined: it does. Without `at`: why it
   * counts at no time.
   */
  refusal(token: Token, expected: Expected, at?: number): string | undefined {
    const c = token.claims;
    if (at !== undefined && at < token.notBefore) return 'chain not-yet-valid';
    if (at !== undefined && at >= token.chainExpiresAt) return 'chain expired';
    if (this.revocations.revoked(token.leaf, token.issuer)) return 'chain revoked';
    if (at !== undefined && at >= c.expiresAt) return 'expired';
    if (at !== undefined && at < token.ownNotBefore) return 'not-yet-valid';
    if (token.flaw) return token.flaw;
    if (c.audience !== expected.audience) return 'audience';
    if (c.environment !== expected.environment) return 'environment';
    if (c.subject !== expected.subject) return 'subject';
    if (expected.nonce !== undefined && c.nonce !== expected.nonce) return 'nonce';
    return undefined;
  }

  private chain(certificates: string[]): Promise<Chain> {
    const joined = certificates.join(' ');
    if (this.last?.certificates !== joined) {
      const entry = { certificates: joined, chain: this.authority.chain(certificates) };
      this.last = entry;
      entry.chain.catch(() => {
        if (this.last === entry) this.last = undefined;
      });
    }
    return this.last!.chain;
  }
}

/** The offline rule, for a token that refusal lets pass at the same Unix second. */
export function allows(token: Token, id: string, at: number): boolean {
  const e = token.claims.entitlements.find((entitlement) => entitlement.id === id);
  return e !== undefined && at < token.claims.expiresAt && isActive(e.status) && at < (e.offlineUntil ?? -Infinity);
}

export function isActive(status: string): boolean {
  return status === 'trialing' || status === 'active' || status === 'billing_grace';
}

/** Compares two answers by (epoch, revision, as_of): positive when a is newer. A revision that is not of the known form is older than all. */
export function compare(a: Claims, b: Claims): number {
  const [epochA, revisionA] = position(a.revision);
  const [epochB, revisionB] = position(b.revision);
  return epochA - epochB || revisionA - revisionB || a.asOf - b.asOf;
}

function position(revision: string): [number, number] {
  const match = /^(\d{1,15})-(\d{1,15})$/.exec(revision);
  return match ? [Number(match[1]), Number(match[2])] : [-1, -1];
}

function flaw(c: Claims, { leaf, issuer }: Chain): string | undefined {
  if (c.issuer !== leaf.issuer) return 'issuer';
  if (c.audience !== leaf.audience) return 'audience';
  if (c.environment !== leaf.environment) return 'environment';
  if (c.expiresAt > c.asOf + graceSeconds || c.expiresAt > Math.min(leaf.expiresAt, issuer.expiresAt)) return 'lifetime';
  if (c.freshUntil !== c.asOf + freshSeconds) return 'malformed';
  return undefined;
}

function readClaims(o: Json): Claims {
  const bal = 'bal' in o ? o['bal'] : {};
  if (!isObject(bal)) throw new Malformed('bal');
  const balances: Record<string, number> = Object.create(null);
  for (const credit of Object.keys(bal)) balances[credit] = integer(bal, credit);
  const list = o['ent'];
  if (!Array.isArray(list)) throw new Malformed('ent');
  const entitlements = list.map(readEntitlement);
  if (new Set(entitlements.map((e) => e.id)).size !== entitlements.length) throw new Malformed('ent');
  return {
    issuer: text(o, 'iss'),
    audience: text(o, 'aud'),
    subject: text(o, 'sub'),
    environment: text(o, 'env'),
    issuedAt: integer(o, 'iat'),
    expiresAt: integer(o, 'exp'),
    asOf: integer(o, 'as_of'),
    freshUntil: integer(o, 'fresh_until'),
    revision: text(o, 'rev'),
    ...given('nonce', optionalText(o, 'nonce')),
    ...given('device', optionalText(o, 'dev')),
    balances,
    entitlements,
  };
}

function readEntitlement(o: unknown): SignedEntitlement {
  if (!isObject(o)) throw new Malformed('ent');
  return {
    id: text(o, 'id'),
    status: text(o, 'status'),
    ...given('reason', optionalText(o, 'reason')),
    ...given('until', optionalInteger(o, 'until')),
    ...given('offlineUntil', optionalInteger(o, 'offline_until')),
    willRenew: optionalBoolean(o, 'will_renew') ?? false,
    ...given('plan', optionalText(o, 'plan')),
    trial: optionalBoolean(o, 'trial') ?? false,
  };
}

function given<K extends string, T>(name: K, value: T | undefined): { [P in K]?: T } {
  return value === undefined ? {} : ({ [name]: value } as { [P in K]: T });
}
