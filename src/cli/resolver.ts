// SPDX-License-Identifier: Apache-2.0
// `--resolver` and `--cluster-domain`, the same for whoever judges: which resolvers does the entity DNS mean beside those that are found by
// themselves, and which names are the cluster's own?
import { isIP } from 'node:net';
import { InvalidArgumentError, Option } from 'commander';
import { CLUSTER_DOMAIN, WILDCARD } from '../model/name.ts';
import { asciiName } from '../validate/domain-name.ts';

export function resolverOption(): Option {
  return new Option(
    '--resolver <address>',
    "a resolver that the entity DNS means beside kube-system/kube-dns and this machine's resolv.conf, such as that of NodeLocal DNSCache; may be given several times",
  ).argParser((address: string, all: readonly string[] | undefined) => {
    if (isIP(address) === 0) throw new InvalidArgumentError('write an IP address, such as 169.254.20.10.');
    return [...(all ?? []), address];
  });
}

export function clusterDomainOption(): Option {
  return new Option(
    '--cluster-domain <name>',
    "the zone of the cluster's own names, kubelet's clusterDomain: with `dns.queries: AllowedNamesOnly`, too, they may be asked",
  )
    .default(CLUSTER_DOMAIN)
    .argParser((text: string) => {
      const name = asciiName(text);
      if (name === null || name.startsWith(WILDCARD)) {
        throw new InvalidArgumentError('write a domain name, such as cluster.local.');
      }
      return name;
    });
}
