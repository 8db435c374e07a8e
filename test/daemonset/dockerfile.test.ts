// SPDX-License-Identifier: Apache-2.0
// Does the Dockerfile still do nothing but what the tests run: `make image-ARCH`, into an empty image, started as the chart starts it?
// (`make check-dockerfile-ARCH` lets buildah carry it out.)
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';
import { IMAGE, RunningContainer } from '../support/container.ts';
import { resultOf } from '../support/lab.ts';
import { containerOf, installed, podSpecIn } from '../support/manifests.ts';

const ROOT = path.join(import.meta.dirname, '../..');

interface Instruction {
  readonly name: string;
  readonly args: string;
}

/** By stage, in order; a stage begins with its FROM. */
function stages(): Instruction[][] {
  const lines = readFileSync(path.join(ROOT, 'daemonset/Dockerfile'), 'utf8')
    .split('\n')
    .filter((line) => !line.startsWith('#'))
    .join('\n')
    .replaceAll(/\\\n\s*/g, '')
    .split('\n')
    .filter((line) => line !== '');
  const found: Instruction[][] = [];
  for (const line of lines) {
    const [, name = '', args = ''] = /^([A-Z]+) (.*)$/.exec(line) ?? [];
    assert.notEqual(name, '', line);
    if (name === 'FROM') found.push([]);
    found.at(-1)?.push({ name, args });
  }
  return found;
}

function argsOf(stage: readonly Instruction[], name: string): string[] {
  return stage.filter((one) => one.name === name).map(({ args }) => args);
}

const [build = [], image = [], ...more] = stages();

test('the image is empty but for what the build made, and starts as the chart starts it', () => {
  assert.equal(more.length, 0);
  assert.match(argsOf(build, 'FROM').join(), /^--platform=\$BUILDPLATFORM debian:bookworm AS build$/);
  assert.deepEqual(
    image.map(({ name, args }) => `${name} ${args}`),
    [
      'FROM scratch',
      'COPY --from=build /rootfs /',
      `ENTRYPOINT ${JSON.stringify(containerOf(podSpecIn(installed())).command)}`,
      'CMD ["--help"]',
    ],
  );
});

test('what is built is what `make image-ARCH` makes, for both machines', () => {
  const last = argsOf(build, 'RUN').at(-1) ?? '';
  const [, goal = '', made = ''] = /&& make (\S+) && mv (\S+) \/rootfs$/.exec(last) ?? [];
  for (const arch of ['amd64', 'arm64']) {
    const of = (text: string) => text.replaceAll('$arch', arch);
    const plan = execFileSync('make', ['--no-print-directory', '-n', '-o', 'build/.debian', of(goal)], {
      cwd: ROOT,
      encoding: 'utf8',
    });
    assert.equal(plan.trim().split('\n').at(-1), `echo ${of(made)}`);
  }
  assert.equal(path.join(ROOT, made.replaceAll('$arch', path.basename(IMAGE).replace('rootfs-', ''))), IMAGE);
});

test('what it copies is there, what it runs is what is copied, and nothing that was built here gets in', () => {
  const sources = argsOf(build, 'COPY').flatMap((args) => args.split(' ').slice(0, -1));
  for (const source of sources) assert.ok(existsSync(path.join(ROOT, source)), source);
  const tracked = execFileSync('git', ['ls-files', ...sources.filter((one) => one !== '.')], {
    cwd: ROOT,
    encoding: 'utf8',
  });
  assert.deepEqual(tracked.trim().split('\n').sort(), sources.filter((one) => one !== '.').sort());
  const script = /^sh (\S+) (\S+)/.exec(argsOf(build, 'RUN')[1] ?? '');
  assert.ok(sources.includes(script?.[1] ?? ''));
  assert.match(
    readFileSync(path.join(ROOT, script?.[1] ?? ''), 'utf8'),
    new RegExp(`= ${script?.[2]} \\]|!= ${script?.[2]} `),
  );
  const ignored = readFileSync(path.join(ROOT, 'daemonset/Dockerfile.dockerignore'), 'utf8').split('\n');
  for (const folder of ['.git', 'build', 'node_modules']) assert.ok(ignored.includes(folder), folder);
});

test('without arguments the image tells what it can do', async (t) => {
  const spec = podSpecIn(installed());
  const [entrypoint, command] = ['ENTRYPOINT', 'CMD'].map(
    (name) => JSON.parse(argsOf(image, name)[0] ?? '') as string[],
  );
  assert.ok(entrypoint !== undefined && command !== undefined);
  const container = new RunningContainer(
    { ...spec, containers: [{ ...containerOf(spec), command: entrypoint }] },
    command,
    { fields: {}, fresh: ['/run/postern', '/var/lib/postern'] },
  );
  t.after(() => container.close());
  const { status, stdout } = await resultOf(container.child, 60_000);
  assert.equal(status, 0);
  assert.match(stdout, /^Usage: postern /);
  for (const name of ['agent', 'doctor', 'explain', 'lint', 'policies', 'run'])
    assert.match(stdout, new RegExp(`^  ${name}\\b`, 'm'), name);
});
