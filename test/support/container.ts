// SPDX-License-Identifier: Apache-2.0
// A real container by runc, from a pod's spec: what kubelet and a container runtime would ask of the kernel for it.
// It knows nothing of what runs inside. Host paths may be replaced, so that it writes to folders of its own.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type Result, resultOf } from './lab.ts';
import { type Container, containerOf, type PodSpec } from './manifests.ts';

/** The image's root file system for this machine. */
export const IMAGE = path.join(
  import.meta.dirname,
  '../../build/image',
  `rootfs-${process.arch === 'x64' ? 'amd64' : process.arch}`,
);

export interface ContainerOptions {
  /** Where the field paths of the downward API lead to. */
  readonly fields: Readonly<Record<string, string>>;
  /** Host paths of the spec in whose place it gets empty folders, removed with it. */
  readonly fresh: readonly string[];
  /** Host paths of the spec, and what of the host it gets in their place. */
  readonly instead?: Readonly<Record<string, string>>;
  /** More binds, read-only: path inside → path of the host. */
  readonly binds?: Readonly<Record<string, string>>;
  /** More environment. */
  readonly env?: Readonly<Record<string, string>>;
}

let containers = 0;

export class RunningContainer {
  readonly child: ChildProcess;
  readonly #id: string;
  readonly #state: string;
  readonly #base: string;
  readonly #atExit = () => this.#remove();

  /** Starts it, with `args` in place of the spec's. */
  constructor(spec: PodSpec, args: readonly string[], options: ContainerOptions) {
    containers += 1;
    this.#id = `postern-${process.pid}-container-${containers}`;
    this.#base = mkdtempSync(path.join(tmpdir(), `${this.#id}-`));
    this.#state = path.join(this.#base, 'state');
    const bundle = path.join(this.#base, 'bundle');
    mkdirSync(bundle);
    const fresh = new Map(options.fresh.map((host, index) => [host, path.join(this.#base, `fresh-${index}`)]));
    for (const folder of fresh.values()) mkdirSync(folder);
    for (const [host, other] of Object.entries(options.instead ?? {})) fresh.set(host, other);
    writeFileSync(path.join(bundle, 'config.json'), JSON.stringify(ociConfig(spec, args, options, this.#id, fresh)));
    process.on('exit', this.#atExit);
    this.child = spawn('runc', ['--root', this.#state, 'run', '--bundle', bundle, this.#id], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
  }

  /** As `kubectl exec`. */
  exec(command: readonly string[]): Promise<Result> {
    return resultOf(spawn('runc', ['--root', this.#state, 'exec', this.#id, ...command]), 30_000);
  }

  /** Kills what is left of it, and removes all that was made for it. */
  async close(): Promise<void> {
    process.off('exit', this.#atExit);
    const hasEnded = this.child.exitCode !== null || this.child.signalCode !== null;
    const gone = hasEnded ? null : new Promise((resolve) => this.child.once('exit', resolve));
    this.#remove();
    await gone;
  }

  #remove(): void {
    try {
      execFileSync('runc', ['--root', this.#state, 'delete', '--force', this.#id], { stdio: 'ignore' });
    } catch {
      // It has ended, and runc has removed it.
    }
    rmSync(this.#base, { recursive: true, force: true });
  }
}

/** `$(NAME)` in arguments, as kubelet replaces it. */
export function expand(text: string, env: Readonly<Record<string, string>>): string {
  return text.replace(/\$\(([A-Za-z_][A-Za-z0-9_]*)\)/g, (all, name: string) => env[name] ?? all);
}

/** Mounts and masks are those that container runtimes give every container. */
function ociConfig(
  spec: PodSpec,
  args: readonly string[],
  options: ContainerOptions,
  id: string,
  fresh: ReadonlyMap<string, string>,
): unknown {
  const container = containerOf(spec);
  const { securityContext } = container;
  const given = Object.fromEntries(
    container.env.map(({ name, value, valueFrom }) => [
      name,
      value ?? options.fields[valueFrom?.fieldRef.fieldPath ?? ''] ?? '',
    ]),
  );
  const env = { PATH: '/usr/sbin:/usr/bin', ...given, ...options.env };
  const capabilities = securityContext.capabilities.add.map((name) => `CAP_${name}`);
  return {
    ociVersion: '1.0.2',
    process: {
      user: { uid: securityContext.runAsUser, gid: securityContext.runAsGroup },
      args: [...container.command, ...args].map((arg) => expand(arg, env)),
      env: Object.entries(env).map(([name, value]) => `${name}=${value}`),
      cwd: '/',
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
      noNewPrivileges: !securityContext.allowPrivilegeEscalation,
    },
    root: { path: IMAGE, readonly: securityContext.readOnlyRootFilesystem },
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'strictatime', 'mode=755'] },
      { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
      ...container.volumeMounts.map((mount) => bindOf(spec, mount, fresh)),
      ...Object.entries(options.binds ?? {}).map(([destination, source]) => ({
        destination,
        type: 'bind',
        source,
        options: ['rbind', 'ro'],
      })),
    ],
    linux: {
      cgroupsPath: `/${id}`,
      namespaces: [
        ...['mount', 'ipc', 'uts', 'cgroup'],
        ...(spec.hostPID ? [] : ['pid']),
        ...(spec.hostNetwork ? [] : ['network']),
      ].map((type) => ({ type })),
      maskedPaths: ['/proc/acpi', '/proc/kcore', '/proc/keys', '/proc/timer_list', '/sys/firmware'],
      ...(spec.securityContext.seccompProfile.type === 'RuntimeDefault'
        ? { seccomp: runtimeDefault(capabilities) }
        : {}),
      readonlyPaths: ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'],
    },
  };
}

function bindOf(
  { volumes }: PodSpec,
  { name, mountPath, readOnly, mountPropagation }: Container['volumeMounts'][number],
  fresh: ReadonlyMap<string, string>,
): unknown {
  const source = volumes.find((volume) => volume.name === name)?.hostPath.path;
  if (source === undefined) throw new Error(`no volume ${name}`);
  const propagation = mountPropagation === 'HostToContainer' ? 'rslave' : 'rprivate';
  const options = ['rbind', propagation, readOnly === true ? 'ro' : 'rw'];
  return { destination: mountPath, type: 'bind', source: fresh.get(source) ?? source, options };
}

/** The profile that podman and CRI-O give by default, in their own format (containers-common, seccomp.json(5)). */
const DEFAULT_PROFILE = path.join(import.meta.dirname, '../../build/tools/seccomp.json');

interface Condition {
  readonly caps?: readonly string[];
  readonly arches?: readonly string[];
}

interface Profile {
  readonly defaultAction: string;
  readonly defaultErrnoRet?: number;
  readonly archMap: readonly { readonly architecture: string; readonly subArchitectures: readonly string[] | null }[];
  readonly syscalls: readonly {
    readonly names: readonly string[];
    readonly action: string;
    readonly args: readonly unknown[] | null;
    readonly errnoRet?: number;
    readonly includes: Condition;
    readonly excludes: Condition;
  }[];
}

/** As the runtime spec has it (linux.seccomp), for a container with these capabilities. */
function runtimeDefault(capabilities: readonly string[]): unknown {
  const profile = JSON.parse(readFileSync(DEFAULT_PROFILE, 'utf8')) as Profile;
  const arch = process.arch === 'x64' ? 'amd64' : process.arch;
  const here = profile.archMap.find(
    ({ architecture }) => architecture === (arch === 'amd64' ? 'SCMP_ARCH_X86_64' : 'SCMP_ARCH_AARCH64'),
  );
  const holds = profile.syscalls.filter(
    ({ includes, excludes }) =>
      (includes.caps ?? []).every((name) => capabilities.includes(name)) &&
      (includes.arches === undefined || includes.arches.includes(arch)) &&
      !(excludes.caps ?? []).some((name) => capabilities.includes(name)) &&
      !(excludes.arches ?? []).includes(arch),
  );
  return {
    defaultAction: profile.defaultAction,
    defaultErrnoRet: profile.defaultErrnoRet ?? 1,
    architectures: here === undefined ? [] : [here.architecture, ...(here.subArchitectures ?? [])],
    syscalls: holds.map(({ names, action, args, errnoRet }) => ({
      ...{ names, action, args: args ?? [] },
      ...(errnoRet === undefined ? {} : { errnoRet }),
    })),
  };
}

/**
 * Runs one command of the image to its end, as a container runtime runs a pod's: in this network namespace, in this cgroup (a path
 * below the cgroup2 mount, made by runc), without any right.
 */
export async function runAsContainer(netns: string, cgroup: string, command: readonly string[]): Promise<Result> {
  containers += 1;
  const id = `postern-${process.pid}-container-${containers}`;
  const bundle = mkdtempSync(path.join(tmpdir(), `${id}-`));
  const config = {
    ociVersion: '1.0.2',
    process: {
      ...{ user: { uid: 65534, gid: 65534 }, args: command, env: ['PATH=/usr/bin'], cwd: '/' },
      ...{ capabilities: { bounding: [], effective: [], permitted: [] }, noNewPrivileges: true },
    },
    root: { path: IMAGE, readonly: true },
    mounts: [{ destination: '/proc', type: 'proc', source: 'proc' }],
    linux: {
      cgroupsPath: `/${cgroup}`,
      namespaces: [...['mount', 'pid', 'ipc', 'uts'].map((type) => ({ type })), { type: 'network', path: netns }],
    },
  };
  writeFileSync(path.join(bundle, 'config.json'), JSON.stringify(config));
  try {
    return await resultOf(spawn('runc', ['--root', path.join(bundle, 'state'), 'run', '--bundle', bundle, id]), 60_000);
  } finally {
    rmSync(bundle, { recursive: true, force: true });
    removeControllers(cgroup);
  }
}

/** Where cgroup1 controllers are mounted beside cgroup2, runc leaves folders above the container's in each. */
function removeControllers(cgroup: string): void {
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => line.includes(' - cgroup '))
    .map((line) => line.split(' ')[4] ?? '');
  for (const mount of mounts) {
    for (let below = cgroup; below !== '.'; below = path.dirname(below)) {
      try {
        rmdirSync(path.join(mount, below));
      } catch {
        // runc has removed the container's own, and others may be in those above.
      }
    }
  }
}
