// SPDX-License-Identifier: Apache-2.0
// Does a rule's `ports` hold a destination? By the text of networking/v1 NetworkPolicyPort; EgressPolicy takes it over and
// adds ICMP (api.md, section 2).
import { protocolOf } from './cluster.ts';
import type { Destination } from './destination.ts';
import type { Pod, Port, ServicePort } from './kubernetes.ts';

/** "If specified, only traffic on the specified protocol AND port will be matched." */
export function portMatches(port: Port, destination: Destination, pod: Pod | null): boolean {
  if (protocolOf(port) !== destination.protocol) return false;
  if (destination.protocol === 'ICMP') return icmpMatches(port, destination);
  return destination.port !== null && numberMatches(port, destination.port, pod);
}

/** api.md: `icmpType` absent: all. */
function icmpMatches(port: Port, destination: Destination): boolean {
  return (port.icmpType ?? null) === null || port.icmpType === destination.icmpType;
}

/** "port: … a numerical or named port on a pod. If this field is not provided, this matches all port names and numbers." */
function numberMatches(port: Port, number: number, pod: Pod | null): boolean {
  const wanted = port.port ?? null;
  if (wanted === null) return true;
  if (typeof wanted === 'string') return pod !== null && hasNamedPort(pod, wanted, protocolOf(port), number);
  return inRange(wanted, port.endPort ?? null, number);
}

/** "endPort indicates that the range of ports from port to endPort if set, inclusive, should be allowed by the policy." */
function inRange(first: number, end: number | null, number: number): boolean {
  return number >= first && number <= (end ?? first);
}

/** A named port is a container port of the destination pod with that name and protocol. What is no pod has none. */
function hasNamedPort(pod: Pod, name: string, protocol: string, number: number): boolean {
  return (pod.spec?.containers ?? []).some((container) =>
    (container.ports ?? []).some((p) => p.name === name && protocolOf(p) === protocol && p.containerPort === number),
  );
}

/** api.md, `services`: `ports` means the Service's own, by number or by name. */
export function servicePortMatches(port: Port, servicePort: ServicePort): boolean {
  if (protocolOf(port) !== protocolOf(servicePort)) return false;
  const wanted = port.port ?? null;
  if (wanted === null) return true;
  if (typeof wanted === 'string') return wanted === servicePort.name;
  return inRange(wanted, port.endPort ?? null, servicePort.port);
}
