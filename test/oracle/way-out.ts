// SPDX-License-Identifier: Apache-2.0
// What becomes of a packet on a workload's way out, by docs/reasons.md and docs/limits.md? At the socket's side (egress,
// ingress) and at the interface (out, in), with what each remembers. Knows none of the product's code; policy is asked of its caller.
import { type Datagram, type Defect, type Ends, icmpKind, isIcmp, quotedEnds, readPacket, text } from './packet.ts';

export interface Outcome {
  readonly verdict: 'allow' | 'audit' | 'deny';
  readonly reason: string;
  readonly rule: number | null;
}

/** How the workload is held: by its policy, by one that is silent or only audits, by none; `unknown`: nobody knows whose it is. */
export type Hold = 'enforced' | 'silent' | 'audit' | 'none' | 'unknown_denied' | 'unknown_allowed';

export interface Workload {
  readonly hold: Hold;
  /** The number of the rule that allows it; null: none does. `port`: of ICMP its kind, of what has neither null. */
  readonly allows: (destination: string, protocol: number | 'ICMP', port: number | string | null) => number | null;
  /** Its own addresses. */
  readonly own: ReadonlySet<string>;
  /** What it may send from at its interface. */
  readonly sources: ReadonlySet<string>;
  /** The Ethernet address of its interface; null: not known. */
  readonly hardware: string | null;
  readonly mostFlows: number;
  readonly mostFragments: number;
}

const UNSPECIFIED = '\0'.repeat(16);
const isLoopback = (address: string) =>
  address.length === 4 ? address.startsWith('\x7f') : address === `${'\0'.repeat(15)}\x01`;
const isLinkLocal = (address: string) =>
  address.length === 16 && address.charCodeAt(0) === 0xfe && (address.charCodeAt(1) & 0xc0) === 0x80;
const isLinkMulticast = (address: string) => address.length === 16 && address.startsWith('\xff\x02');

/** The oldest goes when there are too many; what is there keeps its place. */
class Budget<Value> {
  readonly #most: number;
  readonly #kept = new Map<string, Value>();

  constructor(most: number) {
    this.#most = most;
  }

  get(key: string): Value | undefined {
    return this.#kept.get(key);
  }

  keep(key: string, value: Value): void {
    if (!this.#kept.has(key) && this.#kept.size === this.#most) {
      const [oldest] = this.#kept.keys();
      if (oldest !== undefined) this.#kept.delete(oldest);
    }
    this.#kept.set(key, value);
  }
}

const flowKey = ({ source, destination, protocol, sourcePort, destinationPort }: Ends) =>
  `${source}|${destination}|${protocol}|${sourcePort}|${destinationPort}`;
const turned = (ends: Ends): Ends => ({
  source: ends.destination,
  destination: ends.source,
  protocol: ends.protocol,
  sourcePort: ends.destinationPort,
  destinationPort: ends.sourcePort,
});

/** Of ICMP only echoes have any. */
function endsOf(datagram: Datagram): Ends {
  const { source, destination, protocol, upper, family } = datagram;
  const ends = { source, destination, protocol, sourcePort: 0, destinationPort: 0 };
  if (upper === null) return ends;
  if (!isIcmp(datagram)) return { ...ends, sourcePort: upper.sourcePort, destinationPort: upper.destinationPort };
  if (!icmpKind(family, upper.message).startsWith('Echo')) return ends;
  const id = ((upper.message[4] ?? 0) << 8) | (upper.message[5] ?? 0);
  return { ...ends, sourcePort: id, destinationPort: id };
}

const TCP = 6;
const UDP = 17;

/** ff02::16 */
const MLDV2_ROUTERS = `\xff\x02${'\0'.repeat(13)}\x16`;
/** IEEE 802.3: what is shorter is filled up. */
const SHORTEST_FRAME = 46;

/** A frame may hold no more than its datagram. */
function isFilled(etherType: number, bytes: Uint8Array): boolean {
  const u16 = (at: number) => ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
  const claimed = etherType === 0x0800 ? u16(2) : 40 + u16(4);
  const isSaid = etherType === 0x0800 ? claimed > 0 : claimed > 40;
  return isSaid && bytes.length > SHORTEST_FRAME && claimed < bytes.length;
}

/** RFC 4861, RFC 2710 and RFC 3810: what a link needs; RFC 6980: never in fragments. */
function isNeighbourDiscovery({ family, protocol, piece, upper, hopLimit, destination }: Datagram): boolean {
  if (family !== 6 || protocol !== 58 || piece !== null || upper === null) return false;
  const [type = 0, code] = upper.message;
  const { length } = upper.message;
  const onLink = isLinkMulticast(destination);
  if (type === 131 || type === 132) return hopLimit === 1 && onLink && length <= 24;
  if (type === 143) return hopLimit === 1 && destination === MLDV2_ROUTERS;
  if ((type !== 133 && type !== 135 && type !== 136) || code !== 0 || hopLimit !== 255) return false;
  /* RFC 7527: a nonce, too. To one neighbour elsewhere: the message and one option, no more. */
  return onLink || isLinkLocal(destination) ? length <= 40 : type !== 133 && length <= 32;
}

export class WayOut {
  readonly #held: Workload;
  readonly #flows: Budget<'asked here' | 'asked from outside'>;
  readonly #fragments: Budget<{ headerEnd: number; outcome: Outcome }>;

  constructor(workload: Workload) {
    this.#held = workload;
    this.#flows = new Budget(workload.mostFlows);
    this.#fragments = new Budget(workload.mostFragments);
  }

  get #hasPolicy(): boolean {
    return ['enforced', 'silent', 'audit'].includes(this.#held.hold);
  }

  #allow(reason: string, rule: number | null = null): Outcome {
    return { verdict: 'allow', reason, rule };
  }

  /** A workload without policy is refused nothing; one that is only audited is told of it. */
  #refuse(reason: string): Outcome {
    if (this.#held.hold === 'none') return this.#allow('not_isolated');
    return { verdict: this.#held.hold === 'audit' ? 'audit' : 'deny', reason, rule: null };
  }

  #unknown(read: Datagram | Defect | 'vlan_tagged' | 'not_ip', leaves: boolean): Outcome {
    if (this.#held.hold === 'unknown_allowed') return this.#allow('unknown_allowed');
    if (typeof read === 'string') return { verdict: 'deny', reason: read, rule: null };
    if (isLoopback(read.destination) && !leaves) return this.#allow('loopback');
    if (isNeighbourDiscovery(read)) return this.#allow('neighbour_discovery');
    return { verdict: 'deny', reason: 'unknown_workload', rule: null };
  }

  /** `leaves`: by an interface, where nothing is the loopback's and nobody is oneself. */
  #judge(datagram: Datagram, leaves: boolean): Outcome {
    const { source, destination, upper, family, protocol } = datagram;
    const { own, allows, hold } = this.#held;
    const toOneself = isLoopback(destination) || own.has(destination);
    if (family === 6 && toOneself && source !== UNSPECIFIED && !isLoopback(source) && !own.has(source))
      return this.#refuse('spoofed_source');
    if (isLoopback(destination) && !leaves) return this.#allow('loopback');
    const rule =
      upper !== null && isIcmp(datagram)
        ? allows(destination, 'ICMP', icmpKind(family, upper.message))
        : allows(destination, protocol, upper?.destinationPort ?? null);
    if (rule !== null)
      return hold === 'enforced' || hold === 'silent' ? this.#allow('rule', rule) : this.#allow('not_isolated');
    if (!leaves && own.has(destination) && hold !== 'none')
      return this.#allow(hold === 'audit' ? 'not_isolated' : 'self');
    return this.#refuse('no_rule');
  }

  #fragmentKey({ source, destination, piece }: Datagram): string {
    return `${source}|${destination}|${piece?.header}|${piece?.id}`;
  }

  #laterFragment(datagram: Datagram, leaves: boolean): Outcome {
    if (isLoopback(datagram.destination) && !leaves) return this.#allow('loopback');
    const first = this.#fragments.get(this.#fragmentKey(datagram));
    if (first === undefined) return this.#refuse('fragment_untracked');
    if ((datagram.piece?.offset ?? 0) < first.headerEnd) return this.#refuse('fragment_tiny');
    return first.outcome.verdict === 'audit' ? first.outcome : this.#allow('fragment');
  }

  #icmp(datagram: Datagram, leaves: boolean): Outcome {
    const { family, upper, destination, piece } = datagram;
    if (isNeighbourDiscovery(datagram)) return this.#allow('neighbour_discovery');
    const message = upper?.message ?? new Uint8Array();
    const kind = icmpKind(family, message);
    if (kind === 'EchoAnswer' && this.#flows.get(flowKey(turned(endsOf(datagram)))) !== undefined)
      return this.#allow('reply');
    if (!kind.startsWith('Echo') && kind !== 'Other' && piece === null) {
      const about = quotedEnds(family, message);
      /* What it is about was sent by whom it is told, to the one who tells it. No TCP connection exists here. */
      if (about !== null && about.source === destination && about.protocol !== TCP && this.#knows(about))
        return this.#allow('icmp_error');
    }
    return this.#judge(datagram, leaves);
  }

  #knows(asked: Ends): boolean {
    return this.#flows.get(flowKey(asked)) !== undefined;
  }

  #keepFirst(datagram: Datagram, outcome: Outcome): Outcome {
    if (datagram.piece?.isFirst && outcome.verdict !== 'deny' && this.#hasPolicy)
      this.#fragments.keep(this.#fragmentKey(datagram), { headerEnd: datagram.headerEnd, outcome });
    return outcome;
  }

  /** What a socket of the workload's sends. */
  egress(etherType: number, packet: Uint8Array, isOffloaded: boolean): Outcome {
    const read = readPacket(etherType, packet, isOffloaded);
    if (this.#held.hold.startsWith('unknown')) return this.#unknown(read, false);
    if (typeof read === 'string') return this.#refuse(read);
    if (read.upper === null) return this.#laterFragment(read, false);
    if (isIcmp(read)) return this.#keepFirst(read, this.#icmp(read, false));
    if (read.protocol === UDP && read.piece === null && this.#knows(turned(endsOf(read)))) return this.#allow('reply');
    return this.#keepFirst(read, this.#judge(read, false));
  }

  #note(datagram: Datagram): void {
    const key = flowKey(endsOf(datagram));
    if (this.#flows.get(key) === undefined) this.#flows.keep(key, 'asked from outside');
  }

  /** What a socket of the workload's is sent. */
  ingress(etherType: number, packet: Uint8Array, isOffloaded: boolean): void {
    const read = readPacket(etherType, packet, isOffloaded);
    if (typeof read === 'string' || read.upper === null || read.piece !== null || !this.#hasPolicy) return;
    if (isLoopback(read.source)) return;
    if (read.protocol === UDP || (isIcmp(read) && icmpKind(read.family, read.upper.message) === 'EchoRequest'))
      this.#note(read);
  }

  /** What comes to the workload's interface. */
  in(frame: Uint8Array, isOffloaded: boolean): void {
    const read = readPacket(((frame[12] ?? 0) << 8) | (frame[13] ?? 0), frame.subarray(14), isOffloaded);
    if (typeof read === 'string' || read.upper === null || !this.#hasPolicy) return;
    const isAsking = isIcmp(read)
      ? icmpKind(read.family, read.upper.message) === 'EchoRequest'
      : read.protocol === UDP || (read.protocol === TCP && read.upper.isSyn && !read.upper.isAck);
    if (isAsking) this.#note(read);
  }

  /** RFC 826 and RFC 5227. */
  #arp(bytes: Uint8Array): Outcome {
    if (bytes.length < 28) return this.#refuse('truncated_header');
    if (bytes.length > SHORTEST_FRAME) return this.#refuse('bad_length');
    const [, hardware, protocolHigh, protocolLow, hardwareBytes, protocolBytes, , operation] = bytes;
    const isKnown = bytes[0] === 0 && hardware === 1 && protocolHigh === 8 && protocolLow === 0;
    if (!isKnown || hardwareBytes !== 6 || protocolBytes !== 4) return this.#refuse('spoofed_arp');
    const sender = text(bytes.subarray(14, 18));
    const isProbe = sender === '\0\0\0\0' && bytes[6] === 0 && operation === 1;
    return isProbe || this.#held.sources.has(sender) ? this.#allow('neighbour_discovery') : this.#refuse('spoofed_arp');
  }

  /** RFC 4861: routers advertise and redirect; an advertisement, or a question from nobody, speaks for its target. */
  #neighbourDefect({ upper, source }: Datagram): string | null {
    const { message } = upper ?? { message: new Uint8Array() };
    const [type] = message;
    if (type === 134 || type === 137) return 'spoofed_neighbour';
    if (type !== 136 && !(type === 135 && source === UNSPECIFIED)) return null;
    if (message.length < 24) return 'truncated_header';
    return this.#held.sources.has(text(message.subarray(8, 24))) ? null : 'spoofed_neighbour';
  }

  #isForeignSource(datagram: Datagram): boolean {
    const { source, destination } = datagram;
    if (source === UNSPECIFIED) return !isNeighbourDiscovery(datagram);
    if (!this.#held.sources.has(source)) return true;
    if (!isLinkLocal(source) || isLinkLocal(destination) || isLinkMulticast(destination)) return false;
    /* RFC 4861, 7.1: with a hop limit of 255 it comes from the link, and stays there. */
    return !isNeighbourDiscovery(datagram);
  }

  /** What comes out of the workload's interface. */
  out(frame: Uint8Array, isOffloaded: boolean): Outcome {
    const etherType = ((frame[12] ?? 0) << 8) | (frame[13] ?? 0);
    const bytes = frame.subarray(14);
    const isTagged = etherType === 0x8100 || etherType === 0x88a8;
    const isIp = etherType === 0x0800 || etherType === 0x86dd;
    const found = isTagged ? 'vlan_tagged' : isIp ? readPacket(etherType, bytes, isOffloaded) : 'not_ip';
    const read = typeof found !== 'string' && isFilled(etherType, bytes) ? 'bad_length' : found;
    if (this.#held.hold.startsWith('unknown')) {
      const isArp = etherType === 0x0806 && this.#held.hold === 'unknown_denied';
      return isArp ? this.#allow('neighbour_discovery') : this.#unknown(read, true);
    }
    const { hardware } = this.#held;
    if (hardware !== null && text(frame.subarray(6, 12)) !== hardware) {
      const refused = this.#refuse('spoofed_hardware_address');
      /* Where it is only audited, what follows a first fragment is told as the first was. */
      return typeof read === 'string' ? refused : this.#keepFirst(read, refused);
    }
    if (etherType === 0x0806) return this.#arp(bytes);
    if (typeof read === 'string') return this.#refuse(read);
    const defect = this.#isForeignSource(read)
      ? 'spoofed_source'
      : read.family === 6 && isIcmp(read) && read.upper !== null
        ? this.#neighbourDefect(read)
        : null;
    if (defect !== null) return this.#keepFirst(read, this.#refuse(defect));
    if (read.upper === null) return this.#laterFragment(read, true);
    if (isIcmp(read)) return this.#keepFirst(read, this.#icmp(read, true));
    return this.#keepFirst(read, this.#outTransport(read));
  }

  #outTransport(datagram: Datagram): Outcome {
    const key = flowKey(turned(endsOf(datagram)));
    const { upper, protocol } = datagram;
    const begins = protocol === TCP && upper?.isSyn && !upper.isAck;
    if ((protocol === TCP || protocol === UDP) && !begins && this.#flows.get(key) === 'asked from outside')
      return this.#allow('reply');
    const outcome = this.#judge(datagram, true);
    if (protocol === UDP && outcome.verdict !== 'deny' && this.#hasPolicy) this.#flows.keep(key, 'asked here');
    return outcome;
  }
}
