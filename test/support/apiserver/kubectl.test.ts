// SPDX-License-Identifier: Apache-2.0
// The real kubectl works against the test API server as against a cluster.
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, suite, test } from 'node:test';
import { textAt } from './json.ts';
import { Following, helm, kubectl, type Ran } from './kubectl.ts';
import { type ApiServer, serviceAccount, startApiServer } from './server.ts';

const CRDS = path.join(import.meta.dirname, '../../../daemonset/crds');

const pod = (name: string, more: object = {}) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, namespace: 'default', labels: { app: name } },
  spec: { nodeName: 'one', containers: [{ name: 'c', image: 'i' }] },
  status: { phase: 'Running', podIP: '198.18.0.1', containerStatuses: [{ name: 'c', ready: true, restartCount: 2 }] },
  ...more,
});
const POLICY = (effect: string) => `
apiVersion: postern.dev/v1alpha1
kind: EgressPolicy
metadata: {name: p, namespace: default}
spec:
  effect: ${effect}
  egress:
  - to: [{entities: [DNS]}]
`;
const NETWORK_POLICY = (app: string) => `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: np, namespace: default}
spec: {podSelector: {matchLabels: {app: ${app}}}, policyTypes: [Egress]}
`;

suite('kubectl', () => {
  let server: ApiServer;
  before(async () => {
    server = await startApiServer({ tls: true, objects: ['a', 'b', 'c', 'd', 'e'].map((name) => pod(name)) });
  });
  after(() => server.stop());

  const run = (...args: string[]): Promise<Ran> => kubectl(server, args);
  const ok = async (args: readonly string[], input = ''): Promise<string> => {
    const { status, stdout, stderr } = await kubectl(server, args, { input });
    assert.equal(status, 0, `kubectl ${args.join(' ')}: ${stderr}`);
    return stdout;
  };
  const words = (text: string): string[][] =>
    text
      .trimEnd()
      .split('\n')
      .map((line) => line.split(/\s{2,}/).map((word) => word.trim()));

  test('get: a table, wide, YAML, by selector, in chunks', async () => {
    assert.deepEqual(
      words(await ok(['get', 'pods', '-l', 'app=a'])).map((row) => row.slice(0, 4)),
      [
        ['NAME', 'READY', 'STATUS', 'RESTARTS'],
        ['a', '1/1', 'Running', '2'],
      ],
    );
    assert.match(
      await ok(['get', 'pods', '-o', 'wide', '-A']),
      /default +a +1\/1 +Running +2 +\d+s +198\.18\.0\.1 +one/,
    );
    assert.match(await ok(['get', 'pod', 'a', '-o', 'yaml']), /^apiVersion: v1\nkind: Pod\nmetadata:\n/);
    assert.equal(await ok(['get', 'pods', '--field-selector=spec.nodeName=two', '-o', 'name']), '');
    server.log.length = 0;
    const chunked = words(await ok(['get', 'pods', '--chunk-size=2']));
    assert.equal(chunked.length, 6);
    assert.equal(server.log.filter(({ verb, resource }) => verb === 'list' && resource === 'pods').length, 3);
    const missing = await run('get', 'pod', 'nix');
    assert.equal(missing.stderr, 'Error from server (NotFound): pods "nix" not found\n');
  });

  test('get -w: what is there, then what changes', async () => {
    await using watch = new Following(server, [
      'get',
      'pods',
      '--field-selector=metadata.name=w',
      '-w',
      '--output-watch-events',
    ]);
    await server.untilWatched({ resource: 'pods' });
    server.put(pod('w', { status: { phase: 'Pending' } }));
    await watch.said(/ADDED +w +0\/1 +Pending/);
    server.put(pod('w'));
    await watch.said(/MODIFIED +w +1\/1 +Running/);
    server.delete(pod('w'));
    await watch.said(/DELETED +w /);
  });

  test('apply: CRDs, then what they define; created, unchanged, configured, refused', async () => {
    assert.match(await ok(['apply', '-f', CRDS]), /egresspolicies\.postern\.dev created/);
    await ok(['wait', '--for=condition=Established', 'crd/egresspolicies.postern.dev', '--timeout=60s']);
    assert.match(await ok(['apply', '-f', CRDS]), /egresspolicies\.postern\.dev unchanged/);
    assert.equal(await ok(['apply', '-f', '-'], POLICY('Isolate')), 'egresspolicy.postern.dev/p created\n');
    assert.equal(await ok(['apply', '-f', '-'], POLICY('Isolate')), 'egresspolicy.postern.dev/p unchanged\n');
    assert.equal(await ok(['apply', '-f', '-'], POLICY('Grant')), 'egresspolicy.postern.dev/p configured\n');
    assert.deepEqual(words(await ok(['get', 'egpol']))[0], [
      'NAME',
      'EFFECT',
      'MODE',
      'WORKLOADS',
      'PROGRAMMED',
      'AGE',
    ]);
    assert.match(await ok(['get', 'postern', '-A']), /egresspolicy\.postern\.dev\/p +Grant +Enforce/);
    const { status, stderr } = await kubectl(server, ['apply', '-f', '-'], { input: POLICY('Wrong') });
    assert.equal(status, 1);
    assert.match(stderr, /spec\.effect: Unsupported value: "Wrong": supported values: "Isolate", "Grant", "Limit"/);
    assert.match(await ok(['explain', 'egresspolicy.spec.dns']), /Which names the selected workloads may ask for/);
  });

  test('apply: a built-in kind, by strategic merge', async () => {
    assert.equal(await ok(['apply', '-f', '-'], NETWORK_POLICY('a')), 'networkpolicy.networking.k8s.io/np created\n');
    assert.equal(await ok(['apply', '-f', '-'], NETWORK_POLICY('a')), 'networkpolicy.networking.k8s.io/np unchanged\n');
    assert.equal(
      await ok(['apply', '-f', '-'], NETWORK_POLICY('b')),
      'networkpolicy.networking.k8s.io/np configured\n',
    );
    assert.match(await ok(['get', 'netpol']), /np +app=b/);
    assert.match(await ok(['diff', '-f', '-'], NETWORK_POLICY('b')), /^$/);
  });

  test('apply --server-side, with a conflict', async () => {
    const apply = (manager: string, app: string, ...more: string[]) =>
      kubectl(server, ['apply', '--server-side', `--field-manager=${manager}`, ...more, '-f', '-'], {
        input: NETWORK_POLICY(app).replace('np', 'ssa'),
      });
    assert.equal((await apply('one', 'a')).stdout, 'networkpolicy.networking.k8s.io/ssa serverside-applied\n');
    const { status, stderr } = await apply('two', 'b');
    assert.equal(status, 1);
    assert.match(stderr, /conflict with "one": \.spec\.podSelector\.matchLabels\.app/);
    assert.equal((await apply('two', 'b', '--force-conflicts')).status, 0);
  });

  test('create, label, patch, scale of nothing, delete', async () => {
    assert.equal(await ok(['create', 'namespace', 'shop']), 'namespace/shop created\n');
    assert.match(await ok(['get', 'ns', 'shop', '--show-labels']), /kubernetes\.io\/metadata\.name=shop/);
    assert.equal(await ok(['create', 'configmap', 'cm', '-n', 'shop', '--from-literal=a=b']), 'configmap/cm created\n');
    assert.equal(await ok(['label', 'pod', 'a', 'x=y']), 'pod/a labeled\n');
    assert.equal(
      await ok(['patch', 'pod', 'a', '-p', '{"metadata":{"labels":{"x":null,"z":"1"}}}']),
      'pod/a patched\n',
    );
    assert.equal(textAt(server.get('v1', 'Pod', 'a'), 'metadata', 'labels', 'z'), '1');
    assert.equal(
      await ok(['patch', 'pod', 'a', '--type=json', '-p', '[{"op":"remove","path":"/metadata/labels/z"}]']),
      'pod/a patched\n',
    );
    assert.equal(await ok(['delete', 'ns', 'shop']), 'namespace "shop" deleted\n');
    assert.equal(server.get('v1', 'ConfigMap', 'cm', 'shop'), null);
    assert.match(await ok(['delete', 'pod', 'e']), /pod "e" deleted/);
  });

  test('apply and delete what installs the agent', async () => {
    const install = path.join(CRDS, '../install.yaml');
    const made = words(await ok(['apply', '-f', install])).map(([line]) => line);
    assert.ok(
      made.every((line) => / (created|unchanged|configured)$/.test(line ?? '')),
      made.join('\n'),
    );
    assert.match(await ok(['get', 'daemonsets', '-A']), /postern/);
    assert.ok(words(await ok(['apply', '-f', install])).every(([line]) => / unchanged$/.test(line ?? '')));
    await ok(['delete', '-f', install]);
    assert.deepEqual(server.list('apps/v1', 'DaemonSet'), []);
  });

  test('discovery: api-resources, api-versions, version', async () => {
    const resources = await ok(['api-resources']);
    assert.match(resources, /networkpolicies +netpol +networking\.k8s\.io\/v1 +true +NetworkPolicy/);
    assert.match(await ok(['api-versions']), /^discovery\.k8s\.io\/v1$/m);
    assert.match(await ok(['version']), /Server Version: v1\.35/);
  });

  test('auth: can-i, whoami, what another user may not', async () => {
    assert.equal(await ok(['auth', 'can-i', 'list', 'pods']), 'yes\n');
    assert.match(await ok(['auth', 'whoami']), /Username +kubernetes-admin/);
    for (const auth of ['token', 'tokenFile', 'certificate', 'exec'] as const) {
      const kubeconfig = server.writeKubeconfig({ user: serviceAccount('postern', 'agent'), auth });
      const asked = await kubectl(server, ['auth', 'can-i', 'list', 'pods'], { kubeconfig });
      assert.deepEqual([asked.status, asked.stdout], [1, 'no\n'], auth);
      const refused = await kubectl(server, ['get', 'pods'], { kubeconfig });
      assert.match(
        refused.stderr,
        /^Error from server \(Forbidden\): pods is forbidden: User "system:serviceaccount:postern:agent"/,
      );
    }
  });

  test('helm: install, upgrade, rollback, uninstall', async () => {
    const chart = path.join(server.folder, 'chart');
    mkdirSync(path.join(chart, 'templates'), { recursive: true });
    writeFileSync(path.join(chart, 'Chart.yaml'), 'apiVersion: v2\nname: tried\nversion: 1.0.0\n');
    writeFileSync(path.join(chart, 'values.yaml'), 'said: one\n');
    const template = 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: tried}\ndata: {said: {{ .Values.said }}}\n';
    writeFileSync(path.join(chart, 'templates/configmap.yaml'), template);
    const said = (): string => textAt(server.get('v1', 'ConfigMap', 'tried', 'charts') ?? {}, 'data', 'said');
    const steps: readonly [args: string[], expected: string][] = [
      [['install', 'tried', chart, '-n', 'charts', '--create-namespace'], 'one'],
      [['upgrade', 'tried', chart, '-n', 'charts', '--set', 'said=two'], 'two'],
      [['rollback', 'tried', '1', '-n', 'charts'], 'one'],
      [['uninstall', 'tried', '-n', 'charts'], ''],
    ];
    for (const [args, expected] of steps) {
      const { status, stderr } = await helm(server, args);
      assert.equal(status, 0, `helm ${args.join(' ')}: ${stderr}`);
      assert.equal(said(), expected, args.join(' '));
    }
    assert.deepEqual(server.list('v1', 'Secret'), []);
  });
});
