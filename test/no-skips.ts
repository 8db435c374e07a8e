// SPDX-License-Identifier: Apache-2.0
// Did any test not run? A reporter of node:test beside the one that people read: a skipped or unfinished test fails the run.

import type { TestEvent } from 'node:test/reporters';

export default async function* noSkips(events: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  let ran = 0;
  for await (const event of events) {
    if (event.type !== 'test:pass' && event.type !== 'test:fail') continue;
    ran++;
    const { name, file, skip, todo } = event.data;
    if (skip === undefined && todo === undefined) continue;
    process.exitCode = 1;
    yield `${file ?? ''}: ${name}: ${skip === undefined ? 'todo' : 'skipped'}\n`;
  }
  if (ran === 0) {
    process.exitCode = 1;
    yield 'no test ran\n';
  }
}
