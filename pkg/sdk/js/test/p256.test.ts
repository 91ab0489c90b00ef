// The pure verifier, against Wycheproof's vectors, against node:crypto, and by its size of work.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash, generateKeyPairSync, sign } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { p256, sha256 } from '../src/p256.js';
import { decodeBase64url } from '../src/bytes.js';

test('every signature of Wycheproof is judged as it should be', async () => {
  const dir = execFileSync('go', ['list', '-m', '-f', '{{.Dir}}', 'github.com/c2sp/wycheproof'], { encoding: 'utf8' }).trim();
  const file = JSON.parse(readFileSync(join(dir, 'testvectors_v1/ecdsa_secp256r1_sha256_p1363_test.json'), 'utf8')) as {
    testGroups: { publicKey: { uncompressed: string }; tests: { tcId: number; msg: string; sig: string; result: string }[] }[];
  };
  let judged = 0;
  for (const group of file.testGroups) {
    const point = Buffer.from(group.publicKey.uncompressed, 'hex');
    const key = await p256.importKey(point.subarray(1, 33), point.subarray(33));
    for (const t of group.tests) {
      assert.equal(await p256.verify(key, Buffer.from(t.sig, 'hex'), Buffer.from(t.msg, 'hex')), t.result === 'valid', `tcId ${t.tcId}`);
      judged++;
    }
  }
  assert.ok(judged > 200, `only ${judged} cases`);
});

test('signatures of node:crypto hold, and not under another message', async () => {
  for (let i = 0; i < 20; i++) {
    const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const jwk = publicKey.export({ format: 'jwk' });
    const key = await p256.importKey(decodeBase64url(jwk.x!), decodeBase64url(jwk.y!));
    const message = Buffer.from(`message ${i}`);
    const signature = sign('sha256', message, { key: privateKey, dsaEncoding: 'ieee-p1363' });
    assert.equal(await p256.verify(key, signature, message), true);
    assert.equal(await p256.verify(key, signature, Buffer.from(`message ${i + 1}`)), false);
  }
});

test('SHA-256 is that of node:crypto at every length around its blocks', () => {
  for (let length = 0; length <= 300; length++) {
    const data = Buffer.alloc(length, length);
    assert.deepEqual(Buffer.from(sha256(data)), createHash('sha256').update(data).digest(), `${length} bytes`);
  }
});

test('a point that is not on the curve is no key', async () => {
  const one = new Uint8Array(32).fill(1);
  await assert.rejects(p256.importKey(one, one));
  await assert.rejects(p256.importKey(new Uint8Array(32).fill(255), one));
});
