// SPDX-License-Identifier: Apache-2.0
// The native boundary: what the addon exports, as types, and the one place where it is loaded and its errors converted.
// Buffers are laid out as bpf/abi.h says; null, never undefined, crosses.

import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

/** As the kernel tells of a link. */
export interface LinkInfo {
  readonly id: number;
  /** enum bpf_link_type: 3 cgroup, 11 tcx. */
  readonly type: number;
  /** Id of its program. */
  readonly program: number;
  /** cgroup2 id; 0n: another kind of link, or it was detached. */
  readonly cgroup: bigint;
  /** Of tcx; 0: another kind of link, or the interface is gone. */
  readonly ifindex: number;
  /** enum bpf_attach_type. */
  readonly attachType: number;
}

/** As the kernel tells of a program. */
export interface ProgramInfo {
  readonly id: number;
  /** enum bpf_prog_type. */
  readonly type: number;
  /** The first 15 bytes of its name. */
  readonly name: string;
  /** A hash of its instructions, in hex; maps and constants are not in it. */
  readonly tag: string;
  /** When it was loaded: ns since boot. */
  readonly loadedNs: bigint;
  /** Ids of the maps that it uses, that of its constants included. */
  readonly mapIds: readonly number[];
  /** The same by name, its constants left out; null without CAP_SYS_ADMIN. */
  readonly maps: Readonly<Record<string, number>> | null;
  /** What its constants hold; null without CAP_SYS_ADMIN. */
  readonly constants: Buffer | null;
}

/** `type` of a map: linux/bpf.h. */
export const BPF_MAP_TYPE_LPM_TRIE = 11;

export interface Page {
  readonly keys: Buffer;
  readonly values: Buffer;
  readonly count: number;
  readonly next: Buffer | null;
}

/** A loaded object: its maps and programs. Closing it closes every descriptor and link that was not pinned. */
export interface NativeObject {
  /** Maps of the object by name. */
  maps(): Record<string, { type: number; keySize: number; valueSize: number; maxEntries: number; flags: number }>;
  programs(): string[];
  /**
   * Batch where the kernel has it for this map type, else one by one. `flags`: 0 any, 1 noexist, 2 exist, 4 in
   * place (BPF_F_LOCK, for values that hold a bpf_spin_lock). Throws at the first failure, with what came before it written. Sizes that are not the map's own: EINVAL, and nothing is written.
   */
  update(map: string, keys: Buffer, values: Buffer, count: number, flags: number): void;
  /** For per-CPU maps: the values of all possible CPUs, one after another. */
  lookup(map: string, key: Buffer): Buffer | null;
  /** Keys that are absent are passed over. Returns how many were there. */
  remove(map: string, keys: Buffer, count: number): number;
  /** Values of these keys, in their order; of those that are absent zeroes, and a 0 in `areThere`, which has a byte for each. */
  findAll(map: string, keys: Buffer, count: number): { values: Buffer; areThere: Buffer };
  dump(map: string): { keys: Buffer; values: Buffer; count: number };
  /**
   * A part of what `dump` gives: about `room` elements. `place`: null for the first part, then what `next` was of the part before; `next`
   * null: there are no more. Of a hash, what is in it from the first part to the last comes exactly once, whatever else is written
   * meanwhile; of a trie only where nothing is.
   */
  readPage(map: string, place: Buffer | null, room: number): Page;
  /**
   * Returns after every program that was running when it was called has ended (an RCU grace period, 8 to 16 ms, in which
   * Node's loop stands still). Needs the object's map `grace`.
   */
  waitForPrograms(): void;
  /** The same without holding up Node's loop: resolves when they have ended, also where the object is closed meanwhile. Rejects with KernelError. */
  programsEnded(): Promise<void>;
  /** Attaches a cgroup program (its attach type is the section's). Returns a link number for `detach`. */
  attachCgroup(program: string, cgroupPath: string): number;
  /**
   * Attaches a sched_cls program by tcx to an interface of this process's network namespace, before whatever is attached there.
   * Resolves with a link number, for `releaseLink`: the kernel waits for running programs meanwhile, with its routing lock held.
   * Rejects with KernelError. EINVAL: this kernel has no tcx (Linux 6.6); ENODEV: the interface is gone.
   */
  attachTcx(program: string, ifindex: number, side: Side): Promise<number>;
  /** Where such a link is now: ifindex 0 once its interface is gone; and the program's id. */
  tcxPlace(link: number): { ifindex: number; program: number };
  /** The same by a filter of clsact, of priority 1, which replaces ours. It outlives this process. Whether clsact was not there before. */
  attachClsact(program: string, ifindex: number, side: Side): Promise<boolean>;
  /** Ends a link, as `detach` does, without keeping Node's loop waiting. ENOENT at once: there is none of this number. */
  releaseLink(link: number): Promise<void>;
  /** Lets go of it: what is not pinned is detached. */
  detach(link: number): void;
  /** BPF_PROG_TEST_RUN. `retval` is the program's, `durationNs` the mean of the repeats. */
  testRun(program: string, packet: Buffer, repeat: number): { retval: number; durationNs: number };
  /**
   * Calls back on Node's loop with each record of the ring buffer; one reader a map (EBUSY). Keeps the process alive until it is
   * stopped. At most 1,024 records leave the ring buffer before the loop gets its turn; what no longer fits, the kernel counts.
   */
  readEvents(map: string, onEvent: (event: Buffer) => void): void;
  /** What was read but not yet told is told before this returns; without a reader it does nothing. */
  stopEvents(map: string): void;
  /** Everything in the ring buffer now, at once (for tests and the last read before exit). */
  drainEvents(map: string, onEvent: (event: Buffer) => void): number;
  close(): void;
}

/** What outlives the process that loaded it, by pins below a folder of bpffs. */
export interface LoadedObject extends NativeObject {
  /** Of each map, by name. */
  mapIds(): Record<string, number>;
  /** Of each map, by name: type, sizes, flags and every field of key and value, as text; equal text, equal meaning. */
  layouts(): Record<string, string>;
  /** The map then outlives this process, until the file is removed; so does a link. Throws EEXIST where something is there. */
  pinMap(map: string, path: string): void;
  pinLink(link: number, path: string): void;
  pinProgram(program: string, path: string): void;
  /** Opens a pinned link. Returns its number here. */
  openLink(path: string): number;
  link(link: number): LinkInfo;
  /** Puts a program of this object in the place of the link's, so that no packet falls between. ENOLINK: it was detached. */
  updateLink(link: number, program: string): void;
  program(name: string): ProgramInfo;
}

/** Of an interface, as itself sees it: of a veth on the host, `ingress` is what its pod sends. */
export type Side = 'ingress' | 'egress';

/** A network interface, as rtnetlink tells of it. */
export interface Interface {
  readonly ifindex: number;
  readonly name: string;
  /** IFLA_INFO_KIND: `veth`, `macvlan`, …; empty: hardware, or the loopback. */
  readonly kind: string;
  /** ARPHRD_* of linux/if_arp.h: 1 Ethernet, 772 loopback. */
  readonly hardware: number;
  /** Ifindex of the other end, or of what it lies on, in the namespace `linkNsid`; null: none, 0: gone. */
  readonly link: number | null;
  /** This process's namespace's number for that namespace; null: the interface's own. */
  readonly linkNsid: number | null;
  readonly mac: Buffer;
}

export interface Native {
  /**
   * Opens, sizes and loads an object file. `maxEntries` by map name; `constants` are values of its `const volatile` variables.
   * `pinned`: maps that are there already, by name, and the path of each; EINVAL where a shape is another. libbpf's and the
   * verifier's log is in the error's message.
   */
  load(
    path: string,
    maxEntries: Record<string, number>,
    constants?: Record<string, number>,
    pinned?: Record<string, string>,
  ): LoadedObject;
  /** Maps alone, by name: those pinned at these paths, or those with these ids. */
  openMaps(paths: Record<string, string>): LoadedObject;
  openMapsById(ids: Record<string, number>): LoadedObject;
  /** What `layouts` of an object would say that is loaded from this file with these sizes. Loads nothing. */
  layouts(path: string, maxEntries: Record<string, number>): Record<string, string>;
  /** Every link of this machine, whoever's it is. EPERM without CAP_SYS_ADMIN. */
  links(): LinkInfo[];
  /** null: there is no such program any more. EPERM without CAP_SYS_ADMIN, as all that goes by id. */
  program(id: number): ProgramInfo | null;
  /** Of a program that is pinned at this path. */
  pinnedProgram(path: string): ProgramInfo;
  /**
   * Takes the lock of a folder (flock), which ends with the descriptor that it returns, or with the process. EAGAIN: another holds
   * it.
   */
  lockFolder(path: string): number;
  /** The cgroup2 id of a folder; EINVAL if it is not on a cgroup2 mount. */
  cgroupId(path: string): bigint;
  /** Cookie of the network namespace at this path (`/proc/self/ns/net`, `/run/netns/x`). */
  netnsCookie(path: string): bigint;
  /**
   * Which program types, map types and helpers this kernel really loads, by trying: `program/connect4`, `map/lpm_trie`,
   * `helper/cgroup_skb/bpf_get_netns_cookie`, … → null, or why not.
   */
  probe(): Record<string, string | null>;
  /**
   * Where members of the kernel's own structures are (`net.net_cookie`), by its BTF: bits from the structure's start. null: there is no
   * such member, or this kernel shows no BTF.
   */
  memberOffsets(members: readonly string[]): (number | null)[];
  /**
   * SOCK_DESTROY in the namespace at `netns`: ends a TCP socket; addresses of 16 bytes, v4 v4-mapped; ports in host order;
   * `cookie` 0n: whichever socket has these ends. False: no such socket. A listener is never ended.
   */
  destroyTcp(
    netns: string,
    local: Buffer,
    localPort: number,
    remote: Buffer,
    remotePort: number,
    cookie: bigint,
  ): boolean;
  /** This process's network namespace's number for the one at `path` (`/proc/PID/ns/net`), which is given one where it has none. */
  namespaceNumber(path: string): number;
  /** Its number for itself: how interfaces elsewhere name it in `linkNsid`. null: none has a peer here. */
  ownNamespaceNumber(): number | null;
  /** Interfaces of the namespace with this number; null: of this process's own. EINVAL: nobody has that number (any more). */
  interfaces(nsid: number | null): Interface[];
  /** Their addresses, 16 bytes each, v4 v4-mapped. */
  interfaceAddresses(nsid: number | null): { readonly ifindex: number; readonly address: Buffer }[];
  /** Frames that an interface of this process's namespace has received since it was made. ENODEV: it is gone. */
  framesReceived(ifindex: number): number;
  /**
   * Calls back on Node's loop after interfaces of this process's namespace came, went or changed: `gone` are the indexes of those that
   * went, which may be another's already; `isLost`: not all of it was told, and anything may have changed. Returns what ends it.
   */
  watchInterfaces(onChange: (gone: readonly number[], isLost: boolean) => void): () => void;
  /** Ids of the programs attached by tcx, in the order in which they run. */
  tcxChain(ifindex: number, side: Side): number[];
  /** The id of the program that `attachClsact` put there; null: nothing of ours is there. */
  clsactProgram(ifindex: number, side: Side): number | null;
  /** Whether there was something of ours to take away. */
  detachClsact(ifindex: number, side: Side): boolean;
  /** Takes clsact itself away where no filter is left in it; whether it did. */
  removeEmptyClsact(ifindex: number): boolean;
  /**
   * Gives up, for ever and in every thread of this process, all capabilities but these (bit n for capability n of
   * linux/capability.h); of the bounding set too, where CAP_SETPCAP is held. Returns what is permitted from then on.
   */
  keepCapabilities(kept: bigint): bigint;
  /**
   * no_new_privs, and a seccomp filter for every thread and for ever: no program and map is loaded any more, no process started, no
   * socket made but of Unix, IP and netlink, and so on (native/privileges.cc); EPERM. ENOTSUP: there is no list for this processor.
   */
  filterSystemCalls(): void;
}

/** A failure of the kernel or of libbpf. `code` is the errno's name (EPERM, E2BIG, …); `operation` what was tried. */
export class KernelError extends Error {
  override readonly name = 'KernelError';
  readonly code: string;
  readonly operation: string;
  constructor(message: string, code: string, operation: string) {
    super(message);
    this.code = code;
    this.operation = operation;
  }
}

const ADDON = fileURLToPath(new URL('../../build/postern.node', import.meta.url));

/**
 * Loads the addon. It throws KernelError for whatever the kernel refuses, and TypeError for arguments of the wrong type (a bug).
 * Where the addon itself cannot be loaded: KernelError with the loader's code (ERR_DLOPEN_FAILED, MODULE_NOT_FOUND).
 */
export function loadNative(path: string = ADDON): Native {
  try {
    // The class is handed over, so that errors are converted where they arise and nowhere else.
    return createRequire(import.meta.url)(path).open(KernelError);
  } catch (error) {
    if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'string') throw error;
    throw new KernelError(error.message, error.code, `load ${path}`);
  }
}
