// SPDX-License-Identifier: Apache-2.0
// The world of the demo: for each Pod of examples/ a network namespace and a cgroup, real servers in some of them and outside.
// What is there is read from the objects; no packet leaves, and no policy is asked.
import type { ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import type { Pod, Snapshot } from '../../src/model/objects.ts';
import type { Lab, Place } from '../../test/support/lab.ts';
import { unlessInterrupted } from './interruption.ts';

/** Outside the cluster: what the policies name by address. */
export const PROVIDER = '198.18.1.10';
export const PROVIDER6 = 'fd00:18:1::10';
export const STRANGER = '198.18.1.20';
export const STRANGER6 = 'fd00:18:1::20';
export const RESOLVER = '198.18.1.54';
export const METADATA = '198.18.169.254';
/** A name that both resolvers know. */
export const NAME = 'provider.example';
/** A file of the provider that takes minutes. */
export const LARGE_FILE = 'prices';
const LARGE_FILE_BYTES = 2 ** 33;

export type Places = ReadonlyMap<string, Place>;

/** Makes the places of all pods, by `namespace/name`, and starts the servers. All of it is the lab's to remove. */
export async function buildWorld(lab: Lab, snapshot: Snapshot, folder: string): Promise<Places> {
  await lab.addOutside(PROVIDER, PROVIDER6, STRANGER, STRANGER6, RESOLVER, METADATA);
  const making = snapshot.pods.map(async (pod) => {
    const below = path.basename(pod.cgroup ?? pod.name);
    const place = await lab.workload(below, { addresses: [...pod.addresses, ...serviceAddresses(snapshot, pod)] });
    return [`${pod.namespace}/${pod.name}`, place] as const;
  });
  // All of them, before a failure is told: what is half made cannot be removed.
  const made = await Promise.allSettled(making);
  const places = new Map(made.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : [])));
  for (const one of made) if (one.status === 'rejected') throw one.reason;

  // In a cgroup, so that whatever they start ends with it. It is no pod's: `--unknown allow`.
  const outside = lab.placeIn(lab.outside.netns, lab.cgroup('outside'));
  const www = path.join(folder, 'www');
  mkdirSync(www);
  writeFileSync(path.join(www, 'index.html'), 'hello\n');
  writeFileSync(path.join(www, LARGE_FILE), '');
  truncateSync(path.join(www, LARGE_FILE), LARGE_FILE_BYTES);
  const web = [PROVIDER, `[${PROVIDER6}]`, STRANGER, `[${STRANGER6}]`, METADATA].map((address) => `${address}:80`);
  await Promise.all([
    nginx(outside, folder, web),
    nginx(placeOf(places, 'shop/cart'), folder, ['80', '8080', '9090']),
    nginx(placeOf(places, 'data/db'), folder, ['5432']),
    dnsmasq(outside, folder, [`--listen-address=${RESOLVER}`]),
    dnsmasq(placeOf(places, 'kube-system/dns'), folder, []),
  ]);
  return places;
}

export function placeOf(places: Places, pod: string): Place {
  const place = places.get(pod);
  if (place === undefined) throw new Error(`there is no Pod ${pod} in examples/`);
  return place;
}

/** What kube-proxy does elsewhere: a Service's address leads to the pod behind it. Here the pod has that address, too. */
function serviceAddresses(snapshot: Snapshot, pod: Pod): string[] {
  const isBehind = (service: Snapshot['services'][number]) =>
    snapshot.endpointSlices.some(
      (slice) =>
        slice.namespace === service.namespace &&
        slice.service === service.name &&
        slice.endpoints.some((one) => one.pod?.namespace === pod.namespace && one.pod.name === pod.name),
    );
  return snapshot.services.filter(isBehind).flatMap((service) => service.clusterIPs);
}

async function nginx(place: Place, folder: string, listen: readonly string[]): Promise<void> {
  const own = path.join(folder, `nginx-${place.name}`);
  mkdirSync(own);
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (use) => `${use}_temp_path ${own}/${use};`,
  );
  writeFileSync(
    path.join(own, 'nginx.conf'),
    `daemon off;
master_process off;
pid ${own}/pid;
error_log stderr error;
events { worker_connections 64; }
http {
  access_log off;
  ${temporary.join('\n  ')}
  server {
    ${listen.map((one) => `listen ${one};`).join('\n    ')}
    root ${folder}/www;
  }
}
`,
  );
  await started('nginx', place.spawn('/usr/sbin/nginx', ['-e', 'stderr', '-c', `${own}/nginx.conf`]), `${own}/pid`);
}

async function dnsmasq(place: Place, folder: string, args: readonly string[]): Promise<void> {
  const pidFile = path.join(folder, `dnsmasq-${place.name}.pid`);
  const plain = ['--keep-in-foreground', '--conf-file=/dev/null', '--no-resolv', '--no-hosts', '--bind-interfaces'];
  const own = [`--pid-file=${pidFile}`, '--user=root', '--log-facility=-', `--address=/${NAME}/${PROVIDER}`];
  await started('dnsmasq', place.spawn('/usr/sbin/dnsmasq', [...plain, ...own, ...args]), pidFile);
}

/** Both write their pid once they listen. */
async function started(name: string, child: ChildProcess, pidFile: string): Promise<void> {
  let told = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    told += text;
  });
  child.on('error', (error) => {
    told += error.message;
  });
  while (!existsSync(pidFile)) {
    await unlessInterrupted(pause(10));
    if (child.exitCode !== null || child.signalCode !== null) throw new Error(`${name} did not start: ${told}`);
  }
}
