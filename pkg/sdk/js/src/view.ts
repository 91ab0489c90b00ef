// What an app sees: the signed answer, judged at the trusted time, with words for the user; and beside it what the edge said without a signature, for
// display alone.
import { isObject, type Json } from './bytes.js';
import type { Status } from './clock.js';
import { isActive, type Token } from './token.js';

/** One entitlement. Everything but `display` and `optimistic` is signed. */
export interface Entitlement {
  readonly id: string;
  /** The user may use it, now. This is the only member to decide by. */
  readonly active: boolean;
  /** `trialing active billing_grace` give access, `pending billing_retry paused expired refunded revoked` do not. */
  readonly status: string;
  readonly reason: string | undefined;
  /** The end of the paid term, for the settings screen; undefined: it never ends, or nothing is known. */
  readonly expiresAt: Date | undefined;
  /** Until when access goes on without a connection. */
  readonly offlineUntil: Date | undefined;
  readonly willRenew: boolean;
  readonly plan: string | undefined;
  readonly trial: boolean;
  /** The store has taken the payment and Latchkey has not confirmed it yet: unlock what costs you nothing, and nothing else. */
  readonly optimistic: boolean;
  /** Not signed: show it, never decide by it. */
  readonly display: Readonly<Display>;
}

/** What an edge says about a purchase beside the signature. */
export interface Display {
  price?: { amount: string; currency: string; period?: string };
  store?: string;
  productId?: string;
  purchaseId?: string;
  nextPlan?: string;
  ownership?: string;
  sandbox?: boolean;
  /** Where the subscription is managed: an https address. */
  manageUrl?: string;
}

/** A purchase that the app told of and that nobody confirmed within a minute; not signed. It is listed for a day, unless it comes. */
export interface Unconfirmed {
  /** What support finds it by: the intent's id, or `receipt:` and a hash. */
  readonly reference: string;
  /** Through whom: `apple`, `google`, `stripe` and so on. */
  readonly provider: string;
  readonly productId: string | undefined;
  /** When the app told of it. */
  readonly at: Date | undefined;
  /** For the user: that it was not confirmed, and what support needs. */
  readonly message: string;
}

/** Something that the user or the developer should know; it never takes access away. */
export interface Warning {
  /** `answer_refused`: an edge's answer is not signed as it must be, and was ignored. `session_ended`: sign in again. */
  readonly code: 'answer_refused' | 'session_ended';
  /** For the log: `unsigned`, or why the signature was refused. */
  readonly detail: string;
  readonly message: string;
}

/** All that an app shows, as of one moment. */
export interface Snapshot {
  /** The present account; undefined: there is none yet, because the app was never online. */
  readonly accountId: string | undefined;
  readonly anonymous: boolean;
  readonly status: Status;
  /** The status, for the user. */
  readonly message: string;
  readonly entitlements: Readonly<Record<string, Entitlement>>;
  readonly balances: Readonly<Record<string, number>>;
  /** An edge knew everything up to here. */
  readonly asOf: Date | undefined;
  /** Access without a connection ends here, at the latest. */
  readonly graceUntil: Date | undefined;
  /** A payment is being confirmed: say so, and do not offer to buy. */
  readonly pending: boolean;
  /** Payments that could not be confirmed: show each one's message. */
  readonly unconfirmed: readonly Unconfirmed[];
  readonly warning: Warning | undefined;
  /** Where the active subscription is managed, if that is on the web. */
  readonly manageUrl: string | undefined;
  /** Whether the user should be offered a purchase; not signed. */
  readonly purchase: Readonly<{ allowed: boolean; reason?: string }>;
  readonly trialEligible: boolean | undefined;
  /** What to give StoreKit as appAccountToken. */
  readonly appleAppAccountToken: string | undefined;
}

/** The unsigned part of an answer that is kept for display. It lies in storage beside the token. */
export interface Beside {
  pending: boolean;
  /** Absent in what an earlier version has stored. */
  unconfirmed?: Told[];
  entitlements: Record<string, Display>;
  purchase: { allowed: boolean; reason?: string };
  trialEligible?: boolean;
  appleAppAccountToken?: string;
}

/** A purchase that the app told of, as it is stored. */
export interface Told {
  reference: string;
  provider: string;
  productId?: string;
  submittedAt?: string;
}

export const nothingBeside: Beside = { pending: false, entitlements: {}, purchase: { allowed: true } };

/** Takes from an answer what is shown. Whatever is not as expected is left out: this part is not signed. */
export function beside(answer: Json): Beside {
  const entitlements: Record<string, Display> = Object.create(null);
  for (const e of Array.isArray(answer['entitlements']) ? answer['entitlements'] : []) {
    if (isObject(e) && typeof e['id'] === 'string') entitlements[e['id']] = display(e);
  }
  const purchase = isObject(answer['purchase']) ? answer['purchase'] : {};
  const trial = isObject(answer['trial']) ? answer['trial'] : {};
  const unconfirmed: Told[] = [];
  for (const u of Array.isArray(answer['unconfirmed']) ? answer['unconfirmed'] : []) {
    if (!isObject(u)) continue;
    const { reference, provider, ...more } = strings(u, { reference: 'reference', provider: 'provider', productId: 'product_id', submittedAt: 'submitted_at' });
    if (reference !== undefined && provider !== undefined) unconfirmed.push({ reference, provider, ...more });
  }
  return {
    pending: answer['state'] === 'pending',
    ...(unconfirmed.length > 0 ? { unconfirmed } : {}),
    entitlements,
    purchase: { allowed: purchase['allowed'] !== false, ...strings(purchase, { reason: 'reason' }) },
    ...(typeof trial['eligible'] === 'boolean' ? { trialEligible: trial['eligible'] } : {}),
    ...strings(answer, { appleAppAccountToken: 'apple_app_account_token' }),
  };
}

function display(e: Json): Display {
  const price = isObject(e['price']) ? e['price'] : {};
  const amount = strings(price, { amount: 'amount', currency: 'currency', period: 'period' });
  const url = e['manage_url'];
  return {
    ...strings(e, { store: 'store', productId: 'product_id', purchaseId: 'purchase_id', nextPlan: 'next_plan', ownership: 'ownership' }),
    ...(amount.amount !== undefined && amount.currency !== undefined ? { price: { ...amount, amount: amount.amount, currency: amount.currency } } : {}),
    ...(typeof e['sandbox'] === 'boolean' ? { sandbox: e['sandbox'] } : {}),
    ...(typeof url === 'string' && url.startsWith('https://') ? { manageUrl: url } : {}), // javascript: would be an attack
  };
}

function strings<T extends Record<string, string>>(o: Json, names: T): { [K in keyof T]?: string } {
  const out: { [K in keyof T]?: string } = {};
  for (const name in names) {
    const value = o[names[name]!];
    if (typeof value === 'string') out[name] = value;
  }
  return out;
}

/**
 * The words for the user. Give others in `configure({words})` to translate them; `{since}` and `{until}` are filled in, and of a purchase what support needs:
 * `{account}`, `{store}`, `{since}` and `{reference}`.
 */
export interface Words {
  verified: string;
  verified_offline: string;
  clock_suspect: string;
  grace_expired: string;
  unverified: string;
  answer_refused: string;
  session_ended: string;
  purchase_confirmed: string;
  purchase_processing: string;
  purchase_unconfirmed: string;
  purchase_owned_by_other: string;
  purchase_refused: string;
  not_confirmed: string;
  buy_active_subscription: string;
  buy_already_owned: string;
  buy_purchase_pending: string;
  buy_purchase_in_progress: string;
  buy_trial_used: string;
}

export const english: Words = {
  verified: 'Up to date.',
  verified_offline: 'Last confirmed {since}. Works without a connection until {until}.',
  clock_suspect: 'This device’s clock does not look right. Last confirmed {since}: connect to the internet to confirm again.',
  grace_expired: 'We could not confirm your access for 24 hours. Connect to the internet to go on.',
  unverified: 'Connect to the internet to see what you have access to.',
  answer_refused: 'An answer could not be verified and was ignored. Nothing changes for you.',
  session_ended: 'Please sign in again. Until then, what was confirmed last counts.',
  purchase_confirmed: 'Thank you. Your purchase is active.',
  purchase_processing: 'Your payment is still being processed. You need not do anything.',
  purchase_unconfirmed: 'We could not confirm your purchase yet. Do not pay again: it is not lost. Try “Restore” in a few minutes, or write to support and give this: account {account}, {store}, {since}.',
  purchase_owned_by_other: 'This purchase belongs to another account. Sign in there, or tap “Restore” to bring it here.',
  purchase_refused: 'The store did not confirm this purchase. If you were charged, write to support and give this: account {account}, {store}, {since}.',
  not_confirmed: 'Your payment was not confirmed. Do not pay again. If you were charged, write to support and give this: account {account}, {store}, {since}, {reference}.',
  buy_active_subscription: 'You have this already. Manage it where you bought it.',
  buy_already_owned: 'You own this already.',
  buy_purchase_pending: 'A payment for this is under way. Do not pay again.',
  buy_purchase_in_progress: 'This is being bought on another device. Try again in 5 minutes.',
  buy_trial_used: 'You have had a trial already.',
};

/** Fills in what stands between braces. */
export function fill(words: string, values: Record<string, Date | string | undefined>): string {
  return words.replace(/\{(\w+)\}/g, (name, key: string) => (key in values ? shown(values[key]) : name));
}

function shown(date: Date | string | undefined): string {
  if (typeof date === 'string') return date;
  return date ? date.toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' }) : '–';
}

const stores: Record<string, string> = { apple: 'App Store', google: 'Google Play', stripe: 'Stripe', revenuecat: 'RevenueCat', adapty: 'Adapty', iaptic: 'iaptic', web2wave: 'Web2Wave' };

/** How a user reads whom they paid. */
export function storeName(provider: string): string {
  return stores[provider] ?? provider;
}

/** What of the purchases that the app told of was not confirmed, with words for the user. */
export function unconfirmedOf(told: Told[] | undefined, account: string, words: Words): Unconfirmed[] {
  return (told ?? []).map(({ reference, provider, productId, submittedAt }) => {
    const time = Date.parse(submittedAt ?? '');
    const at = Number.isNaN(time) ? undefined : new Date(time);
    return { reference, provider, productId, at, message: fill(words.not_confirmed, { account, store: storeName(provider), since: at, reference }) };
  });
}

/** Judges the entitlements of a token at the trusted second at. usable says whether the token counts at all then. */
export function entitlementsOf(token: Token | undefined, usable: boolean, at: number, shownBeside: Beside, optimistic: Record<string, number>): Record<string, Entitlement> {
  const out: Record<string, Entitlement> = Object.create(null);
  for (const e of token?.claims.entitlements ?? []) {
    const active = usable && isActive(e.status) && e.offlineUntil !== undefined && at < e.offlineUntil;
    out[e.id] = {
      id: e.id,
      active,
      status: e.status,
      reason: e.reason,
      expiresAt: date(e.until),
      offlineUntil: date(e.offlineUntil),
      willRenew: e.willRenew,
      plan: e.plan,
      trial: e.trial,
      optimistic: !active && at < (optimistic[e.id] ?? 0),
      display: shownBeside.entitlements[e.id] ?? {},
    };
  }
  for (const id of Object.keys(optimistic)) {
    if (out[id] || at >= optimistic[id]!) continue;
    out[id] = {
      id, active: false, status: 'pending', reason: undefined, expiresAt: undefined, offlineUntil: undefined, willRenew: false, plan: undefined, trial: false, optimistic: true, display: {},
    };
  }
  return out;
}

export function date(seconds: number | undefined): Date | undefined {
  return seconds === undefined ? undefined : new Date(seconds * 1000);
}
