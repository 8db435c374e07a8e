// SPDX-License-Identifier: Apache-2.0
// `node daemonset/bundle.ts DIR`: the program as the image holds it: JavaScript without node_modules, and everybody's licences.
// A bundle, since loading the sources and all of @kubernetes/client-node takes 80 MiB more (docs/install.md).
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { build, type Metafile, type Plugin } from 'esbuild';

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
    plugins: [uncalled],
    banner: {
      js: "import { createRequire as requireFrom } from 'node:module';\nconst require = requireFrom(import.meta.url);",
    },
  });
  writeFileSync(path.join(dir, 'THIRD-PARTY-LICENSES'), licences(metafile));
}

/**
 * What KubeConfig imports and none of its methods that src/kube/access.ts calls makes use of: undici's agents, which are fetch's, and
 * the generated clients. Loaded, they take 15 MiB. Here each is a function that throws, should anybody come to call it.
 */
const UNCALLED: Readonly<Record<string, readonly string[]>> = {
  undici: ['Agent', 'ProxyAgent'],
  './gen/index.js': ['ServerConfiguration', 'createConfiguration'],
};

const uncalled: Plugin = {
  name: 'uncalled',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^(undici|\.\/gen\/index\.js)$/ }, ({ path: module, importer }) =>
      importer.endsWith('/@kubernetes/client-node/dist/config.js') ? { path: module, namespace: 'uncalled' } : null,
    );
    onLoad({ filter: /.*/, namespace: 'uncalled' }, ({ path: module }) => ({
      contents: (UNCALLED[module] ?? [])
        .map(
          (name) => `export function ${name}() { throw new Error('${name} of ${module} is left out of this bundle'); }`,
        )
        .join('\n'),
    }));
  },
};

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
