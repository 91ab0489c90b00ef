// Judges testdata/vectors.json with npm jose, by the procedure in the package comment of pkg/token, and says where its verdict differs from
// the expected one. What jose does not look at (canonical base64, strict JSON, the rules of the chain) is written out here, so that this
// file is also the shortest complete verifier in JavaScript: verify() is where to start.
//
//   npm ci && node judge.mjs ../testdata/vectors.json
import { readFileSync } from 'node:fs';
import * as jose from 'jose';

const DAY = 24 * 3600;
const MAX_TOKEN = 64 * 1024;
const MAX_DEPTH = 8;

// verify returns the claims of an accepted token and throws for every other. known is what is known of revoked keys: {root, issuer}, each a list that
// learn took, or absent.
async function verify(token, { roots, audience, environment, subject, nonce, at }, known) {
  const currentDate = new Date(at * 1000);
  const { header, claims: unverified } = read(token, 'latchkey-grace+jwt');
  for (const list of header.rvk ?? []) await learn(known, list, roots);
  need(Array.isArray(header.crt) && header.crt.length === 2 && header.crt.every((c) => typeof c === 'string'), 'crt');

  const [leafText, issuerText] = header.crt;
  const issuer = await certificate(issuerText, roots, 'issuer', 400 * DAY, currentDate);
  need(issuer.aud === undefined && issuer.env === undefined, 'issuer with aud or env');
  const leaf = await certificate(leafText, [await importKey(issuer.cnf.jwk)], 'edge', 3 * DAY, currentDate);
  need(text(leaf.aud) && text(leaf.env), 'edge without aud or env');
  need(leaf.iss === issuer.iss, 'iss of the certificates');
  need(!names(known.root, await thumbprint(issuer)), 'issuer revoked');
  need(!names(known.root, await thumbprint(leaf)) && !names(known.issuer, await thumbprint(leaf)), 'edge revoked');
  need(header.kid === await thumbprint(leaf), 'kid');

  const { payload } = await jose.jwtVerify(token, await importKey(leaf.cnf.jwk), {
    algorithms: ['ES256'], issuer: leaf.iss, audience: leaf.aud, currentDate, requiredClaims: ['sub', 'env', 'iat', 'exp', 'as_of', 'fresh_until', 'rev', 'ent'],
  });
  need(JSON.stringify(payload) === JSON.stringify(unverified), 'two readings of one token');
  for (const name of ['iss', 'aud', 'sub', 'env', 'rev']) need(text(payload[name]), name);
  for (const name of ['iat', 'exp', 'as_of', 'fresh_until']) need(Number.isSafeInteger(payload[name]), name);
  for (const name of ['nonce', 'dev']) need(payload[name] === undefined || typeof payload[name] === 'string', name);
  need(payload.env === leaf.env, 'env of the certificate');
  need(payload.aud === audience && payload.env === environment && payload.sub === subject, 'expected aud, env or sub');
  need(!nonce || payload.nonce === nonce, 'nonce');
  need(payload.exp <= payload.as_of + DAY, 'more than 24 h after as_of');
  need(payload.exp <= leaf.exp && payload.exp <= issuer.exp, 'longer than a certificate');
  need(payload.fresh_until === payload.as_of + 60, 'fresh_until');
  entitlements(payload.ent);
  if (payload.bal !== undefined) {
    need(record(payload.bal) && Object.values(payload.bal).every(Number.isSafeInteger), 'bal');
  }
  return payload;
}

function entitlements(ent) {
  need(Array.isArray(ent), 'ent');
  const seen = new Set();
  for (const e of ent) {
    need(record(e) && text(e.id) && text(e.status) && !seen.has(e.id), 'ent');
    seen.add(e.id);
    for (const name of ['reason', 'plan']) need(e[name] === undefined || typeof e[name] === 'string', name);
    for (const name of ['until', 'offline_until']) need(e[name] === undefined || Number.isSafeInteger(e[name]), name);
    for (const name of ['will_renew', 'trial']) need(e[name] === undefined || typeof e[name] === 'boolean', name);
  }
}

// allows is the offline rule, for claims that verify returned.
function allows(claims, id, at) {
  const e = claims.ent.find((x) => x.id === id);
  return e !== undefined && at < claims.exp && ['trialing', 'active', 'billing_grace'].includes(e.status) && at < (e.offline_until ?? 0);
}

// learn takes a list of revoked keys if it is genuine and newer than what is known.
async function learn(known, text, roots) {
  let list;
  try {
    list = await revocations(text, roots);
  } catch { return; }
  const newer = (old) => old === undefined || list.counter > old.counter;
  if (list.issuer === undefined) {
    if (!newer(known.root)) return;
    known.root = list;
    if (known.issuer && names(list, known.issuer.issuer)) delete known.issuer;
  } else if (!names(known.root, list.issuer) && newer(known.issuer)) {
    known.issuer = list;
  }
}

// revocations verifies one list: under a root, or under the issuing key whose certificate it carries, judged at the list's own iat.
async function revocations(jws, roots) {
  const { header, claims } = read(jws, 'latchkey-revocations+jwt');
  let keys = roots, issuer;
  need(text(claims.iss) && Number.isSafeInteger(claims.iat) && Number.isSafeInteger(claims.counter) && claims.counter > 0, 'iss, iat or counter');
  need(Array.isArray(claims.revoked) && claims.revoked.length <= 64 && claims.revoked.every(text) && new Set(claims.revoked).size === claims.revoked.length, 'revoked');
  if (header.crt !== undefined) {
    need(Array.isArray(header.crt) && header.crt.length === 1 && typeof header.crt[0] === 'string', 'crt');
    issuer = await certificate(header.crt[0], roots, 'issuer', 400 * DAY, new Date(claims.iat * 1000));
    need(issuer.aud === undefined && issuer.env === undefined && issuer.iss === claims.iss, 'issuer');
    keys = [await importKey(issuer.cnf.jwk)];
  }
  for (const key of keys) {
    try {
      await jose.compactVerify(jws, key, { algorithms: ['ES256'] });
      return { ...claims, issuer: issuer && await thumbprint(issuer) };
    } catch { /* perhaps the next one */ }
  }
  throw new Error('signature');
}

const names = (list, kid) => list !== undefined && list.revoked.includes(kid);
const thumbprint = (cert) => jose.calculateJwkThumbprint(cert.cnf.jwk);

// certificate verifies one certificate under any of keys.
async function certificate(cert, keys, role, longest, currentDate) {
  read(cert, 'latchkey-cert+jwt');
  let payload, last = new Error('no key');
  for (const key of keys) {
    try {
      ({ payload } = await jose.jwtVerify(cert, key, { algorithms: ['ES256'], currentDate, requiredClaims: ['iss', 'sub', 'role', 'nbf', 'exp', 'cnf'] }));
      break;
    } catch (err) { last = err; }
  }
  if (!payload) throw last;
  need(text(payload.iss) && text(payload.sub) && payload.role === role, 'iss, sub or role');
  need(payload.exp - payload.nbf <= longest, 'lifetime');
  const jwk = payload.cnf?.jwk;
  need(record(jwk) && Object.keys(jwk).sort().join() === 'crv,kty,x,y' && jwk.kty === 'EC' && jwk.crv === 'P-256', 'cnf.jwk');
  need([jwk.x, jwk.y].every((c) => typeof c === 'string' && decode(c).length === 32), 'coordinates');
  return payload;
}

const importKey = (jwk) => jose.importJWK(jwk, 'ES256');

// read decodes a compact JWS strictly, without verifying it.
function read(jws, typ) {
  need(jws.length <= MAX_TOKEN, 'size');
  const parts = jws.split('.');
  need(parts.length === 3, 'parts');
  const [header, claims] = [strictJSON(decode(parts[0])), strictJSON(decode(parts[1]))];
  decode(parts[2]);
  need(header.alg === 'ES256' && header.typ === typ && !('crit' in header), 'header');
  need(header.kid === undefined || typeof header.kid === 'string', 'kid');
  need(header.rvk === undefined || (Array.isArray(header.rvk) && header.rvk.length <= 2 && header.rvk.every((l) => typeof l === 'string')), 'rvk');
  return { header, claims };
}

function decode(part) {
  const bytes = Buffer.from(part, 'base64url');
  need(bytes.toString('base64url') === part, 'base64url');
  return bytes;
}

// strictJSON parses one object and refuses what JSON.parse lets pass: duplicate members, numbers that are no safe integers, bytes that are
// no UTF-8. JSON.parse goes first, so the scan below sees only valid JSON.
function strictJSON(bytes) {
  const source = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  const value = JSON.parse(source);
  need(record(value), 'an object');
  const tokens = source.match(/"(?:[^"\\]|\\.)*"|[{}[\]:,]|[^\s{}[\]:,"]+/g);
  const open = []; // one set of names for each object that is open, null for an array
  tokens.forEach((t, i) => {
    if (t === '{' || t === '[') {
      open.push(t === '{' ? new Set() : null);
    } else if (t === '}' || t === ']') {
      open.pop();
    } else if (/^[-\d]/.test(t)) {
      need(/^-?\d+$/.test(t) && Number.isSafeInteger(Number(t)), 'number');
    } else if (t[0] === '"' && tokens[i + 1] === ':') {
      const name = JSON.parse(t);
      need(!open.at(-1).has(name), 'duplicate member');
      open.at(-1).add(name);
    }
    need(open.length <= MAX_DEPTH + 1, 'depth');
  });
  return value;
}

const record = (v) => typeof v === 'object' && v !== null && !Array.isArray(v);
const text = (v) => typeof v === 'string' && v !== '';
function need(condition, what) { if (!condition) throw new Error(what); }

const vectors = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const pinned = {};
for (const [name, pem] of Object.entries(vectors.roots)) pinned[name] = await jose.importSPKI(pem, 'ES256');

let differ = 0;
for (const c of vectors.cases) {
  const roots = c.roots.map((name) => pinned[name]);
  const known = {};
  for (const list of c.revocations ?? []) await learn(known, list, roots);
  let claims, why;
  try {
    claims = await verify(c.token, { ...c, roots }, known);
  } catch (err) { why = err.message; }
  const got = { accept: claims !== undefined, kept: { root: known.root?.counter ?? 0, issuer: known.issuer?.counter ?? 0 }, allows: {} };
  for (const id of Object.keys(c.allows ?? {})) got.allows[id] = claims !== undefined && allows(claims, id, c.at);
  const want = { accept: c.accept, kept: c.kept ?? { root: 0, issuer: 0 }, allows: c.allows ?? {} };
  if (JSON.stringify(got) !== JSON.stringify(want)) {
    differ++;
    console.log(`differs: ${c.name}: got ${JSON.stringify(got)} (${why ?? 'no error'}), want ${JSON.stringify(want)}`);
  }
}
// The traces of a device's clocks need no jose. at is the trusted time at a step: that of the anchor, and what the monotonic clock has counted since.
const at = (anchor, s) => anchor.time + Math.max(0, s.monotonic - anchor.monotonic);
const status = (anchor, s, held) => {
  const time = at(anchor, s);
  if (!held) return 'unverified';
  if (time >= held.expires_at) return 'grace_expired';
  if (time < held.fresh_until) return 'verified';
  return s.wall < time - 300 || s.wall >= held.expires_at + 300 ? 'clock_suspect' : 'verified_offline';
};
for (const trace of vectors.clock_traces) {
  let anchor, kept, held;
  for (const s of trace.steps) {
    const { boot, monotonic } = s;
    if (s.do === 'begin') {
      const goesOn = kept?.boot === boot && kept.monotonic <= monotonic;
      anchor = { time: Math.max(kept?.time ?? 0, s.built_at ?? 0), boot, monotonic: goesOn ? kept.monotonic : monotonic };
    } else if (s.do === 'learn') {
      const fast = at(anchor, s) - s.issued_at;
      const back = s.proven && (fast <= 300 || Math.abs(s.wall - s.issued_at) <= 300);
      anchor = { time: fast < 0 || back ? s.issued_at : at(anchor, s), boot, monotonic };
      held = s;
    } else if (s.do === 'keep') {
      kept = { time: at(anchor, s), boot, monotonic };
    }
    if (at(anchor, s) !== s.trusted || status(anchor, s, held) !== s.status) {
      differ++;
      console.log(`differs: ${trace.name}: ${s.do} at ${s.monotonic}: got ${at(anchor, s)} ${status(anchor, s, held)}, want ${s.trusted} ${s.status}`);
    }
  }
}
console.log(`judge: ${vectors.cases.length} cases, ${vectors.clock_traces.length} clock traces, ${differ} differ`);
process.exit(differ === 0 ? 0 : 1);
