// Trusted time. The device's clock may be wrong, by accident or on purpose, so it decides nothing: what counts is a time that an edge signed, advanced
// by a monotonic clock. Everything here is pure; pkg/token/testdata/vectors.json holds traces that every implementation must judge alike, and
// test/clock.model.ts holds this one to a model that knows the true time.
//
// Two promises. Nobody has access for more than 24 hours of running time after the last contact, plus what ran since the last checkpoint before each
// reboot. And nobody who paid is locked out before those 24 hours are over: the trusted time is never ahead of the true one, except by what the monotonic
// clock runs too fast.

/** How often the trusted time is written to storage while the app runs, in seconds: what a reboot can give back at most. */
export const checkpointSeconds = 60;

/**
 * How far the device's clock may be off before we speak of it, and how much a monotonic clock that runs too fast is set back by an answer that was
 * signed just now. In seconds; 5 minutes in 24 hours is 100 times the drift of a poor quartz.
 */
export const toleranceSeconds = 300;

/** What the clocks say at one moment. */
export interface Reading {
  /** Names the stretch in which `monotonic` counts from one start: a boot of the device, or one page of a browser. */
  boot: string;
  /** Milliseconds that never go back within a boot and are never set. */
  monotonic: number;
  /** The device's clock in milliseconds since 1970. It is only compared, and never believed. */
  wall: number;
}

/** An anchor: at the monotonic reading of this boot the time was `time` or later. This is what storage keeps. */
export interface Anchor {
  /** Milliseconds since 1970. */
  time: number;
  boot: string;
  monotonic: number;
  /** In this boot an edge has proven, by signing a nonce of ours, what time it is. Until then the time that the device was off is unknown. */
  proven: boolean;
}

/** The last of the signed answer's times, in Unix seconds. */
export interface Window {
  freshUntil: number;
  expiresAt: number;
}

/**
 * `verified`: an edge confirmed it within the last minute. `verified_offline`: it was confirmed, and counts until the grace ends. `clock_suspect`: as
 * before, but the device's clock contradicts it, so a new confirmation is due. `grace_expired`: the grace is over. `unverified`: nothing was ever
 * confirmed.
 */
export type Status = 'verified' | 'verified_offline' | 'clock_suspect' | 'grace_expired' | 'unverified';

/**
 * Begins to keep time: with what storage holds, or from nothing. builtAt is a time that has surely passed, in milliseconds: of the app's build, or 0.
 * A stored anchor of this boot goes on. One of another boot says what time it was at least; how long the device was off since is not known, and
 * its clock, which may have been set, is not asked.
 */
export function begin(stored: Anchor | undefined, reading: Reading, builtAt = 0): Anchor {
  if (stored && stored.boot === reading.boot && stored.monotonic <= reading.monotonic) return stored.time >= builtAt ? stored : { ...stored, time: builtAt };
  return { time: Math.max(stored?.time ?? 0, builtAt), boot: reading.boot, monotonic: reading.monotonic, proven: false };
}

/** The trusted time, in milliseconds: the true one or earlier. */
export function now(anchor: Anchor, reading: Reading): number {
  return anchor.time + Math.max(0, reading.monotonic - anchor.monotonic);
}

/** The same knowledge, as of reading: what a checkpoint writes. */
export function checkpoint(anchor: Anchor, reading: Reading): Anchor {
  return { ...anchor, time: now(anchor, reading), monotonic: Math.max(anchor.monotonic, reading.monotonic) };
}

/**
 * Learns from an accepted answer that the edge signed at issuedAt (Unix seconds). proven says that the answer carries the nonce of a request of ours:
 * then the edge signed it just now, and a monotonic clock that ran too fast is set right: by a little at any time, by more when the device's clock says the same
 * as the edge. Without that, one hour in which an installation's clocks were days ahead would lock its users out for days. An answer without proof may be a
 * recording: it can only move time on.
 */
export function learn(anchor: Anchor, reading: Reading, issuedAt: number, proven: boolean): Anchor {
  const here = now(anchor, reading);
  const signed = issuedAt * 1000;
  const tolerance = toleranceSeconds * 1000;
  const back = proven && (here - signed <= tolerance || Math.abs(reading.wall - signed) <= tolerance);
  return { time: back ? signed : Math.max(here, signed), boot: reading.boot, monotonic: Math.max(anchor.monotonic, reading.monotonic), proven: anchor.proven || proven };
}

/** Says how much the held answer is worth at reading. */
export function judge(anchor: Anchor, reading: Reading, held: Window | undefined): Status {
  if (!held) return 'unverified';
  const seconds = now(anchor, reading) / 1000;
  if (seconds >= held.expiresAt) return 'grace_expired';
  if (seconds < held.freshUntil) return 'verified';
  const wall = reading.wall / 1000;
  // A right clock is never behind the trusted time; and when it says that the grace is over, either it was set forward, which must not take
  // anything from a payer, or the device was off or asleep, which nothing but an edge can prove.
  return wall < seconds - toleranceSeconds || wall >= held.expiresAt + toleranceSeconds ? 'clock_suspect' : 'verified_offline';
}
