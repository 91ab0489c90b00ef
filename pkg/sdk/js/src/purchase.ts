// A purchase, from the store's word to a signed answer that shows it.
import { isObject, type Json } from './bytes.js';
import type { Reply } from './edges.js';
import type { Later } from './platform.js';
import { fill, storeName, type Words } from './view.js';

/** What the store gave the app as proof. */
export type Receipt =
  | { provider: 'apple'; signedTransaction: string }
  | { provider: 'google'; package: string; purchaseToken: string }
  | { provider: 'stripe'; checkoutSessionId: string };

export interface PurchaseOptions {
  /** Entitlements to show as bought meanwhile (`optimistic`), once the store itself has confirmed the payment: for display, for 24 h at most. */
  optimistic?: string[];
}

/**
 * `confirmed`: a signed answer shows it. `processing`: it is recorded, or the store itself calls the payment pending; it will show by itself. `unconfirmed`: nobody
 * could say within 20 s. `owned_by_other`: it is another account's. `refused`: it proves nothing.
 */
export type PurchaseOutcome = 'confirmed' | 'processing' | 'unconfirmed' | 'owned_by_other' | 'refused';

export interface Purchase {
  outcome: PurchaseOutcome;
  /** For the user. */
  message: string;
  /** It is on the disks of a majority of writers: finish the transaction with the store now. Latchkey acknowledges at Play by itself. */
  finish: boolean;
  /** One for each receipt, in their order, as far as there was an answer. */
  results: { outcome: string; finish: boolean; purchaseId?: string }[];
}

/** What the user is about to buy. */
export interface Offer {
  /** Through whom: `apple`, `google`, `stripe` and so on. */
  provider: string;
  /** As the provider calls it. */
  productId: string;
  /** As a trial: refused where this user has had one, in whatever store. */
  trial?: boolean;
}

/** Why an offer may not be bought now. */
export type Refusal = 'active-subscription' | 'already-owned' | 'purchase-pending' | 'purchase-in-progress' | 'trial-used';

/** The answer before a purchase: allowed, with what the store's sheet must carry so that nobody's payment is lost; or not, and why. */
export type PurchaseIntent =
  | {
      allowed: true;
      /** Holds this purchase for this device for 5 minutes. */
      intentId: string;
      trialEligible: boolean;
      /** For StoreKit's `appAccountToken`. */
      appleAppAccountToken: string;
      /** For Play's `obfuscatedAccountId`. */
      googleObfuscatedAccountId: string;
      /** For Stripe's `metadata`. */
      metadata: Record<string, string>;
      /** Such as `cancel-subscription`: who buys the lifetime should end what renews. */
      warnings: string[];
    }
  | {
      allowed: false;
      reason: Refusal;
      /** For the user. */
      message: string;
      /** Where what the user has is managed. */
      manageUrl?: string;
    };

/** Reads the answer to a purchase intent. Nothing: it is none. */
export function readIntent(reply: Reply, words: Words): PurchaseIntent | undefined {
  const { body } = reply;
  const word = `buy_${reply.problem.replace(/-/g, '_')}` as keyof Words;
  if (reply.status === 409 && word in words) {
    const manageUrl = body['manage_url'];
    return { allowed: false, reason: reply.problem as Refusal, message: words[word], ...(typeof manageUrl === 'string' && manageUrl ? { manageUrl } : {}) };
  }
  const text = (name: string) => (typeof body[name] === 'string' ? (body[name] as string) : '');
  const intentId = text('intent_id');
  if (reply.status !== 200 || !intentId) return undefined;
  return {
    allowed: true,
    intentId,
    trialEligible: body['trial_eligible'] === true,
    appleAppAccountToken: text('apple_app_account_token'),
    googleObfuscatedAccountId: text('google_obfuscated_account_id'),
    metadata: (isObject(body['metadata']) ? body['metadata'] : {}) as Record<string, string>,
    warnings: Array.isArray(body['warnings']) ? body['warnings'].map(String) : [],
  };
}

/** How long the user waits, in milliseconds (R83). */
export const patience = 20_000;

interface Means {
  receipts: Receipt[];
  send(body: Json, timeout: number): Promise<Reply>;
  /** Asks for an answer at revision or newer, waiting up to so many seconds, and says whether one came. */
  reached(revision: string, wait: number): Promise<boolean>;
  pending(): boolean;
  monotonic(): number;
  later: Later;
  words: Words;
  /** The present account, and the trusted time: for support. */
  account(): string;
  time(): Date;
}

/** Shows the receipts until they are recorded, then waits for a signed answer that contains them; for as long as a user has patience. */
export async function confirm(means: Means): Promise<Purchase> {
  const deadline = means.monotonic() + patience;
  const left = () => deadline - means.monotonic();
  const body = { receipts: means.receipts.map(wire) };
  let results: Purchase['results'] = [];
  for (let attempt = 0; left() > 0; attempt++) {
    const reply = await means.send(body, Math.max(1000, left()));
    let wait = 500 * 2 ** Math.min(attempt, 3);
    if (reply.status === 200) {
      const read = readResults(reply.body);
      results = read.results;
      const settled = results.every((r) => r.outcome !== 'pending');
      if (results.length > 0 && settled) return finish(means, reply, results, left);
      wait = Math.max(wait, read.retryAfter * 1000);
    } else if (reply.status >= 400 && reply.status < 500 && reply.status !== 429) {
      break; // asking again would get the same
    }
    wait = Math.max(wait, reply.retryAfter * 1000);
    if (wait >= left()) break;
    await new Promise<void>((resolve) => means.later(wait, resolve));
  }
  return result(means, 'unconfirmed', results);
}

async function finish(means: Means, reply: Reply, results: Purchase['results'], left: () => number): Promise<Purchase> {
  const counts = results.some((r) => r.outcome === 'recorded' || r.outcome === 'provisional');
  if (!counts) return result(means, results.some((r) => r.outcome === 'owned_by_other') ? 'owned_by_other' : 'refused', results);
  const revision = reply.body['revision'];
  if (typeof revision !== 'string') return result(means, 'processing', results);
  for (let attempt = 0; left() > 0; attempt++) {
    if (await means.reached(revision, Math.max(1, Math.min(10, Math.floor(left() / 1000))))) return result(means, means.pending() ? 'processing' : 'confirmed', results);
    const wait = 500 * 2 ** Math.min(attempt, 3);
    if (wait >= left()) break;
    await new Promise<void>((resolve) => means.later(wait, resolve));
  }
  return result(means, 'processing', results);
}

function result(means: Means, outcome: PurchaseOutcome, results: Purchase['results']): Purchase {
  const stores = new Set(means.receipts.map((r) => storeName(r.provider)));
  const message = fill(means.words[`purchase_${outcome}`], { account: means.account(), store: [...stores].join(', '), since: means.time() });
  return { outcome, message, finish: results.length > 0 && results.every((r) => r.finish), results };
}

function wire(receipt: Receipt): Json {
  switch (receipt.provider) {
    case 'apple':
      return { provider: 'apple', signed_transaction: receipt.signedTransaction };
    case 'google':
      return { provider: 'google', package: receipt.package, purchase_token: receipt.purchaseToken };
    case 'stripe':
      return { provider: 'stripe', checkout_session_id: receipt.checkoutSessionId };
  }
}

function readResults(body: Json): { results: Purchase['results']; retryAfter: number } {
  const list = Array.isArray(body['results']) ? body['results'].filter(isObject) : [];
  const waits = list.map((r) => (typeof r['retry_after'] === 'number' ? r['retry_after'] : 0));
  return {
    results: list.map((r) => ({
      outcome: String(r['outcome']),
      finish: r['finish'] === true,
      ...(typeof r['purchase_id'] === 'string' ? { purchaseId: r['purchase_id'] } : {}),
    })),
    retryAfter: Math.max(0, ...waits),
  };
}
