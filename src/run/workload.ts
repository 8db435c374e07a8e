// SPDX-License-Identifier: Apache-2.0
// What do policy files mean for one command on a machine without a cluster? A snapshot of one workload that every policy selects.
// Pure: knows neither the kernel nor the command.
import type { Host, Peer, Pod, Policy, Problem, Snapshot } from '../model/objects.ts';
import { readDocuments, type SourceFile } from '../parse/document.ts';

export const NAMESPACE = 'run';

export interface RunPolicies {
  readonly policies: readonly Policy[];
  readonly problems: readonly Problem[];
  /** Sentences for the user: what has no meaning here, each once. */
  readonly notes: readonly string[];
}

/**
 * Reads EgressPolicy and NetworkPolicy documents. Their subjects are replaced: every policy selects the command. Namespaces and
 * names stay as written, since verdicts name them. `audit`: every mode becomes Audit.
 */
export function runPolicies(files: readonly SourceFile[], audit: boolean): RunPolicies {
  const problems: Problem[] = [];
  const notes = new Set<string>();
  const policies = new Map<string, Policy>();
  for (const file of files) {
    const documents = readDocuments(file);
    if (documents.length === 0) notes.add(`${file.path} holds no policy`);
    for (const document of documents) {
      problems.push(...document.problems);
      const { kind, key, position } = document;
      if (kind === 'NetworkPolicy' || kind === 'EgressPolicy') {
        if (key !== null && policies.has(key)) {
          problems.push(
            problemAt(position, key, 'duplicate_object', 'the same object is there twice', 'keep one of them'),
          );
        } else if (document.value !== null && key !== null) {
          policies.set(key, forCommand(document.value, audit));
        } else if (document.valid && kind === 'NetworkPolicy') {
          notes.add(`${key} has no Egress in its policyTypes: it does nothing here`);
        }
      } else if (document.valid) {
        const what = kind ?? 'this document';
        problems.push(
          problemAt(
            position,
            key,
            'kind_not_here',
            `${what} has no meaning for one command`,
            'write an EgressPolicy or a NetworkPolicy, or remove it',
          ),
        );
      }
    }
  }
  if (files.length === 0) policies.set('', nothingAllowed(audit));
  for (const policy of policies.values()) for (const note of clusterNotes(policy)) notes.add(note);
  return { policies: [...policies.values()], problems, notes: [...notes] };
}

/** Without a policy nothing is allowed; with --audit everything is reported. */
function nothingAllowed(audit: boolean): Policy {
  return {
    kind: 'EgressPolicy',
    namespace: NAMESPACE,
    name: 'nothing-allowed',
    subject: EVERYONE,
    effect: 'Isolate',
    priority: 0,
    mode: audit ? 'Audit' : 'Enforce',
    onDeny: 'Reject',
    hostNetwork: true,
    rules: [],
  };
}

const EVERYTHING = { matchLabels: {}, matchExpressions: [] };
const EVERYONE: Policy['subject'] = {
  type: 'pods',
  pods: { namespaceSelector: EVERYTHING, podSelector: EVERYTHING },
  except: [],
};

function forCommand(policy: Policy, audit: boolean): Policy {
  return { ...policy, subject: EVERYONE, mode: audit ? 'Audit' : policy.mode };
}

/** The one workload, bound to `cgroup` (path below the cgroup2 mount). */
export function runSnapshot(policies: readonly Policy[], name: string, cgroup: string, host: Host): Snapshot {
  const pod: Pod = {
    namespace: NAMESPACE,
    name,
    uid: null,
    labels: {},
    node: null,
    // Not hostNetwork, though it is in the host's namespace: NetworkPolicy never holds such pods.
    hostNetwork: false,
    addresses: [],
    ports: [],
    ended: false,
    isStatic: false,
    cgroup,
  };
  const names = new Set([NAMESPACE, ...policies.map((one) => one.namespace).filter((one) => one !== null)]);
  const namespaces = [...names].sort().map((one) => ({ name: one, labels: { 'kubernetes.io/metadata.name': one } }));
  return {
    namespaces,
    nodes: [],
    pods: [pod],
    services: [],
    endpointSlices: [],
    policies,
    host: { ...host, node: null },
  };
}

/** Peers that need a cluster match nothing, and the user is told so (api.md, section 6). */
function clusterNotes(policy: Policy): string[] {
  const name = `${policy.kind}/${policy.namespace}/${policy.name}`;
  const notes: string[] = [];
  for (const [index, rule] of policy.rules.entries()) {
    const where = `${name}, rule ${rule.name ?? index}`;
    if (rule.notEnforced !== null) notes.push(`${where}: ${rule.notEnforced}; the rule allows nothing`);
    for (const peer of rule.peers) {
      const what = clusterPeer(peer);
      if (what !== null) notes.push(`${where}: ${what}`);
    }
    if (rule.ports?.some((port) => port.protocol !== 'ICMP' && typeof port.port === 'string')) {
      notes.push(`${where}: named ports need a cluster and match nothing here`);
    }
  }
  return notes;
}

function clusterPeer(peer: Peer): string | null {
  switch (peer.type) {
    case 'pods':
    case 'nodes':
    case 'services':
      return `the peer "${peer.type}" needs a cluster and matches nothing here`;
    case 'entities': {
      const needing = (list: readonly string[]) => list.filter((one) => one === 'Cluster' || one === 'KubeAPIServer');
      const named = needing(peer.entities);
      const excepted = needing(peer.except.entities);
      if (named.length > 0) return `${named.join(' and ')} need a cluster and match nothing here`;
      if (excepted.length > 0) return `${excepted.join(' and ')} in except need a cluster and take nothing away here`;
      return null;
    }
    default:
      return null;
  }
}

function problemAt(
  position: { readonly file: string; readonly line: number; readonly column: number },
  object: string | null,
  code: string,
  message: string,
  advice: string,
): Problem {
  return { severity: 'error', code, ...position, path: '', object, message, advice };
}
