// The client: it shows the last signed answer at once, asks edges for newer ones, and takes access away for nothing less than one of those. Start at
// configure, then Latchkey.take, where an answer is believed or not.
import { decodeBase64url, decodeUTF8, encodeBase64url, isObject, type Json } from './bytes.js';
import { begin, checkpoint, checkpointSeconds, judge, learn, now, type Anchor, type Status, type Window } from './clock.js';
import { backoff, readTimeout, Transport, writeTimeout, type Reply } from './edges.js';
import { Refused } from './jws.js';
import { defaultClock, defaultLater, defaultRandom, defaultStorage, defaultVisibility, reading, type Clock, type Fetch, type Later, type Random, type Storage, type Visibility } from './platform.js';
import { confirm, readIntent, type Offer, type Purchase, type PurchaseIntent, type PurchaseOptions, type Receipt } from './purchase.js';
import { canStream, readEvents } from './stream.js';
import { compare, Reader, type Token } from './token.js';
import { parseRoot, webCryptoVerifier, type Point, type Verifier } from './verifier.js';
import { beside, date, english, entitlementsOf, fill, nothingBeside, unconfirmedOf, type Beside, type Entitlement, type Snapshot, type Warning, type Words } from './view.js';

export const version = '0.1.0';

/** How often a visible app asks while a stream tells it of changes, or while nobody listens, in seconds. */
const foregroundSeconds = 240;
/** An answer this young, in seconds, is not asked for again when the app comes to the front. */
const resumeSeconds = 5;
/** How long an unconfirmed purchase may be shown as bought, in seconds. */
const optimisticSeconds = 24 * 3600;
const logEntries = 200;
/** An anonymous session that ends in less than this, in seconds, is exchanged: an app that is opened twice a year keeps its account. */
const renewSeconds = 180 * 24 * 3600;

/** What an app configures. The first five come from your Latchkey installation. */
export interface Options {
  /** `lk_{environment}_pk_...`: it opens sessions and can do nothing else. */
  publishableKey: string;
  /** The PEM texts of the root keys, active and spare, from `root.pub.pem`: what every answer is verified up to. */
  roots: string[];
  /** Addresses of edges, nearest first. */
  edges: string[];
  /** The app that tokens are made for, as in the edges' configuration. */
  audience: string;
  environment: 'production' | 'sandbox';
  /** false: nobody is signed in before logIn, and no anonymous account is made: for apps whose backend makes the sessions. Default: true. */
  anonymous?: boolean;
  /** When this build of the app was made: no clock is believed to be before it. */
  builtAt?: Date;
  /** WebCrypto by default; `p256` of `@latchkey/sdk/p256` where there is none. */
  verifier?: Verifier;
  /** localStorage by default. */
  storage?: Storage;
  clock?: Clock;
  random?: Random;
  fetch?: Fetch;
  later?: Later;
  visibility?: Visibility;
  /** Words for the user, in place of the English ones. */
  words?: Partial<Words>;
}

/** configure was called with something that cannot work. The message names every mistake. */
export class ConfigurationError extends Error {
  constructor(readonly mistakes: string[]) {
    super(`latchkey: ${mistakes.join('; ')}`);
    this.name = 'ConfigurationError';
  }
}

/** A request that the user waits for was refused, or nobody answered. */
export class RequestFailed extends Error {
  /** @param problem the last part of the problem's type, such as `link-used`; empty: no edge could be reached. */
  constructor(
    readonly problem: string,
    readonly retryAfter: number,
  ) {
    super(problem ? `latchkey: ${problem}` : 'latchkey: no edge can be reached');
    this.name = 'RequestFailed';
  }
}

/** Who the user is: a token of your identity provider, one from a magic link, or a session that your backend made. */
export type Credential = { identityToken: string } | { linkToken: string } | { sessionToken: string };

interface Session {
  accountId: string;
  token: string;
  expiresAt: string;
  anonymous: boolean;
}

/** What storage holds, as JSON. */
interface Stored {
  format: 1;
  /** Raised by every login and logout: a tab that finds a greater one follows it. */
  generation: number;
  deviceId: string;
  session: Session | null;
  token: string | null;
  beside: Beside;
  time: Anchor;
  revocations: string[];
  optimistic: Record<string, number>;
}

/** One line of the diagnostics: what was asked, what came of it, what changed. */
export interface LogEntry {
  /** The trusted time, and the device's. */
  at: string;
  wall: string;
  event: string;
  detail: string;
}

/** Starts the SDK: loads and verifies what is stored, and asks for news in the background. Rejects with ConfigurationError. */
export async function configure(options: Options): Promise<Latchkey> {
  const parts = check(options);
  const client = new Latchkey(options, parts);
  await client.open();
  return client;
}

interface Parts {
  roots: Point[];
  edges: string[];
  verifier: Verifier;
  random: Random;
  fetch: Fetch;
}

function check(options: Options): Parts {
  const mistakes: string[] = [];
  const { publishableKey, environment, audience } = options;
  if (environment !== 'production' && environment !== 'sandbox') mistakes.push('environment is neither production nor sandbox');
  if (!publishableKey?.startsWith(`lk_${environment}_pk_`)) mistakes.push(`publishableKey is no lk_${environment}_pk_... key`);
  if (!audience) mistakes.push('audience is missing');
  const edges = (options.edges ?? []).map((edge) => edge.replace(/\/+$/, ''));
  if (edges.length === 0 || edges.some((edge) => !/^https?:\/\/[^\s?#]+$/.test(edge))) mistakes.push('edges are no http addresses');
  const roots: Point[] = [];
  try {
    roots.push(...(options.roots ?? []).map(parseRoot));
  } catch {
    mistakes.push('a root is not the PEM of a P-256 public key');
  }
  if ((options.roots ?? []).length === 0) mistakes.push('roots are missing: without one nothing can be believed');
  const verifier = options.verifier ?? webCryptoVerifier();
  if (!verifier) mistakes.push('there is no WebCrypto here (React Native, or a page without HTTPS): give verifier: p256 from @latchkey/sdk/p256');
  const random = options.random ?? defaultRandom();
  if (!random) mistakes.push('there is no crypto.getRandomValues here: give random, or install a polyfill');
  const fetch = options.fetch ?? (globalThis.fetch as Fetch | undefined)?.bind(globalThis);
  if (!fetch) mistakes.push('there is no fetch here: give fetch');
  if (!verifier || !random || !fetch || mistakes.length > 0) throw new ConfigurationError(mistakes);
  return { roots, edges, verifier, random, fetch };
}

export class Latchkey {
  private readonly storage: Storage;
  private readonly clock: Clock;
  private readonly later: Later;
  private readonly visibility: Visibility;
  private readonly words: Words;
  private readonly random: Random;
  private readonly edges: string[];
  private readonly transport: Transport;
  private readonly reader: Reader;
  private readonly key: string;

  private generation = 0;
  private deviceId = '';
  private session: Session | undefined;
  private held: Token | undefined;
  private beside: Beside = nothingBeside;
  private anchor!: Anchor;
  private optimistic: Record<string, number> = {};
  private warning: Pick<Warning, 'code' | 'detail'> | undefined;

  private readonly listeners = new Set<(snapshot: Snapshot) => void>();
  private shown = '';
  private readonly logged: LogEntry[] = [];
  private awake = true;
  private closed = false;
  private failures = 0;
  /** No request of our own before this monotonic reading. */
  private quietUntil = 0;
  private answeredAt = -Infinity;
  private renewAt = -Infinity;
  private running: Promise<boolean> | undefined;
  private waiting: Promise<boolean> | undefined;
  private tail: Promise<boolean> = Promise.resolve(false);
  private opening: Promise<Session | undefined> | undefined;
  private writing: Promise<void> = Promise.resolve();
  private stream: AbortController | undefined;
  private streaming = false;
  private streamable = true;
  private readonly timers = new Map<string, () => void>();
  private unwatch: (() => void) | undefined;

  /** @internal Use configure. */
  constructor(
    private readonly options: Options,
    parts: Parts,
  ) {
    this.random = parts.random;
    this.edges = parts.edges;
    this.storage = options.storage ?? defaultStorage();
    this.clock = options.clock ?? defaultClock(parts.random);
    this.later = options.later ?? defaultLater();
    this.visibility = options.visibility ?? defaultVisibility();
    this.words = { ...english, ...options.words };
    this.transport = new Transport(parts.fetch, this.later);
    this.reader = new Reader(parts.verifier, parts.roots);
    this.key = `latchkey.${options.environment}.${options.audience}`;
  }

  /** @internal */
  async open(): Promise<void> {
    const stored = await this.load();
    this.anchor = begin(stored?.time, reading(this.clock), this.options.builtAt?.getTime());
    if (stored) await this.adopt(stored);
    this.deviceId ||= encodeBase64url(this.random(16));
    this.log('started', version);
    await this.save();
    this.checkpointLater();
    this.awake = this.visibility.visible();
    this.unwatch = this.visibility.watch(() => (this.visibility.visible() ? this.resume() : this.pause()));
    this.changed();
    if (this.awake) void this.run(false);
  }

  /** What the user has, from the last signed answer, at once. When that is older than a minute, a newer one is asked for in the background. */
  entitlements(): Snapshot {
    const snapshot = this.snapshot();
    if (snapshot.status !== 'verified' && !this.running && this.monotonic() >= this.quietUntil && this.awake && !this.closed) void this.run(false);
    return snapshot;
  }

  /** Whether the user may use id, now. Protected content on your server is checked there, too. */
  isActive(id: string): boolean {
    return this.entitlements().entitlements[id]?.active ?? false;
  }

  /**
   * Asks for a newer answer, unless the held one is less than a minute old; with force in any case. Call it, forced, before a sensitive screen. Resolves with what is so
   * then, whether anybody answered or not.
   */
  async refresh({ force = false } = {}): Promise<Snapshot> {
    if (force || this.status() !== 'verified') await this.run(force);
    return this.snapshot();
  }

  /**
   * Calls listener now and with each change, until the function that it returns is called. While somebody listens and the app is visible, changes come
   * by stream, or by asking once a minute where the platform cannot stream.
   */
  subscribe(listener: (snapshot: Snapshot) => void): () => void {
    this.listeners.add(listener);
    listener(this.snapshot());
    this.plan();
    return () => {
      this.listeners.delete(listener);
      this.plan();
    };
  }

  /**
   * Signs in. A purchase that was made before stays: the anonymous account becomes the user's, or is merged into the one that the user has. Rejects with
   * RequestFailed; then nothing has changed.
   */
  async logIn(credential: Credential): Promise<Snapshot> {
    if (!this.session && this.options.anonymous === false && 'sessionToken' in credential) {
      // Nothing is to be merged. Whose session it is, the edge says by what it signs.
      this.enter(serverSession(credential.sessionToken));
      await this.run(true);
      return this.snapshot();
    }
    const session = await this.ensureSession(true);
    if (!session) throw new RequestFailed('', 0);
    const body =
      'identityToken' in credential ? { identity_token: credential.identityToken } : 'linkToken' in credential ? { link_token: credential.linkToken } : { session_token: credential.sessionToken };
    const reply = await this.write('/v1/sessions/login', session.token, body, { once: true });
    const next = readSession(reply.body, false);
    if (reply.status < 200 || reply.status > 299 || !next) throw new RequestFailed(reply.problem, reply.retryAfter);
    this.log('signed in', next.accountId === session.accountId ? 'same account' : 'another account');
    this.enter(next);
    await this.run(true);
    return this.snapshot();
  }

  /** Signs out: what the account had is no longer shown, at once, and a fresh anonymous account takes its place. */
  async logOut(): Promise<Snapshot> {
    const session = this.session;
    this.enter(undefined);
    this.log('signed out', '');
    if (session && this.options.anonymous !== false) {
      const generation = this.generation;
      const reply = await this.write('/v1/sessions/logout', session.token, {}, { once: true });
      const next = readSession(reply.body, true);
      if (reply.status >= 200 && reply.status < 300 && next && generation === this.generation) this.enter(next);
    }
    await this.run(true);
    return this.snapshot();
  }

  /**
   * Ask before the store's sheet opens: nobody then pays twice for one thing, on whatever device or store, and the payment carries whose it is. Rejects with RequestFailed
   * when nobody could say.
   */
  async purchaseIntent(offer: Offer): Promise<PurchaseIntent> {
    const { provider, productId, trial } = offer;
    const reply = await this.intent('POST', '', { provider, product_id: productId, device_id: this.deviceId, ...(trial ? { trial } : {}) });
    const intent = readIntent(reply, this.words);
    if (!intent) throw new RequestFailed(reply.problem, reply.retryAfter);
    return intent;
  }

  /** The user closed the store's sheet: another device may buy at once. */
  async cancelPurchaseIntent(intentId: string): Promise<void> {
    await this.intent('DELETE', `/${encodeURIComponent(intentId)}`);
  }

  /** The user paid where no receipt comes back to the app, at a web checkout: the purchase shows as pending, on all devices, until it is there. */
  async submitPurchaseIntent(intentId: string): Promise<void> {
    const reply = await this.intent('POST', `/${encodeURIComponent(intentId)}/submitted`, {});
    const revision = reply.body['revision'];
    // Without a wait of ours the edge waits for the revision alone: an answer that is pending comes at once, and is shown.
    if (reply.status === 200 && typeof revision === 'string') await this.run(true, { revision, wait: undefined });
  }

  /**
   * Tells Latchkey what the store gave the app, and waits up to 20 s until a signed answer shows it. `finish` in the result says that you may finish the transaction
   * with the store; until then leave it unfinished, and the store shows it again at the next start.
   */
  confirmPurchase(receipt: Receipt | Receipt[], options: PurchaseOptions = {}): Promise<Purchase> {
    return this.purchase('/v1/receipts', receipt, options);
  }

  /** The same for purchases that the user restores by tapping a button: one of another account may move here, by your policy. */
  restore(receipts: Receipt | Receipt[], options: PurchaseOptions = {}): Promise<Purchase> {
    return this.purchase('/v1/restores', receipts, options);
  }

  /** Call it when the app comes to the front, where there is no `document` (React Native: AppState). */
  resume(): void {
    if (this.closed) return;
    this.awake = true;
    void this.save().then(() => this.changed());
    if (this.monotonic() - this.answeredAt > resumeSeconds * 1000) void this.run(false);
    this.plan();
  }

  /** Call it when the app goes to the back, where there is no `document`. */
  pause(): void {
    this.awake = false;
    void this.save();
    this.plan();
  }

  /** Ends timers and the stream. What is stored stays. */
  close(): void {
    this.closed = true;
    this.unwatch?.();
    this.listeners.clear();
    this.plan();
    for (const cancel of this.timers.values()) cancel();
    this.timers.clear();
  }

  /** For support: what was asked, what came of it, what the clocks say. No token, signature or receipt is in it. */
  diagnostics(): Json {
    const snapshot = this.snapshot();
    const c = this.held?.claims;
    const trusted = now(this.anchor, reading(this.clock));
    return {
      sdk: version,
      environment: this.options.environment,
      audience: this.options.audience,
      edges: this.edges,
      account_id: snapshot.accountId ?? null,
      anonymous: snapshot.anonymous,
      session_expires_at: this.session?.expiresAt ?? null,
      device_id: this.deviceId,
      status: snapshot.status,
      warning: this.warning ?? null,
      streaming: this.streaming,
      clock: { trusted: iso(trusted), device: iso(this.clock.wall()), device_ahead_seconds: Math.round((this.clock.wall() - trusted) / 1000), proven: this.anchor.proven },
      answer: c ? { revision: c.revision, as_of: iso(c.asOf * 1000), expires_at: iso(c.expiresAt * 1000), edge_key: this.held!.leaf, entitlements: c.entitlements } : null,
      purchases: Object.fromEntries(Object.entries(this.beside.entitlements).map(([id, d]) => [id, { purchase_id: d.purchaseId, product_id: d.productId, store: d.store }])),
      unconfirmed: this.beside.unconfirmed ?? [],
      revocations: this.reader.revocations.counters(),
      log: [...this.logged],
    };
  }

  // What is known, judged now.

  private at(): number {
    return Math.floor(now(this.anchor, reading(this.clock)) / 1000);
  }

  private monotonic(): number {
    return this.clock.monotonic();
  }

  private expected() {
    return { audience: this.options.audience, environment: this.options.environment, subject: this.session?.accountId ?? '' };
  }

  /** The held token, if it is the present account's and no key above it is revoked. It may have expired. */
  private own(): Token | undefined {
    return this.held && !this.reader.refusal(this.held, this.expected()) ? this.held : undefined;
  }

  private window(): Window | undefined {
    const c = this.own()?.claims;
    return c && { freshUntil: c.freshUntil, expiresAt: c.expiresAt };
  }

  private status(): Status {
    return judge(this.anchor, reading(this.clock), this.window());
  }

  private snapshot(): Snapshot {
    const token = this.own();
    const at = this.at();
    const usable = token !== undefined && !this.reader.refusal(token, this.expected(), at);
    const entitlements = entitlementsOf(token, usable, at, this.beside, this.optimistic);
    const status = this.status();
    const [since, until] = [date(token?.claims.asOf), date(token?.claims.expiresAt)];
    const managed = Object.values<Entitlement>(entitlements).find((e) => e.active && e.display.manageUrl !== undefined && e.display.store === 'stripe');
    return {
      accountId: this.session?.accountId,
      anonymous: this.session?.anonymous ?? true,
      status,
      message: fill(this.words[status], { since, until }),
      entitlements,
      balances: token?.claims.balances ?? {},
      asOf: since,
      graceUntil: until,
      pending: token !== undefined && this.beside.pending,
      unconfirmed: token ? unconfirmedOf(this.beside.unconfirmed, token.claims.subject, this.words) : [],
      warning: this.warning && { ...this.warning, message: this.words[this.warning.code] },
      manageUrl: managed?.display.manageUrl,
      purchase: token ? this.beside.purchase : nothingBeside.purchase,
      trialEligible: this.beside.trialEligible,
      appleAppAccountToken: this.beside.appleAppAccountToken,
    };
  }

  /** Tells listeners, if what they see has changed, and plans what comes next. */
  private changed(): void {
    const snapshot = this.snapshot();
    const text = JSON.stringify(snapshot);
    if (text !== this.shown) {
      if (this.shown) this.log('shown', `${snapshot.status}: ${Object.values(snapshot.entitlements).map((e) => `${e.id}=${e.active ? 'active' : e.status}`).join(' ') || 'nothing'}`);
      this.shown = text;
      for (const listener of [...this.listeners]) listener(snapshot);
    }
    this.plan();
  }

  // Asking.

  /** One request at a time: an unforced one joins whatever is under way, a forced one comes after it. */
  private run(forced: boolean, minimum?: { revision: string; wait: number | undefined }): Promise<boolean> {
    if (this.closed) return Promise.resolve(false);
    const joined = minimum ? undefined : ((forced ? undefined : this.running) ?? this.waiting);
    if (joined) return joined;
    const done: Promise<boolean> = this.tail
      .then(() => {
        if (this.waiting === done) this.waiting = undefined;
        this.running = done;
        return this.askEdges(forced, minimum);
      })
      .catch((err: unknown) => {
        this.log('failed', err instanceof Error ? err.name : 'unknown'); // a verifier or a storage that does not work
        return this.failed(0);
      })
      .finally(() => {
        if (this.running === done) this.running = undefined;
        this.changed();
      });
    this.tail = done;
    if (!this.running) this.running = done;
    else if (!minimum) this.waiting = done;
    return done;
  }

  private async askEdges(forced: boolean, minimum?: { revision: string; wait: number | undefined }): Promise<boolean> {
    const session = await this.ensureSession();
    if (!session) return this.failed(0);
    // A nonce proves that the answer is of now. Without that proof in this boot, a recording could pass for news.
    const nonce = forced || !this.anchor.proven ? encodeBase64url(this.random(16)) : undefined;
    let revision = minimum?.revision ?? this.own()?.claims.revision;
    let ended = 0;
    let answers = 0;
    let retryAfter = 0;
    let took = false;
    for (let i = 0; i < this.edges.length; i++) {
      const wait = minimum ? minimum.wait : i < this.edges.length - 1 ? 0 : undefined;
      const query = Object.entries({ min_revision: revision, wait, nonce }).flatMap(([name, value]) => (value === undefined ? [] : [`${name}=${encodeURIComponent(value)}`]));
      const path = `/v1/entitlements${query.length > 0 ? `?${query.join('&')}` : ''}`;
      const reply = await this.transport.ask(this.edges[i]!, { method: 'GET', path, credential: session.token, timeout: readTimeout + (wait ?? 2) * 1000 });
      if (session !== this.session) return false;
      this.log('asked', `${this.edges[i]}: ${reply.status || 'no answer'}${reply.problem && ` ${reply.problem}`}`);
      if (reply.status > 0) answers++;
      retryAfter = Math.max(retryAfter, reply.retryAfter);
      if (reply.status === 401) ended++;
      if (reply.problem === 'other-history' && revision !== undefined) {
        revision = undefined;
        i--;
        continue;
      }
      if (reply.status !== 200) continue;
      const fresh = await this.take(reply.body, session, nonce);
      took ||= fresh !== undefined;
      if (fresh) break; // a stale one is kept, and the next edge asked
    }
    if (took) {
      this.failures = 0;
      this.quietUntil = 0;
      this.answeredAt = this.monotonic();
      if (this.warning?.code === 'session_ended') this.warning = undefined;
      void this.renew();
      return true;
    }
    if (ended > 0 && ended === answers) this.sessionEnded(session);
    return this.failed(retryAfter);
  }

  private failed(retryAfter: number): boolean {
    this.quietUntil = this.monotonic() + backoff(this.failures++, () => this.fraction(), retryAfter);
    return false;
  }

  private fraction(): number {
    const [a, b] = this.random(2);
    return (a! * 256 + b!) / 65536;
  }

  /**
   * Believes an answer or not. Returns undefined when it is not, else whether it is fresh. Here is the one place where access can be taken away, and it takes
   * a signature, of now, over something newer.
   */
  private async take(answer: Json, session: Session, nonce?: string): Promise<boolean | undefined> {
    const text = answer['grace_token'];
    if (typeof text !== 'string') return this.refuse('unsigned');
    let token: Token;
    try {
      token = await this.reader.read(text);
    } catch (err) {
      if (err instanceof Refused) return this.refuse(err.reason);
      throw err;
    }
    if (session !== this.session) return undefined;
    if (nonce === undefined && !this.anchor.proven) return undefined;
    const { issuedAt, freshUntil } = token.claims;
    // Judged at the time that it would prove: later than the trusted one, because an edge says so, or a little earlier.
    const learned = learn(this.anchor, reading(this.clock), issuedAt, nonce !== undefined);
    const reason = this.reader.refusal(token, { ...this.expected(), ...(nonce === undefined ? {} : { nonce }) }, Math.floor(now(learned, reading(this.clock)) / 1000));
    if (reason) return this.refuse(reason);
    this.anchor = learned;
    const held = this.own();
    const order = held ? compare(token.claims, held.claims) : 1;
    if (order < 0) {
      this.log('older answer ignored', token.claims.revision);
      return undefined;
    }
    if (this.warning?.code === 'answer_refused') this.warning = undefined;
    if (order > 0) this.held = token;
    this.beside = beside(answer);
    for (const e of token.claims.entitlements) if (entitlementsOf(token, true, issuedAt, this.beside, {})[e.id]?.active) delete this.optimistic[e.id];
    this.changed();
    await this.save();
    return issuedAt < freshUntil;
  }

  private refuse(detail: string): undefined {
    this.log('answer refused', detail);
    this.warning = { code: 'answer_refused', detail };
    this.changed();
    return undefined;
  }

  // Sessions.

  private ensureSession(always = this.options.anonymous !== false): Promise<Session | undefined> {
    if (this.session || !always) return Promise.resolve(this.session);
    return (this.opening ??= this.openSession().finally(() => (this.opening = undefined)));
  }

  private async openSession(): Promise<Session | undefined> {
    const generation = this.generation;
    const reply = await this.write('/v1/sessions', this.options.publishableKey, { device_id: this.deviceId }, { once: true });
    const session = readSession(reply.body, true);
    if (generation !== this.generation) return this.session;
    if (reply.status < 200 || reply.status > 299 || !session) {
      this.log('no session', reply.problem || String(reply.status));
      return undefined;
    }
    this.enter(session);
    return session;
  }

  /** An anonymous account has no other name than its session: long before that ends, it is exchanged for one that lasts longer. */
  private async renew(): Promise<void> {
    const session = this.session;
    if (!session?.anonymous || Date.parse(session.expiresAt) / 1000 - this.at() > renewSeconds || this.monotonic() < this.renewAt) return;
    this.renewAt = this.monotonic() + foregroundSeconds * 1000 * 15;
    const reply = await this.write('/v1/sessions/login', session.token, { session_token: session.token }, { once: true });
    const next = readSession(reply.body, true);
    if (session !== this.session || reply.status !== 200 || next?.accountId !== session.accountId) return;
    this.session = next; // the same account: nothing else changes
    this.stopStream();
    await this.save();
  }

  /** Makes session the present one. What belongs to another account is forgotten. */
  private enter(session: Session | undefined): void {
    if (!session || session.accountId !== this.session?.accountId) {
      this.held = undefined;
      this.beside = nothingBeside;
      this.optimistic = {};
    }
    this.warning = undefined;
    this.session = session;
    this.generation++;
    this.stopStream();
    void this.save();
    this.changed();
  }

  /** Every edge says that the session has ended. A user who has something keeps it until its grace ends; an anonymous one without starts anew. */
  private sessionEnded(session: Session): void {
    const has = Object.values(this.snapshot().entitlements).some((e) => e.active || e.optimistic);
    this.log('session ended', has ? 'kept' : '');
    if (session.anonymous && !has) this.enter(undefined);
    else this.warning = { code: 'session_ended', detail: '' };
  }

  /** Sends a write to the first edge that answers with anything but a failure of its own; once: it is done once, though several edges may pass it on. */
  private async intent(method: 'POST' | 'DELETE', path: string, body?: Json): Promise<Reply> {
    const session = await this.ensureSession(true);
    if (!session) throw new RequestFailed('', 0);
    return this.write(`/v1/purchase-intents${path}`, session.token, body, { method, once: true });
  }

  private async write(path: string, credential: string, body: unknown, { timeout = writeTimeout, once = false, method = 'POST' as 'POST' | 'DELETE' } = {}): Promise<Reply> {
    const headers: Record<string, string> = once ? { 'Idempotency-Key': encodeBase64url(this.random(16)) } : {};
    let last: Reply = { status: 0, body: {}, problem: '', retryAfter: 0 };
    for (const edge of this.edges) {
      const reply = await this.transport.ask(edge, { method, path, credential, body, timeout, headers });
      this.log('sent', `${path} to ${edge}: ${reply.status || 'no answer'}${reply.problem && ` ${reply.problem}`}`);
      if (reply.status > 0) last = reply;
      if (reply.status > 0 && reply.status < 500 && reply.status !== 429) break;
    }
    return last;
  }

  private async purchase(path: string, receipt: Receipt | Receipt[], options: PurchaseOptions): Promise<Purchase> {
    const session = await this.ensureSession();
    const until = this.at() + optimisticSeconds;
    const present = this.snapshot().entitlements;
    for (const id of options.optimistic ?? []) if (!present[id]?.active) this.optimistic[id] = until; // a stream may have been faster
    await this.save();
    this.changed();
    const receipts = Array.isArray(receipt) ? receipt : [receipt];
    const result = await confirm({
      send: async (body, timeout) => {
        const credential = session ?? (await this.ensureSession());
        return credential ? this.write(path, credential.token, body, { timeout }) : { status: 0, body: {}, problem: '', retryAfter: 0 };
      },
      // Reading at the revision of the write is what shows it.
      reached: (revision, wait) => this.run(true, { revision, wait }),
      pending: () => this.beside.pending,
      monotonic: () => this.monotonic(),
      later: this.later,
      words: this.words,
      account: () => this.session?.accountId ?? '–',
      time: () => new Date(this.at() * 1000),
      receipts,
    });
    const expected = options.optimistic ?? [];
    if (result.outcome === 'confirmed' && expected.some((id) => !this.snapshot().entitlements[id]?.active)) {
      result.outcome = 'processing'; // recorded, and it does not give what the app expects of it
      result.message = this.words.purchase_processing;
    }
    this.log('purchase', result.outcome);
    if (result.outcome === 'refused' || result.outcome === 'owned_by_other') for (const id of expected) delete this.optimistic[id];
    await this.save();
    this.changed();
    return result;
  }

  // Time passes.

  private timer(name: string, milliseconds: number | undefined, run: () => void): void {
    this.timers.get(name)?.();
    this.timers.delete(name);
    if (milliseconds === undefined || this.closed) return;
    const cancel = this.later(Math.max(0, milliseconds), () => {
      this.timers.delete(name);
      run();
    });
    this.timers.set(name, cancel);
  }

  private checkpointLater(): void {
    this.timer('checkpoint', checkpointSeconds * 1000, () => {
      void this.save();
      this.checkpointLater();
    });
  }

  /** Plans the next request, the next moment at which something ends by itself, and the stream. */
  private plan(): void {
    const open = this.awake && !this.closed;
    const held = this.window();
    const trusted = now(this.anchor, reading(this.clock));
    const freshFor = held ? held.freshUntil * 1000 - trusted : 0;
    const calm = this.failures === 0 && this.answeredAt > -Infinity;
    const polling = this.listeners.size > 0 && !this.streaming;
    const since = this.monotonic() - this.answeredAt;
    const wait = polling ? Math.max(freshFor, 60_000 - since, 1000) : Math.max(foregroundSeconds * 1000 - since, 1000);
    this.timer('refresh', open ? (calm ? wait : Math.max(this.quietUntil - this.monotonic(), 0)) : undefined, () => {
      if (this.running) return;
      void this.run(false);
    });
    const ends = [held?.freshUntil, held?.expiresAt, ...(this.own()?.claims.entitlements ?? []).map((e) => e.offlineUntil), ...Object.values(this.optimistic)];
    const next = Math.min(...ends.flatMap((end) => (end !== undefined && end * 1000 > trusted ? [end * 1000 - trusted] : [])));
    this.timer('end', next < 7 * 24 * 3600 * 1000 ? next : undefined, () => this.changed());
    if (open && this.listeners.size > 0 && this.session && this.anchor.proven && this.streamable) this.startStream();
    else this.stopStream();
  }

  private startStream(): void {
    if (this.stream) return;
    const abort = new AbortController();
    this.stream = abort;
    void this.follow(abort, this.session!).finally(() => {
      if (this.stream === abort) this.stopStream();
    });
  }

  private stopStream(): void {
    this.stream?.abort();
    this.stream = undefined;
    this.streaming = false;
    this.timer('stream', undefined, () => undefined);
  }

  /** Follows the stream of one edge after the other for as long as it is wanted. */
  private async follow(abort: AbortController, session: Session): Promise<void> {
    let failures = 0;
    for (let i = 0; !abort.signal.aborted; i = (i + 1) % this.edges.length) {
      const edge = this.edges[i]!;
      const revision = failures === 0 ? this.own()?.claims.revision : undefined;
      const path = `/v1/entitlements/stream${revision === undefined ? '' : `?min_revision=${encodeURIComponent(revision)}`}`;
      const one = new AbortController();
      const end = () => one.abort();
      abort.signal.addEventListener('abort', end);
      const cancel = this.later(readTimeout + 2000, end);
      let pause: number | undefined;
      try {
        const response = await this.transport.send(edge, { method: 'GET', path, credential: session.token, timeout: 0, headers: { Accept: 'text/event-stream' } }, one.signal);
        cancel();
        if (response.status === 200 && !canStream(response)) {
          this.log('no stream', 'this platform cannot');
          this.streamable = false;
          one.abort();
          this.plan();
          return;
        }
        this.log('stream', `${edge}: ${response.status}`);
        if (response.status === 200 && !abort.signal.aborted) {
          this.streaming = true;
          failures = 0;
          this.plan();
          pause = (await readEvents(response, one, this.later, (name, data) => void this.event(name, data, session))) ?? 1000;
          i--; // the same edge again
        }
      } catch {
        this.log('stream', `${edge}: no answer`);
      } finally {
        cancel();
        one.abort();
        abort.signal.removeEventListener('abort', end);
      }
      if (abort.signal.aborted) return;
      this.streaming = false;
      this.plan();
      const delay = pause === undefined ? backoff(failures++, () => this.fraction(), 0) : pause * (0.5 + this.fraction());
      await new Promise<void>((resolve) => {
        const go = () => {
          abort.signal.removeEventListener('abort', go);
          resolve();
        };
        abort.signal.addEventListener('abort', go);
        this.timer('stream', delay, go);
      });
    }
  }

  private async event(name: string, data: string, session: Session): Promise<void> {
    if (name !== 'entitlements' || session !== this.session) return;
    let answer: unknown;
    try {
      answer = JSON.parse(data);
    } catch {
      answer = undefined;
    }
    const fresh = await this.take(isObject(answer) ? answer : {}, session);
    if (fresh !== undefined) this.answeredAt = this.monotonic();
    this.plan();
  }

  // Storage.

  private async load(): Promise<Stored | undefined> {
    try {
      const text = await this.storage.get(this.key);
      if (text === null || text === undefined) return undefined;
      const stored: unknown = JSON.parse(text);
      if (isStored(stored)) return stored;
      throw new Error('of another form');
    } catch {
      this.log('storage', 'unreadable');
      return undefined;
    }
  }

  /** Takes over what another start, or another tab, has stored. The token is verified again: storage is not trusted. */
  private async adopt(stored: Stored): Promise<void> {
    for (const list of stored.revocations) await this.reader.revocations.learn(list);
    this.generation = stored.generation;
    this.deviceId = stored.deviceId;
    this.session = stored.session ?? undefined;
    this.optimistic = { ...stored.optimistic };
    this.held = undefined;
    this.beside = nothingBeside;
    await this.hold(stored);
  }

  /** Holds the stored token, if it is genuine and newer than the one that is held. */
  private async hold(stored: Stored): Promise<void> {
    if (stored.token === null || stored.token === this.held?.text) return;
    try {
      const token = await this.reader.read(stored.token);
      const held = this.own();
      if (this.reader.refusal(token, this.expected()) || (held && compare(token.claims, held.claims) <= 0)) return;
      this.held = token;
      this.beside = stored.beside;
    } catch (err) {
      this.log('storage', err instanceof Refused ? err.reason : 'unreadable');
    }
  }

  /** Writes what is known, joined with what another tab has written: the later time, the newer answer, the later login. One write at a time. */
  private save(): Promise<void> {
    this.writing = this.writing.then(async () => {
      const stored = await this.load();
      if (stored && stored.generation > this.generation) {
        await this.adopt(stored);
        this.stopStream();
      } else if (stored && stored.generation === this.generation && stored.session?.accountId === this.session?.accountId) {
        await this.hold(stored);
      }
      // Both are times that have surely passed. In the same boot ours is the newer reading of the same clock.
      if (stored && stored.time.boot !== this.anchor.boot && stored.time.time > now(this.anchor, reading(this.clock))) {
        this.anchor = { ...checkpoint(this.anchor, reading(this.clock)), time: stored.time.time };
      }
      this.anchor = checkpoint(this.anchor, reading(this.clock));
      const out: Stored = {
        format: 1,
        generation: this.generation,
        deviceId: this.deviceId,
        session: this.session ?? null,
        token: this.held?.text ?? null,
        beside: this.beside,
        time: this.anchor,
        revocations: this.reader.revocations.lists(),
        optimistic: this.optimistic,
      };
      try {
        await this.storage.set(this.key, JSON.stringify(out));
      } catch {
        this.log('storage', 'not written');
      }
    });
    return this.writing;
  }

  private log(event: string, detail: string): void {
    const trusted = this.anchor ? now(this.anchor, reading(this.clock)) : 0;
    this.logged.push({ at: iso(trusted), wall: iso(this.clock.wall()), event, detail });
    if (this.logged.length > logEntries) this.logged.shift();
  }
}

/** Reads of a session token that our own backend gave us whose it is. */
function serverSession(token: string): Session {
  try {
    const claims = JSON.parse(decodeUTF8(decodeBase64url(token.split('.')[1] ?? ''))) as Json;
    if (typeof claims['sub'] === 'string' && typeof claims['exp'] === 'number') return { accountId: claims['sub'], token, expiresAt: iso(claims['exp'] * 1000), anonymous: false };
  } catch {
    // It is none.
  }
  throw new RequestFailed('invalid-credential', 0);
}

function isStored(o: unknown): o is Stored {
  if (!isObject(o) || o['format'] !== 1 || typeof o['generation'] !== 'number' || typeof o['deviceId'] !== 'string') return false;
  const { session, token, beside: shown, time, revocations, optimistic } = o;
  const anchored = isObject(time) && Number.isFinite(time['time']) && Number.isFinite(time['monotonic']) && typeof time['boot'] === 'string' && typeof time['proven'] === 'boolean';
  const known = session === null || (isObject(session) && typeof session['accountId'] === 'string' && typeof session['token'] === 'string');
  const displayed = isObject(shown) && isObject(shown['entitlements']) && isObject(shown['purchase']);
  return anchored && known && displayed && (token === null || typeof token === 'string') && Array.isArray(revocations) && isObject(optimistic);
}

function readSession(o: Json, anonymous: boolean): Session | undefined {
  const { account_id: accountId, session_token: token, expires_at: expiresAt } = o;
  if (typeof accountId !== 'string' || typeof token !== 'string') return undefined;
  return { accountId, token, expiresAt: typeof expiresAt === 'string' ? expiresAt : '', anonymous: typeof o['anonymous'] === 'boolean' ? o['anonymous'] : anonymous };
}

function iso(milliseconds: number): string {
  const d = new Date(milliseconds);
  return Number.isNaN(d.getTime()) ? 'invalid' : d.toISOString();
}
