// SPDX-License-Identifier: Apache-2.0
// `--resolver`, the same for whoever judges: which resolvers does the entity DNS mean beside those that are found by themselves?
import { isIP } from 'node:net';
import { InvalidArgumentError, Option } from 'commander';

export function resolverOption(): Option {
  return new Option(
    '--resolver <address>',
    "a resolver that the entity DNS means beside kube-system/kube-dns and this machine's resolv.conf, such as that of NodeLocal DNSCache; may be given several times",
  ).argParser((address: string, all: readonly string[] | undefined) => {
    if (isIP(address) === 0) throw new InvalidArgumentError('write an IP address, such as 169.254.20.10.');
    return [...(all ?? []), address];
  });
}
