// R87, R133: the promises of trusted time, against a model that knows the true time.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { begin, checkpoint, judge, learn, now, type Anchor, type Window } from '../src/clock.js';
import { play, stories, type Rules } from './clock.model.js';
import { kit } from './vectors.js';

test('no access for longer than 24 h of running time, and no payer locked out early, whatever the clocks do', () => {
  fc.assert(fc.property(stories, (story) => play(story)), { numRuns: 20_000, seed: 1 });
});

// A checker that never fails proves nothing: each of these mistakes is one that systems of this kind have made.
const mistakes: Record<string, Partial<Rules>> = {
  'expiry by the device clock': {
    judge: (anchor, reading, held) => (!held ? 'unverified' : reading.wall / 1000 >= held.expiresAt ? 'grace_expired' : judge(anchor, reading, { ...held, expiresAt: Infinity })),
  },
  'a clock that is ahead is believed after a reboot': {
    begin: (stored, reading) => {
      const anchor = begin(stored, reading);
      return stored && stored.boot !== reading.boot ? { ...anchor, time: Math.max(anchor.time, reading.wall) } : anchor;
    },
  },
  'each start of the process begins a new count': { begin: (stored, reading) => ({ time: stored?.time ?? 0, boot: reading.boot, monotonic: reading.monotonic, proven: false }) },
  'a recorded answer sets time back': { learn: (anchor, reading, issuedAt) => ({ ...learn(anchor, reading, issuedAt, true), time: issuedAt * 1000 }) },
  'the highest time is not kept over a reboot': { begin: (stored, reading) => (stored?.boot === reading.boot ? begin(stored, reading) : begin(undefined, reading)) },
};
for (const [name, rules] of Object.entries(mistakes)) {
  test(`the model catches: ${name}`, () => {
    const result = fc.check(fc.property(stories, (story) => play(story, { begin, learn, judge, ...rules })), { numRuns: 20_000, seed: 1 });
    assert.ok(result.failed, 'no story shows the mistake');
  });
}

test('every clock trace of the conformance kit ends as it says', () => {
  assert.ok(kit.clock_traces.length >= 21);
  for (const trace of kit.clock_traces) {
    let anchor: Anchor | undefined;
    let kept: Anchor | undefined;
    let held: Window | undefined;
    trace.steps.forEach((step, i) => {
      const reading = { boot: step.boot, monotonic: step.monotonic * 1000, wall: step.wall * 1000 };
      if (step.do === 'begin') anchor = begin(kept, reading, (step.built_at ?? 0) * 1000);
      if (step.do === 'keep') kept = checkpoint(anchor!, reading);
      if (step.do === 'learn') {
        anchor = learn(anchor!, reading, step.issued_at!, step.proven ?? false);
        held = { freshUntil: step.fresh_until!, expiresAt: step.expires_at! };
      }
      assert.deepEqual([now(anchor!, reading) / 1000, judge(anchor!, reading, held)], [step.trusted, step.status], `${trace.name}, step ${i + 1}: ${step.do}`);
    });
  }
});

test('a monotonic clock that runs too fast is set right by a proven answer, by 5 minutes at most', () => {
  const reading = (seconds: number) => ({ boot: 'b', monotonic: seconds * 1000, wall: 0 });
  const anchor = learn(begin(undefined, reading(0)), reading(0), 1_000_000, true);
  assert.equal(now(learn(anchor, reading(400), 1_000_100, true), reading(400)), 1_000_100_000);
  assert.equal(now(learn(anchor, reading(401), 1_000_100, true), reading(401)), 1_000_401_000);
  assert.equal(now(learn(anchor, reading(400), 1_000_100, false), reading(400)), 1_000_400_000);
});
