// SPDX-License-Identifier: Apache-2.0
// The manifests that are shipped, read: as helm renders the chart, and as daemonset/install.yaml has them.
import { execFileSync, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { parseAllDocuments } from 'yaml';
import { type Result, resultOf } from './lab.ts';

const ROOT = path.join(import.meta.dirname, '../..');
export const CHART = path.join(ROOT, 'daemonset/chart');
export const INSTALL = path.join(ROOT, 'daemonset/install.yaml');
const HELM = path.join(ROOT, 'build/tools/helm');
const KUBECTL = path.join(ROOT, 'build/tools/kubectl');

export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  readonly [field: string]: unknown;
}

/** What of a pod's spec the tests ask for. */
export interface PodSpec {
  readonly hostNetwork: boolean;
  readonly hostPID: boolean;
  readonly securityContext: { readonly seccompProfile: { readonly type: string } };
  readonly containers: readonly Container[];
  readonly volumes: readonly { readonly name: string; readonly hostPath: { readonly path: string } }[];
}

interface Probe {
  readonly httpGet: { readonly path: string; readonly port: string; readonly host?: string };
}

export interface Container {
  readonly image: string;
  readonly command: readonly string[];
  readonly args: readonly string[];
  readonly env: readonly {
    readonly name: string;
    readonly value?: string;
    readonly valueFrom?: { readonly fieldRef: { fieldPath: string } };
  }[];
  readonly ports: readonly { readonly name: string; readonly containerPort: number }[];
  readonly startupProbe: Probe;
  readonly livenessProbe: Probe;
  readonly readinessProbe: Probe;
  readonly securityContext: {
    readonly privileged: boolean;
    readonly allowPrivilegeEscalation: boolean;
    readonly readOnlyRootFilesystem: boolean;
    readonly runAsUser: number;
    readonly runAsGroup: number;
    readonly appArmorProfile?: Readonly<Record<string, string>>;
    readonly seLinuxOptions?: Readonly<Record<string, string>>;
    readonly capabilities: { readonly drop: readonly string[]; readonly add: readonly string[] };
  };
  readonly volumeMounts: readonly {
    readonly name: string;
    readonly mountPath: string;
    readonly readOnly?: boolean;
    readonly mountPropagation?: string;
  }[];
}

/** Throws with helm's words where it refuses. `values`: what `--set` takes. */
export function helmTemplate(...values: readonly string[]): string {
  const sets = values.flatMap((value) => ['--set', value]);
  return execFileSync(HELM, ['template', 'postern', CHART, '--namespace', 'postern-system', ...sets], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

export function manifestsIn(text: string): Manifest[] {
  return parseAllDocuments(text)
    .map((document) => document.toJS() as Manifest | null)
    .filter((manifest) => manifest !== null);
}

export function installed(): Manifest[] {
  return manifestsIn(readFileSync(INSTALL, 'utf8'));
}

/** The one of this kind; throws where there is none or several. */
export function only(manifests: readonly Manifest[], kind: string): Manifest {
  const found = manifests.filter((one) => one.kind === kind);
  if (found.length !== 1 || found[0] === undefined) throw new Error(`${found.length} of kind ${kind}`);
  return found[0];
}

export function podSpecIn(manifests: readonly Manifest[]): PodSpec {
  const { template } = only(manifests, 'DaemonSet').spec as { template: { spec: PodSpec } };
  return template.spec;
}

export function containerOf({ containers }: PodSpec): Container {
  const [container, ...others] = containers;
  if (container === undefined || others.length > 0) throw new Error('one container is expected');
  return container;
}

/** helm's own words, whatever becomes of it. */
export function helm(...args: readonly string[]): Promise<Result> {
  return resultOf(spawn(HELM, args), 60_000);
}

/** As the user of this kubeconfig. */
export function kubectl(kubeconfig: string, args: readonly string[], input = ''): Promise<Result> {
  return resultOf(spawn(KUBECTL, ['--kubeconfig', kubeconfig, ...args]), 60_000, input);
}
