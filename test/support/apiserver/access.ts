// SPDX-License-Identifier: Apache-2.0
// Who asks, and may they? Tokens, client certificates and RBAC as kube-apiserver has them, and denials that a test sets on top.
import { randomBytes } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { TLSSocket } from 'node:tls';
import { isObject, type JsonObject, listAt, textAt } from './json.ts';
import type { Registry } from './registry.ts';
import type { Asked } from './requests.ts';
import { parse } from './storage.ts';

export interface User {
  readonly name: string;
  readonly groups: readonly string[];
}

export const ADMIN: User = { name: 'kubernetes-admin', groups: ['system:masters', 'system:authenticated'] };

export function serviceAccount(namespace: string, name: string): User {
  const groups = ['system:serviceaccounts', `system:serviceaccounts:${namespace}`, 'system:authenticated'];
  return { name: `system:serviceaccount:${namespace}:${name}`, groups };
}

/** What is asked of the authorizer: a resource, or a path. */
export interface Attributes {
  readonly verb: string;
  readonly group: string;
  readonly resource: string;
  readonly subresource: string | null;
  readonly namespace: string | null;
  readonly name: string | null;
}

/** Requests that are denied whatever RBAC says; a field left out means any. */
export interface Denial {
  readonly user?: string;
  readonly verbs?: readonly string[];
  readonly group?: string;
  readonly resource?: string;
  readonly namespace?: string;
}

export class Access {
  readonly #tokens = new Map<string, User>();
  readonly #denials = new Set<Denial>();
  readonly #registry: Registry;
  /** Who is meant by a request without credentials; null: nobody. */
  readonly #anonymous: User | null;

  constructor(registry: Registry, anonymous: User | null) {
    this.#registry = registry;
    this.#anonymous = anonymous;
  }

  issue(user: User): string {
    const token = randomBytes(24).toString('base64url');
    this.#tokens.set(token, user);
    return token;
  }

  revoke(token: string): void {
    this.#tokens.delete(token);
  }

  deny(denial: Denial): () => void {
    this.#denials.add(denial);
    return () => this.#denials.delete(denial);
  }

  /** null: 401. */
  authenticate(request: IncomingMessage): User | null {
    const bearer = /^Bearer (.+)$/.exec(request.headers.authorization ?? '')?.[1];
    if (bearer !== undefined) return this.#tokens.get(bearer) ?? null;
    if (request.socket instanceof TLSSocket && request.socket.authorized) {
      const subject = request.socket.getPeerCertificate().subject as { CN?: string; O?: string | string[] } | undefined;
      if (subject?.CN !== undefined) {
        const groups = subject.O === undefined ? [] : [subject.O].flat();
        return { name: subject.CN, groups: [...groups, 'system:authenticated'] };
      }
    }
    return this.#anonymous;
  }

  mayUse(user: User, asked: Attributes): boolean {
    for (const denial of this.#denials) if (denies(denial, user, asked)) return false;
    if (user.groups.includes('system:masters')) return true;
    // system:basic-user
    if (asked.verb === 'create' && /^selfsubject(access|rules)?reviews$/.test(asked.resource)) return true;
    return this.rules(user, asked.namespace).some((rule) => grants(rule, asked));
  }

  mayVisit(user: User, asked: Asked): boolean {
    if (user.groups.includes('system:masters')) return true;
    const verb = asked.method.toLowerCase();
    // system:discovery and system:public-info-viewer
    if (verb === 'get' && /^\/(api|apis|version|healthz|livez|readyz|openapi)(\/|$)/.test(asked.path)) {
      return user.groups.includes('system:authenticated') || /^\/(version|healthz|livez|readyz)/.test(asked.path);
    }
    return this.rules(user, null).some(
      (rule) =>
        has(rule, 'verbs', verb) &&
        listAt(rule, 'nonResourceURLs').some(
          (url) =>
            url === '*' ||
            url === asked.path ||
            (typeof url === 'string' && url.endsWith('*') && asked.path.startsWith(url.slice(0, -1))),
        ),
    );
  }

  /** The PolicyRules that hold for a user in a namespace. */
  rules(user: User, namespace: string | null): JsonObject[] {
    const bound: JsonObject[] = [];
    for (const binding of this.#objects('clusterrolebindings')) {
      if (listAt(binding, 'subjects').some((one) => isSubject(one as JsonObject, user))) {
        bound.push(...this.#roleRules(binding, null));
      }
    }
    if (namespace !== null) {
      for (const binding of this.#objects('rolebindings')) {
        if (textAt(binding, 'metadata', 'namespace') !== namespace) continue;
        if (listAt(binding, 'subjects').some((one) => isSubject(one as JsonObject, user))) {
          bound.push(...this.#roleRules(binding, namespace));
        }
      }
    }
    return bound;
  }

  #roleRules(binding: JsonObject, namespace: string | null): JsonObject[] {
    const isRole = textAt(binding, 'roleRef', 'kind') === 'Role';
    const name = textAt(binding, 'roleRef', 'name');
    const role = this.#objects(isRole ? 'roles' : 'clusterroles').find(
      (one) =>
        textAt(one, 'metadata', 'name') === name && (!isRole || textAt(one, 'metadata', 'namespace') === namespace),
    );
    return listAt(role, 'rules').filter(isObject);
  }

  #objects(resource: string): JsonObject[] {
    const type = this.#registry.type('rbac.authorization.k8s.io', 'v1', resource);
    return type === undefined ? [] : this.#registry.collection(type).sorted().map(parse);
  }
}

const has = (rule: JsonObject, key: string, value: string): boolean =>
  listAt(rule, key).some((one) => one === '*' || one === value);

function denies(denial: Denial, user: User, asked: Attributes): boolean {
  return (
    (denial.user === undefined || denial.user === user.name) &&
    (denial.verbs === undefined || denial.verbs.includes(asked.verb)) &&
    (denial.group === undefined || denial.group === asked.group) &&
    (denial.resource === undefined ||
      denial.resource === (asked.subresource === null ? asked.resource : `${asked.resource}/${asked.subresource}`)) &&
    (denial.namespace === undefined || denial.namespace === asked.namespace)
  );
}

/** rbac/v1 evaluation helpers: VerbMatches, APIGroupMatches, ResourceMatches, ResourceNameMatches. */
function grants(rule: JsonObject, asked: Attributes): boolean {
  const resource = asked.subresource === null ? asked.resource : `${asked.resource}/${asked.subresource}`;
  const resources = listAt(rule, 'resources');
  const names = listAt(rule, 'resourceNames');
  return (
    has(rule, 'verbs', asked.verb) &&
    has(rule, 'apiGroups', asked.group) &&
    (resources.includes('*') ||
      resources.includes(resource) ||
      (asked.subresource !== null && resources.includes(`*/${asked.subresource}`))) &&
    (names.length === 0 || (asked.name !== null && names.includes(asked.name)))
  );
}

function isSubject(subject: JsonObject, user: User): boolean {
  const name = textAt(subject, 'name');
  switch (textAt(subject, 'kind')) {
    case 'User':
      return name === user.name;
    case 'Group':
      return user.groups.includes(name);
    case 'ServiceAccount':
      return user.name === `system:serviceaccount:${textAt(subject, 'namespace')}:${name}`;
    default:
      return false;
  }
}
