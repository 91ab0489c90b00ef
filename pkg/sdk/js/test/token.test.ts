// Tokens: the conformance kit, by both verifiers.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { p256 } from '../src/p256.js';
import { Refused } from '../src/jws.js';
import { allows, Reader, type Token } from '../src/token.js';
import { parseRoot, webCryptoVerifier, type Verifier } from '../src/verifier.js';
import { kit, type Vector } from './vectors.js';

const verifiers: Record<string, Verifier> = { WebCrypto: webCryptoVerifier()!, p256 };

async function verdict(reader: Reader, v: Vector): Promise<{ reason: string; token?: Token }> {
  try {
    const token = await reader.read(v.token);
    const { audience, environment, subject } = v;
    return { reason: reader.refusal(token, { audience, environment, subject, ...(v.nonce ? { nonce: v.nonce } : {}) }, v.at) ?? '', token };
  } catch (err) {
    if (!(err instanceof Refused)) throw err;
    return { reason: err.reason };
  }
}

for (const [name, verifier] of Object.entries(verifiers)) {
  test(`${name} reaches the verdict of every vector, for the same reason`, async () => {
    assert.ok(kit.cases.length >= 190);
    const wrong: string[] = [];
    for (const v of kit.cases) {
      const reader = new Reader(verifier, v.roots.map((root) => parseRoot(kit.roots[root]!)));
      for (const list of v.revocations ?? []) await reader.revocations.learn(list);
      const { reason, token } = await verdict(reader, v);
      const kept = { root: 0, issuer: 0, ...v.kept };
      if (JSON.stringify(reader.revocations.counters()) !== JSON.stringify(kept)) wrong.push(`${v.name}: lists ${JSON.stringify(reader.revocations.counters())}`);
      if (reason !== (v.reason ?? '')) wrong.push(`${v.name}: ${reason || 'accepted'}, want ${v.reason ?? 'accepted'}`);
      for (const [id, want] of Object.entries(v.allows ?? {})) {
        if ((token !== undefined && allows(token, id, v.at)) !== want) wrong.push(`${v.name}: allows ${id} is not ${want}`);
      }
    }
    assert.deepEqual(wrong, []);
  });
}

test('a text that is no token at all is refused and not thrown about', async () => {
  const reader = new Reader(p256, [parseRoot(Object.values(kit.roots)[0]!)]);
  for (const text of ['', '.', '..', '{}', 'null', '[object Object]', 'é.é.é', 'A'.repeat(70_000)]) {
    await assert.rejects(reader.read(text), Refused, text);
  }
});
