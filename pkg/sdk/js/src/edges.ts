// Requests to edges, one at a time and each with an end.
import { isObject, type Json } from './bytes.js';
import type { Fetch, Later } from './platform.js';

/** An answer as it came, of which nothing is believed yet. */
export interface Reply {
  /** 0: none came. */
  status: number;
  body: Json;
  /** The last part of a problem's type, such as `not-yet`; empty: none. */
  problem: string;
  /** Seconds that the edge asks us to wait; 0: it does not say. */
  retryAfter: number;
}

const noAnswer: Reply = { status: 0, body: {}, problem: '', retryAfter: 0 };

/** A GET is answered in milliseconds, or held for as long as it asks; a write may go on to a writer and to a store. In milliseconds. */
export const readTimeout = 6_000;
export const writeTimeout = 20_000;

export interface Request {
  method: 'GET' | 'POST' | 'DELETE';
  path: string;
  credential: string;
  body?: unknown;
  timeout: number;
  headers?: Record<string, string>;
}

/** Speaks to one edge. It never throws: no answer is an answer, too. */
export class Transport {
  constructor(
    private readonly fetch: Fetch,
    private readonly later: Later,
  ) {}

  async ask(edge: string, request: Request): Promise<Reply> {
    const abort = new AbortController();
    const cancel = this.later(request.timeout, () => abort.abort());
    try {
      const response = await this.send(edge, request, abort.signal);
      return { status: response.status, ...(await read(response)), retryAfter: seconds(response.headers.get('Retry-After')) };
    } catch {
      return noAnswer;
    } finally {
      cancel();
    }
  }

  /** Sends and returns the response with its body unread. Rejects when there is none. */
  send(edge: string, request: Request, signal: AbortSignal): Promise<Response> {
    const headers: Record<string, string> = { Authorization: `Bearer ${request.credential}`, Accept: 'application/json', ...request.headers };
    if (request.body !== undefined) headers['Content-Type'] = 'application/json';
    return this.fetch(edge + request.path, {
      method: request.method,
      headers,
      signal,
      cache: 'no-store',
      ...(request.body === undefined ? {} : { body: JSON.stringify(request.body) }),
    });
  }
}

async function read(response: Response): Promise<{ body: Json; problem: string }> {
  let body: unknown;
  try {
    body = JSON.parse(await response.text());
  } catch {
    body = undefined;
  }
  if (!isObject(body)) return { body: {}, problem: '' };
  const type = body['type'];
  return { body, problem: typeof type === 'string' ? type.slice(type.lastIndexOf('/') + 1) : '' };
}

function seconds(header: string | null): number {
  return header !== null && /^\d{1,6}$/.test(header) ? Number(header) : 0;
}

/** Full jitter: between 0 and the cap that doubles with each failure, and never less than half a second. In milliseconds. */
export function backoff(failures: number, random: () => number, retryAfter: number): number {
  const cap = Math.min(300_000, 1000 * 2 ** Math.min(failures, 10));
  return Math.max(500, Math.floor(random() * cap), retryAfter * 1000);
}
