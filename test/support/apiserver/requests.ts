// SPDX-License-Identifier: Apache-2.0
// What does a request ask for? A URL and a method as kube-apiserver's RequestInfo (endpoints/request/requestinfo.go); answers none.

export type Verb = 'get' | 'list' | 'watch' | 'create' | 'update' | 'patch' | 'delete' | 'deletecollection';

/** What is asked of a resource. */
export interface ResourceRequest {
  readonly verb: Verb;
  readonly group: string;
  readonly version: string;
  readonly resource: string;
  readonly subresource: string | null;
  readonly namespace: string | null;
  readonly name: string | null;
}

export interface Asked {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  /** null: discovery, health, and whatever else is no resource. */
  readonly resource: ResourceRequest | null;
}

export function readRequest(method: string, url: string): Asked {
  const { pathname, searchParams: query } = new URL(url, 'http://server');
  return { method, path: pathname, query, resource: readResource(method, pathname, query) };
}

const yes = (value: string | null): boolean => value !== null && value !== '0' && value !== 'false';

function readResource(method: string, pathname: string, query: URLSearchParams): ResourceRequest | null {
  const parts = pathname
    .split('/')
    .filter((part) => part !== '')
    .map(decodeURIComponent);
  const prefix = parts.shift();
  let group = '';
  if (prefix === 'apis') group = parts.shift() ?? '';
  else if (prefix !== 'api') return null;
  const version = parts.shift();
  if (version === undefined || parts.length === 0) return null;

  let namespace: string | null = null;
  if (parts[0] === 'namespaces' && parts.length > 1) {
    namespace = parts[1] ?? null;
    // /namespaces/NAME, and its status and finalize, are the Namespace itself.
    const own = parts.length === 2 || (parts.length === 3 && (parts[2] === 'status' || parts[2] === 'finalize'));
    if (!own) parts.splice(0, 2);
  }
  const [resource = '', name = null, ...rest] = parts;
  const subresource = rest.length === 0 ? null : rest.join('/');
  const pinned = /(?:^|,)metadata\.name=([^,]+)/.exec(query.get('fieldSelector') ?? '')?.[1] ?? null;
  const where = { group, version, resource, subresource, namespace, name: name ?? null };
  switch (method) {
    case 'POST':
      return { ...where, verb: 'create' };
    case 'PUT':
      return { ...where, verb: 'update' };
    case 'PATCH':
      return { ...where, verb: 'patch' };
    case 'DELETE':
      return { ...where, verb: name === null ? 'deletecollection' : 'delete' };
    default:
      if (name !== null) return { ...where, verb: 'get' };
      // RBAC may allow a list of one name, so the name is told.
      return { ...where, verb: yes(query.get('watch')) ? 'watch' : 'list', name: pinned };
  }
}

/** A body's or answer's form, from Accept. */
export interface Form {
  readonly as: 'Object' | 'Table' | 'PartialObjectMetadata' | 'PartialObjectMetadataList' | 'APIGroupDiscoveryList';
  readonly yaml: boolean;
}

/** The first form in Accept that this server has (no protobuf), or null. */
export function acceptedForm(accept: string | undefined): Form | null {
  for (const one of (accept ?? '*/*').split(',')) {
    const [type = '', ...parameters] = one.split(';').map((part) => part.trim());
    const as = parameters.find((part) => part.startsWith('as='))?.slice(3);
    const yaml = type === 'application/yaml';
    if (!yaml && !['application/json', '*/*', 'application/*', ''].includes(type)) continue;
    if (as === undefined) return { as: 'Object', yaml };
    if (as === 'APIGroupDiscoveryList' && !parameters.includes('v=v2')) continue;
    if (
      as === 'Table' ||
      as === 'PartialObjectMetadata' ||
      as === 'PartialObjectMetadataList' ||
      as === 'APIGroupDiscoveryList'
    ) {
      return { as, yaml };
    }
  }
  return null;
}
