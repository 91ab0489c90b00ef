// The client on a device in a world of fake edges: what takes access away, what does not, and who asks when.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { configure, ConfigurationError, RequestFailed, type Latchkey, type Snapshot } from '../src/index.js';
import { World, type Mood } from './world.js';

const day = 24 * 3600;

/** A device that is online, whose account has pro. */
async function payer(world = new World()): Promise<{ world: World; client: Latchkey; account: string }> {
  const client = await world.start();
  const account = client.entitlements().accountId!;
  world.give(account, world.pro());
  await client.refresh({ force: true });
  assert.equal(client.isActive('pro'), true);
  return { world, client, account };
}

const asked = (world: World) => world.requests.filter((r) => r.path.startsWith('/v1/entitlements') && !r.path.includes('stream'));

test('the first launch works without a backend: an anonymous account, and a signed answer', async () => {
  const world = new World();
  const client = await world.start();
  const s = client.entitlements();
  assert.equal(s.status, 'verified');
  assert.equal(s.anonymous, true);
  assert.deepEqual(s.entitlements, Object.create(null));
  assert.equal(s.balances['coins'], 5);
  assert.equal(world.requests[0]!.credential, 'lk_production_pk_test');
});

test('R77: a later launch shows the last signed answer at once, without a network', async () => {
  const { world, client } = await payer();
  world.kill(client);
  world.moods.forEach((mood) => (mood.down = true));
  const requests = world.requests.length;
  const again = await configure(world.options());
  assert.equal(again.isActive('pro'), true);
  assert.equal(again.entitlements().status, 'verified');
  await world.pass(90);
  assert.equal(again.entitlements().status, 'verified_offline');
  assert.match(again.entitlements().message, /Works without a connection/);
  assert.ok(world.requests.slice(requests).every((r) => r.path !== '/v1/sessions'));
});

test('R5, R95: what was refunded while the phone was offline is applied at the next open', async () => {
  const { world, client, account } = await payer();
  world.kill(client);
  world.give(account, { ...world.pro('refunded'), offline_until: 0 });
  world.time += 3600;
  const again = await configure(world.options());
  assert.equal(again.isActive('pro'), true);
  await world.settle();
  assert.equal(again.isActive('pro'), false);
  assert.equal(again.entitlements().entitlements['pro']!.status, 'refunded');
});

const harmless: Record<string, { mood: Mood; warning?: string }> = {
  'no network': { mood: { down: true } },
  'status 500': { mood: { problem: { status: 500, type: 'internal' } } },
  'no data': { mood: { problem: { status: 503, type: 'no-data' } } },
  'an unknown account': { mood: { problem: { status: 503, type: 'unknown-account' } } },
  'too many requests': { mood: { problem: { status: 429, type: 'too-many-requests', retryAfter: 9 } } },
  'the session has ended': { mood: { problem: { status: 401, type: 'session-ended' } }, warning: 'session_ended' },
  'an empty object': { mood: { tamper: () => ({}) }, warning: 'unsigned' },
  'an unsigned denial': { mood: { tamper: (body) => ({ ...body, entitlements: [], grace_token: undefined }) }, warning: 'unsigned' },
  'no JSON object': { mood: { tamper: () => 'refunded' }, warning: 'unsigned' },
  'a claim that was changed': { mood: { tamper: (body) => ({ ...body, grace_token: changed(String(body['grace_token'])) }) }, warning: 'signature' },
  'half a token': { mood: { tamper: (body) => ({ ...body, grace_token: String(body['grace_token']).slice(0, 500) }) }, warning: 'malformed' },
};

function changed(token: string): string {
  const parts = token.split('.');
  const claims = JSON.parse(Buffer.from(parts[1]!, 'base64url').toString()) as { ent: unknown[] };
  claims.ent = [];
  return [parts[0], Buffer.from(JSON.stringify(claims)).toString('base64url'), parts[2]].join('.');
}

for (const [name, { mood, warning }] of Object.entries(harmless)) {
  test(`nothing is taken away by: ${name}`, async () => {
    const { world, client, account } = await payer();
    world.give(account, { ...world.pro('refunded'), offline_until: 0 }); // an answer would take it away, if it could be believed
    for (let i = 0; i < world.moods.length; i++) world.moods[i] = mood;
    const s = await client.refresh({ force: true });
    assert.equal(s.entitlements['pro']!.active, true);
    assert.equal(s.warning?.detail || s.warning?.code, warning);
    world.moods.fill({});
    const after = await client.refresh({ force: true });
    assert.equal(after.entitlements['pro']!.active, false, 'an honest answer must still count');
    assert.equal(after.warning, undefined);
  });
}

test('nothing is taken away by an answer that is genuine and older, or recorded, or of another account', async () => {
  const world = new World();
  const client = await world.start();
  const account = client.entitlements().accountId!;
  const denial = world.answer(0, account);
  const other = world.newAccount();
  world.give(account, world.pro());
  await client.refresh({ force: true });
  for (const tamper of [() => denial, (body: Record<string, unknown>) => ({ ...denial, server_time: body['server_time'] }), () => world.answer(1, other)]) {
    world.moods[0] = { tamper };
    world.moods[1] = { down: true };
    const s = await client.refresh({ force: true });
    assert.equal(s.entitlements['pro']!.active, true);
    assert.match(s.warning!.detail, /nonce|subject/);
  }
});

test('nothing is given by an answer without a signature', async () => {
  const world = new World();
  const client = await world.start();
  const unsigned = { entitlements: [{ id: 'pro', active: true, status: 'active' }], revision: '9-9' };
  for (let i = 0; i < 2; i++) world.moods[i] = { tamper: () => unsigned };
  assert.deepEqual((await client.refresh({ force: true })).entitlements, Object.create(null));
});

test('R87: offline for 24 hours and not longer, whatever the device clock says', async () => {
  for (const ahead of [0, -400 * day, 400 * day]) {
    const { world, client } = await payer();
    world.moods.forEach((mood) => (mood.down = true));
    world.wallAhead = ahead;
    const until = world.time + day;
    await world.pass(day - 2);
    assert.equal(client.isActive('pro'), true, `clock ${ahead} s ahead`);
    assert.equal(client.entitlements().status, ahead === 0 ? 'verified_offline' : 'clock_suspect');
    await world.pass(until - world.time + 1);
    assert.equal(client.isActive('pro'), false, `clock ${ahead} s ahead`);
    assert.equal(client.entitlements().status, 'grace_expired');
    world.moods.forEach((mood) => (mood.down = false));
    await world.pass(400);
    assert.equal(client.isActive('pro'), true, 'the background has asked by itself');
    assert.equal((await client.refresh()).status, 'verified');
  }
});

test('R82: a listener hears of each end without asking', async () => {
  const { world, client } = await payer();
  const seen: string[] = [];
  client.subscribe((s) => seen.push(`${s.status} ${s.entitlements['pro']!.active}`));
  world.moods.forEach((mood) => (mood.down = true));
  world.streams.forEach((stream) => stream.end());
  await world.pass(day + 10);
  assert.deepEqual([...new Set(seen)], ['verified true', 'verified_offline true', 'grace_expired false']);
});

test('a reboot loses at most a checkpoint, and a right clock is never suspected', async () => {
  const { world, client } = await payer();
  world.moods.forEach((mood) => (mood.down = true));
  await world.pass(23 * 3600);
  world.kill(client);
  world.reboot();
  const again = await world.start();
  assert.equal(again.entitlements().status, 'verified_offline');
  await world.pass(3600 + 61);
  assert.equal(again.entitlements().status, 'grace_expired');
});

test('an hour in which an installation signed two days ahead locks nobody out afterwards', async () => {
  const world = new World();
  const client = await world.start();
  const account = client.entitlements().accountId!;
  world.time += 2 * day; // the writers' clocks, and with them the edges'
  world.bootedAt += 2 * day; // not the device's
  world.wallAhead = -2 * day;
  world.give(account, world.pro());
  await client.refresh({ force: true });
  world.time -= 2 * day;
  world.bootedAt -= 2 * day;
  world.wallAhead = 0;
  world.give(account, world.pro());
  assert.deepEqual([(await client.refresh({ force: true })).status, client.isActive('pro')], ['verified', true]);
});

test('a stored token of another account is never shown', async () => {
  const { world, client } = await payer();
  world.kill(client);
  const [key, text] = [...world.stored][0]!;
  const stored = JSON.parse(text) as { session: { accountId: string } };
  stored.session.accountId = 'acc_of_somebody_else';
  world.stored.set(key, JSON.stringify(stored));
  world.moods.forEach((mood) => (mood.down = true));
  const again = await world.start();
  assert.equal(again.entitlements().status, 'unverified');
  assert.equal(again.isActive('pro'), false);
});

test('R81, complaint 14: a purchase before login is there after it, whether the identity is new or known', async () => {
  const fresh = await payer();
  const s = await fresh.client.logIn({ identityToken: 'new@idp' });
  assert.equal(s.accountId, fresh.account);
  assert.equal(s.anonymous, false);
  assert.equal(s.entitlements['pro']!.active, true);

  const { world, client, account } = await payer();
  const mine = world.newAccount();
  world.identities.set('known@idp', mine);
  const merged = await client.logIn({ identityToken: 'known@idp' });
  assert.equal(merged.accountId, mine);
  assert.notEqual(merged.accountId, account);
  assert.equal(merged.entitlements['pro']!.active, true);
});

test('an app whose backend makes the sessions has no account before, and none after', async () => {
  const world = new World();
  const client = await world.start({ anonymous: false });
  await world.pass(300);
  assert.equal(client.entitlements().accountId, undefined);
  assert.deepEqual(world.requests, []);
  const account = world.newAccount();
  world.give(account, world.pro());
  const token = `e30.${Buffer.from(JSON.stringify({ sub: account, exp: world.time + 3600 })).toString('base64url')}.sig`;
  world.accounts.get(account)!.session = token;
  const s = await client.logIn({ sessionToken: token });
  assert.deepEqual([s.accountId, s.anonymous, s.entitlements['pro']!.active], [account, false, true]);
  assert.equal((await client.logOut()).accountId, undefined);
  await assert.rejects(client.logIn({ sessionToken: 'no token' }), RequestFailed);
});

test('logging out shows nothing of the account, at once, offline too', async () => {
  const { world, client, account } = await payer();
  world.moods.forEach((mood) => (mood.down = true));
  const out = client.logOut();
  assert.equal(client.entitlements().status, 'unverified');
  assert.equal(client.entitlements().accountId, undefined);
  await out;
  world.kill(client);
  world.moods.forEach((mood) => (mood.down = false));
  const again = await world.start();
  assert.notEqual(again.entitlements().accountId, account);
  assert.equal(again.isActive('pro'), false);
});

test('a login that is refused changes nothing', async () => {
  const { world, client, account } = await payer();
  for (let i = 0; i < 2; i++) world.moods[i] = { problem: { status: 409, type: 'link-used' } };
  await assert.rejects(client.logIn({ linkToken: 'x' }), (err: unknown) => err instanceof RequestFailed && err.problem === 'link-used');
  assert.equal(client.entitlements().accountId, account);
  assert.equal(client.isActive('pro'), true);
});

test('R80: one request at a time: many callers share one, a forced one comes after', async () => {
  const { world, client } = await payer();
  await world.pass(70);
  const before = asked(world).length;
  let release = () => {};
  world.hold = new Promise((resolve) => (release = resolve));
  const calls = [client.refresh(), client.refresh(), client.refresh({ force: true }), client.refresh({ force: true })];
  client.entitlements();
  await world.settle();
  assert.equal(asked(world).length, before + 1);
  release();
  world.hold = undefined;
  await Promise.all(calls);
  assert.equal(asked(world).length, before + 2);
});

test('edges are asked in order: the next one when the first is down, cut off or behind', async () => {
  const { world, client, account } = await payer();
  world.moods[0] = { down: true };
  world.give(account, world.pro('trialing'));
  assert.equal((await client.refresh({ force: true })).entitlements['pro']!.status, 'trialing');

  await world.pass(100);
  world.moods[0] = { cutOffAt: world.time - 90 };
  const before = asked(world).length;
  assert.equal((await client.refresh({ force: true })).status, 'verified');
  assert.deepEqual(asked(world).slice(before).map((r) => r.edge), [0, 1]);
  assert.match(asked(world).at(-1)!.path, /min_revision=1-\d+/);
});

test('a history that has ended is asked for no more', async () => {
  const { world, client, account } = await payer();
  world.epoch = 2;
  world.give(account, { ...world.pro('expired'), offline_until: 0 });
  const s = await client.refresh({ force: true });
  assert.equal(s.entitlements['pro']!.active, false);
  assert.equal(asked(world).at(-1)!.path.includes('min_revision'), false);
});

test('failures are repeated with growing pauses, and not before Retry-After', async () => {
  const { world, client } = await payer();
  for (let i = 0; i < 2; i++) world.moods[i] = { problem: { status: 429, type: 'too-many-requests', retryAfter: 600 } };
  await world.pass(300);
  const before = asked(world).length;
  await world.pass(500);
  client.entitlements();
  assert.equal(asked(world).length, before);
  await world.pass(200);
  assert.ok(asked(world).length > before);

  const down = new World();
  down.moods.forEach((mood) => (mood.down = true));
  await down.start();
  await down.pass(3600);
  assert.ok(down.requests.length < 120, `${down.requests.length} requests in an hour without a network`);
  assert.ok(down.requests.length > 10);
});

test('R5: a refund is there at once by stream; a stream that ends or falls silent is opened again', async () => {
  const { world, client, account } = await payer();
  const seen: Snapshot[] = [];
  client.subscribe((s) => seen.push(s));
  await world.settle();
  assert.equal(world.streams.length, 1);
  const before = asked(world).length;
  world.give(account, { ...world.pro('refunded'), offline_until: 0 });
  await world.settle();
  assert.equal(seen.at(-1)!.entitlements['pro']!.active, false);
  assert.equal(asked(world).length, before);

  world.streams[0]!.end();
  await world.settle();
  await world.pass(5);
  assert.equal(world.streams.length, 1, 'opened again after its end');
  const silent = world.streams[0]!;
  await world.pass(40);
  assert.notEqual(world.streams[0], silent, 'opened again after silence');
  assert.equal(world.streams.length, 1);
});

test('R79: where the platform cannot stream, a listener costs one request a minute; without one it is one every 4 minutes', async () => {
  const world = new World();
  world.canStream = false;
  const { client } = await payer(world);
  const stop = client.subscribe(() => undefined);
  await world.settle();
  let before = asked(world).length;
  await world.pass(600);
  assert.ok(Math.abs(asked(world).length - before - 10) <= 1, `${asked(world).length - before} in 10 minutes`);
  stop();
  before = asked(world).length;
  await world.pass(2400);
  assert.ok(Math.abs(asked(world).length - before - 10) <= 1, `${asked(world).length - before} in 40 minutes`);
});

test('R78: an app at the back asks nothing, and asks when it comes to the front', async () => {
  const { world, client } = await payer();
  client.subscribe(() => undefined);
  await world.settle();
  client.pause();
  await world.settle();
  assert.equal(world.streams.length, 0);
  const before = asked(world).length;
  await world.pass(3600);
  assert.equal(asked(world).length, before);
  client.resume();
  await world.settle();
  assert.equal(asked(world).length, before + 1);
  assert.equal(world.streams.length, 1);
});

test('the first request of a boot proves with a nonce that the answer is of now; later ones need not', async () => {
  const { world, client } = await payer();
  world.kill(client);
  const first = asked(world).length;
  const again = await world.start();
  await world.pass(300);
  await again.refresh({ force: true });
  const nonces = asked(world).slice(first).map((r) => r.path.includes('nonce='));
  assert.equal(nonces[0], false, 'the same boot is proven already');
  assert.equal(nonces.at(-1), true, 'forced');
  world.kill(again);
  world.reboot();
  const rebooted = asked(world).length;
  await world.start();
  assert.equal(asked(world)[rebooted]!.path.includes('nonce='), true);
});

test('a key that is revoked is believed no more, not after a restart either', async () => {
  const { world, client, account } = await payer();
  world.revoke(0);
  world.moods[0] = { tamper: () => world.answer(0, account) }; // the thief has the key of edge 0, and cannot answer a nonce
  await client.refresh({ force: true });
  assert.equal(client.isActive('pro'), true, 'edge 1 has signed it, too');
  world.lists = [];
  world.kill(client);
  const again = await world.start();
  world.give(account, { ...world.pro('refunded'), offline_until: 0 });
  world.moods[0] = {};
  world.moods[1] = { down: true };
  const s = await again.refresh({ force: true });
  assert.equal(s.warning?.detail, 'chain revoked');
  assert.equal(s.entitlements['pro']!.active, true);
});

test('an ended session of an anonymous user who has nothing is replaced; who has something keeps it', async () => {
  const world = new World();
  const client = await world.start();
  const account = client.entitlements().accountId!;
  world.accounts.get(account)!.session = 'another';
  await client.refresh({ force: true });
  await client.refresh({ force: true });
  assert.notEqual(client.entitlements().accountId, account);
  assert.equal(client.entitlements().status, 'verified');

  const paid = await payer();
  paid.world.accounts.get(paid.account)!.session = 'another';
  const s = await paid.client.refresh({ force: true });
  assert.equal(s.accountId, paid.account);
  assert.equal(s.entitlements['pro']!.active, true);
  assert.equal(s.warning!.code, 'session_ended');
});

test('an anonymous session is exchanged long before it ends, and the account stays', async () => {
  const { world, client, account } = await payer();
  const first = world.accounts.get(account)!.session;
  world.kill(client);
  const later = async (days: number) => {
    world.time += days * day;
    world.give(account, world.pro());
    const again = await world.start();
    world.kill(again);
    return again.entitlements();
  };
  await later(100);
  assert.equal(world.accounts.get(account)!.session, first);
  await later(100);
  assert.equal(world.accounts.get(account)!.session, `${first}+`);
  const s = await later(1);
  assert.deepEqual([s.accountId, s.anonymous, s.status, s.entitlements['pro']!.active], [account, true, 'verified', true]);
});

test('a login or a new account that several edges pass on is done once: all carry one key', async () => {
  const world = new World();
  world.moods[0] = { problem: { status: 503, type: 'unavailable' } };
  await world.start();
  const [one, two] = world.requests.filter((r) => r.path === '/v1/sessions');
  assert.deepEqual([one!.edge, two!.edge], [0, 1]);
  assert.equal(one!.key, two!.key);
  assert.match(one!.key!, /^[\w-]{22}$/);
});

test('two tabs: the later login counts in both, and the newer answer is not overwritten', async () => {
  const { world, client: one, account } = await payer();
  const bootOfTwo = { ...world.options(), clock: { ...world.options().clock!, boot: () => 'tab 2' } };
  const two = await configure(bootOfTwo);
  await world.settle();
  world.give(account, { ...world.pro('refunded'), offline_until: 0 });
  await two.refresh({ force: true });
  await world.pass(61); // checkpoints of both
  assert.equal(one.isActive('pro'), false, 'tab 1 has learned it from storage or an edge');
  await two.logOut();
  const other = two.entitlements().accountId;
  await world.pass(61);
  assert.equal(one.entitlements().accountId, other);
});

test('storage that is unreadable or cannot be written costs the memory of it, and nothing else', async () => {
  for (const storage of [{ get: () => '{{{', set: () => undefined }, { get: () => { throw new Error('no'); }, set: () => { throw new Error('full'); } }, { get: () => '{"format":1,"time":{}}', set: () => undefined }]) {
    const world = new World();
    const client = await world.start({ storage });
    assert.equal(client.entitlements().status, 'verified');
  }
});

test('R121: diagnostics say what happened, and hold no secret', async () => {
  const { world, client } = await payer();
  await client.confirmPurchase({ provider: 'google', package: 'p', purchaseToken: 'canary-purchase-token' });
  world.moods.forEach((mood) => (mood.down = true));
  await client.refresh({ force: true });
  const bundle = client.diagnostics();
  const text = JSON.stringify(bundle);
  for (const secret of ['session-secret', 'canary-purchase-token', world.lastToken.split('.')[2]!, 'pk_test', 'nonce=']) assert.equal(text.includes(secret), false, secret);
  for (const wanted of ['acc_', 'no answer', 'stripe:sub_1', 'device_ahead_seconds', '"revision":"1-']) assert.equal(text.includes(wanted), true, wanted);
});

test('every mistake of the configuration is named, all at once', async () => {
  const world = new World();
  const wrong = { ...world.options(), publishableKey: 'lk_sandbox_pk_x', roots: ['x'], edges: ['ftp://x'], audience: '', environment: 'production' as const };
  await assert.rejects(configure(wrong), (err: unknown) => err instanceof ConfigurationError && err.mistakes.length === 4);
  await assert.rejects(configure({ ...world.options(), roots: [] }), ConfigurationError);
});

test('without a verifier it refuses to start', async () => {
  const crypto = Object.getOwnPropertyDescriptor(globalThis, 'crypto')!;
  Object.defineProperty(globalThis, 'crypto', { value: undefined, configurable: true });
  try {
    const { verifier: _, ...options } = new World().options();
    await assert.rejects(configure(options), /verifier: p256/);
  } finally {
    Object.defineProperty(globalThis, 'crypto', crypto);
  }
});

test('R89, R90, R91: the settings screen has the account, the end and where to manage it; an address that is not https is left out', async () => {
  const { world, client } = await payer();
  const s = client.entitlements();
  assert.equal(s.manageUrl, 'https://pay.example/manage');
  assert.ok(s.entitlements['pro']!.expiresAt! > new Date(world.time * 1000));
  world.moods[0] = { tamper: (body) => ({ ...body, entitlements: [{ id: 'pro', store: 'stripe', manage_url: 'javascript:alert(1)' }] }) };
  assert.equal((await client.refresh({ force: true })).manageUrl, undefined);
});

test('words may be given in another language', async () => {
  const client = await new World().start({ words: { verified: 'Aktuell.' } });
  assert.equal(client.entitlements().message, 'Aktuell.');
});
