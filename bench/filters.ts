// SPDX-License-Identifier: Apache-2.0
// The same allowlist as other filters are told it: nftables with sets, iptables with ipset. Each lets known connections pass
// first, as their manuals advise, and asks hashes before intervals. IPv4 and TCP only, which is all that is measured.

import type { Allowlist } from './policy.ts';

/** What a shell in the workload's network namespace runs, and its standard input. */
export interface Filter {
  readonly script: string;
  readonly input: string;
}

export function nftables(allowlist: Allowlist): Filter {
  const set = (name: string, flags: string, elements: readonly string[]): string =>
    `set ${name} { type ipv4_addr . inet_proto . inet_service; ${flags} elements = { ${elements.join(', ')} } }`;
  const { addresses, networks } = split(allowlist, (cidr, port) => `${cidr} . tcp . ${port}`);
  const input = [
    'table ip allowlist {',
    set('addresses', '', addresses),
    set('networks', 'flags interval;', networks),
    'chain output {',
    'type filter hook output priority filter; policy accept;',
    'ct state established,related accept',
    'oif lo accept',
    'ip daddr . ip protocol . th dport @addresses accept',
    'ip daddr . ip protocol . th dport @networks accept',
    'reject',
    '}',
    '}',
    '',
  ].join('\n');
  return { script: 'nft -f -', input };
}

/** Connection tracking alone, as a node has it on whose network something else needs it; allows everything. */
export function tracking(): Filter {
  const chain =
    'chain output { type filter hook output priority filter; policy accept; ct state established,related accept; }';
  return { script: 'nft -f -', input: `table ip tracking { ${chain}; }\n` };
}

export function ipset(allowlist: Allowlist): Filter {
  const { addresses, networks } = split(allowlist, (cidr, port) => `${cidr},tcp:${port}`);
  const set = (name: string, type: string, elements: readonly string[]): string[] => [
    `create ${name} ${type} maxelem ${Math.max(65_536, elements.length)}`,
    ...elements.map((element) => `add ${name} ${element}`),
  ];
  return {
    script: [
      'ipset restore',
      'iptables -A OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT',
      'iptables -A OUTPUT -o lo -j ACCEPT',
      'iptables -A OUTPUT -m set --match-set addresses dst,dst -j ACCEPT',
      'iptables -A OUTPUT -m set --match-set networks dst,dst -j ACCEPT',
      'iptables -A OUTPUT -j REJECT',
    ].join(' && '),
    input: `${[...set('addresses', 'hash:ip,port', addresses), ...set('networks', 'hash:net,port', networks)].join('\n')}\n`,
  };
}

/** Single addresses, whose prefix length is left out, and all others. */
function split(
  { rules }: Allowlist,
  element: (cidr: string, port: number) => string,
): { addresses: string[]; networks: string[] } {
  const all = rules.flatMap(({ port, cidrs }) => cidrs.map((cidr) => ({ port, cidr })));
  const single = ({ cidr }: { cidr: string }): boolean => cidr.endsWith('/32');
  return {
    addresses: all.filter(single).map(({ port, cidr }) => element(cidr.slice(0, -'/32'.length), port)),
    networks: all.filter((each) => !single(each)).map(({ port, cidr }) => element(cidr, port)),
  };
}
