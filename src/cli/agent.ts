// SPDX-License-Identifier: Apache-2.0
// `postern agent`: the command line of the agent. Checks what was typed and what the machine offers; the rest is agent.ts.
import { randomUUID } from 'node:crypto';
import { statSync } from 'node:fs';
import path from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { Command, InvalidArgumentError, Option } from 'commander';
import { MAX_TTL_S, SHORTEST_TTL_S } from '#build/generated/abi.ts';
import { Agent, type AgentOptions, StartError } from '../agent/agent.ts';
import type { AgentHooks } from '../agent/hooks.ts';
import { type AgentLog, LEVELS, type Level, openLog } from '../agent/log.ts';
import { SOCKET, SocketError } from '../agent/socket.ts';
import { pathBelow } from '../bind/binding.ts';
import { cgroupMount } from '../bind/mount.ts';
import { isOfPods, kubeletRoot, namedRoot, type RootSearch } from '../bind/root.ts';
import { RollbackFailed } from '../kernel/errors.ts';
import { KernelError, loadNative } from '../kernel/native.ts';
import { BPFFS, PinError } from '../kernel/pins.ts';
import { DEFAULT_SIZES, mapSize } from '../kernel/sizes.ts';
import { type ListenAddress, ListenError, listenAddress } from '../metrics/server.ts';
import { NAME_BYTES } from '../model/name.ts';
import { FolderSource, type FolderSourceOptions } from '../source/folder-source.ts';
import type { ObjectSource } from '../source/source.ts';
import { noteOwnState, requireOwnState, STATE, StateDir, StateError } from '../source/state.ts';
import { examine, isEnforcementPossible, obstacles } from './examine.ts';
import { clusterDomainOption, resolverOption } from './resolver.ts';

interface Options {
  readonly policies?: string;
  readonly kube?: true;
  readonly kubeconfig?: string;
  readonly context?: string;
  readonly cgroupRoot?: string;
  readonly metricsAddress: ListenAddress;
  readonly unknown?: 'allow' | 'deny';
  readonly ownNode?: 'allow' | 'deny';
  /** false: `--no-socket`. */
  readonly socket: string | false;
  /** false: `--no-guard`. */
  readonly guard: boolean;
  readonly bpfMapMax?: Readonly<Record<string, number>>;
  /** false: `--no-confine`. */
  readonly confine: boolean;
  readonly stateDir: string;
  readonly bpffs: string;
  readonly checkInterval: number;
  readonly nodeName?: string;
  readonly resolver?: readonly string[];
  readonly clusterDomain: string;
  readonly dnsMinTtl: number;
  readonly dnsMaxNameBytes: number;
  readonly dnsMaxQueries: number;
  readonly logLevel: Level;
}

/** Exit status: 0 after SIGTERM or SIGINT, 1 where it cannot start. */
export function command(): Command {
  return new Command('agent')
    .description('Hold the workloads of this node to the policies in a folder, or of a cluster')
    .addOption(
      new Option(
        '--policies <dir>',
        'folder of YAML and JSON (Namespace, Node, Pod, Service, EndpointSlice and policies), watched for changes',
      ).conflicts(['kube', 'kubeconfig', 'context']),
    )
    .option('--kube', 'the same objects from the Kubernetes API; needs --node-name')
    .option(
      '--kubeconfig <file>',
      "how to reach the API server (default: $KUBECONFIG, else the pod's service account, else ~/.kube/config)",
    )
    .option('--context <name>', 'which context of the kubeconfig')
    .option(
      '--cgroup-root <path>',
      "enforce below this cgroup only: a path below the cgroup2 mount (default: the whole mount; with --kube kubelet's root of all pods, which holds no systemd unit: nodeServices need /)",
    )
    .addOption(
      new Option('--metrics-address <host:port>', 'where to serve /metrics, /healthz and /readyz; port 0: any free one')
        .default(listenAddress('127.0.0.1:9470'), '127.0.0.1:9470')
        .argParser((text) => {
          const address = listenAddress(text);
          if (address === null)
            throw new InvalidArgumentError('write HOST:PORT, such as 127.0.0.1:9470 or [::1]:9470.');
          return address;
        }),
    )
    .addOption(
      new Option(
        '--unknown <verdict>',
        "what processes may do that belong to no pod (default: allow; with --kube deny, except in the host's network namespace)",
      ).choices(['allow', 'deny']),
    )
    .addOption(
      new Option(
        '--own-node <verdict>',
        'whether pods that a NetworkPolicy holds may reach their own node, as upstream says they always may (default: deny; with --kube allow)',
      ).choices(['allow', 'deny']),
    )
    .option(
      '--no-guard',
      "put no programs at the host's end of pods' interfaces: raw frames, forged sources and what a pod forwards are then not judged",
    )
    .addOption(
      new Option(
        '--bpf-map-max <name=n>',
        `how many entries an eBPF map may have (events: bytes); once for each map. Defaults: ${Object.entries(
          DEFAULT_SIZES,
        )
          .map(([map, entries]) => `${map}=${entries}`)
          .join(' ')}`,
      ).argParser((text, before: Readonly<Record<string, number>> | undefined) => {
        const size = mapSize(text);
        if ('wrong' in size) throw new InvalidArgumentError(`${size.wrong}.`);
        return { ...before, [size.map]: size.entries };
      }),
    )
    .option(
      '--no-confine',
      'keep all capabilities and system calls after the start (by default: what SECURITY.md lists; of system calls all where the kubeconfig starts a program)',
    )
    .option('--socket <path>', 'where postern policies asks', SOCKET)
    .option('--no-socket', 'answer nowhere')
    .option(
      '--state-dir <dir>',
      'keeps the last valid version of each object, and totals of counters, across restarts; goes with one --bpffs',
      STATE,
    )
    .addOption(resolverOption())
    .addOption(clusterDomainOption())
    .addOption(
      new Option(
        '--dns-min-ttl <seconds>',
        'how long a DNS answer counts at least for new connections, whatever TTL it has; nothing that is connected ends with it',
      )
        .default(SHORTEST_TTL_S)
        .argParser((text) => {
          if (!/^\d{1,6}$/.test(text) || Number(text) > MAX_TTL_S)
            throw new InvalidArgumentError(`write a number of seconds up to ${MAX_TTL_S}, a week.`);
          return Number(text);
        }),
    )
    .addOption(
      new Option(
        '--dns-max-name-bytes <bytes>',
        'of a name that a workload with a policy may ask resolvers for, a bound on what leaves in it; 0: as DNS has it',
      )
        .default(0)
        .argParser((text) => {
          if (!/^\d{1,3}$/.test(text) || Number(text) > NAME_BYTES)
            throw new InvalidArgumentError(`write a number of bytes up to ${NAME_BYTES}, or 0 for no bound.`);
          return Number(text);
        }),
    )
    .addOption(
      new Option(
        '--dns-max-queries <number>',
        'how often in a second such a workload may ask resolvers, and twice as often for a moment; 0: as often as it likes',
      )
        .default(0)
        .argParser((text) => {
          if (!/^\d{1,6}$/.test(text))
            throw new InvalidArgumentError('write a number of questions, such as 50, or 0 for no bound.');
          return Number(text);
        }),
    )
    .option(
      '--bpffs <dir>',
      'folder on a bpffs below which programs and maps are pinned, so that enforcement goes on without the agent; none: it ends with the agent',
      BPFFS,
    )
    .addOption(
      new Option(
        '--check-interval <seconds>',
        'how often the kernel is asked whether it still holds what was put there, and mended; 0: never',
      )
        .default(60)
        .argParser((text) => {
          if (!/^\d{1,6}$/.test(text)) throw new InvalidArgumentError('write a number of seconds, such as 60.');
          return Number(text);
        }),
    )
    .option('--node-name <name>', 'the Node object that is this machine; pods of other nodes are peers only')
    .addOption(new Option('--log-level <level>', 'what to log').choices(LEVELS).default('info'))
    .addHelpText(
      'after',
      `
Logs are JSON lines on stdout, each with an event:
  waiting   for what: a cgroup, the first lists of an API server, a Node by that name
  ready     what the folder, or the cluster, holds is enforced; names the metrics address
  applied   a later change is enforced: ms since it was heard of, and which workloads it touched
  drop      a connection was refused: workload, destination, process, policy, rule, reason, count within a second;
            shadow names the Audit policy that would allow it
  audit     the same for what Audit policies would refuse
  problem   some object is wrong (file:line:column); mended when it is not any more
An object edited into an invalid one keeps its last valid version; a policy that never had one isolates what it selects.
What is enforced stays enforced when the agent ends, however it ends; the next one takes over. postern uninstall removes it all,
postern status tells what there is. See also: postern lint, postern doctor.`,
    )
    .action(async (options: Options) => {
      process.exitCode = await start(options);
    });
}

/**
 * V8 looks for garbage once its heap has grown so much since it last did, by itself fourfold, and keeps up to 32 MiB of large pages for
 * the next large list. A snapshot's lists are large, and garbage at each change: with 50,000 pods and 100 changes a second the agent
 * took 385 MiB by that, and takes half with these. What it frees of other pages it keeps for eight seconds without a garbage
 * collection, and while pods change there are none: 40 MiB.
 */
const V8_FLAGS = ['--heap-growing-percent=20', '--no-large-page-pool', '--no-memory-pool'];

async function start(options: Options): Promise<number> {
  for (const flag of V8_FLAGS) setFlagsFromString(flag);
  const wrong = misused(options);
  if (wrong !== null) return refuse(wrong);
  const findings = examine(loadNative);
  const mount = cgroupMount();
  if (!isEnforcementPossible(findings) || mount === null) {
    for (const sentence of obstacles(findings)) say(sentence);
    return refuse('this node cannot enforce; postern doctor tells all of it');
  }
  const root = rootOf(options, mount);
  if (root === null) {
    return refuse(`there is no cgroup ${options.cgroupRoot} below ${mount}; make it first, or leave --cgroup-root out`);
  }
  const nodeName = options.nodeName ?? null;
  const inCluster = options.kube === true;

  const out = openLog(options.logLevel);
  let agent: Agent | null = null;
  const stopped = new Promise<'stopped'>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => resolve('stopped'));
  });
  try {
    const stateDir = path.resolve(options.stateDir);
    const bpffs = options.bpffs === 'none' ? null : path.resolve(options.bpffs);
    if (bpffs !== null) requireOwnState(stateDir, bpffs);
    const { source, hooks, startsProgram } = inCluster
      ? await openCluster(options, nodeName ?? '', out)
      : openFolder(options, out);
    const settings: AgentOptions = {
      ...{ root, pods: podsWithin(options, mount) },
      metrics: options.metricsAddress,
      socket: options.socket === false ? null : path.resolve(options.socket),
      unknown: options.unknown ?? (inCluster ? 'deny' : 'allow'),
      dnsMinTtlS: options.dnsMinTtl,
      queryBounds: { nameBytes: options.dnsMaxNameBytes, perSecond: options.dnsMaxQueries },
      ownNode: (options.ownNode ?? (inCluster ? 'allow' : 'deny')) === 'allow',
      nodeName,
      unscheduled: inCluster ? 'elsewhere' : 'here',
      attach: inCluster ? 'at_once' : 'enforced',
      guard: options.guard,
      maxEntries: options.bpfMapMax ?? {},
      uninstall: uninstallCommand(options),
      checkMs: options.checkInterval * 1000,
      stateDir,
      confine: !options.confine ? 'not' : startsProgram ? 'capabilities' : 'wholly',
      bpffs,
      hooks,
    };
    agent = new Agent(settings, source, loadNative(), out);
    const unnoted = bpffs === null ? null : noteOwnState(stateDir, bpffs);
    if (unnoted !== null)
      out.log.warn({ event: 'state_lost', path: unnoted.path, code: unnoted.code }, unnoted.message);
    await Promise.race([agent.start(), stopped]);
  } catch (error) {
    await agent?.stop();
    await out.flush();
    if (
      error instanceof KernelError ||
      error instanceof PinError ||
      error instanceof ListenError ||
      error instanceof SocketError ||
      error instanceof StateError ||
      error instanceof StartError ||
      isKubeError(error) ||
      error instanceof RollbackFailed
    ) {
      return refuse(error.message);
    }
    throw error;
  }
  await stopped;
  await agent.stop();
  return 0;
}

interface Opened {
  readonly source: ObjectSource;
  readonly hooks: AgentHooks;
  readonly startsProgram: boolean;
}

function openFolder(
  { policies, nodeName, resolver = [], clusterDomain, stateDir }: Options,
  { log }: AgentLog,
): Opened {
  const { state, kept } = openState(path.resolve(stateDir), log);
  const folder = path.resolve(policies ?? '');
  return {
    source: new FolderSource({
      ...{ folder, nodeName: nodeName ?? null, state, kept },
      dns: { resolvers: resolver, clusterDomain },
    }),
    hooks: {},
    startsProgram: false,
  };
}

/** Nobody who reads a folder pays for what this loads. Rejects with KubeError where the kubeconfig cannot be used. */
async function openCluster(options: Options, node: string, { log }: AgentLog): Promise<Opened> {
  const { KubeSource } = await import('../kube/source.ts');
  const { Reporter } = await import('../status/reporter.ts');
  // Apart from a folder's: what a cluster once said must not hold for one.
  const { state, kept } = openState(path.resolve(options.stateDir, 'cluster'), log);
  const source = await KubeSource.open({
    kubeconfig: options.kubeconfig === undefined ? null : path.resolve(options.kubeconfig),
    context: options.context ?? null,
    nodeName: node,
    dns: { resolvers: options.resolver ?? [], clusterDomain: options.clusterDomain },
    state,
    kept,
  });
  const reporter = new Reporter({
    api: source.api,
    objects: () => source.policies(),
    namespace: source.api.namespace,
    node,
    identity: `${node}_${randomUUID()}`,
    onFailure: (what, failure) => {
      if (failure === null) log.info({ event: 'report_mended', what });
      else log.warn({ event: 'report_failed', what }, failure);
    },
  });
  reporter.start();
  return { source, hooks: reporter, startsProgram: source.startsProgram };
}

function openState(dir: string, log: AgentLog['log']): Pick<FolderSourceOptions, 'state' | 'kept'> {
  const state = new StateDir(dir);
  const { kept, failures } = state.read();
  for (const { path: file, code, message } of failures) log.warn({ event: 'state_lost', path: file, code }, message);
  return { state, kept };
}

/** Its class is loaded with the rest of src/kube, or not at all. */
function isKubeError(error: unknown): error is Error {
  return error instanceof Error && error.name === 'KubeError';
}

/** What is wrong with the command line beyond single options, or null. */
function misused({ policies, kube, kubeconfig, context, nodeName }: Options): string | null {
  if (kube === undefined) {
    if (kubeconfig !== undefined || context !== undefined) return '--kubeconfig and --context belong to --kube';
    if (policies === undefined) return 'write --policies DIR for a folder of YAML, or --kube for a cluster';
    return isFolder(path.resolve(policies))
      ? null
      : `${policies} is not a folder; --policies takes a folder of YAML files`;
  }
  return nodeName === undefined || nodeName === ''
    ? '--kube needs --node-name: the Node object that is this machine (in a DaemonSet: spec.nodeName, by the downward API)'
    : null;
}

function rootOf({ kube, cgroupRoot }: Options, mount: string): RootSearch | null {
  if (cgroupRoot === undefined) return kube === true ? kubeletRoot(mount) : namedRoot(mount, '');
  const root = rootBelow(cgroupRoot, mount);
  if (root === null) return null;
  const search = namedRoot(mount, root);
  return kube === true || search.find() !== null ? search : null;
}

/** With every path that is not uninstall's own default: those of another agent are not to be touched. */
function uninstallCommand({ bpffs, stateDir, socket }: Options): string {
  const told = (option: string, value: string, usual: string) =>
    path.resolve(value) === usual ? '' : ` ${option} ${path.resolve(value)}`;
  return `postern uninstall${told('--bpffs', bpffs, BPFFS)}${told('--state-dir', stateDir, STATE)}${socket === false ? '' : told('--socket', socket, SOCKET)}`;
}

/** Where kubelet's pods are, below a root that was named and is none of kubelet's; null: there is nothing else below the root. */
function podsWithin({ kube, cgroupRoot }: Options, mount: string): RootSearch | null {
  const root = kube === undefined || cgroupRoot === undefined ? null : rootBelow(cgroupRoot, mount);
  return root === null || isOfPods(root) ? null : kubeletRoot(mount, root);
}

/** `text` below the mount; it may be given with the mount before it. null: not a plain path. */
function rootBelow(text: string, mount: string): string | null {
  if (text === '/' || text === mount) return '';
  return pathBelow(text.startsWith(`${mount}/`) ? text.slice(mount.length) : text);
}

function isFolder(folder: string): boolean {
  return statSync(folder, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

function refuse(message: string): number {
  say(message);
  return 1;
}

function say(message: string): void {
  process.stderr.write(`postern agent: ${message}\n`);
}
