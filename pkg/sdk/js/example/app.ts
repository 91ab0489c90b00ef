// A sample app: what a page does with @latchkey/sdk. It decides by `active` alone, and shows the rest.
import { configure, RequestFailed, type Options, type Purchase, type Receipt, type Snapshot } from '../src/index.js';

const element = <T extends HTMLElement = HTMLElement>(id: string) => document.getElementById(id) as T;
const post = async <T>(path: string, body: object = {}): Promise<T> => {
  const response = await fetch(path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return (await response.json()) as T;
};

const names: Record<Snapshot['status'], string> = {
  verified: 'Up to date', verified_offline: 'Offline', clock_suspect: 'Check your clock', grace_expired: 'Connection needed', unverified: 'Not connected',
};

function show(s: Snapshot): void {
  const pro = s.entitlements['pro'];
  const state = pro?.active ? 'active' : pro?.optimistic ? 'optimistic' : 'locked';
  element('feature').dataset['state'] = state;
  element('plan').textContent = pro?.active ? 'Pro' : 'Free';
  element('plan').dataset['plan'] = pro?.active ? 'pro' : 'free';
  element('status').textContent = names[s.status];
  element('status').dataset['status'] = s.status;
  element('message').textContent = s.status === 'verified' ? '' : s.message;
  element('warning').hidden = !s.warning;
  element('warning').textContent = s.warning?.message ?? '';
  element('unconfirmed').hidden = s.unconfirmed.length === 0;
  element('unconfirmed').textContent = s.unconfirmed.map((u) => u.message).join(' ');
  element('account').textContent = s.accountId ? `${s.accountId}${s.anonymous ? ' (not signed in)' : ''}` : '–';
  element('expires').textContent = pro?.active ? day(pro.expiresAt) : '–';
  element('offline').textContent = pro?.active ? moment(pro.offlineUntil) : '–';
  element('asof').textContent = moment(s.asOf);
  const manage = element<HTMLAnchorElement>('manage');
  manage.hidden = !s.manageUrl;
  if (s.manageUrl) manage.href = s.manageUrl;
  element('login').hidden = !s.anonymous;
  element('logout').hidden = s.anonymous;
  element<HTMLButtonElement>('buy').disabled = s.pending || !s.purchase.allowed;
}

const day = (d: Date | undefined) => d?.toLocaleDateString([], { dateStyle: 'long' }) ?? 'never ends';
const moment = (d: Date | undefined) => d?.toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' }) ?? '–';

/** Runs what a button does, once at a time, and shows what came of it. */
function onClick(id: string, run: () => Promise<string | void>): void {
  const button = element<HTMLButtonElement>(id);
  button.addEventListener('click', () => {
    button.disabled = true;
    button.dataset['busy'] = 'true';
    const result = element('result');
    run()
      .catch((err: unknown) => (err instanceof RequestFailed && !err.problem ? 'No connection. Please try again.' : 'That did not work. Please try again.'))
      .then((said) => {
        result.hidden = !said;
        result.textContent = said || '';
      })
      .finally(() => {
        delete button.dataset['busy'];
        show(latchkey.entitlements());
        if (id !== 'buy') button.disabled = false; // whether one may buy, show says
      });
  });
}

const config = (await (await fetch('config.json')).json()) as Options;
const latchkey = await configure(config);
if (config.anonymous === false && !latchkey.entitlements().accountId) {
  await latchkey.logIn(await post<{ sessionToken: string }>('api/session'));
}
latchkey.subscribe(show);
const link = new URLSearchParams(location.search).get('link'); // a magic link leads here
if (link) {
  history.replaceState(null, '', location.pathname); // it is a secret, and done with
  await latchkey.logIn({ linkToken: link });
}
document.documentElement.dataset['ready'] = 'true';

// A store's plug-in gives the receipt in a real app; here the sample's own server buys at the simulated one.
const bought = (p: Purchase) => (p.outcome === 'confirmed' ? '' : p.message);
onClick('buy', async () => {
  const intent = await latchkey.purchaseIntent({ provider: 'stripe', productId: 'price_pro_monthly' });
  if (!intent.allowed) return intent.message;
  const { receipt } = await post<{ receipt: Receipt }>('api/buy', { account: latchkey.entitlements().accountId });
  return bought(await latchkey.confirmPurchase(receipt, { optimistic: ['pro'] }));
});
onClick('restore', async () => {
  const { receipts } = await post<{ receipts: Receipt[] }>('api/receipts', { account: latchkey.entitlements().accountId });
  return receipts.length > 0 ? bought(await latchkey.restore(receipts)) : 'There is nothing to restore.';
});
onClick('refresh', async () => void (await latchkey.refresh({ force: true })));
onClick('login', async () => void (await latchkey.logIn(await post<{ identityToken: string }>('api/login'))));
onClick('logout', async () => void (await latchkey.logOut()));
onClick('support', async () => {
  const text = JSON.stringify(latchkey.diagnostics(), null, 1);
  element('support').dataset['text'] = text;
  await navigator.clipboard.writeText(text).catch(() => undefined);
  return 'Copied. Paste it into your message to us.';
});
