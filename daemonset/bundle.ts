// SPDX-License-Identifier: Apache-2.0
// `node daemonset/bundle.ts DIR`: the program as the image holds it: JavaScript without node_modules, and everybody's licences.
// A bundle, since loading the sources and all of @kubernetes/client-node takes 80 MiB more (docs/install.md).
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { build, type Metafile } from 'esbuild';

const ROOT = path.join(import.meta.dirname, '..');
const MODULES = path.join(ROOT, 'node_modules');

/** Empties `dir`, and writes `dist/`, as deep as `src/` so that paths relative to a file stay right, and `THIRD-PARTY-LICENSES`. */
async function bundle(dir: string): Promise<void> {
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir, { recursive: true });
  const { metafile } = await build({
    absWorkingDir: ROOT,
    entryPoints: ['src/cli/main.ts'],
    outdir: path.join(dir, 'dist'),
    entryNames: 'cli/[name]',
    chunkNames: 'cli/[name]-[hash]',
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node26',
    keepNames: true,
    metafile: true,
    logLevel: 'warning',
    // Only KubeConfig is used of it, and the package's entry would bring a thousand generated files along.
    alias: { '@kubernetes/client-node': path.join(MODULES, '@kubernetes/client-node/dist/config.js') },
    // CommonJS packages still call require.
    banner: {
      js: "import { createRequire as requireFrom } from 'node:module';\nconst require = requireFrom(import.meta.url);",
    },
  });
  writeFileSync(path.join(dir, 'THIRD-PARTY-LICENSES'), licences(metafile));
}

function licences(metafile: Metafile): string {
  const packages = new Set(
    Object.keys(metafile.inputs)
      .map((file) => /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(file)?.[1])
      .filter((folder) => folder !== undefined),
  );
  return [...packages].sort().map(licence).join('\n');
}

function licence(folder: string): string {
  const absolute = path.join(ROOT, folder);
  const { name, version, license } = JSON.parse(readFileSync(path.join(absolute, 'package.json'), 'utf8')) as {
    name: string;
    version: string;
    license?: string;
  };
  const texts = readdirSync(absolute)
    .filter((file) => /^(licen[cs]e|notice)/i.test(file))
    .map((file) => readFileSync(path.join(absolute, file), 'utf8').trim());
  return `==== ${name} ${version} (${license ?? 'see below'})\n\n${texts.join('\n\n')}\n`;
}

const [dir] = process.argv.slice(2);
if (dir === undefined) throw new Error('usage: bundle.ts DIR');
await bundle(path.resolve(dir));
