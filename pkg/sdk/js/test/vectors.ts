import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export interface Vector {
  name: string;
  accept: boolean;
  reason?: string;
  allows?: Record<string, boolean>;
  at: number;
  audience: string;
  environment: string;
  subject: string;
  nonce?: string;
  roots: string[];
  /** Lists of revoked keys that are known before. */
  revocations?: string[];
  /** The counters of the lists that are known after. */
  kept?: { root?: number; issuer?: number };
  token: string;
}

/** One thing that happens to a device, and what is so afterwards. Times are seconds. */
export interface ClockStep {
  do: 'begin' | 'learn' | 'keep' | 'look';
  boot: string;
  monotonic: number;
  wall: number;
  built_at?: number;
  issued_at?: number;
  fresh_until?: number;
  expires_at?: number;
  proven?: boolean;
  trusted: number;
  status: string;
}

/** The conformance kit that Go and every SDK share. */
export interface Kit {
  roots: Record<string, string>;
  cases: Vector[];
  clock_traces: { name: string; steps: ClockStep[] }[];
}

// Tests run from build/test.
const path = fileURLToPath(new URL('../../../../token/testdata/vectors.json', import.meta.url));
export const kit = JSON.parse(readFileSync(path, 'utf8')) as Kit;
