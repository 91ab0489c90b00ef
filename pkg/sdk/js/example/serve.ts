// Serves the sample app beside a running `latchkey-dev --storesim`, and plays the company's own server: it makes sessions, and buys at the simulated
// store. Edges may be reached through it, so that a test can cut the network or forge answers.
//
//   npm run example -- .latchkey-dev/latchkey-dev.json
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer, request, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { argv } from 'node:process';
import { fileURLToPath, pathToFileURL } from 'node:url';

interface Info {
  writers: { url: string }[];
  edges: { url: string }[];
  storesim: { url: string };
  root_public_keys: string[];
  environments: { sandbox: { server_key: string; publishable_key: string; audience: string } };
}

/** What happens to the edge's answers on their way. */
export type Road = 'open' | 'cut' | 'unsigned' | 'tampered';

const files: Record<string, string> = { '/': 'index.html', '/index.html': 'index.html', '/app.js': 'app.js', '/style.css': 'style.css' };
const types: Record<string, string> = { html: 'text/html; charset=utf-8', js: 'text/javascript', css: 'text/css' };

export class Sample {
  road: Road = 'open';
  private readonly info: Info;
  private readonly server: Server;
  private readonly pages = join(dirname(fileURLToPath(import.meta.url)), 'example');
  private readonly open = new Set<ServerResponse>();
  private readonly bought = new Map<string, string[]>();

  /**
   * @param anonymous whether the installation opens anonymous sessions; otherwise the sample's server makes them.
   * @param direct whether the page speaks to the edge itself, which is of another origin, as in real life.
   */
  constructor(
    infoFile: string,
    private readonly anonymous: boolean,
    private readonly direct: boolean,
  ) {
    this.info = JSON.parse(readFileSync(infoFile, 'utf8')) as Info;
    this.server = createServer((req, res) => {
      this.answer(req, res).catch((err: unknown) => {
        if (!res.headersSent) res.writeHead(500);
        res.end(String(err));
      });
    });
  }

  /** Listens, and returns the address of the page. */
  async listen(port = 0): Promise<string> {
    await new Promise<void>((resolve) => this.server.listen(port, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  close(): void {
    this.server.closeAllConnections();
    this.server.close();
  }

  /** Changes what happens from now on; streams that are open end. */
  change(road: Road): void {
    this.road = road;
    for (const res of this.open) res.destroy();
  }

  /** What the store sold to the account last. */
  purchase(account: string): string {
    return this.bought.get(account)!.at(-1)!;
  }

  /** Has the phone's store know of a purchase: the user paid with the same store account. */
  knows(account: string, purchase: string): void {
    this.bought.set(account, [...(this.bought.get(account) ?? []), purchase]);
  }

  /** What a magic link carries that leads to account. */
  async link(account: string): Promise<string> {
    const made = await post<{ token: string }>(`${this.info.writers[0]!.url}/v1/link-tokens`, { account_id: account }, this.info.environments.sandbox.server_key);
    return made.token;
  }

  /** Tells the simulated stores what happens. */
  store<T>(command: string, body: object): Promise<T> {
    return post<T>(`${this.info.storesim.url}/sim/v1/${command}`, body);
  }

  private async answer(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const path = new URL(req.url!, 'http://x').pathname;
    if (path.startsWith('/edge/')) return this.relay(req, res);
    if (path === '/config.json') return json(res, this.config(req.headers.host!));
    if (req.method === 'POST' && path.startsWith('/api/')) return json(res, await this.api(path, (await body(req)) as { account?: string }));
    const name = files[path];
    if (!name) {
      res.writeHead(404).end();
      return;
    }
    res.writeHead(200, { 'Content-Type': types[name.slice(name.lastIndexOf('.') + 1)]!, 'Cache-Control': 'no-store' }).end(readFileSync(join(this.pages, name)));
  }

  private config(host: string): object {
    const { publishable_key, audience } = this.info.environments.sandbox;
    const roots = this.info.root_public_keys.map((path) => readFileSync(path, 'utf8'));
    return { publishableKey: publishable_key, audience, environment: 'sandbox', roots, edges: this.direct ? this.info.edges.map((edge) => edge.url) : [`http://${host}/edge`], anonymous: this.anonymous };
  }

  private async api(path: string, { account }: { account?: string }): Promise<object> {
    switch (path) {
      case '/api/session':
      case '/api/login':
        return this.session();
      case '/api/buy': {
        const id = `sample-${randomUUID()}`;
        await this.store('buy', { provider: 'stripe', product: 'price_pro_monthly', account, environment: 'sandbox', as: id });
        this.knows(account!, id);
        return { receipt: await this.proof(id) };
      }
      case '/api/receipts':
        return { receipts: await Promise.all((this.bought.get(account!) ?? []).map((id) => this.proof(id))) };
    }
    throw new Error('no such address');
  }

  private async proof(id: string): Promise<object> {
    const response = await fetch(`${this.info.storesim.url}/sim/v1/proof?purchase=${id}`);
    const { checkout_session_id } = (await response.json()) as { checkout_session_id: string };
    return { provider: 'stripe', checkoutSessionId: checkout_session_id };
  }

  /** A session of a new account, made with the server's key. */
  async session(): Promise<{ sessionToken: string; account: string }> {
    const writer = this.info.writers[0]!.url;
    const key = this.info.environments.sandbox.server_key;
    const { account_id } = await post<{ account_id: string }>(`${writer}/v1/accounts`, {}, key);
    const { session_token } = await post<{ session_token: string }>(`${writer}/v1/accounts/${account_id}/sessions`, { device_id: 'sample' }, key);
    return { sessionToken: session_token, account: account_id };
  }

  /** Passes a request on to the edge, and its answer back as the road lets it. */
  private relay(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const road = this.road;
    const streams = req.url!.includes('/stream');
    if (road === 'cut' || (streams && road !== 'open')) {
      req.socket.destroy();
      return Promise.resolve();
    }
    this.open.add(res);
    return new Promise((resolve) => {
      const end = () => {
        this.open.delete(res);
        resolve();
      };
      res.on('close', end);
      const onward = request(this.info.edges[0]!.url + req.url!.slice('/edge'.length), { method: req.method!, headers: { ...req.headers, host: 'edge' } }, (reply) => {
        const { 'content-length': _, ...headers } = reply.headers;
        res.writeHead(reply.statusCode!, headers);
        if (road === 'open') {
          reply.pipe(res);
          return;
        }
        let text = '';
        reply.setEncoding('utf8').on('data', (piece: string) => (text += piece));
        reply.on('end', () => res.end(JSON.stringify(forged(JSON.parse(text) as Answer, road))));
      });
      onward.on('error', () => res.destroy());
      res.on('close', () => onward.destroy());
      req.pipe(onward);
    });
  }
}

type Answer = { grace_token?: string; entitlements?: unknown[] };

/** A denial that nobody signed, or that somebody changed after it was signed. */
function forged(answer: Answer, road: Road): Answer {
  if (answer.grace_token === undefined) return answer; // of a write
  if (road === 'unsigned') return { entitlements: [] };
  const parts = answer.grace_token.split('.');
  const claims = JSON.parse(Buffer.from(parts[1]!, 'base64url').toString()) as object;
  parts[1] = Buffer.from(JSON.stringify({ ...claims, ent: [] })).toString('base64url');
  return { ...answer, entitlements: [], grace_token: parts.join('.') };
}

async function body(req: IncomingMessage): Promise<unknown> {
  let text = '';
  for await (const piece of req) text += String(piece);
  return JSON.parse(text || '{}');
}

async function post<T>(url: string, content: object, key?: string): Promise<T> {
  const headers = { 'Content-Type': 'application/json', ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(url, { method: 'POST', headers, body: JSON.stringify(content) });
  if (!response.ok) throw new Error(`POST ${new URL(url).pathname}: ${response.status} ${await response.text()}`);
  return (await response.json()) as T;
}

function json(res: ServerResponse, value: object): void {
  res.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(value));
}

if (argv[1] && import.meta.url === pathToFileURL(argv[1]).href && argv[1].includes('serve')) {
  const sample = new Sample(argv[2] ?? '.latchkey-dev/latchkey-dev.json', !argv.includes('--sessions-by-server'), true);
  console.log(`the sample app: ${await sample.listen(8480)}`);
}
