// SPDX-License-Identifier: Apache-2.0
// coordination.k8s.io/v1 Leases as they are read and written. Knows no meaning of any.
import { ask, type Clock, isRecord, type KubeApi, type Reply } from './api.ts';

export interface Lease {
  readonly name: string;
  readonly resourceVersion: string;
  readonly holder: string;
  readonly durationSeconds: number;
  /** RFC 3339 with microseconds, by its holder's clock. */
  readonly renewTime: string;
  readonly acquireTime: string;
  readonly transitions: number;
  readonly annotations: Readonly<Record<string, string>>;
  readonly labels: Readonly<Record<string, string>>;
}

/** metav1.MicroTime. */
export function microTime(nowMs: number): string {
  return new Date(nowMs).toISOString().replace('Z', '000Z');
}

export function leasePath(namespace: string, name?: string): string {
  const all = `/apis/coordination.k8s.io/v1/namespaces/${encodeURIComponent(namespace)}/leases`;
  return name === undefined ? all : `${all}/${encodeURIComponent(name)}`;
}

/** Total: fields that are not there are empty. null: no object with a name. */
export function readLease(value: unknown): Lease | null {
  if (!isRecord(value)) return null;
  const metadata = isRecord(value.metadata) ? value.metadata : {};
  const spec = isRecord(value.spec) ? value.spec : {};
  if (typeof metadata.name !== 'string') return null;
  return {
    name: metadata.name,
    resourceVersion: text(metadata.resourceVersion),
    holder: text(spec.holderIdentity),
    durationSeconds: typeof spec.leaseDurationSeconds === 'number' ? spec.leaseDurationSeconds : 0,
    renewTime: text(spec.renewTime),
    acquireTime: text(spec.acquireTime),
    transitions: typeof spec.leaseTransitions === 'number' ? spec.leaseTransitions : 0,
    annotations: isRecord(metadata.annotations) ? (metadata.annotations as Record<string, string>) : {},
    labels: isRecord(metadata.labels) ? (metadata.labels as Record<string, string>) : {},
  };
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

/**
 * Since when a holder has not been heard of, by this machine's clock alone: what counts is when a renewal was first seen here
 * (client-go's leaderelection does the same), so that no two clocks need agree. A Lease that is seen for the first time counts
 * as renewed now.
 */
export class Freshness {
  readonly #clock: Clock;
  readonly #seen = new Map<string, { readonly renewal: string; readonly atMs: number }>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  note(lease: Lease): void {
    const renewal = `${lease.holder} ${lease.renewTime}`;
    if (this.#seen.get(lease.name)?.renewal === renewal) return;
    this.#seen.set(lease.name, { renewal, atMs: this.#clock.now() });
  }

  /** Not renewed for longer than it says. */
  isExpired({ name, durationSeconds }: Lease): boolean {
    return this.silentMs(name) > durationSeconds * 1000;
  }

  silentMs(name: string): number {
    const seen = this.#seen.get(name);
    return seen === undefined ? 0 : this.#clock.now() - seen.atMs;
  }

  forget(name: string): void {
    this.#seen.delete(name);
  }
}

/** Creates a Lease, or replaces exactly the version `before` of it: 409 where somebody else was first. */
export function putLease(
  api: KubeApi,
  namespace: string,
  name: string,
  spec: Readonly<Record<string, unknown>>,
  before: Lease | null,
): Promise<Reply> {
  const metadata = {
    ...{ name, namespace },
    ...(before === null
      ? {}
      : { resourceVersion: before.resourceVersion, annotations: before.annotations, labels: before.labels }),
  };
  const body = { apiVersion: 'coordination.k8s.io/v1', kind: 'Lease', metadata, spec };
  return before === null
    ? ask(api, 'POST', leasePath(namespace), { body })
    : ask(api, 'PUT', leasePath(namespace, name), { body });
}
