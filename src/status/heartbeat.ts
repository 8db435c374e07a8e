// SPDX-License-Identifier: Apache-2.0
// This node's own Lease: says at a fixed rate that its agent lives, and what it enforces. The rate does not depend on what happens.
import { ask, type Clock, type KubeApi } from './api.ts';
import { leasePath, microTime } from './lease.ts';
import { encodeReport, type NodeReport, REPORT_ANNOTATION } from './report.ts';

/** Leases of nodes, among the others of the namespace. */
export const NODE_LABEL = 'postern.dev/node';

export interface HeartbeatOptions {
  readonly api: KubeApi;
  readonly clock: Clock;
  readonly namespace: string;
  readonly node: string;
}

export function nodeLeaseName(node: string): string {
  return `postern-${node}`;
}

/**
 * Between two renewals, for a cluster of so many nodes: all agents together write some 160 times a second at most, a third of
 * what kubelets do. The Lease itself says how long it holds, so readers need not know.
 */
export function renewMs(nodes: number): number {
  return Math.min(Math.max(10_000, nodes * 6), 60_000);
}

export class Heartbeat {
  readonly #options: HeartbeatOptions;
  #failure: string | null = null;

  constructor(options: HeartbeatOptions) {
    this.#options = options;
  }

  get failure(): string | null {
    return this.#failure;
  }

  /** Renews the Lease, or makes it. Its only writer is this agent, so no version is named. */
  async beat(report: NodeReport, nodes: number): Promise<void> {
    const { api, clock, namespace, node } = this.#options;
    const name = nodeLeaseName(node);
    const durationSeconds = Math.ceil((4 * renewMs(nodes)) / 1000);
    const metadata = {
      labels: { [NODE_LABEL]: labelValue(node) },
      annotations: { [REPORT_ANNOTATION]: encodeReport(report) },
    };
    const spec = { holderIdentity: node, leaseDurationSeconds: durationSeconds, renewTime: microTime(clock.now()) };
    let reply = await ask(api, 'PATCH', leasePath(namespace, name), { body: { metadata, spec } });
    if (!reply.ok && reply.status === 404) {
      const made = {
        apiVersion: 'coordination.k8s.io/v1',
        kind: 'Lease',
        metadata: { ...metadata, name, namespace },
        spec,
      };
      reply = await ask(api, 'POST', leasePath(namespace), { body: made });
    }
    this.#failure = reply.ok ? null : reply.message;
  }
}

/** Names of nodes may be longer than values of labels, which are for selecting alone here. */
function labelValue(node: string): string {
  return node.length <= 63 ? node : `${node.slice(0, 62)}x`;
}
