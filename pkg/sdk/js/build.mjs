// Builds what is published (dist), the tests (build/test) and the example page (build/example).
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import * as esbuild from 'esbuild';

process.chdir(fileURLToPath(new URL('.', import.meta.url)));
rmSync('dist', { recursive: true, force: true });
rmSync('build/test', { recursive: true, force: true });
mkdirSync('build', { recursive: true });

const published = { bundle: true, target: 'es2020', platform: 'neutral', sourcemap: false, logLevel: 'warning', legalComments: 'none' };
const entries = { index: 'src/index.ts', p256: 'src/p256.ts' };
const tests = readdirSync('test').filter((name) => name.endsWith('.test.ts'));
const forNode = { bundle: true, target: 'node18', platform: 'node', format: 'esm', logLevel: 'warning', external: ['fast-check', 'esbuild', 'typescript', 'playwright-core'] };
await Promise.all([
  esbuild.build({ ...published, entryPoints: entries, format: 'esm', outdir: 'dist/esm' }),
  esbuild.build({ ...published, entryPoints: entries, format: 'cjs', outdir: 'dist/cjs' }),
  esbuild.build({ ...forNode, entryPoints: tests.map((name) => `test/${name}`), outdir: 'build/test', outExtension: { '.js': '.mjs' } }),
  esbuild.build({ ...forNode, entryPoints: { sim: 'test/sim.ts', browser: 'test/browser.ts', serve: 'example/serve.ts' }, outdir: 'build', outExtension: { '.js': '.mjs' } }),
  esbuild.build({ ...published, target: 'es2022', entryPoints: ['example/app.ts'], format: 'esm', outdir: 'build/example' }),
]);
for (const name of ['index.html', 'style.css']) cpSync(`example/${name}`, `build/example/${name}`);
writeFileSync('dist/cjs/package.json', '{"type": "commonjs"}\n');
execFileSync('node_modules/.bin/tsc', ['-p', 'tsconfig.types.json'], { stdio: 'inherit' });
for (const name of readdirSync('dist/esm').filter((name) => name.endsWith('.d.ts'))) cpSync(`dist/esm/${name}`, `dist/cjs/${name}`);
