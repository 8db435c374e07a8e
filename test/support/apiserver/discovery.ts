// SPDX-License-Identifier: Apache-2.0
// What does the server say it serves? Discovery (legacy and apidiscovery.k8s.io/v2) and OpenAPI, derived from the resource types.
import { type JsonObject, objectAt } from './json.ts';
import { apiVersionOf, type ResourceType } from './resources.ts';

export const VERSION: JsonObject = {
  major: '1',
  minor: '35',
  gitVersion: 'v1.35.0',
  gitCommit: '0000000000000000000000000000000000000000',
  gitTreeState: 'clean',
  buildDate: '2025-12-17T00:00:00Z',
  goVersion: 'go1.25.5',
  compiler: 'gc',
  platform: 'linux/amd64',
};

const ALL_VERBS = ['create', 'delete', 'deletecollection', 'get', 'list', 'patch', 'update', 'watch'];

const verbs = (type: ResourceType): string[] => (type.virtual ? ['create'] : ALL_VERBS);

interface Group {
  readonly name: string;
  /** By version, in the order in which they are preferred. */
  readonly versions: ReadonlyMap<string, readonly ResourceType[]>;
}

function groups(types: readonly ResourceType[]): readonly Group[] {
  const found = new Map<string, Map<string, ResourceType[]>>();
  for (const type of types) {
    let versions = found.get(type.group);
    if (versions === undefined) {
      versions = new Map();
      found.set(type.group, versions);
    }
    versions.set(type.version, [...(versions.get(type.version) ?? []), type]);
  }
  return [...found].map(([name, versions]) => ({ name, versions }));
}

/** GET /api */
export function coreVersions(): JsonObject {
  return { kind: 'APIVersions', versions: ['v1'], serverAddressByClientCIDRs: [] };
}

function groupInfo({ name, versions }: Group): JsonObject {
  const all = [...versions.keys()].map((version) => ({
    groupVersion: apiVersionOf({ group: name, version }),
    version,
  }));
  return { name, versions: all, preferredVersion: all[0] ?? {} };
}

/** GET /apis */
export function groupList(types: readonly ResourceType[]): JsonObject {
  const named = groups(types).filter(({ name }) => name !== '');
  return { kind: 'APIGroupList', apiVersion: 'v1', groups: named.map(groupInfo) };
}

/** GET /apis/GROUP; null where there is no such group. */
export function group(types: readonly ResourceType[], name: string): JsonObject | null {
  const found = groups(types).find((one) => one.name === name);
  return found === undefined ? null : { kind: 'APIGroup', apiVersion: 'v1', ...groupInfo(found) };
}

/** GET /api/v1 and /apis/GROUP/VERSION; null where there is none. */
export function resourceList(
  types: readonly ResourceType[],
  of: { readonly group: string; readonly version: string },
): JsonObject | null {
  const served = types.filter((type) => type.group === of.group && type.version === of.version);
  if (served.length === 0) return null;
  const resources = served.flatMap((type) => [
    {
      name: type.resource,
      singularName: type.singular,
      namespaced: type.namespaced,
      kind: type.kind,
      verbs: verbs(type),
      ...(type.shortNames.length > 0 ? { shortNames: [...type.shortNames] } : {}),
      ...(type.categories.length > 0 ? { categories: [...type.categories] } : {}),
    },
    ...(type.status
      ? [
          {
            name: `${type.resource}/status`,
            singularName: '',
            namespaced: type.namespaced,
            kind: type.kind,
            verbs: ['get', 'patch', 'update'],
          },
        ]
      : []),
  ]);
  return { kind: 'APIResourceList', apiVersion: 'v1', groupVersion: apiVersionOf(of), resources };
}

/** GET /api or /apis as apidiscovery.k8s.io/v2. */
export function aggregated(types: readonly ResourceType[], core: boolean): JsonObject {
  const items = groups(types)
    .filter(({ name }) => (name === '') === core)
    .map(({ name, versions }) => ({
      metadata: { name: name === '' ? null : name, creationTimestamp: null },
      versions: [...versions].map(([version, served]) => ({
        version,
        freshness: 'Current',
        resources: served.map((type) => {
          const responseKind = { group: type.group, version, kind: type.kind };
          return {
            resource: type.resource,
            responseKind,
            scope: type.namespaced ? 'Namespaced' : 'Cluster',
            singularResource: type.singular,
            verbs: verbs(type),
            ...(type.shortNames.length > 0 ? { shortNames: [...type.shortNames] } : {}),
            ...(type.categories.length > 0 ? { categories: [...type.categories] } : {}),
            ...(type.status
              ? { subresources: [{ subresource: 'status', responseKind, verbs: ['get', 'patch', 'update'] }] }
              : {}),
          };
        }),
      })),
    }));
  return { kind: 'APIGroupDiscoveryList', apiVersion: 'apidiscovery.k8s.io/v2', metadata: {}, items };
}

const groupPath = ({ group, version }: { readonly group: string; readonly version: string }): string =>
  group === '' ? `api/${version}` : `apis/${group}/${version}`;

/** GET /openapi/v3 */
export function openApiRoot(types: readonly ResourceType[]): JsonObject {
  const all = [...new Set(types.map(groupPath))];
  return { paths: Object.fromEntries(all.map((path) => [path, { serverRelativeURL: `/openapi/v3/${path}` }])) };
}

/**
 * GET /openapi/v3/apis/GROUP/VERSION: enough for kubectl to know that fields are validated here (the parameter fieldValidation)
 * and to explain custom kinds. Built-in kinds are told as objects of anything.
 */
export function openApi(types: readonly ResourceType[], path: string): JsonObject | null {
  const served = types.filter((type) => groupPath(type) === path);
  const [first] = served;
  if (first === undefined) return null;
  const paths: JsonObject = {};
  const schemas: JsonObject = {};
  const parameter = { name: 'fieldValidation', in: 'query', schema: { type: 'string', uniqueItems: true } };
  for (const type of served) {
    const gvk = { group: type.group, version: type.version, kind: type.kind };
    const name = [...(type.group === '' ? ['core'] : type.group.split('.')).toReversed(), type.version, type.kind].join(
      '.',
    );
    const operation = (action: string, parameters: JsonObject[]): JsonObject => ({
      'x-kubernetes-action': action,
      'x-kubernetes-group-version-kind': gvk,
      parameters,
      responses: {},
    });
    const scope = type.namespaced ? 'namespaces/{namespace}/' : '';
    paths[`/${path}/${scope}${type.resource}`] = { get: operation('list', []), post: operation('post', [parameter]) };
    paths[`/${path}/${scope}${type.resource}/{name}`] = {
      get: operation('get', []),
      put: operation('put', [parameter]),
      patch: operation('patch', [parameter]),
      delete: operation('delete', []),
    };
    schemas[name] = {
      ...(type.schema ?? { type: 'object', 'x-kubernetes-preserve-unknown-fields': true }),
      properties: {
        ...objectAt(type.schema ?? {}, 'properties'),
        apiVersion: { type: 'string' },
        kind: { type: 'string' },
        metadata: { type: 'object', description: 'Standard metadata of an object.' },
      },
      'x-kubernetes-group-version-kind': [gvk],
    };
  }
  return { openapi: '3.0.0', info: { title: 'Kubernetes', version: 'v1.35.0' }, paths, components: { schemas } };
}

export const OPENAPI_V2: JsonObject = { swagger: '2.0', info: { title: 'Kubernetes', version: 'v1.35.0' }, paths: {} };

/** The same, as the protobuf message openapi.v2.Document: swagger = 1, info = 2 {title = 1, version = 2}, paths = 8. */
export function openApiV2Protobuf(): Buffer {
  const field = (number: number, content: Buffer): Buffer =>
    Buffer.concat([Buffer.from([(number << 3) | 2, content.length]), content]);
  const info = Buffer.concat([field(1, Buffer.from('Kubernetes')), field(2, Buffer.from('v1.35.0'))]);
  return Buffer.concat([field(1, Buffer.from('2.0')), field(2, info), field(8, Buffer.alloc(0))]);
}
