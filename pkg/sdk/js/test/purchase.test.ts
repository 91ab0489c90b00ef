// R74, R83, R84: from the store's word to a signed answer.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RequestFailed, type Latchkey, type Purchase, type Receipt } from '../src/index.js';
import { World } from './world.js';

const receipt: Receipt = { provider: 'apple', signedTransaction: 'eyJ' };
const wire = JSON.stringify({ provider: 'apple', signed_transaction: 'eyJ' });

/** Waits for promise while time passes. */
async function during<T>(world: World, promise: Promise<T>, seconds = 30): Promise<{ value: T; took: number }> {
  const begun = world.time;
  let value: T | undefined;
  let took = NaN;
  void promise.then((v) => {
    value = v;
    took = world.time - begun;
  });
  for (let i = 0; i < seconds && Number.isNaN(took); i++) await world.pass(1);
  assert.ok(!Number.isNaN(took), `not settled within ${seconds} s`);
  return { value: value!, took };
}

async function shop(): Promise<{ world: World; client: Latchkey; account: string }> {
  const world = new World();
  const client = await world.start();
  return { world, client, account: client.entitlements().accountId! };
}

test('a recorded purchase is confirmed by a signed answer, and then finished', async () => {
  const { world, client, account } = await shop();
  world.give(account, world.pro());
  world.receipts.set(wire, { outcome: 'recorded', finish: true, purchase_id: 'apple:1' });
  const { value, took } = await during(world, client.confirmPurchase(receipt, { optimistic: ['pro'] }));
  assert.deepEqual(value, { outcome: 'confirmed', message: 'Thank you. Your purchase is active.', finish: true, results: [{ outcome: 'recorded', finish: true, purchaseId: 'apple:1' }] });
  assert.ok(took <= 2);
  const pro = client.entitlements().entitlements['pro']!;
  assert.deepEqual([pro.active, pro.optimistic], [true, false]);
  assert.match(world.requests.at(-1)!.path, /min_revision=1-\d+&wait=\d+&nonce=/);
});

test('until then it is optimistic: shown, never active, and for 24 h at most', async () => {
  const { world, client } = await shop();
  world.receipts.set(wire, { outcome: 'pending', finish: false, retry_after: 3 });
  const buying = client.confirmPurchase(receipt, { optimistic: ['pro'] });
  await world.settle();
  let pro = client.entitlements().entitlements['pro']!;
  assert.deepEqual([pro.active, pro.optimistic, client.isActive('pro')], [false, true, false]);
  const { value, took } = await during(world, buying);
  assert.equal(value.outcome, 'unconfirmed');
  assert.equal(value.finish, false);
  assert.ok(took <= 20, `${took} s`);
  for (const part of [/Do not pay again/, /acc_\d/, /App Store/, /20\d\d/]) assert.match(value.message, part);
  world.kill(client);
  const again = await world.start();
  pro = again.entitlements().entitlements['pro']!;
  assert.deepEqual([pro.active, pro.optimistic], [false, true]);
  await world.pass(24 * 3600);
  assert.equal(again.entitlements().entitlements['pro'], undefined);
});

test('what is active already is not made optimistic: it would outlive the grace', async () => {
  const { world, client, account } = await shop();
  world.give(account, world.pro());
  await client.refresh({ force: true });
  world.moods.forEach((mood) => (mood.down = true));
  await during(world, client.confirmPurchase(receipt, { optimistic: ['pro'] }));
  await world.pass(24 * 3600 - 20);
  assert.deepEqual([client.isActive('pro'), client.entitlements().entitlements['pro']!.optimistic], [false, false]);
});

test('a pending one is shown again after the time that the edge says, and confirmed as soon as it is recorded', async () => {
  const { world, client, account } = await shop();
  world.receipts.set(wire, { outcome: 'pending', finish: false, retry_after: 3 });
  const buying = during(world, client.confirmPurchase(receipt));
  await world.settle();
  world.receipts.set(wire, { outcome: 'recorded', finish: true });
  world.give(account, world.pro());
  const { value, took } = await buying;
  assert.equal(value.outcome, 'confirmed');
  assert.ok(took >= 3 && took <= 5, `${took} s`);
});

test('when nobody answers, it says so after 20 s and leaves the transaction open', async () => {
  const { world, client } = await shop();
  world.moods.forEach((mood) => (mood.down = true));
  const { value, took } = await during(world, client.confirmPurchase(receipt));
  assert.deepEqual([value.outcome, value.finish, value.results], ['unconfirmed', false, []]);
  assert.ok(took >= 10 && took <= 20, `${took} s`);
});

test('recorded, but no edge shows it in time: it is processing, and finished', async () => {
  const { world, client } = await shop();
  world.receipts.set(wire, { outcome: 'recorded', finish: true });
  const buying = client.confirmPurchase(receipt, { optimistic: ['pro'] });
  await world.settle();
  const { value } = await during(world, buying);
  assert.deepEqual([value.outcome, value.finish], ['processing', true]);
  assert.equal(client.entitlements().entitlements['pro']!.optimistic, true);
});

const refusals: Record<string, Purchase['outcome']> = { owned_by_other: 'owned_by_other', rejected: 'refused', wrong_environment: 'refused' };
for (const [outcome, want] of Object.entries(refusals)) {
  test(`${outcome} is ${want}, at once, and nothing stays optimistic`, async () => {
    const { world, client } = await shop();
    world.receipts.set(wire, { outcome, finish: false });
    const { value, took } = await during(world, client.restore(receipt, { optimistic: ['pro'] }));
    assert.equal(value.outcome, want);
    assert.ok(took <= 1);
    assert.equal(client.entitlements().entitlements['pro'], undefined);
    assert.ok(world.requests.some((r) => r.path === '/v1/restores'));
  });
}

test('R84: what nobody confirmed within a minute is said plainly, with what support needs, until it comes', async () => {
  const { world, client, account } = await shop();
  world.told.set(account, { pending: true, unconfirmed: [] });
  await client.submitPurchaseIntent('intent_1');
  assert.deepEqual([client.entitlements().pending, client.entitlements().unconfirmed], [true, []]);
  const submitted = new Date(world.time * 1000);
  world.told.set(account, { pending: false, unconfirmed: [{ reference: 'intent_1', provider: 'stripe', product_id: 'price_pro_monthly', submitted_at: submitted.toISOString().replace('.000', '') }, 'junk', { reference: 1 }] });
  await client.refresh({ force: true });
  const said = (s: { pending: boolean; unconfirmed: readonly { reference: string; message: string; at: Date | undefined }[] }) => {
    assert.equal(s.pending, false);
    assert.equal(s.unconfirmed.length, 1);
    const one = s.unconfirmed[0]!;
    assert.deepEqual([one.reference, one.at], ['intent_1', submitted]);
    for (const part of [/not confirmed/, /Do not pay again/, new RegExp(account), /Stripe/, /intent_1/, new RegExp(String(submitted.getFullYear()))]) assert.match(one.message, part);
  };
  said(client.entitlements());
  assert.match(JSON.stringify(client.diagnostics()), /"unconfirmed":\[\{"reference":"intent_1"/);
  world.kill(client);
  world.moods.forEach((mood) => (mood.down = true));
  const again = await world.start();
  said(again.entitlements());
  world.moods.forEach((mood) => (mood.down = false));
  world.told.delete(account);
  await again.refresh({ force: true });
  assert.deepEqual(again.entitlements().unconfirmed, []);
});

test('receipts go to the next edge when the first cannot pass them on', async () => {
  const { world, client, account } = await shop();
  world.give(account, world.pro());
  world.receipts.set(wire, { outcome: 'recorded', finish: true });
  world.moods[0] = { problem: { status: 503, type: 'unavailable', retryAfter: 1 } };
  const { value } = await during(world, client.confirmPurchase(receipt));
  assert.equal(value.outcome, 'confirmed');
});

test('before a purchase the app asks, and gets what the sheet must carry, or a reason in words', async () => {
  const { world, client, account } = await shop();
  const offer = { provider: 'stripe', productId: 'price_pro_monthly', trial: true };
  const intent = await client.purchaseIntent(offer);
  assert.deepEqual(intent, {
    allowed: true, intentId: 'intent_1', trialEligible: true, appleAppAccountToken: 'uuid', googleObfuscatedAccountId: account,
    metadata: { account_id: account, environment: 'production' }, warnings: ['may-renew'],
  });
  const asked = world.requests.find((r) => r.path === '/v1/purchase-intents')!;
  const body = asked.body as Record<string, unknown>;
  assert.deepEqual([body['provider'], body['product_id'], body['trial'], typeof body['device_id'], typeof asked.key], ['stripe', 'price_pro_monthly', true, 'string', 'string']);
  await client.submitPurchaseIntent('intent_1');
  assert.match(world.requests.at(-1)!.path, /min_revision=1-\d+&nonce=/, 'not held: it is pending now, and shown so');
  await client.cancelPurchaseIntent('intent_1');
  assert.deepEqual([world.requests.at(-1)!.method, world.requests.at(-1)!.path], ['DELETE', '/v1/purchase-intents/intent_1']);
  for (const [reason, says] of Object.entries({
    'active-subscription': /have this already/, 'already-owned': /own this/, 'purchase-pending': /Do not pay again/, 'purchase-in-progress': /another device/, 'trial-used': /trial already/,
  })) {
    world.refusal = reason;
    const refused = await client.purchaseIntent(offer);
    assert.ok(!refused.allowed && refused.reason === reason && refused.manageUrl === 'https://pay.example/manage', reason);
    assert.match(refused.message, says);
  }
  world.refusal = 'other';
  await assert.rejects(client.purchaseIntent(offer), (err: unknown) => err instanceof RequestFailed && err.problem === 'other');
  world.moods.forEach((mood) => (mood.down = true));
  await assert.rejects(client.purchaseIntent(offer), (err: unknown) => err instanceof RequestFailed && err.problem === '');
});
