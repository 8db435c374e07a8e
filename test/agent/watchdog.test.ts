// SPDX-License-Identifier: Apache-2.0
// Is a loop that no longer comes to its timers noticed?
import assert from 'node:assert/strict';
import test from 'node:test';
import { Watchdog } from '../../src/agent/watchdog.ts';

test('alive while timers are served, and how late they were', () => {
  let now = 0;
  const watchdog = new Watchdog(() => now);
  try {
    assert.equal(watchdog.isAlive(), true);
    now = 700;
    watchdog.tick();
    now = 1200;
    watchdog.tick();
    assert.equal(watchdog.takeLongestMs(), 200);
    assert.equal(watchdog.takeLongestMs(), 0);
    now = 12_000;
    assert.equal(watchdog.isAlive(), false);
    assert.equal(watchdog.takeLongestMs(), 10_300);
    watchdog.tick();
    assert.equal(watchdog.isAlive(), true);
  } finally {
    watchdog.stop();
  }
});
