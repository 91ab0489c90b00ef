// Server-sent events read from a fetch: EventSource cannot send a credential. Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
import type { Later } from './platform.js';

/** An edge comments every 15 s; who hears nothing for this long, in milliseconds, has no stream. */
const silence = 30_000;

/** Parses a stream of events, whatever pieces it comes in. */
export class EventParser {
  private line = '';
  private data: string[] = [];
  private name = '';
  private afterReturn = false;
  retry: number | undefined;

  constructor(private readonly event: (name: string, data: string) => void) {}

  push(piece: string): void {
    for (const char of piece) {
      if (char === '\n' && this.afterReturn) {
        this.afterReturn = false;
        continue;
      }
      this.afterReturn = char === '\r';
      if (char === '\n' || char === '\r') {
        this.end(this.line);
        this.line = '';
      } else {
        this.line += char;
      }
    }
  }

  private end(line: string): void {
    if (line === '') {
      if (this.data.length > 0) this.event(this.name || 'message', this.data.join('\n'));
      this.data = [];
      this.name = '';
      return;
    }
    const colon = line.indexOf(':');
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + (line[colon + 1] === ' ' ? 2 : 1));
    if (field === 'data') this.data.push(value);
    else if (field === 'event') this.name = value;
    else if (field === 'retry' && /^\d{1,7}$/.test(value)) this.retry = Number(value);
  }
}

/** Says whether this platform lets a body be read as it comes. React Native's fetch does not. */
export function canStream(response: Response): boolean {
  return typeof response.body?.getReader === 'function' && typeof TextDecoder === 'function';
}

/** Reads events until the stream ends, breaks, or is silent for too long; abort ends it. Returns the wait that the edge asked for, in milliseconds. */
export async function readEvents(response: Response, abort: AbortController, later: Later, event: (name: string, data: string) => void): Promise<number | undefined> {
  const parser = new EventParser(event);
  const reader = response.body!.getReader();
  const decoder = new TextDecoder();
  for (;;) {
    const cancel = later(silence, () => {
      abort.abort();
      reader.cancel().catch(() => undefined);
    });
    try {
      const { done, value } = await reader.read();
      if (done) return parser.retry;
      parser.push(decoder.decode(value, { stream: true }));
    } catch {
      return parser.retry;
    } finally {
      cancel();
    }
  }
}
