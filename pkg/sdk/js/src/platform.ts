// What the SDK needs of the platform, and what it takes when it is told nothing.
import { encodeBase64url } from './bytes.js';
import type { Reading } from './clock.js';

/** Where the SDK keeps one text: the session, the last signed answer and the trusted time. On phones give one that backups and other apps cannot read. */
export interface Storage {
  get(key: string): string | null | Promise<string | null>;
  set(key: string, value: string): void | Promise<void>;
}

/**
 * The device's clocks. By default a page's: `performance.now()` under a name of its own for each page. An app can do better, by counting also
 * while it is closed: Android's `elapsedRealtime()` with the boot count, iOS's continuous clock with the boot's id.
 */
export interface Clock {
  /** Names the stretch in which monotonic counts from one start. */
  boot(): string;
  /** Milliseconds that never go back within a boot. */
  monotonic(): number;
  /** The device's clock, in milliseconds since 1970. It is never believed. */
  wall(): number;
}

/** Calls run after so many milliseconds, unless the function that it returns is called before. */
export type Later = (milliseconds: number, run: () => void) => () => void;

/** The part of fetch that is used. */
export type Fetch = (url: string, init: { method: string; headers: Record<string, string>; body?: string; signal?: AbortSignal; cache?: 'no-store' }) => Promise<Response>;

/** Tells whether the user sees the app. React to it with resume and pause where there is no `document`. */
export interface Visibility {
  visible(): boolean;
  /** Calls changed whenever it may have changed, until the function that it returns is called. */
  watch(changed: () => void): () => void;
}

export function reading(clock: Clock): Reading {
  return { boot: clock.boot(), monotonic: clock.monotonic(), wall: clock.wall() };
}

export type Random = (bytes: number) => Uint8Array;

/** crypto.getRandomValues, or undefined where the platform has none. */
export function defaultRandom(): Random | undefined {
  const crypto = globalThis.crypto as Crypto | undefined;
  return crypto?.getRandomValues ? (bytes) => crypto.getRandomValues(new Uint8Array(bytes)) : undefined;
}

/** localStorage, or a store that lasts as long as the process where there is none or it is forbidden. */
export function defaultStorage(): Storage {
  try {
    const local = (globalThis as { localStorage?: globalThis.Storage }).localStorage;
    if (local) {
      local.getItem('');
      return { get: (key) => local.getItem(key), set: (key, value) => local.setItem(key, value) };
    }
  } catch {
    // A page in a sandbox may not even look at it.
  }
  const values = new Map<string, string>();
  return { get: (key) => values.get(key) ?? null, set: (key, value) => void values.set(key, value) };
}

export function defaultClock(random: Random): Clock {
  const boot = encodeBase64url(random(12));
  return { boot: () => boot, monotonic: () => performance.now(), wall: () => Date.now() };
}

export function defaultLater(): Later {
  return (milliseconds, run) => {
    const timer = setTimeout(run, milliseconds) as unknown as { unref?: () => void };
    timer.unref?.(); // in Node, waiting for the next refresh keeps no process alive
    return () => clearTimeout(timer as unknown as number);
  };
}

export function defaultVisibility(): Visibility {
  const page = (globalThis as { document?: Document }).document;
  if (!page?.addEventListener) return { visible: () => true, watch: () => () => undefined };
  return {
    visible: () => page.visibilityState !== 'hidden',
    watch: (changed) => {
      page.addEventListener('visibilitychange', changed);
      return () => page.removeEventListener('visibilitychange', changed);
    },
  };
}
