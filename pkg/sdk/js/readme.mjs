// Writes the code of README.md to build/readme, each block a module, so that the compiler reads what users copy.
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

process.chdir(fileURLToPath(new URL('.', import.meta.url)));
const blocks = [...readFileSync('README.md', 'utf8').matchAll(/^```ts\n([^]*?)^```$/gm)].map((match) => match[1]);
rmSync('build/readme', { recursive: true, force: true });
mkdirSync('build/readme', { recursive: true });
blocks.forEach((block, i) => writeFileSync(`build/readme/block-${i + 1}.ts`, block));
