// @latchkey/sdk: start at configure.
export { configure, ConfigurationError, RequestFailed, version } from './client.js';
export type { Credential, Latchkey, LogEntry, Options } from './client.js';
export type { Status } from './clock.js';
export type { Clock, Fetch, Later, Random, Storage, Visibility } from './platform.js';
export type { Offer, Purchase, PurchaseIntent, PurchaseOptions, PurchaseOutcome, Receipt, Refusal } from './purchase.js';
export { webCryptoVerifier } from './verifier.js';
export type { Verifier } from './verifier.js';
export { english } from './view.js';
export type { Display, Entitlement, Snapshot, Unconfirmed, Warning, Words } from './view.js';
