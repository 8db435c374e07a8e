// SPDX-License-Identifier: Apache-2.0
// Every way out that is known, tried by somebody with every right in a pod, against the real agent: what arrives beyond the node, of a
// workload that is held and of one that is not. What stops what, and what stops nothing, is written down in results.ts.
import assert from 'node:assert/strict';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { FRAME_WAYS, familiesOf } from './frames.ts';
import { ARRIVES, type Outcome, RESULTS } from './results.ts';
import { FAMILIES, type Family, KINDS, type Kind, type Party, PORT, Scene } from './scene.ts';

/** How long an answer is waited for that must not come, and one that should. */
const BRIEFLY_MS = '100';
const PATIENTLY_MS = '2000';

let scene: Scene;
before(async () => {
  scene = await Scene.open();
});
after(() => scene?.close());

/** Lets all who are held try, then all who are not, whose frames must arrive: so did, or would have, those of the others. */
async function attempt(
  name: string,
  family: Family,
  kinds: readonly Kind[],
  go: (party: Party) => Promise<unknown>,
): Promise<void> {
  const expected = RESULTS[name];
  assert(expected !== undefined, `${name} is in no table`);
  const parties = scene.parties.filter(({ kind }) => kinds.includes(kind));
  await scene.reasons();
  await scene.forget();
  for (const isHeld of [true, false]) {
    await Promise.all(parties.filter((party) => party.isHeld === isHeld).map(go));
  }
  for (const party of parties) {
    const { good } = party.addresses(family);
    assert.equal(
      await party.place.actor.tryUdp(good, PORT, 10_000),
      'ok',
      `${party.pod.name} is still allowed what it is`,
    );
  }
  const arrived = await scene.arrived();
  const reasons = await scene.reasons();
  for (const party of parties) {
    const { kind, isHeld, pod } = party;
    const outcome: Outcome = expected[kind];
    if (!isHeld) assert(arrived.has(party), `only its policy stops it: ${kind}`);
    else if (outcome === ARRIVES) assert(arrived.has(party), `it is said to arrive: ${kind}`);
    else {
      assert(!arrived.has(party), `it arrives: ${kind}`);
      const told = reasons.get(pod.name) ?? [];
      assert(told.length > 0, `nobody was told: ${kind}`);
      assert.deepEqual(
        told.filter((reason) => !outcome.includes(reason)),
        [],
        kind,
      );
    }
  }
}

describe('frames', () => {
  for (const [name, way] of Object.entries(FRAME_WAYS)) {
    for (const family of familiesOf(way)) {
      test(`${name}, ${family}`, () =>
        attempt(name, family, KINDS, (party) => {
          const view = { ...party.addresses(family), family, hardware: party.hardware };
          const frames = way.frames(view).map((frame) => frame.toString('hex'));
          return party.run('attacks', way.means ?? 'packet', party.device, ...frames);
        }));
    }
  }
});

/** Programs of test/packets/ways.cc. */
const SOCKET_WAYS: Readonly<
  Record<string, { readonly families?: readonly Family[]; readonly kinds?: readonly Kind[] }>
> = {
  connect: {},
  'connect-nonblocking': {},
  'connect-mapped': {},
  'connect-after-disconnect': {},
  'connect-by-another-thread': {},
  'connect-by-ring': {},
  'connect-by-ring-worker': {},
  'connect-by-ring-thread': {},
  'connect-in-time-wait': {},
  'fastopen-sendto': {},
  'fastopen-connect': {},
  'fastopen-without-cookie': {},
  mptcp: {},
  splice: {},
  repair: {},
  send: {},
  sendto: {},
  'sendto-mapped': {},
  'sendto-ipv4-by-ipv6-socket': {},
  'sendto-while-connected-elsewhere': {},
  'send-after-another': {},
  sendmmsg: {},
  more: {},
  'more-when-connected': {},
  cork: {},
  segmentation: {},
  zerocopy: {},
  sendfile: {},
  'sendmsg-by-ring': {},
  'sendmsg-by-ring-worker': {},
  'sendmsg-by-ring-thread': {},
  'send-by-ring-without-copy': {},
  'socket-of-a-ring-thread': {},
  'source-by-control-message': {},
  'device-bound': { kinds: ['pod', 'macvlan'] },
  marked: {},
  udplite: {},
  ping: {},
  raw: {},
  'raw-with-header': {},
  'raw-fragments': {},
  'raw-later-fragment-alone': {},
  'routing-header-of-a-stream': {},
  'routing-header-of-a-datagram': {},
  'forged-question': { families: ['IPv6'], kinds: ['pod', 'macvlan'] },
  'forged-question-to-loopback': { families: ['IPv6'], kinds: ['pod', 'macvlan'] },
  'forged-in-a-namespace': { kinds: ['pod', 'macvlan'] },
};

function argumentsOf(way: string, party: Party, family: Family): string[] {
  const { own, evil, good } = party.addresses(family);
  return [way, own, evil, good, String(PORT), party.isHeld ? BRIEFLY_MS : PATIENTLY_MS];
}

describe('sockets', () => {
  for (const [way, { families = FAMILIES, kinds = KINDS }] of Object.entries(SOCKET_WAYS)) {
    for (const family of families) {
      test(`${way}, ${family}`, () =>
        attempt(way, family, kinds, (party) => party.run('ways', ...argumentsOf(way, party, family))));
    }
  }

  for (const family of FAMILIES) {
    // IPv4 finds no way from a free one.
    for (const way of family === 'IPv4' ? ['transparent-source'] : ['transparent-source', 'free-source']) {
      test(`${way}, ${family}`, () =>
        attempt(way, family, KINDS, (party) =>
          party.sh(
            `FROM=${party.addresses(family).ghost} ${scene.program('ways')} ${argumentsOf(way, party, family).join(' ')}`,
          ),
        ));
    }

    // Each calls the one that listens, from beyond.
    for (const way of ['listener-turned-client', 'accepted-turned-client']) {
      test(`${way}, ${family}`, () =>
        attempt(way, family, ['pod', 'macvlan'], async (party) => {
          const child = party.place.spawn(scene.program('ways'), argumentsOf(way, party, family));
          const ended = new Promise((resolve) => child.once('close', resolve));
          await new Promise((resolve) => child.stdout?.once('data', resolve));
          const { socket = 0 } = await scene.outsider.connect(party.addresses(family).own, PORT + 1, 10_000);
          await ended;
          await scene.outsider.close(socket);
        }));
    }

    test(`socket-of-another-namespace, ${family}`, () =>
      attempt('socket-of-another-namespace', family, ['pod'], (party) =>
        party.sh(
          `NETNS=${scene.party('pod', false).place.netns} ${scene.program('ways')} ${argumentsOf('socket-of-another-namespace', party, family).join(' ')}`,
        ),
      ));

    test(`take-over: a socket that was made in another workload sends under that one's policy, ${family}`, async () => {
      const [held, free] = [scene.party('pod', true), scene.party('pod', false)];
      for (const [giver, taker, arrives] of [
        [held, free, false],
        [free, held, true],
      ] as const) {
        await scene.forget();
        const handover = `HANDOVER=${path.join(path.dirname(scene.program('ways')), `${giver.pod.spec.name}-${family}`)}`;
        const args = (way: string) => [handover, scene.program('ways'), ...argumentsOf(way, taker, family)];
        const child = giver.place.spawn('env', args('hand-on'));
        await new Promise((resolve) => child.stdout?.once('data', resolve));
        await taker.place.exec('env', args('take-over'), { timeoutMs: 20_000 });
        for (const party of [held, free]) {
          assert.equal(await party.place.actor.tryUdp(party.addresses(family).good, PORT, 10_000), 'ok');
        }
        assert.equal((await scene.arrived()).has(taker), arrives);
      }
    });
  }
});

test('whatever is tried is in the table, and nothing else is', () => {
  const tried = [
    ...Object.keys(FRAME_WAYS),
    ...Object.keys(SOCKET_WAYS),
    ...['transparent-source', 'free-source', 'listener-turned-client', 'accepted-turned-client'],
    'socket-of-another-namespace',
  ];
  assert.deepEqual(Object.keys(RESULTS).toSorted(), tried.toSorted());
});
