// What is published: small, without dependencies, and loadable both ways.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { transformSync } from 'esbuild';

const root = fileURLToPath(new URL('../../', import.meta.url));
const minified = (path: string) => gzipSync(transformSync(readFileSync(`${root}${path}`, 'utf8'), { minify: true, format: 'esm' }).code, { level: 9 }).length;

test('the core is below 15 kB gzipped, and imports nothing', () => {
  const size = minified('dist/esm/index.js');
  assert.ok(size < 15_000, `${size} bytes`);
  assert.ok(minified('dist/esm/p256.js') < 2_500);
  for (const name of ['esm', 'cjs']) for (const file of ['index', 'p256']) assert.doesNotMatch(readFileSync(`${root}dist/${name}/${file}.js`, 'utf8'), /^import |require\(/m);
  assert.equal((JSON.parse(readFileSync(`${root}package.json`, 'utf8')) as { dependencies?: object }).dependencies, undefined);
});

test('import and require both find it, by its own name', () => {
  const check = "if (typeof sdk.configure !== 'function' || typeof pure.p256.verify !== 'function') throw new Error('not there')";
  for (const [flag, code] of [
    ['module', `import * as sdk from '@latchkey/sdk'; import * as pure from '@latchkey/sdk/p256'; ${check}`],
    ['commonjs', `const sdk = require('@latchkey/sdk'), pure = require('@latchkey/sdk/p256'); ${check}`],
  ]) {
    execFileSync(process.execPath, [`--input-type=${flag}`, '-e', code!], { cwd: root });
  }
});

test('the code of the README compiles, and a mistake in it would be seen', () => {
  const compile = () => {
    try {
      return execFileSync('node_modules/.bin/tsc', ['--incremental', 'false'], { cwd: root, encoding: 'utf8' });
    } catch (err) {
      return (err as { stdout: string }).stdout;
    }
  };
  execFileSync(process.execPath, ['readme.mjs'], { cwd: root });
  const block = `${root}build/readme/block-1.ts`;
  const code = readFileSync(block, 'utf8');
  assert.match(code, /configure/);
  assert.equal(compile(), '');
  writeFileSync(block, code.replace("audience: 'com.example.app',", ''));
  assert.match(compile(), /block-1\.ts.*error.*audience/s);
  execFileSync(process.execPath, ['readme.mjs'], { cwd: root });
});
