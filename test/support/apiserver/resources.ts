// SPDX-License-Identifier: Apache-2.0
// Which resources are served without a CRD, and what is particular to each? Facts of kube-apiserver 1.35, written once.
import { at, type Json, type JsonObject, listAt, objectAt, textAt } from './json.ts';

export interface Column {
  readonly name: string;
  readonly type: 'string' | 'integer' | 'number' | 'boolean' | 'date';
  readonly format?: string;
  readonly description?: string;
  /** Above 0: shown with -o wide. */
  readonly priority?: number;
  readonly cell: (object: JsonObject) => Json;
}

export interface ResourceType {
  readonly group: string;
  readonly version: string;
  readonly resource: string;
  readonly singular: string;
  readonly kind: string;
  readonly namespaced: boolean;
  readonly shortNames: readonly string[];
  readonly categories: readonly string[];
  /** Has the subresource `status`. */
  readonly status: boolean;
  /** metadata.generation counts changes of what is neither metadata nor status. */
  readonly generation: boolean;
  /** PUT creates what is not there. */
  readonly createOnUpdate: boolean;
  /** Besides metadata.name and metadata.namespace: the path of the value each selectable field has. */
  readonly fields: Readonly<Record<string, readonly string[]>>;
  readonly columns: readonly Column[];
  /** Answers what is asked and stores nothing (SelfSubjectAccessReview). */
  readonly virtual: boolean;
  /** Of a CRD: strategic merge is refused, items of lists say their kind. */
  readonly custom: boolean;
  /** The structural schema of a CRD. */
  readonly schema: JsonObject | null;
  /** The key under which objects are stored; two versions may share one. */
  readonly storage: string;
  readonly toStored: ((object: JsonObject) => JsonObject) | null;
  readonly fromStored: ((object: JsonObject) => JsonObject) | null;
}

export const apiVersionOf = ({ group, version }: { readonly group: string; readonly version: string }): string =>
  group === '' ? version : `${group}/${version}`;

const NAME: Column = {
  name: 'Name',
  type: 'string',
  format: 'name',
  cell: (object) => textAt(object, 'metadata', 'name'),
};
const AGE: Column = {
  name: 'Age',
  type: 'string',
  cell: (object) => since(textAt(object, 'metadata', 'creationTimestamp')),
};
export const DEFAULT_COLUMNS: readonly Column[] = [NAME, AGE];
export const NAME_COLUMN = NAME;

function column(name: string, cell: Column['cell'], more: Partial<Column> = {}): Column {
  return { name, type: 'string', ...more, cell };
}
const path =
  (...steps: readonly string[]) =>
  (object: JsonObject): Json =>
    textAt(object, ...steps) || '<none>';

/** How long ago, as kubectl shows it (duration.HumanDuration, without its second unit). */
export function since(timestamp: string): string {
  if (timestamp === '') return '<unknown>';
  const seconds = Math.max(0, Math.floor((Date.now() - Date.parse(timestamp)) / 1000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 2 * 3600) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 2 * 86_400) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}

const selectorText = (selector: JsonObject): string =>
  [
    ...Object.entries(objectAt(selector, 'matchLabels')).map(([key, value]) => `${key}=${value}`),
    ...listAt(selector, 'matchExpressions').map(
      (one) => `${textAt(one, 'key')} ${textAt(one, 'operator')} ${listAt(one, 'values').join(',')}`,
    ),
  ].join(',') || '<none>';

const labelsText = (labels: JsonObject): string =>
  Object.entries(labels)
    .map(([key, value]) => `${key}=${value}`)
    .join(',') || '<none>';

const PODS: readonly Column[] = [
  NAME,
  column('Ready', (pod) => {
    const ready = listAt(pod, 'status', 'containerStatuses').filter((one) => at(one, 'ready') === true).length;
    return `${ready}/${listAt(pod, 'spec', 'containers').length}`;
  }),
  column('Status', (pod) =>
    at(pod, 'metadata', 'deletionTimestamp') !== undefined
      ? 'Terminating'
      : textAt(pod, 'status', 'phase') || 'Unknown',
  ),
  column('Restarts', (pod) =>
    String(
      listAt(pod, 'status', 'containerStatuses').reduce<number>(
        (sum, one) => sum + Number(textAt(one, 'restartCount')),
        0,
      ),
    ),
  ),
  AGE,
  column('IP', path('status', 'podIP'), { priority: 1 }),
  column('Node', path('spec', 'nodeName'), { priority: 1 }),
  column('Nominated Node', path('status', 'nominatedNodeName'), { priority: 1 }),
  column('Readiness Gates', () => '<none>', { priority: 1 }),
];

const NODES: readonly Column[] = [
  NAME,
  column('Status', (node) =>
    listAt(node, 'status', 'conditions').some(
      (one) => textAt(one, 'type') === 'Ready' && textAt(one, 'status') === 'True',
    )
      ? 'Ready'
      : 'NotReady',
  ),
  column(
    'Roles',
    (node) =>
      Object.keys(objectAt(node, 'metadata', 'labels'))
        .filter((key) => key.startsWith('node-role.kubernetes.io/'))
        .map((key) => key.slice('node-role.kubernetes.io/'.length))
        .join(',') || '<none>',
  ),
  AGE,
  column('Version', (node) => textAt(node, 'status', 'nodeInfo', 'kubeletVersion')),
];

const SERVICES: readonly Column[] = [
  NAME,
  column('Type', (service) => textAt(service, 'spec', 'type') || 'ClusterIP'),
  column('Cluster-IP', path('spec', 'clusterIP')),
  column('External-IP', (service) => textAt(service, 'spec', 'externalName') || '<none>'),
  column(
    'Port(s)',
    (service) =>
      listAt(service, 'spec', 'ports')
        .map((port) => {
          const nodePort = textAt(port, 'nodePort');
          return `${textAt(port, 'port')}${nodePort === '' ? '' : `:${nodePort}`}/${textAt(port, 'protocol') || 'TCP'}`;
        })
        .join(',') || '<none>',
  ),
  AGE,
  column('Selector', (service) => labelsText(objectAt(service, 'spec', 'selector')), { priority: 1 }),
];

const ENDPOINT_SLICES: readonly Column[] = [
  NAME,
  column('AddressType', path('addressType')),
  column(
    'Ports',
    (slice) =>
      listAt(slice, 'ports')
        .map((port) => textAt(port, 'port'))
        .join(',') || '<unset>',
  ),
  column(
    'Endpoints',
    (slice) =>
      listAt(slice, 'endpoints')
        .flatMap((one) => listAt(one, 'addresses'))
        .join(',') || '<unset>',
  ),
  AGE,
];

const EVENTS: readonly Column[] = [
  column('Last Seen', (event) =>
    since(textAt(event, 'series', 'lastObservedTime') || textAt(event, 'lastTimestamp') || textAt(event, 'eventTime')),
  ),
  column('Type', path('type')),
  column('Reason', path('reason')),
  column(
    'Object',
    (event) => `${textAt(event, 'involvedObject', 'kind').toLowerCase()}/${textAt(event, 'involvedObject', 'name')}`,
  ),
  column('Message', (event) => textAt(event, 'message').trim()),
  { ...NAME, priority: 1 },
];

const DAEMON_SETS: readonly Column[] = [
  NAME,
  ...(
    [
      ['Desired', 'desiredNumberScheduled'],
      ['Current', 'currentNumberScheduled'],
      ['Ready', 'numberReady'],
      ['Up-to-date', 'updatedNumberScheduled'],
      ['Available', 'numberAvailable'],
    ] as const
  ).map(([name, field]) => column(name, (one) => Number(textAt(one, 'status', field)), { type: 'integer' })),
  column('Node Selector', (one) => labelsText(objectAt(one, 'spec', 'template', 'spec', 'nodeSelector'))),
  AGE,
];

type Given = Pick<ResourceType, 'group' | 'version' | 'resource' | 'kind' | 'namespaced'> & Partial<ResourceType>;

export function resourceType(given: Given): ResourceType {
  return {
    singular: given.kind.toLowerCase(),
    shortNames: [],
    categories: [],
    status: false,
    generation: false,
    createOnUpdate: false,
    fields: {},
    columns: DEFAULT_COLUMNS,
    virtual: false,
    custom: false,
    schema: null,
    storage: given.group === '' ? given.resource : `${given.resource}.${given.group}`,
    toStored: null,
    fromStored: null,
    ...given,
  };
}

const core = (resource: string, kind: string, more: Partial<ResourceType> = {}): ResourceType =>
  resourceType({ group: '', version: 'v1', resource, kind, namespaced: true, ...more });
const of = (
  group: string,
  version: string,
  resource: string,
  kind: string,
  more: Partial<ResourceType> = {},
): ResourceType => resourceType({ group, version, resource, kind, namespaced: true, ...more });

/** The values of a type's selectable fields in an object. */
export function fieldsOf(type: ResourceType): (object: JsonObject) => Readonly<Record<string, string>> {
  const paths = Object.entries(type.fields);
  return (object) => ({
    'metadata.name': textAt(object, 'metadata', 'name'),
    'metadata.namespace': textAt(object, 'metadata', 'namespace'),
    ...Object.fromEntries(
      paths.map(([field, steps]) => {
        const value = at(object, ...steps);
        return [field, typeof value === 'boolean' ? String(value) : textAt(object, ...steps)];
      }),
    ),
  });
}

const fields = (...names: readonly string[]): Record<string, readonly string[]> =>
  Object.fromEntries(names.map((name) => [name, name.split('.')]));

/** What an Event is called in events.k8s.io and in core (pkg/apis/events/v1/conversion.go). Stored as core has it. */
const EVENT_FIELDS = [
  ['regarding', 'involvedObject'],
  ['note', 'message'],
  ['reportingController', 'reportingComponent'],
  ['deprecatedSource', 'source'],
  ['deprecatedFirstTimestamp', 'firstTimestamp'],
  ['deprecatedLastTimestamp', 'lastTimestamp'],
  ['deprecatedCount', 'count'],
] as const;

function renamed(object: JsonObject, names: ReadonlyMap<string, string>): JsonObject {
  return Object.fromEntries(Object.entries(object).map(([key, value]) => [names.get(key) ?? key, value]));
}
const TO_CORE = new Map<string, string>(EVENT_FIELDS.map(([event, coreName]) => [event, coreName]));
const FROM_CORE = new Map<string, string>(EVENT_FIELDS.map(([event, coreName]) => [coreName, event]));

const REVIEW = { namespaced: false, virtual: true } as const;

export const BUILT_IN: readonly ResourceType[] = [
  core('bindings', 'Binding', { virtual: true }),
  core('configmaps', 'ConfigMap', {
    shortNames: ['cm'],
    columns: [NAME, column('Data', (one) => Object.keys(objectAt(one, 'data')).length), AGE],
  }),
  core('events', 'Event', {
    shortNames: ['ev'],
    createOnUpdate: true,
    columns: EVENTS,
    fields: {
      ...fields('involvedObject.kind', 'involvedObject.namespace', 'involvedObject.name', 'involvedObject.uid'),
      ...fields('involvedObject.apiVersion', 'involvedObject.resourceVersion', 'involvedObject.fieldPath'),
      ...fields('reason', 'type', 'reportingComponent'),
      source: ['source', 'component'],
    },
  }),
  core('namespaces', 'Namespace', {
    namespaced: false,
    shortNames: ['ns'],
    status: true,
    fields: fields('status.phase'),
    columns: [NAME, column('Status', path('status', 'phase')), AGE],
  }),
  core('nodes', 'Node', {
    namespaced: false,
    shortNames: ['no'],
    status: true,
    fields: fields('spec.unschedulable'),
    columns: NODES,
  }),
  core('pods', 'Pod', {
    shortNames: ['po'],
    categories: ['all'],
    status: true,
    generation: true,
    columns: PODS,
    fields: {
      ...fields(
        'spec.nodeName',
        'spec.restartPolicy',
        'spec.schedulerName',
        'spec.serviceAccountName',
        'spec.hostNetwork',
      ),
      ...fields('status.phase', 'status.podIP', 'status.nominatedNodeName'),
    },
  }),
  core('secrets', 'Secret', {
    columns: [
      NAME,
      column('Type', path('type')),
      column('Data', (one) => Object.keys(objectAt(one, 'data')).length),
      AGE,
    ],
    fields: fields('type'),
  }),
  core('serviceaccounts', 'ServiceAccount', { shortNames: ['sa'] }),
  core('services', 'Service', {
    shortNames: ['svc'],
    categories: ['all'],
    status: true,
    columns: SERVICES,
    fields: fields('spec.clusterIP', 'spec.type'),
  }),
  of('apiextensions.k8s.io', 'v1', 'customresourcedefinitions', 'CustomResourceDefinition', {
    namespaced: false,
    shortNames: ['crd', 'crds'],
    categories: ['api-extensions'],
    status: true,
    generation: true,
    columns: [NAME, column('Created At', path('metadata', 'creationTimestamp'), { type: 'date' })],
  }),
  of('apps', 'v1', 'daemonsets', 'DaemonSet', {
    shortNames: ['ds'],
    categories: ['all'],
    status: true,
    generation: true,
    columns: DAEMON_SETS,
  }),
  of('apps', 'v1', 'deployments', 'Deployment', {
    shortNames: ['deploy'],
    categories: ['all'],
    status: true,
    generation: true,
  }),
  of('authorization.k8s.io', 'v1', 'selfsubjectaccessreviews', 'SelfSubjectAccessReview', REVIEW),
  of('authorization.k8s.io', 'v1', 'selfsubjectrulesreviews', 'SelfSubjectRulesReview', REVIEW),
  of('authentication.k8s.io', 'v1', 'selfsubjectreviews', 'SelfSubjectReview', REVIEW),
  of('coordination.k8s.io', 'v1', 'leases', 'Lease', {
    createOnUpdate: true,
    columns: [NAME, column('Holder', path('spec', 'holderIdentity')), AGE],
  }),
  of('discovery.k8s.io', 'v1', 'endpointslices', 'EndpointSlice', { generation: true, columns: ENDPOINT_SLICES }),
  of('events.k8s.io', 'v1', 'events', 'Event', {
    shortNames: ['ev'],
    createOnUpdate: true,
    columns: EVENTS,
    storage: 'events',
    fields: fields('reason', 'type'),
    toStored: (event) => ({ ...renamed(event, TO_CORE), apiVersion: 'v1' }),
    fromStored: (event) => ({ ...renamed(event, FROM_CORE), apiVersion: 'events.k8s.io/v1' }),
  }),
  of('networking.k8s.io', 'v1', 'networkpolicies', 'NetworkPolicy', {
    shortNames: ['netpol'],
    generation: true,
    columns: [NAME, column('Pod-Selector', (one) => selectorText(objectAt(one, 'spec', 'podSelector'))), AGE],
  }),
  of('rbac.authorization.k8s.io', 'v1', 'clusterroles', 'ClusterRole', { namespaced: false }),
  of('rbac.authorization.k8s.io', 'v1', 'clusterrolebindings', 'ClusterRoleBinding', {
    namespaced: false,
    columns: [
      NAME,
      column('Role', (one) => `${textAt(one, 'roleRef', 'kind')}/${textAt(one, 'roleRef', 'name')}`),
      AGE,
    ],
  }),
  of('rbac.authorization.k8s.io', 'v1', 'roles', 'Role'),
  of('rbac.authorization.k8s.io', 'v1', 'rolebindings', 'RoleBinding', {
    columns: [
      NAME,
      column('Role', (one) => `${textAt(one, 'roleRef', 'kind')}/${textAt(one, 'roleRef', 'name')}`),
      AGE,
    ],
  }),
  of('policy', 'v1', 'poddisruptionbudgets', 'PodDisruptionBudget', {
    shortNames: ['pdb'],
    status: true,
    generation: true,
  }),
  of('scheduling.k8s.io', 'v1', 'priorityclasses', 'PriorityClass', { namespaced: false, shortNames: ['pc'] }),
];
