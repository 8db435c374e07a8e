// SPDX-License-Identifier: Apache-2.0
// Are the addresses of a Pod, Node, Service or EndpointSlice addresses? In a cluster machines write them; in a folder people do, and what
// is none is left out: then traffic to it is a stranger's.
import { addressKey } from '../model/address.ts';
import type { Path } from '../yaml/documents.ts';
import { readCidr } from './cidr.ts';
import { doubtful, type Finding, quote } from './finding.ts';
import { isObject, type Kind } from './kind.ts';

/** A warning for each text that stands where an address or a podCIDR should, and is none. Types are checkTypes' affair. */
export function checkAddresses(kind: Kind, object: Readonly<Record<string, unknown>>): Finding[] {
  switch (kind) {
    case 'Pod':
      return [...asAddress(object, ['status', 'podIP']), ...each(object, ['status', 'podIPs'], ['ip'])];
    case 'Node': {
      const cidrs = [['spec', 'podCIDR'], ...paths(object, ['spec', 'podCIDRs'])].flatMap((at) => asCidr(object, at));
      // The others are names (core/v1, NodeAddressType).
      const ips = paths(object, ['status', 'addresses']).filter((at) =>
        /IP$/.test(textAt(object, [...at, 'type']) ?? ''),
      );
      return [...cidrs, ...ips.flatMap((at) => asAddress(object, [...at, 'address']))];
    }
    case 'Service': {
      if (textAt(object, ['spec', 'type']) === 'ExternalName') return [];
      return [['spec', 'clusterIP'], ...paths(object, ['spec', 'clusterIPs'])]
        .filter((at) => textAt(object, at) !== 'None')
        .flatMap((at) => asAddress(object, at));
    }
    case 'EndpointSlice': {
      if (textAt(object, ['addressType']) === 'FQDN') return [];
      return paths(object, ['endpoints']).flatMap((at) => each(object, [...at, 'addresses'], []));
    }
    default:
      return [];
  }
}

function each(object: unknown, list: Path, field: Path): Finding[] {
  return paths(object, list).flatMap((at) => asAddress(object, [...at, ...field]));
}

/** The paths of a list's items. */
function paths(object: unknown, list: Path): Path[] {
  const value = valueAt(object, list);
  return Array.isArray(value) ? value.map((_, i) => [...list, i]) : [];
}

function asAddress(object: unknown, at: Path): Finding[] {
  const text = textAt(object, at);
  if (text === null || addressKey(text) !== null) return [];
  const advice = 'write an IPv4 or IPv6 address, without a prefix length';
  return [doubtful('address', at, `${quote(text)} is no address: it is left out`, advice)];
}

function asCidr(object: unknown, at: Path): Finding[] {
  const text = textAt(object, at);
  if (text === null || readCidr(text) !== null) return [];
  const advice = 'write an address and a prefix length, such as 10.0.0.0/8';
  return [doubtful('address', at, `${quote(text)} is no CIDR: it is left out`, advice)];
}

/** null where there is no text, or an empty one, which stands for absent in Kubernetes. */
function textAt(object: unknown, at: Path): string | null {
  const value = valueAt(object, at);
  return typeof value === 'string' && value !== '' ? value : null;
}

function valueAt(object: unknown, at: Path): unknown {
  let value = object;
  for (const step of at) {
    if (typeof step === 'number') value = Array.isArray(value) ? value[step] : undefined;
    else value = isObject(value) && Object.hasOwn(value, step) ? value[step] : undefined;
  }
  return value;
}
