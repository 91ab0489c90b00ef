// Judges the main job with libraries that know nothing of Latchkey: npm stripe signs the messages, npm jose verifies the answers.
// Usage: node main-job.mjs <latchkey-dev.json> < histories.json
// A history is {env, account, session, bought: [message], refund: message}; messages are the bodies to send, as strings.
// Prints a line for each claim that was shown, and exits 1 at the first that does not hold.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createPublicKey } from 'node:crypto';
import * as jose from 'jose';
import Stripe from 'stripe';

const info = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const roots = info.root_public_keys.map((path) => createPublicKey(readFileSync(path)));
const stripe = new Stripe('sk_test_unused');
const DAY = 24 * 3600;
const HOUR = 3600;

// Sends one message as Stripe does and returns the revision at which it shows.
async function send(history, body) {
  const hook = info.environments[history.env].webhooks.stripe;
  const signature = stripe.webhooks.generateTestHeaderString({ payload: body, secret: hook.secret });
  const response = await fetch(info.writers[0].url + hook.path, { method: 'POST', headers: { 'stripe-signature': signature }, body });
  const answer = await response.json();
  assert.equal(response.status, 200, JSON.stringify(answer));
  assert.equal(answer.event_id, JSON.parse(body).id);
  assert.equal(answer.duplicate, false);
  return answer.revision;
}

async function ask(edge, history, revision, more = '') {
  const url = `${edge.url}/v1/entitlements?wait=20&min_revision=${revision}${more}`;
  const response = await fetch(url, { headers: { authorization: `Bearer ${history.session}` } });
  const answer = await response.json();
  assert.equal(response.status, 200, `${edge.id}: ${JSON.stringify(answer)}`);
  return answer;
}

// Verifies one certificate, and returns its claims and the key that it certifies.
async function certificate(jwt, signer, role, at) {
  const { payload } = await jose.jwtVerify(jwt, signer, { algorithms: ['ES256'], typ: 'latchkey-cert+jwt', currentDate: at, requiredClaims: ['iss', 'sub', 'nbf', 'exp', 'cnf'] });
  assert.equal(payload.role, role);
  return { payload, key: await jose.importJWK(payload.cnf.jwk, 'ES256') };
}

// Verifies a grace token up to a pinned root, by the published procedure.
async function verify(token, history, at = new Date()) {
  const header = jose.decodeProtectedHeader(token);
  assert.equal(header.typ, 'latchkey-grace+jwt');
  assert.equal(header.crt.length, 2);
  const issuer = await Promise.any(roots.map((root) => certificate(header.crt[1], root, 'issuer', at)));
  const edge = await certificate(header.crt[0], issuer.key, 'edge', at);
  assert.equal(edge.payload.iss, issuer.payload.iss);
  assert.ok(issuer.payload.exp - issuer.payload.nbf <= 400 * DAY, 'the issuer certificate lives too long');
  assert.ok(edge.payload.exp - edge.payload.nbf <= 72 * HOUR, 'the edge certificate lives too long');
  assert.equal(header.kid, await jose.calculateJwkThumbprint(edge.payload.cnf.jwk));
  const audience = info.environments[history.env].audience;
  assert.equal(edge.payload.aud, audience);
  assert.equal(edge.payload.env, history.env);
  const { payload } = await jose.jwtVerify(token, edge.key, { algorithms: ['ES256'], audience, issuer: edge.payload.iss, subject: history.account, currentDate: at, requiredClaims: ['exp', 'iat', 'as_of', 'rev', 'ent'] });
  assert.equal(payload.env, history.env);
  assert.ok(payload.exp <= edge.payload.exp && payload.exp <= issuer.payload.exp, 'the token outlives a certificate');
  return payload;
}

const allowed = (claims, id, at) => claims.ent.some((e) => e.id === id && ['trialing', 'active', 'billing_grace'].includes(e.status) && at < (e.offline_until ?? 0));
const newer = (a, b) => { const [x, y] = [a, b].map((r) => r.split('-').map(BigInt)); return x[0] > y[0] || (x[0] === y[0] && x[1] > y[1]); };
const shown = (claim) => console.log(`shown: ${claim}`);

for (const history of JSON.parse(readFileSync(0, 'utf8'))) {
  const version = JSON.parse(history.refund).api_version;
  const name = `${history.env}, API ${version}`;
  let revision;
  for (const body of history.bought) revision = await send(history, body);
  const bought = [];
  for (const edge of info.edges) {
    const answer = await ask(edge, history, revision, '&nonce=aGVsbG8');
    const claims = await verify(answer.grace_token, history);
    assert.equal(claims.nonce, 'aGVsbG8');
    assert.equal(claims.exp - claims.as_of, DAY);
    assert.equal(claims.fresh_until - claims.as_of, 60);
    assert.equal(claims.rev, answer.revision);
    assert.ok(answer.entitlements.find((e) => e.id === 'pro').active, JSON.stringify(answer.entitlements));
    assert.ok(allowed(claims, 'pro', claims.exp - 1), 'not allowed in the last second');
    assert.ok(!allowed(claims, 'pro', claims.exp), 'allowed at exp');
    await assert.rejects(verify(answer.grace_token, history, new Date(claims.exp * 1000)), /exp/);
    await assert.rejects(verify(answer.grace_token, { ...history, account: 'acc_other' }), /sub/);
    const at = answer.grace_token.indexOf('.') + 20; // inside the claims
    const forged = answer.grace_token.slice(0, at) + (answer.grace_token[at] === 'A' ? 'B' : 'A') + answer.grace_token.slice(at + 1);
    await assert.rejects(verify(forged, history));
    bought.push(answer);
  }
  shown(`${name}: a paid subscription gives pro, for 24 hours offline, at every edge`);
  revision = await send(history, history.refund);
  for (const [i, edge] of info.edges.entries()) {
    const answer = await ask(edge, history, revision);
    const claims = await verify(answer.grace_token, history);
    const pro = answer.entitlements.find((e) => e.id === 'pro');
    assert.equal(pro.active, false, JSON.stringify(pro));
    assert.equal(pro.reason, 'refunded');
    assert.ok(!allowed(claims, 'pro', claims.as_of), 'the token still allows pro');
    assert.ok(newer(answer.revision, bought[i].revision), `${answer.revision} after ${bought[i].revision}`);
  }
  shown(`${name}: a refund gives a signed denial of a newer revision, at every edge`);
}
