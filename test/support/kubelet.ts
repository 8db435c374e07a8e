// SPDX-License-Identifier: Apache-2.0
// Makes pods as kubelet, a container runtime and a CNI do, step by step: cgroup of the pod, network namespace and veth, cgroup of
// the container, process, then the status with its addresses; later the removal. It knows no policies, and no API server but by
// `ClusterObjects`. Everything is below the lab's cgroup.
import path from 'node:path';
import { addNetwork, type Cni } from './cni.ts';
import { type Lab, type Place, resultOf } from './lab.ts';

/** Where kubelet reads and writes objects; by whatever means. */
export interface ClusterObjects {
  put(object: KubeObject): unknown;
  delete(object: KubeObject): unknown;
}

export interface KubeObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly namespace?: string; readonly name: string; readonly [field: string]: unknown };
  readonly [field: string]: unknown;
}

/** kubelet's --cgroup-driver. */
export type Driver = 'cgroupfs' | 'systemd';
export type Qos = 'Guaranteed' | 'Burstable' | 'BestEffort';

export interface PodSpec {
  readonly namespace: string;
  readonly name: string;
  readonly labels?: Readonly<Record<string, string>>;
  /** Of both families as wished; empty with hostNetwork. */
  readonly addresses: readonly string[];
  readonly qos?: Qos;
  readonly hostNetwork?: boolean;
  /** How its sandbox is wired; default `routed`. */
  readonly cni?: Cni;
  readonly ports?: readonly { readonly name: string; readonly containerPort: number }[];
}

let uids = 0;

export class Kubelet {
  readonly lab: Lab;
  readonly node: string;
  readonly driver: Driver;
  readonly #cluster: ClusterObjects;

  constructor(lab: Lab, options: { readonly node: string; readonly driver: Driver; readonly cluster: ClusterObjects }) {
    this.lab = lab;
    this.node = options.node;
    this.driver = options.driver;
    this.#cluster = options.cluster;
  }

  /** The root of all pods, an absolute path. */
  get root(): string {
    return path.join(this.lab.root, this.driver === 'cgroupfs' ? 'kubepods' : 'kubepods.slice');
  }

  /** What kubelet does when it starts. */
  makeRoot(): void {
    this.lab.cgroup(path.relative(this.lab.root, this.root));
  }

  /** The scheduler has bound it: the object is in the cluster, and nothing of it is here. */
  async admit(spec: PodSpec): Promise<Pod> {
    const pod = this.plan(spec);
    await pod.announce();
    return pod;
  }

  /** The same, but the cluster has not told anybody yet. `uid`: a static pod's, which kubelet makes up itself. */
  plan(spec: PodSpec, uid = this.#newUid()): Pod {
    return new Pod(this, this.#cluster, spec, uid);
  }

  #newUid(): string {
    uids += 1;
    return `0000${process.pid.toString(16).padStart(4, '0').slice(-4)}-0000-4000-8000-${String(uids).padStart(12, '0')}`;
  }

  /** All of it, in kubelet's order. */
  async run(spec: PodSpec): Promise<Pod> {
    const pod = await this.admit(spec);
    pod.makeCgroup();
    await pod.makeNetwork();
    await pod.report();
    return pod;
  }

  /** The pod's folder below the lab's root: kubernetes pkg/kubelet/cm, GetPodContainerName. */
  folderOf(uid: string, qos: Qos): string {
    const tier = qos === 'Guaranteed' ? [] : [qos.toLowerCase()];
    if (this.driver === 'cgroupfs') return ['kubepods', ...tier, `pod${uid}`].join('/');
    const slices = ['kubepods', ...tier, `pod${uid.replaceAll('-', '_')}`];
    return slices.map((_, index) => `${slices.slice(0, index + 1).join('-')}.slice`).join('/');
  }
}

export class Pod {
  readonly spec: PodSpec;
  readonly uid: string;
  readonly #kubelet: Kubelet;
  readonly #cluster: ClusterObjects;
  #addresses: readonly string[];
  /** How many containers it had before this one. */
  #former = 0;
  #place: Place | null = null;
  #status: Readonly<Record<string, unknown>> = { phase: 'Pending' };
  #metadata: Readonly<Record<string, unknown>>;

  constructor(kubelet: Kubelet, cluster: ClusterObjects, spec: PodSpec, uid: string) {
    this.#kubelet = kubelet;
    this.#cluster = cluster;
    this.spec = spec;
    this.#addresses = spec.addresses;
    this.uid = uid;
    this.#metadata = { labels: spec.labels ?? {} };
  }

  /** `namespace/name`. */
  get name(): string {
    return `${this.spec.namespace}/${this.spec.name}`;
  }

  get object(): KubeObject {
    const { namespace, name, hostNetwork = false, ports = [] } = this.spec;
    return {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { namespace, name, uid: this.uid, ...this.#metadata },
      spec: { nodeName: this.#kubelet.node, hostNetwork, containers: [{ name: 'c', image: 'i', ports }] },
      status: this.#status,
    };
  }

  async announce(): Promise<void> {
    await this.#cluster.put(this.object);
  }

  /** The pod's folder (absolute), and none of a container yet. */
  makeCgroup(): string {
    return this.#kubelet.lab.cgroup(this.#folder);
  }

  /** Sandbox and CNI: namespace, veth, addresses; and the container's cgroup. Processes may be started in it from now on. */
  async makeNetwork(): Promise<Place> {
    const { lab } = this.#kubelet;
    const container = this.#container;
    if (this.spec.hostNetwork === true) {
      this.#place = lab.placeIn(lab.outside.netns, lab.cgroup(container));
    } else {
      const name = `${this.spec.namespace}-${this.spec.name}-${this.uid.slice(-4)}`;
      this.#place = await addNetwork(lab, this.spec.cni ?? 'routed', name, this.#addresses, container);
    }
    return this.#place;
  }

  /** As after a crash: pod and network stay, the runtime makes another container. */
  async restartContainer(): Promise<Place> {
    const { lab } = this.#kubelet;
    const { netns, cgroup } = this.place;
    await lab.removeCgroup(cgroup ?? '');
    this.#former += 1;
    this.#place = lab.placeIn(netns, lab.cgroup(this.#container));
    return this.#place;
  }

  /** As after the sandbox died: another network, with other addresses, and another container, of the same pod. */
  async remakeSandbox(addresses: readonly string[]): Promise<Place> {
    const { lab } = this.#kubelet;
    await lab.removeCgroup(this.place.cgroup ?? '');
    await lab.removeNetwork(this.place);
    this.#former += 1;
    this.#addresses = addresses;
    return this.makeNetwork();
  }

  /** Where its processes are. */
  get place(): Place {
    if (this.#place === null) throw new Error(`${this.name} has no sandbox yet`);
    return this.#place;
  }

  /** kubelet has seen it run, and says where. */
  async report(): Promise<void> {
    const podIPs = this.#addresses.map((ip) => ({ ip }));
    this.#status = { phase: 'Running', podIP: this.#addresses[0], podIPs };
    await this.#cluster.put(this.object);
  }

  async relabel(labels: Readonly<Record<string, string>>): Promise<void> {
    this.#metadata = { ...this.#metadata, labels };
    await this.#cluster.put(this.object);
  }

  /** As after `kubectl delete`: told first, then killed, its folders and its network removed, and only then gone from the cluster. */
  async remove(): Promise<void> {
    this.#metadata = { ...this.#metadata, deletionTimestamp: new Date().toISOString(), deletionGracePeriodSeconds: 30 };
    await this.#cluster.put(this.object);
    const { lab } = this.#kubelet;
    await lab.removeCgroup(path.join(lab.root, this.#folder));
    if (this.#place !== null && this.spec.hostNetwork !== true) await lab.removeNetwork(this.#place);
    await this.#cluster.delete(this.object);
  }

  get #container(): string {
    const id = `c0ffee${this.#former === 0 ? '' : this.#former}`;
    return this.#kubelet.driver === 'cgroupfs' ? `${this.#folder}/${id}` : `${this.#folder}/cri-containerd-${id}.scope`;
  }

  get #folder(): string {
    return this.#kubelet.folderOf(this.uid, this.spec.qos ?? 'Burstable');
  }
}

/**
 * A process that connects again and again from its very first moment, and writes an outcome a line: `ok`, or `no`. It is no Node
 * that takes its time to start: its first packet is sent within milliseconds.
 */
export function connectFromTheStart(
  place: Place,
  address: string,
  port: number,
  times: number,
): Promise<readonly string[]> {
  const script = `for i in $(seq ${times}); do (exec 3<>/dev/tcp/${address}/${port}) 2>/dev/null && echo ok || echo no; done`;
  return resultOf(place.spawn('bash', ['-c', script]), 120_000).then(({ stdout }) =>
    stdout.split('\n').filter((line) => line !== ''),
  );
}
