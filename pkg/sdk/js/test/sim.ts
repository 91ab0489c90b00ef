// Random stories of devices against the model of trusted time: node build/sim.mjs --traces 1000000 --seed 1
import { parseArgs } from 'node:util';
import fc from 'fast-check';
import { play, stories } from './clock.model.js';

const { values } = parseArgs({ options: { traces: { type: 'string', default: '1000000' }, seed: { type: 'string', default: '1' } } });
const [traces, seed] = [Number(values.traces), Number(values.seed)];
let steps = 0;
const result = fc.check(
  fc.property(stories, (story) => {
    steps += story.steps.length;
    play(story);
  }),
  { numRuns: traces, seed },
);
if (result.failed) console.log(fc.defaultReportMessage(result));
console.log(`clock: ${traces} traces, ${steps} steps, ${result.failed ? 1 : 0} failed`);
process.exitCode = result.failed ? 1 : 0;
