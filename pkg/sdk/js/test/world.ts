// A device and its edges under one virtual time. The edges sign as real ones do, and can be down, behind, cut off or in an attacker's hand.
import { createHash, createPublicKey, generateKeyPairSync, randomBytes, sign, verify, type KeyObject } from 'node:crypto';
import { configure, type Latchkey, type Options, type Verifier } from '../src/index.js';

export const audience = 'com.example.app';
const day = 24 * 3600;

interface Pair {
  publicKey: KeyObject;
  privateKey: KeyObject;
}

const pair = (): Pair => generateKeyPairSync('ec', { namedCurve: 'P-256' });
const b64 = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');

/** Answers before the next turn of the loop, so that a test knows when all is quiet. Both of the SDK's own verifiers pass the conformance kit elsewhere. */
const verifier: Verifier<KeyObject> = {
  sha256: async (data) => createHash('sha256').update(data).digest(),
  importKey: async (x, y) => createPublicKey({ key: { kty: 'EC', crv: 'P-256', x: Buffer.from(x).toString('base64url'), y: Buffer.from(y).toString('base64url') }, format: 'jwk' }),
  verify: async (key, signature, data) => verify('sha256', data, { key, dsaEncoding: 'ieee-p1363' }, signature),
};

function jws(key: Pair, header: object, claims: object): string {
  const input = `${b64({ alg: 'ES256', ...header })}.${b64(claims)}`;
  return `${input}.${sign('sha256', Buffer.from(input), { key: key.privateKey, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`;
}

function bare(key: Pair) {
  const { kty, crv, x, y } = key.publicKey.export({ format: 'jwk' });
  return { kty, crv, x, y };
}

function thumbprint(key: Pair): string {
  const { crv, kty, x, y } = bare(key);
  return createHash('sha256').update(JSON.stringify({ crv, kty, x, y })).digest('base64url');
}

export interface FakeEntitlement {
  id: string;
  status: string;
  reason?: string;
  until?: number;
  offline_until?: number;
  will_renew?: boolean;
  plan?: string;
  trial?: boolean;
}

/** What the writers know. */
export interface Account {
  entitlements: FakeEntitlement[];
  revision: number;
  session: string;
  anonymous: boolean;
  balances: Record<string, number>;
}

/** How one edge misbehaves. */
export interface Mood {
  down?: boolean;
  /** Answers with this status and a problem instead. */
  problem?: { status: number; type: string; retryAfter?: number };
  /** as_of stands at this second: the edge is cut off. */
  cutOffAt?: number;
  /** Changes the body before it is sent. */
  tamper?: (body: Record<string, unknown>) => unknown;
}

export class World {
  /** The true time, in seconds. */
  time = 1_800_000_000;
  wallAhead = 0;
  boot = 1;
  bootedAt = this.time - 5000;
  epoch = 1;
  readonly accounts = new Map<string, Account>();
  readonly identities = new Map<string, string>();
  readonly moods: Mood[] = [{}, {}];
  readonly requests: { edge: number; method: string; path: string; credential: string; body: unknown; key: string | undefined }[] = [];
  readonly stored = new Map<string, string>();
  readonly receipts = new Map<string, object>();
  /** What the account told of: whether it is pending, and what nobody confirmed. */
  readonly told = new Map<string, { pending: boolean; unconfirmed: unknown[] }>();
  /** The problem that every purchase intent is answered with; empty: they are allowed. */
  refusal = '';
  streams: { account: string; edge: number; push: (text: string) => void; end: () => void }[] = [];
  canStream = true;
  lastToken = '';
  lists: string[] = [];
  /** Requests that an edge holds until release. */
  hold: Promise<void> | undefined;

  private readonly root = pair();
  private readonly issuer = pair();
  private keys = [pair(), pair()];
  private timers: { at: number; run: () => void }[] = [];
  private count = 0;

  /** A nice wall clock unless told otherwise. */
  options(): Options {
    return {
      publishableKey: 'lk_production_pk_test',
      roots: [String(this.root.publicKey.export({ type: 'spki', format: 'pem' }))],
      edges: ['https://e0.example/', 'https://e1.example'],
      audience,
      environment: 'production',
      storage: { get: (key) => this.stored.get(key) ?? null, set: (key, value) => void this.stored.set(key, value) },
      clock: { boot: () => `boot ${this.boot}`, monotonic: () => (this.time - this.bootedAt) * 1000, wall: () => (this.time + this.wallAhead) * 1000 },
      later: (milliseconds, run) => {
        const timer = { at: this.time + milliseconds / 1000, run };
        this.timers.push(timer);
        return () => (this.timers = this.timers.filter((t) => t !== timer));
      },
      fetch: (url, init) => this.fetch(url, init),
      random: (n) => randomBytes(n),
      verifier,
    };
  }

  async start(change: Partial<Options> = {}): Promise<Latchkey> {
    const client = await configure({ ...this.options(), ...change });
    await this.settle();
    return client;
  }

  /** Lets everything that can happen at this moment happen. */
  async settle(): Promise<void> {
    for (let quiet = 0; quiet < 12; quiet++) await new Promise((resolve) => setImmediate(resolve));
  }

  /** Lets so many seconds pass, timer by timer. */
  async pass(seconds: number): Promise<void> {
    await this.settle();
    const end = this.time + seconds;
    for (;;) {
      const next = this.timers.filter((t) => t.at <= end).sort((a, b) => a.at - b.at)[0];
      if (!next) break;
      this.timers = this.timers.filter((t) => t !== next);
      this.time = Math.max(this.time, next.at);
      next.run();
      await this.settle();
    }
    this.time = end;
    await this.settle();
  }

  reboot(): void {
    this.boot++;
    this.bootedAt = this.time;
    this.timers = [];
  }

  /** The process ends without a word. */
  kill(client: Latchkey): void {
    client.close();
    this.timers = [];
  }

  give(accountId: string, ...entitlements: FakeEntitlement[]): void {
    const account = this.accounts.get(accountId)!;
    account.entitlements = entitlements;
    account.revision = ++this.count;
    for (const stream of this.streams) if (stream.account === accountId && !this.moods[stream.edge]!.down) stream.push(this.frame(stream.edge, accountId));
  }

  pro(status = 'active', until = this.time + 30 * day): FakeEntitlement {
    return { id: 'pro', status, reason: 'paid', until, offline_until: until + day, will_renew: true, plan: 'pro_monthly' };
  }

  revoke(edge: number): void {
    this.lists = [jws(this.root, { typ: 'latchkey-revocations+jwt' }, { iss: 'cluster', iat: Math.floor(this.time), counter: Math.floor(this.time), revoked: [thumbprint(this.keys[edge]!)] })];
  }

  frame(edge: number, accountId: string): string {
    return `event: entitlements\ndata: ${JSON.stringify(this.answer(edge, accountId))}\n\n`;
  }

  /** What an edge answers now. */
  answer(edge: number, accountId: string, nonce?: string): Record<string, unknown> {
    const account = this.accounts.get(accountId)!;
    const now = Math.floor(this.time);
    const mood = this.moods[edge]!;
    const asOf = mood.cutOffAt ?? now;
    const key = this.keys[edge]!;
    const from = now - 3600;
    const certificate = { typ: 'latchkey-cert+jwt' };
    const leaf = jws(this.issuer, certificate, { iss: 'cluster', sub: `e${edge}`, role: 'edge', aud: audience, env: 'production', nbf: from, exp: from + 3 * day, cnf: { jwk: bare(key) } });
    const above = jws(this.root, certificate, { iss: 'cluster', sub: 'issuer', role: 'issuer', nbf: from, exp: from + 300 * day, cnf: { jwk: bare(this.issuer) } });
    const exp = asOf + day;
    const token = jws(
      key,
      { typ: 'latchkey-grace+jwt', kid: thumbprint(key), crt: [leaf, above], ...(this.lists.length > 0 ? { rvk: this.lists } : {}) },
      {
        iss: 'cluster', aud: audience, sub: accountId, env: 'production', iat: now, exp, as_of: asOf, fresh_until: asOf + 60, rev: `${this.epoch}-${account.revision}`,
        ...(nonce ? { nonce } : {}), bal: account.balances, ent: account.entitlements.map((e) => ({ ...e, ...(e.offline_until ? { offline_until: Math.min(e.offline_until, exp) } : {}) })),
      },
    );
    this.lastToken = token;
    const body: Record<string, unknown> = {
      account_id: accountId, environment: 'production', revision: `${this.epoch}-${account.revision}`, state: this.told.get(accountId)?.pending ? 'pending' : 'settled', stale: now >= asOf + 60,
      ...(this.told.get(accountId)?.unconfirmed.length ? { unconfirmed: this.told.get(accountId)!.unconfirmed } : {}),
      entitlements: account.entitlements.map((e) => ({ id: e.id, store: 'stripe', manage_url: 'https://pay.example/manage', purchase_id: 'stripe:sub_1', product_id: 'price_pro_monthly', price: { amount: '9.99', currency: 'EUR' } })),
      purchase: { allowed: true }, trial: { eligible: true }, apple_app_account_token: 'uuid', grace_token: token,
    };
    return (mood.tamper?.(body) ?? body) as Record<string, unknown>;
  }

  newAccount(): string {
    const id = `acc_${++this.count}`;
    this.accounts.set(id, { entitlements: [], revision: this.count, session: `session-secret-${id}`, anonymous: true, balances: { coins: 5 } });
    return id;
  }

  private async fetch(url: string, init: { method: string; headers: Record<string, string>; body?: string; signal?: AbortSignal }): Promise<Response> {
    const edge = Number(/^https:\/\/e(\d)/.exec(url)![1]);
    const mood = this.moods[edge]!;
    const { pathname, searchParams } = new URL(url);
    const credential = init.headers['Authorization']!.slice('Bearer '.length);
    const body = init.body === undefined ? undefined : (JSON.parse(init.body) as Record<string, unknown>);
    this.requests.push({ edge, method: init.method, path: url.slice(url.indexOf('/v1')), credential, body, key: init.headers['Idempotency-Key'] });
    if (this.hold) await this.hold;
    if (mood.down) throw new TypeError('network');
    if (mood.problem) return problem(mood.problem.status, mood.problem.type, mood.problem.retryAfter);
    const accountId = [...this.accounts].find(([, account]) => account.session === credential)?.[0];
    if (pathname === '/v1/sessions') return this.session(this.newAccount(), true);
    if (!accountId) return problem(401, 'session-ended');
    switch (pathname) {
      case '/v1/sessions/login': {
        if (body?.['session_token'] === credential) return this.session(accountId, this.accounts.get(accountId)!.anonymous, true);
        this.accounts.get(accountId)!.anonymous = false;
        const identity = String(body?.['identity_token'] ?? body?.['link_token']);
        const known = this.identities.get(identity);
        if (!known) this.identities.set(identity, accountId);
        else if (known !== accountId) {
          const from = this.accounts.get(accountId)!;
          this.give(known, ...this.accounts.get(known)!.entitlements, ...from.entitlements);
        }
        return this.session(known ?? accountId, false);
      }
      case '/v1/sessions/logout':
        return this.session(this.newAccount(), true);
      case '/v1/entitlements/stream':
        return this.openStream(edge, accountId, init.signal!);
      case '/v1/purchase-intents':
        if (this.refusal) return problem(409, this.refusal, undefined, { manage_url: 'https://pay.example/manage' });
        return Response.json({ allowed: true, intent_id: 'intent_1', trial_eligible: true, apple_app_account_token: 'uuid', google_obfuscated_account_id: accountId, metadata: { account_id: accountId, environment: 'production' }, warnings: ['may-renew'] });
      case '/v1/purchase-intents/intent_1':
        return new Response(null, { status: 204 });
      case '/v1/purchase-intents/intent_1/submitted':
        return Response.json({ account_id: accountId, revision: `${this.epoch}-${this.accounts.get(accountId)!.revision}` });
      case '/v1/receipts':
      case '/v1/restores': {
        const result = this.receipts.get(JSON.stringify((body!['receipts'] as object[])[0])) ?? { outcome: 'rejected', finish: false };
        return Response.json({ results: [result], revision: `${this.epoch}-${this.accounts.get(accountId)!.revision}`, state: 'settled' });
      }
    }
    const minimum = searchParams.get('min_revision');
    if (minimum && Number(minimum.split('-')[0]) < this.epoch) return problem(409, 'other-history');
    return Response.json(this.answer(edge, accountId, searchParams.get('nonce') ?? undefined));
  }

  private session(accountId: string, anonymous: boolean, again = false): Response {
    const account = this.accounts.get(accountId)!;
    if (again) account.session += '+';
    return Response.json({ account_id: accountId, session_token: account.session, expires_at: new Date((this.time + 366 * day) * 1000).toISOString(), anonymous }, { status: again ? 200 : 201 });
  }

  private openStream(edge: number, account: string, signal: AbortSignal): Response {
    if (!this.canStream) return Object.defineProperty(new Response('', { status: 200 }), 'body', { value: undefined });
    const encoder = new TextEncoder();
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => {
        const stream = {
          account, edge, push: (text: string) => controller.enqueue(encoder.encode(text)),
          end: () => {
            this.streams = this.streams.filter((s) => s !== stream);
            try {
              controller.close();
            } catch {
              // It has ended already.
            }
          },
        };
        this.streams.push(stream);
        signal.addEventListener('abort', stream.end);
        stream.push(`retry: 2000\n\n${this.frame(edge, account)}`);
      },
    });
    return new Response(body, { headers: { 'Content-Type': 'text/event-stream' } });
  }
}

function problem(status: number, type: string, retryAfter?: number, more = {}): Response {
  return Response.json({ type: `https://latchkey.dev/problems/${type}`, title: type, status, ...more }, { status, headers: retryAfter ? { 'Retry-After': String(retryAfter) } : {} });
}
