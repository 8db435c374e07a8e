// SPDX-License-Identifier: Apache-2.0
// Does the chart say what it should, by the real helm and kubectl, and is install.yaml what it renders as?
import assert from 'node:assert/strict';
import { copyFileSync, cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test from 'node:test';
import { parse } from 'yaml';
import { CAPABILITIES } from '../../src/agent/privileges.ts';
import { examine } from '../../src/cli/examine.ts';
import { loadNative } from '../../src/kernel/native.ts';
import { DEFAULT_SIZES } from '../../src/kernel/sizes.ts';
import { resources } from '../../src/kube/resources.ts';
import { listenAddress } from '../../src/metrics/server.ts';
import { ApiServer } from '../support/apiserver/server.ts';
import {
  CHART,
  containerOf,
  helm,
  helmTemplate,
  INSTALL,
  installed,
  kubectl,
  type Manifest,
  manifestsIn,
  only,
  podSpecIn,
} from '../support/manifests.ts';

const CRDS = path.join(CHART, '../crds');

function crd(name: string): Manifest {
  return parse(readFileSync(path.join(CRDS, name), 'utf8')) as Manifest;
}

function crdsOf(manifests: readonly Manifest[]): Manifest[] {
  return manifests.filter((one) => one.kind === 'CustomResourceDefinition');
}

/** What helm says where it refuses. */
function refusal(...values: readonly string[]): string {
  try {
    helmTemplate(...values);
  } catch (error) {
    return String(error);
  }
  return '';
}

test('helm lint finds nothing', async () => {
  const result = await helm('lint', '--strict', CHART);
  assert.equal(result.status, 0, result.stdout);
  assert.doesNotMatch(result.stdout, /\[(WARNING|ERROR)\]/);
});

test('install.yaml is what the chart renders as: else, make daemonset/install.yaml', () => {
  const text = readFileSync(INSTALL, 'utf8');
  assert.equal(text.slice(text.indexOf('\n---') + 1), helmTemplate('namespace.create=true'));
});

test('the CRDs are those of daemonset/crds, and stay when the chart goes', () => {
  const found = crdsOf(installed());
  assert.deepEqual(
    found.map((one) => [one.metadata.name, one.metadata.annotations]),
    ['egresspolicies.postern.dev', 'clusteregresspolicies.postern.dev'].map((name) => [
      name,
      { 'helm.sh/resource-policy': 'keep' },
    ]),
  );
  assert.deepEqual(
    found.map((one) => one.spec),
    ['egresspolicies.yaml', 'clusteregresspolicies.yaml'].map((name) => crd(name).spec),
  );
  assert.deepEqual(crdsOf(manifestsIn(helmTemplate('crds.postern=false'))), []);
});

test("upstream's CRD is left alone unless it is asked for, and then of the channel that is", () => {
  for (const channel of ['standard', 'experimental']) {
    const rendered = crdsOf(manifestsIn(helmTemplate(`crds.clusterNetworkPolicy=${channel}`, 'crds.postern=false')));
    const theirs = crd(`network-policy-api/clusternetworkpolicies.${channel}.yaml`);
    assert.deepEqual(
      rendered.map((one) => one.spec),
      [theirs.spec],
    );
    assert.deepEqual(rendered[0]?.metadata.annotations, {
      ...theirs.metadata.annotations,
      'helm.sh/resource-policy': 'keep',
    });
  }
});

test('the version is that of the program', () => {
  const { version } = JSON.parse(readFileSync(path.join(CHART, '../../package.json'), 'utf8')) as { version: string };
  const chart = parse(readFileSync(path.join(CHART, 'Chart.yaml'), 'utf8')) as { version: string; appVersion: string };
  assert.deepEqual([chart.version, chart.appVersion], [version, version]);
});

test('capabilities are those that doctor asks for, and no container of it is privileged', () => {
  const { securityContext } = containerOf(podSpecIn(installed()));
  const asked = examine(loadNative).flatMap(({ name }) => /^capability\/CAP_(.+)/.exec(name)?.[1] ?? []);
  assert.deepEqual(securityContext.capabilities, { drop: ['ALL'], add: asked });
  assert.deepEqual(
    [securityContext.privileged, securityContext.allowPrivilegeEscalation, securityContext.readOnlyRootFilesystem],
    [false, false, true],
  );
});

test('SECURITY.md lists the capabilities that are asked for, and what is kept of them', () => {
  const text = readFileSync(path.join(CHART, '../../SECURITY.md'), 'utf8');
  const rows = [...text.matchAll(/^\| `(CAP_[A-Z_]+)` \| .+ \| (kept|given up)/gm)].map(([, name, after]) => [
    name,
    after,
  ]);
  assert.deepEqual(
    rows,
    CAPABILITIES.map(({ name, isForLoading }) => [name, isForLoading ? 'given up' : 'kept']),
  );
});

test('what the agent may list and watch is what it does list and watch', () => {
  const rules = installed().find((one) => one.kind === 'ClusterRole' && one.metadata.name === 'postern-agent')?.rules;
  const read = (rules as { apiGroups: string[]; resources: string[]; verbs: string[] }[])
    .filter(({ verbs }) => verbs.includes('list'))
    .map((rule) => {
      assert.deepEqual(rule.verbs, ['list', 'watch']);
      return rule.resources.flatMap((resource) =>
        rule.apiGroups.map((group) => (group === '' ? resource : `${resource}.${group}`)),
      );
    });
  assert.deepEqual(read.flat().sort(), resources.map(({ name }) => name).sort());
});

test('whoever may view may view our policies, and nobody is given the right to write them', () => {
  const roles = installed().filter((one) => one.kind === 'ClusterRole' || one.kind === 'Role');
  const view = roles.find((one) => one.metadata.labels?.['rbac.authorization.k8s.io/aggregate-to-view'] === 'true');
  assert.deepEqual(view?.rules, [
    {
      apiGroups: ['postern.dev'],
      resources: ['clusteregresspolicies', 'egresspolicies'],
      verbs: ['get', 'list', 'watch'],
    },
  ]);
  for (const { metadata, rules } of roles) {
    assert.equal(metadata.labels?.['rbac.authorization.k8s.io/aggregate-to-edit'], undefined);
    for (const { resources: names, verbs } of rules as { resources: string[]; verbs: string[] }[]) {
      assert.ok(!names.includes('*') && !verbs.includes('*'), metadata.name);
      if (names.some((name) => name.endsWith('policies')))
        assert.ok(
          verbs.every((verb) => ['get', 'list', 'watch'].includes(verb)),
          metadata.name,
        );
    }
  }
});

test("metrics are on the node's address and on no other, where kubelet and the Service ask", () => {
  const manifests = manifestsIn(helmTemplate('metrics.port=9999'));
  const container = containerOf(podSpecIn(manifests));
  assert.deepEqual(
    container.args.filter((arg) => arg.startsWith('--metrics-address')),
    ['--metrics-address=[$(HOST_IP)]:9999'],
  );
  const [address] = container.env.filter(({ name }) => name === 'HOST_IP');
  assert.equal(address?.valueFrom?.fieldRef.fieldPath, 'status.hostIP');
  // What kubelet puts there, of either family, is an address to listen on.
  for (const host of ['192.0.2.1', '2001:db8::1']) {
    assert.deepEqual(listenAddress(`[${host}]:9999`), { host, port: 9999 });
  }
  assert.equal(container.livenessProbe.httpGet.host, undefined, "the pod's own, which is the node's");
});

test('metrics that are not exposed are on loopback, where kubelet asks too, and have no Service', () => {
  const manifests = manifestsIn(helmTemplate('metrics.expose=false', 'metrics.port=9999'));
  const container = containerOf(podSpecIn(manifests));
  assert.ok(container.args.includes('--metrics-address=127.0.0.1:9999'));
  assert.equal(container.livenessProbe.httpGet.host, '127.0.0.1');
  assert.equal(manifests.filter((one) => one.kind === 'Service').length, 0);
});

test('a ServiceMonitor is there when it is asked for, and chooses the Service', () => {
  assert.equal(installed().filter((one) => one.kind === 'ServiceMonitor').length, 0);
  const manifests = manifestsIn(
    helmTemplate('metrics.serviceMonitor.enabled=true', 'metrics.serviceMonitor.labels.release=monitoring'),
  );
  const monitor = only(manifests, 'ServiceMonitor');
  const { selector, endpoints } = monitor.spec as { selector: { matchLabels: object }; endpoints: { port: string }[] };
  assert.equal(monitor.metadata.labels?.release, 'monitoring');
  const service = only(manifests, 'Service');
  const labels = service.metadata.labels ?? {};
  for (const [name, value] of Object.entries(selector.matchLabels)) assert.equal(labels[name], value);
  const { ports, clusterIP } = service.spec as { ports: { name: string }[]; clusterIP: string };
  assert.deepEqual([endpoints.map(({ port }) => port), clusterIP], [ports.map(({ name }) => name), 'None']);
});

test('AppArmor and SELinux: as an agent needs it, as the user has it, or as the runtime does', () => {
  const confinement = (...values: readonly string[]) => {
    const { securityContext } = containerOf(podSpecIn(manifestsIn(helmTemplate(...values))));
    return [securityContext.appArmorProfile, securityContext.seLinuxOptions];
  };
  assert.deepEqual(confinement(), [{ type: 'Unconfined' }, { type: 'spc_t' }]);
  assert.deepEqual(confinement('appArmorProfile=null', 'seLinuxOptions=null'), [undefined, undefined]);
  const own = ['appArmorProfile.type=Localhost', 'appArmorProfile.localhostProfile=postern', 'seLinuxOptions.level=s0'];
  assert.deepEqual(confinement(...own), [
    { type: 'Localhost', localhostProfile: 'postern' },
    { type: 'spc_t', level: 's0' },
  ]);
  assert.match(refusal('appArmorProfile.type=unconfined'), /appArmorProfile/);
});

test('every map that can be sized has a value, and no other', () => {
  const args = (...sets: string[]) => containerOf(podSpecIn(manifestsIn(helmTemplate(...sets)))).args;
  for (const map of Object.keys(DEFAULT_SIZES)) {
    assert.ok(args(`bpf.mapMax.${map}=131072`).includes(`--bpf-map-max=${map}=131072`), map);
  }
  assert.ok(!args().some((arg) => arg.startsWith('--bpf-map-max')));
  for (const wrong of ['bpf.mapMax.epochs=5', 'bpf.mapMax.ports=0', 'bpf.mapMax.ports=16777217', 'bpf.max=5']) {
    assert.throws(() => helmTemplate(wrong), wrong);
  }
});

test("the root of everything is kubelet's unless another is set", () => {
  const rootArgs = (...values: readonly string[]) =>
    containerOf(podSpecIn(manifestsIn(helmTemplate(...values)))).args.filter((arg) => arg.startsWith('--cgroup-root'));
  assert.deepEqual(rootArgs(), []);
  assert.deepEqual(rootArgs('agent.cgroupRoot=/'), ['--cgroup-root=/']);
  assert.match(refusal('agent.cgroupRoot=kubepods'), /cgroupRoot/);
});

test("resolvers that are set are the agent's, each an address", () => {
  const args = (...values: readonly string[]) =>
    containerOf(podSpecIn(manifestsIn(helmTemplate(...values)))).args.filter((arg) => arg.startsWith('--resolver'));
  assert.deepEqual(args(), []);
  assert.deepEqual(args('agent.resolvers={169.254.20.10,fd00::a}'), ['--resolver=169.254.20.10', '--resolver=fd00::a']);
  assert.match(refusal('agent.resolvers={dns.example.com}'), /resolvers/);
});

test('every value that is there can be set, and one that is not there is refused', () => {
  assert.match(refusal('agent.unkown=allow'), /unkown/);
  assert.match(refusal('agent.unknown=perhaps'), /unknown/);
  assert.match(refusal('metrics.serviceMonitor.enabled=true', 'metrics.expose=false'), /needs metrics\.expose/);
  const digest = `sha256:${'0'.repeat(64)}`;
  const image = (...values: readonly string[]) =>
    only(manifestsIn(helmTemplate(...values)), 'DaemonSet').spec as {
      template: { spec: { containers: { image: string }[] } };
    };
  const imageOf = (...values: readonly string[]) => image(...values).template.spec.containers[0]?.image;
  assert.equal(imageOf('image.repository=registry.example/postern', 'image.tag=x'), 'registry.example/postern:x');
  assert.equal(imageOf('image.tag=x', `image.digest=${digest}`), `postern@${digest}`);
});

test('every value is in the documentation', () => {
  const documentation = readFileSync(path.join(CHART, '../../docs/install.md'), 'utf8');
  const table = documentation.split('\n').filter((line) => line.startsWith('| `'));
  const values = parse(readFileSync(path.join(CHART, 'values.yaml'), 'utf8')) as Record<string, unknown>;
  const leaves = Object.entries(values).flatMap(([name, value]) =>
    typeof value === 'object' &&
    value !== null &&
    ['image', 'agent', 'bpf', 'metrics', 'crds', 'namespace'].includes(name)
      ? Object.keys(value).map((below) => [name, below])
      : [[name]],
  );
  assert.ok(leaves.length > 20);
  for (const [name = '', below] of leaves) {
    const row = table.find((line) =>
      below === undefined
        ? line.includes(`\`${name}\``)
        : line.includes(`\`${name}.`) && new RegExp(`\\.${below}[\`.]`).test(line),
    );
    assert.ok(row !== undefined, [name, below].join('.'));
  }
});

test('a namespace that is asked for has the labels of Pod Security, in each mode', () => {
  assert.equal(manifestsIn(helmTemplate()).filter((one) => one.kind === 'Namespace').length, 0);
  const labels = only(installed(), 'Namespace').metadata.labels ?? {};
  for (const mode of ['enforce', 'audit', 'warn'])
    assert.equal(labels[`pod-security.kubernetes.io/${mode}`], 'privileged', mode);
});

test('it runs on every node, whatever its taints, and is the last to be evicted', () => {
  const spec = podSpecIn(installed()) as unknown as Record<string, unknown>;
  assert.deepEqual(spec.tolerations, [{ operator: 'Exists' }]);
  assert.deepEqual(spec.nodeSelector, { 'kubernetes.io/os': 'linux' });
  assert.equal(spec.priorityClassName, 'system-node-critical');
});

test('kubectl apply makes all of it, and a second time changes nothing', async (t) => {
  const api = await ApiServer.start();
  t.after(() => api.stop());
  const first = await kubectl(api.kubeconfig, ['apply', '-f', INSTALL]);
  assert.deepEqual([first.status, first.stderr], [0, '']);
  assert.equal(first.stdout.trim().split('\n').length, installed().length);
  assert.doesNotMatch(first.stdout, /unchanged|configured/);
  const difference = await kubectl(api.kubeconfig, ['diff', '-f', INSTALL]);
  assert.deepEqual([difference.status, difference.stdout, difference.stderr], [0, '', '']);
  const second = await kubectl(api.kubeconfig, ['apply', '-f', INSTALL]);
  assert.deepEqual([second.status, second.stderr], [0, '']);
  assert.doesNotMatch(second.stdout, /created|configured/);
  const byServer = await kubectl(api.kubeconfig, ['apply', '--server-side', '-f', INSTALL]);
  assert.deepEqual([byServer.status, byServer.stderr], [0, '']);
  const gone = await kubectl(api.kubeconfig, ['delete', '-f', INSTALL, '--wait=false']);
  assert.deepEqual([gone.status, gone.stderr.replace(/^Warning:.*\n/gm, '')], [0, '']);
});

test('helm installs, upgrades and uninstalls it; policies outlive that', async (t) => {
  const api = await ApiServer.start();
  t.after(() => api.stop());
  const to = ['--kubeconfig', api.kubeconfig, '--namespace', 'postern-system'];
  const agentOf = () => api.get('apps/v1', 'DaemonSet', 'postern', 'postern-system');
  const installation = await helm('install', 'postern', CHART, '--create-namespace', ...to);
  assert.equal(installation.status, 0, installation.stderr);
  assert.match(JSON.stringify(agentOf()), /--log-level=info/);

  const upgrade = await helm('upgrade', 'postern', CHART, '--set', 'agent.logLevel=debug', ...to);
  assert.equal(upgrade.status, 0, upgrade.stderr);
  assert.match(JSON.stringify(agentOf()), /--log-level=debug/);

  const policy = `apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: web, namespace: default}
spec: {podSelector: {}}
`;
  assert.equal((await kubectl(api.kubeconfig, ['apply', '-f', '-'], policy)).status, 0);
  const end = await helm('uninstall', 'postern', ...to);
  assert.equal(end.status, 0, end.stderr);
  assert.equal(agentOf(), null);
  assert.notEqual(api.get('postern.dev/v1alpha1', 'EgressPolicy', 'web', 'default'), null);
});

test('kustomize takes install.yaml as a resource: the kustomization of the documentation', async (t) => {
  const api = await ApiServer.start();
  const folder = mkdtempSync(path.join(tmpdir(), `postern-${process.pid}-kustomize-`));
  t.after(async () => {
    rmSync(folder, { recursive: true, force: true });
    await api.stop();
  });
  const documentation = readFileSync(path.join(CHART, '../../docs/install.md'), 'utf8');
  const kustomization = /^apiVersion: kustomize\.config\.k8s\.io.*?(?=^```)/ms.exec(documentation)?.[0] ?? '';
  writeFileSync(path.join(folder, 'kustomization.yaml'), kustomization);
  copyFileSync(INSTALL, path.join(folder, 'install.yaml'));
  const applied = await kubectl(api.kubeconfig, ['apply', '-k', folder]);
  assert.deepEqual([applied.status, applied.stderr], [0, '']);
  const stored = api.get('apps/v1', 'DaemonSet', 'postern', 'postern-system') as unknown as Manifest;
  const { args, image } = containerOf(podSpecIn([stored]));
  assert.equal(image, 'registry.example/postern:0.1.0');
  assert.ok(args.includes('--cgroup-root=/'));
  assert.equal((await kubectl(api.kubeconfig, ['diff', '-k', folder])).status, 0);
});

test('an upgrade upgrades the CRDs, too, and brings values that the older chart had not', async (t) => {
  const api = await ApiServer.start();
  const older = mkdtempSync(path.join(tmpdir(), `postern-${process.pid}-chart-`));
  t.after(async () => {
    rmSync(older, { recursive: true, force: true });
    await api.stop();
  });
  cpSync(CHART, older, { recursive: true, dereference: true });
  const edit = (file: string, from: string, to: string) => {
    const text = readFileSync(path.join(older, file), 'utf8');
    assert.ok(text.includes(from), file);
    writeFileSync(path.join(older, file), text.replace(from, to));
  };
  edit('values.yaml', 'appArmorProfile: {type: Unconfined}', '');
  edit('crd-files/egresspolicies.yaml', 'egpol', 'oldpol');
  const to = ['--kubeconfig', api.kubeconfig, '--namespace', 'postern-system'];
  const crdNow = () =>
    JSON.stringify(api.get('apiextensions.k8s.io/v1', 'CustomResourceDefinition', 'egresspolicies.postern.dev'));
  const installation = await helm(
    'install',
    'postern',
    older,
    '--create-namespace',
    '--set',
    'agent.logLevel=warn',
    ...to,
  );
  assert.equal(installation.status, 0, installation.stderr);
  assert.match(crdNow(), /oldpol/);
  const upgrade = await helm('upgrade', 'postern', CHART, '--reset-then-reuse-values', ...to);
  assert.equal(upgrade.status, 0, upgrade.stderr);
  assert.match(crdNow(), /egpol/);
  const { args, securityContext } = containerOf(
    podSpecIn([api.get('apps/v1', 'DaemonSet', 'postern', 'postern-system') as unknown as Manifest]),
  );
  assert.deepEqual(securityContext.appArmorProfile, { type: 'Unconfined' });
  assert.ok(args.includes('--log-level=warn'), 'what was set stays');
});

test('what helm finds that it did not make it leaves alone, and takes over where it is told to', async (t) => {
  const api = await ApiServer.start();
  t.after(() => api.stop());
  const install = (namespace: string, ...more: readonly string[]) =>
    helm(...['install', 'postern', CHART, '--kubeconfig', api.kubeconfig, '--namespace', namespace], ...more);
  assert.equal((await kubectl(api.kubeconfig, ['apply', '-f', INSTALL])).status, 0);
  const refused = await install('postern-system');
  assert.equal(refused.status, 1);
  assert.match(refused.stderr, /exists and cannot be imported/);
  assert.equal((await install('postern-system', '--take-ownership')).status, 0);
  const second = await install('elsewhere', '--create-namespace');
  assert.match(second.stderr, /exists and cannot be imported/, 'one agent a node');
  // Uninstalled, its CRDs stay, and are its own again.
  const gone = await helm('uninstall', 'postern', '--kubeconfig', api.kubeconfig, '--namespace', 'postern-system');
  assert.match(gone.stdout, /egresspolicies\.postern\.dev/);
  assert.equal((await install('postern-system')).status, 0);
});

test('a ServiceMonitor where its CRD is missing: nothing is installed, and the kind is named', async (t) => {
  const api = await ApiServer.start();
  t.after(() => api.stop());
  const to = ['--kubeconfig', api.kubeconfig, '--namespace', 'postern-system', '--create-namespace'];
  const result = await helm('install', 'postern', CHART, '--set', 'metrics.serviceMonitor.enabled=true', ...to);
  assert.equal(result.status, 1);
  assert.match(result.stderr, /no matches for kind "ServiceMonitor"/);
  assert.equal(api.get('apps/v1', 'DaemonSet', 'postern', 'postern-system'), null);
});
