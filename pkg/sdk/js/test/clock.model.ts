// A model that knows the true time, and random stories of a device: running, asleep, off, its clock set, its storage put back, its network replaying
// recorded answers. After each step the two promises of src/clock.ts are held to it.
import fc from 'fast-check';
import { begin, checkpoint, checkpointSeconds, judge, learn, now, toleranceSeconds, type Anchor, type Reading, type Window } from '../src/clock.js';

const day = 24 * 3600;

/** One step of a story. Times are seconds. */
export type Step =
  | { do: 'run'; seconds: number }
  | { do: 'sleep'; seconds: number }
  | { do: 'set clock'; by: number }
  | { do: 'restart'; seconds: number }
  | { do: 'reboot'; off: number }
  | { do: 'ask'; lag: number }
  | { do: 'stream'; lag: number }
  | { do: 'record' }
  | { do: 'replay'; which: number }
  | { do: 'back up' }
  | { do: 'put back'; which: number; off: number };

export interface Story {
  /** Whether the monotonic clock goes on in sleep. */
  countsSleep: boolean;
  steps: Step[];
}

const span = fc.oneof(fc.integer({ min: 0, max: 300 }), fc.integer({ min: 0, max: 3 * 3600 }), fc.integer({ min: 0, max: 2 * day }));
const lag = fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.integer({ min: 0, max: 20 * 3600 }) });
const which = fc.nat(7);

export const stories: fc.Arbitrary<Story> = fc.record({
  countsSleep: fc.boolean(),
  steps: fc.array(
    fc.oneof(
      { weight: 5, arbitrary: fc.record({ do: fc.constant('run' as const), seconds: span }) },
      { weight: 2, arbitrary: fc.record({ do: fc.constant('sleep' as const), seconds: span }) },
      { weight: 2, arbitrary: fc.record({ do: fc.constant('set clock' as const), by: fc.integer({ min: -400 * day, max: 400 * day }) }) },
      { weight: 2, arbitrary: fc.record({ do: fc.constant('restart' as const), seconds: span }) },
      { weight: 2, arbitrary: fc.record({ do: fc.constant('reboot' as const), off: span }) },
      { weight: 3, arbitrary: fc.record({ do: fc.constant('ask' as const), lag }) },
      { weight: 2, arbitrary: fc.record({ do: fc.constant('stream' as const), lag }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('record' as const) }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('replay' as const), which }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('back up' as const) }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('put back' as const), which, off: span }) },
    ),
    { maxLength: 24, size: 'max' },
  ),
});

interface Answer extends Window {
  issuedAt: number;
  asOf: number;
}

/** What the model knows of the answer that the device holds; it travels with the storage. */
interface Truth {
  /** Monotonic seconds that have passed since it was signed, as far as the device could know. */
  ran: number;
  reboots: number;
  /** For a recording: how far the trusted time was behind when it was delivered, because the device slept. */
  untracked: number;
}

interface Storage {
  anchor: Anchor;
  held: Answer | undefined;
  truth: Truth;
  boot: number;
  monotonic: number;
}

/** The begin, learn and judge under test: those of src/clock.ts, or a broken copy that the model must catch. */
export interface Rules {
  begin: typeof begin;
  learn: typeof learn;
  judge: typeof judge;
}

/** Plays a story and throws at the first step after which a promise is broken. */
export function play(story: Story, rules: Rules = { begin, learn, judge }): void {
  let time = 1_800_000_000; // the true one
  let boot = 1;
  let monotonic = 1000;
  let wallOffset = 0;
  let ranInAll = 0;
  let sinceCheckpoint = 0;
  const recorded: { answer: Answer; ranInAll: number; reboots: number }[] = [];
  const backups: Storage[] = [];
  let rebootsInAll = 0;

  const reading = (): Reading => ({ boot: `boot ${boot}`, monotonic: monotonic * 1000, wall: (time + wallOffset) * 1000 });
  const signed = (behind: number): Answer => ({ issuedAt: time, asOf: time - behind, freshUntil: time - behind + 60, expiresAt: time - behind + day });

  let anchor = rules.begin(undefined, reading());
  let held: Answer | undefined;
  let truth: Truth = { ran: 0, reboots: 0, untracked: 0 };
  let storage: Storage = { anchor, held, truth, boot, monotonic };
  const save = () => {
    anchor = checkpoint(anchor, reading());
    storage = { anchor, held, truth: { ...truth }, boot, monotonic };
    sinceCheckpoint = 0;
  };
  const pass = (seconds: number, counted: boolean) => {
    time += seconds;
    if (!counted) return;
    monotonic += seconds;
    ranInAll += seconds;
    truth.ran += seconds;
  };
  const accept = (answer: Answer, proven: boolean, untracked: number, ran: number, reboots: number) => {
    anchor = rules.learn(anchor, reading(), answer.issuedAt, proven);
    if (!held || answer.asOf > held.asOf) {
      held = answer;
      truth = { ran, reboots, untracked };
    }
    save();
  };

  save();
  story.steps.forEach((step, index) => {
    switch (step.do) {
      case 'run':
        // All checkpoints of the stretch but the last change nothing that is looked at.
        if (sinceCheckpoint + step.seconds >= checkpointSeconds) {
          const after = (sinceCheckpoint + step.seconds) % checkpointSeconds;
          pass(step.seconds - after, true);
          save();
          sinceCheckpoint = after;
          pass(after, true);
        } else {
          sinceCheckpoint += step.seconds;
          pass(step.seconds, true);
        }
        break;
      case 'sleep':
        pass(step.seconds, story.countsSleep);
        save(); // the timer is overdue
        break;
      case 'set clock':
        wallOffset = step.by;
        break;
      case 'restart': // the process ends; the device stays on
        pass(step.seconds, true);
        held = storage.held;
        anchor = rules.begin(storage.anchor, reading());
        save();
        break;
      case 'reboot':
        restartDevice(step.off);
        held = storage.held;
        anchor = rules.begin(storage.anchor, reading());
        save();
        break;
      case 'ask': {
        const answer = signed(step.lag);
        accept(answer, true, 0, 0, 0);
        break;
      }
      case 'stream':
        if (anchor.proven) accept(signed(step.lag), false, 0, 0, 0);
        break;
      case 'record':
        recorded.push({ answer: signed(0), ranInAll, reboots: rebootsInAll });
        break;
      case 'replay': {
        const r = recorded[step.which % Math.max(1, recorded.length)];
        if (!r || !anchor.proven) break; // an app that has no proof in this boot sends a nonce, and takes no recording
        const ran = ranInAll - r.ranInAll;
        accept(r.answer, false, time - now(anchor, reading()) / 1000, ran, rebootsInAll - r.reboots);
        break;
      }
      case 'back up':
        backups.push(storage);
        break;
      case 'put back': { // storage as it was some time ago, under a process that starts
        const image = backups[step.which % Math.max(1, backups.length)];
        if (!image) break;
        if (step.off > 3600) restartDevice(step.off);
        storage = image;
        held = image.held;
        truth = { ...image.truth };
        if (image.boot === boot) truth.ran += monotonic - image.monotonic;
        else truth.reboots++;
        anchor = rules.begin(image.anchor, reading());
        save();
        break;
      }
    }
    inspect(index);
  });

  function restartDevice(off: number) {
    time += off;
    boot++;
    rebootsInAll++;
    truth.reboots++;
    monotonic = 7;
    sinceCheckpoint = 0;
  }

  function inspect(index: number) {
    const fail = (what: string) => {
      throw new Error(`after step ${index + 1}: ${what}`);
    };
    const trusted = now(anchor, reading()) / 1000;
    if (trusted > time) fail(`the trusted time is ${trusted - time} s ahead of the true one`);
    const status = rules.judge(anchor, reading(), held);
    if (!held) {
      if (status !== 'unverified') fail(`${status} without an answer`);
      return;
    }
    const allowed = status === 'verified' || status === 'verified_offline' || status === 'clock_suspect';
    const most = day + truth.reboots * checkpointSeconds + truth.untracked;
    if (allowed && truth.ran >= most) fail(`access ${truth.ran} s of running time after the last contact, ${most} s are the most`);
    if (!allowed && time < held.expiresAt) fail(`a payer is locked out ${held.expiresAt - time} s early: ${status}`);
    if (status === 'clock_suspect' && Math.abs(wallOffset) <= toleranceSeconds && time < held.expiresAt) fail('a right clock is suspected');
  }
}
