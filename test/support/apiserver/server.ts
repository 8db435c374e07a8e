// SPDX-License-Identifier: Apache-2.0
// An API server for tests: speaks HTTP(S) as kube-apiserver 1.35 does, to the real kubectl too, and breaks where a test says so.
// Everything in memory. Not there: admission, CEL, quotas; controllers but the namespaces'; answers in protobuf, HTTP/2; owners of
// fields that are written without server-side apply.
import { randomUUID } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer as createHttp, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createHttps, Server as HttpsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { gunzipSync } from 'node:zlib';
import { parse as parseYaml, stringify } from 'yaml';
import { Access, ADMIN, type Attributes, type Denial, serviceAccount, type User } from './access.ts';
import { Authority, type KeyPair, writeSecret } from './certificates.ts';
import {
  aggregated,
  coreVersions,
  group,
  groupList,
  OPENAPI_V2,
  openApi,
  openApiRoot,
  openApiV2Protobuf,
  resourceList,
  VERSION,
} from './discovery.ts';
import {
  badRequest,
  Failure,
  forbidden,
  forbiddenPath,
  internal,
  methodNotAllowed,
  noSuchPath,
  notAcceptable,
  notFound,
  unauthorized,
  unsupportedMediaType,
} from './failure.ts';
import { concerns, type Fault, Faults, type Trouble, type Where } from './faults.ts';
import { at, isObject, type Json, type JsonObject, listAt, objectAt, textAt } from './json.ts';
import { Outlet } from './outlet.ts';
import { readProtobuf } from './protobuf.ts';
import { JSON_TYPE, list, type Reading, Watch } from './reads.ts';
import { type PatchType, Registry, type Writing } from './registry.ts';
import { type Asked, acceptedForm, type Form, type ResourceRequest, readRequest } from './requests.ts';
import { apiVersionOf, type ResourceType } from './resources.ts';
import { fieldSelector, labelSelector } from './selectors.ts';
import { keyOf, Storage } from './storage.ts';
import { columnDefinitions, metadataOnly, tableRow } from './table.ts';

export type { Denial, User } from './access.ts';
export { serviceAccount } from './access.ts';
export type { Fault, Where } from './faults.ts';
export type { JsonObject } from './json.ts';

export interface Options {
  /** What the cluster holds at first, CRDs before what they define. Namespaces `default` and `kube-system` are always there. */
  readonly objects?: Iterable<object>;
  /** HTTPS with a certificate for loopback, and client certificates. Default: plain HTTP. */
  readonly tls?: boolean;
  /** Requests without credentials are the administrator's. Default: over plain HTTP only, as `kubectl proxy` has it. */
  readonly anonymous?: boolean;
  /** How often watches get a bookmark. Default: a minute, as the real one. */
  readonly bookmarkMs?: number;
  /** How many changes of a resource are remembered at least. Default: 10,000. */
  readonly history?: number;
  /** Feature gate WatchList (default on): off, sendInitialEvents is refused as before 1.32. */
  readonly streamingLists?: boolean;
  /** Deleted pods that are on a node wait, terminating, until somebody deletes them with grace 0, as kubelet does. Default: no. */
  readonly gracefulPods?: boolean;
  /** The first version. */
  readonly resourceVersion?: number;
}

/** One request and what became of it. Alive: read it again, and it may have ended. */
export interface Logged {
  readonly method: string;
  readonly path: string;
  readonly query: string;
  readonly verb: string;
  readonly group: string;
  readonly resource: string;
  readonly subresource: string;
  readonly namespace: string;
  readonly name: string;
  readonly user: string;
  readonly userAgent: string;
  /** 0 until it is answered. */
  readonly code: number;
  readonly requestBytes: number;
  /** Bytes of body, compressed if they were. */
  readonly responseBytes: number;
  readonly ended: boolean;
}

/** A watch that has told what was there when it began. */
export interface OpenWatch {
  readonly asked: Asked;
  /** Ends as at a server-side timeout. */
  end(): void;
  /** Tears its connection down. */
  reset(): void;
  /** Keeps its connection and says nothing any more. */
  stall(): void;
  /** Breaks off in the middle of a line. */
  cutLine(): void;
  /** Sends a line that is no JSON, and goes on. */
  garbage(): void;
  /** Sends the ERROR event of a version that is gone, and ends. */
  expire(): void;
  bookmark(): void;
}

/** How a kubeconfig's user proves who it is; `exec` is a command that prints an ExecCredential with a token. */
type Auth = 'token' | 'tokenFile' | 'certificate' | 'exec' | 'none';

export class ApiServer {
  /** Requests, oldest first. Empty it by `log.length = 0`. */
  readonly log: Logged[] = [];
  /** Holds kubeconfigs, tokens, certificates; removed by stop(). */
  readonly folder: string;
  /** Path of an administrator's kubeconfig. */
  readonly kubeconfig: string;
  /** Of an administrator. */
  readonly token: string;

  readonly #options: Options;
  readonly #storage: Storage;
  readonly #registry: Registry;
  readonly #access: Access;
  readonly #faults = new Faults();
  readonly #authority: Authority | null;
  readonly #server: Server | HttpsServer;
  readonly #sockets = new Set<Socket>();
  readonly #watches = new Map<Watch, { readonly asked: Asked; readonly type: ResourceType; synced: boolean }>();
  readonly #waiting = new Set<() => void>();
  /** By kubeconfig. */
  readonly #rotations = new Map<string, () => void>();
  #port = 0;
  #files = 0;

  private constructor(options: Options) {
    this.#options = options;
    this.folder = mkdtempSync(path.join(tmpdir(), `apiserver-${process.pid}-`));
    this.#storage = new Storage(options.resourceVersion ?? 1_000, options.history ?? 10_000);
    this.#registry = new Registry(this.#storage, {
      gracefulPods: options.gracefulPods === true,
      onTypesGone: (types) => {
        for (const [watch, { type }] of this.#watches) if (types.includes(type)) watch.end();
      },
    });
    const tls = options.tls === true;
    const anonymous = options.anonymous ?? !tls;
    this.#access = new Access(this.#registry, anonymous ? ADMIN : null);
    this.token = this.#access.issue(ADMIN);
    const listener = (request: IncomingMessage, response: ServerResponse) => void this.#serve(request, response);
    if (tls) {
      const folder = path.join(this.folder, 'pki');
      mkdirSync(folder);
      this.#authority = new Authority(folder);
      const { certificate, key } = this.#authority.server();
      const ca = this.#authority.certificate;
      this.#server = createHttps(
        { cert: certificate, key, ca, requestCert: true, rejectUnauthorized: false },
        listener,
      );
    } else {
      this.#authority = null;
      this.#server = createHttp(listener);
    }
    // Go's server closes idle connections after 3 minutes and never ends a request that goes on.
    this.#server.keepAliveTimeout = 180_000;
    this.#server.requestTimeout = 0;
    this.#server.on('connection', (socket) => {
      this.#sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => this.#sockets.delete(socket));
    });
    this.#server.on('tlsClientError', () => undefined);
    for (const name of ['default', 'kube-system']) {
      this.put({ apiVersion: 'v1', kind: 'Namespace', metadata: { name } });
    }
    for (const object of options.objects ?? []) this.put(object);
    this.kubeconfig = path.join(this.folder, 'admin.kubeconfig');
    process.on('exit', this.#removeFolder);
  }

  static async start(options: Options = {}): Promise<ApiServer> {
    const server = new ApiServer(options);
    try {
      await server.#listen();
      server.writeKubeconfig({ file: server.kubeconfig });
    } catch (error) {
      await server.stop();
      throw error;
    }
    return server;
  }

  get url(): string {
    return `${this.#authority === null ? 'http' : 'https'}://127.0.0.1:${this.#port}`;
  }

  /** The authority's certificate in PEM, or null without TLS. */
  get ca(): string | null {
    return this.#authority?.certificate ?? null;
  }

  /** The version of the last write. */
  get resourceVersion(): number {
    return this.#storage.revision;
  }

  // ---- what the cluster holds -------------------------------------------------------------------------------------------

  /**
   * Writes an object as the cluster's own components would, status and uid included; creates it where it is not there. What
   * changes nothing makes no version. Returns what is stored.
   */
  put(object: object): JsonObject {
    return this.#registry.put(object);
  }

  /** Takes an object away, by what names it: apiVersion, kind, metadata. Throws where it is not there. */
  delete(object: object): void {
    const named = JSON.parse(JSON.stringify(object)) as JsonObject;
    const type = this.#registry.typeOf(named);
    this.#registry.delete(type, this.#place(type, named), { graceS: 0, atOnce: true });
  }

  /** What is stored under a kind and a name, or null. */
  get(apiVersion: string, kind: string, name: string, namespace = 'default'): JsonObject | null {
    const type = this.#registry.typeOf({ apiVersion, kind });
    const stored = this.#registry.collection(type).objects.get(keyOf(type.namespaced ? namespace : null, name));
    return stored === undefined ? null : this.#registry.shown(type, stored);
  }

  /** All of a kind, by namespace and name. */
  list(apiVersion: string, kind: string): JsonObject[] {
    const type = this.#registry.typeOf({ apiVersion, kind });
    return this.#registry
      .collection(type)
      .sorted()
      .map((stored) => this.#registry.shown(type, stored));
  }

  /** Forgets all versions but the current ones: watches from before get 410, continued lists too. */
  compact(): void {
    this.#storage.compact();
  }

  /** Sends every watch that takes them a bookmark of the current version. */
  bookmark(): void {
    for (const [watch, { asked }] of this.#watches)
      if (asked.query.get('allowWatchBookmarks') === 'true') watch.bookmark();
  }

  // ---- who may ------------------------------------------------------------------------------------------------------------

  /** A bearer token of this user. Without system:masters among its groups, stored RBAC objects decide what it may do. */
  issueToken(user: User): string {
    return this.#access.issue(user);
  }

  revokeToken(token: string): void {
    this.#access.revoke(token);
  }

  /** Denies what agrees with every field given, to anybody; until the function returned is called. */
  deny(denial: Denial): () => void {
    return this.#access.deny(denial);
  }

  /** A client certificate of this user. Needs TLS. */
  issueCertificate(user: User): KeyPair {
    if (this.#authority === null) throw new Error('certificates need tls');
    return this.#authority.client(
      user.name,
      user.groups.filter((name) => name !== 'system:authenticated'),
    );
  }

  /** Gives the server another certificate of the same authority, as a rotation does. */
  rotateServerCertificate(): void {
    if (this.#authority === null || !(this.#server instanceof HttpsServer)) throw new Error('certificates need tls');
    const { certificate, key } = this.#authority.server();
    this.#server.setSecureContext({ cert: certificate, key, ca: this.#authority.certificate });
  }

  /** Writes a kubeconfig (default: the administrator's, by token) and returns its path. */
  writeKubeconfig(given: { readonly user?: User; readonly auth?: Auth; readonly file?: string } = {}): string {
    const user = given.user ?? ADMIN;
    const name = `${++this.#files}`;
    const file = given.file ?? path.join(this.folder, `${name}.kubeconfig`);
    const ca = this.ca === null ? {} : { 'certificate-authority-data': Buffer.from(this.ca).toString('base64') };
    writeSecret(
      file,
      JSON.stringify({
        apiVersion: 'v1',
        kind: 'Config',
        clusters: [{ name: 'test', cluster: { server: this.url, ...ca } }],
        users: [{ name: user.name, user: this.#credentials(user, given.auth ?? 'token', name, file) }],
        contexts: [{ name: 'test', context: { cluster: 'test', user: user.name } }],
        'current-context': 'test',
      }),
    );
    return file;
  }

  /**
   * Gives the user of a kubeconfig new credentials in the files that it names, and revokes the old token (a certificate holds on).
   * Not for `token` and `none`, whose kubeconfig would have to change itself.
   */
  rotate(kubeconfig: string): void {
    const rotate = this.#rotations.get(kubeconfig);
    if (rotate === undefined) throw new Error(`no credentials in files of their own: ${kubeconfig}`);
    rotate();
  }

  #credentials(user: User, auth: Auth, name: string, kubeconfig: string): JsonObject {
    const file = (extension: string): string => path.join(this.folder, `${name}.${extension}`);
    /** Now, and at each rotation. */
    const issue = (write: () => void): void => {
      write();
      this.#rotations.set(kubeconfig, write);
    };
    let token = '';
    const another = (): string => {
      this.revokeToken(token);
      token = this.issueToken(user);
      return token;
    };
    switch (auth) {
      case 'token':
        return { token: this.issueToken(user) };
      case 'tokenFile':
        issue(() => writeSecret(file('token'), another()));
        return { tokenFile: file('token') };
      case 'certificate':
        issue(() => {
          const { certificate, key } = this.issueCertificate(user);
          writeSecret(file('crt'), certificate);
          writeSecret(file('key'), key);
        });
        return { 'client-certificate': file('crt'), 'client-key': file('key') };
      case 'exec': {
        const apiVersion = 'client.authentication.k8s.io/v1';
        issue(() => {
          const credential = { apiVersion, kind: 'ExecCredential', status: { token: another() } };
          writeSecret(file('credential'), JSON.stringify(credential));
        });
        return { exec: { apiVersion, command: 'cat', args: [file('credential')], interactiveMode: 'Never' } };
      }
      case 'none':
        return {};
    }
  }

  /**
   * Makes a folder as kubelet mounts it into a pod: token, ca.crt, namespace under
   * `ROOT/var/run/secrets/kubernetes.io/serviceaccount`. `rotate` issues another token and revokes the one before.
   */
  mountServiceAccount(namespace: string, name: string): { readonly root: string; rotate(): void } {
    const root = path.join(this.folder, `mount-${++this.#files}`);
    const folder = path.join(root, 'var/run/secrets/kubernetes.io/serviceaccount');
    mkdirSync(folder, { recursive: true });
    writeSecret(path.join(folder, 'ca.crt'), this.ca ?? '');
    writeSecret(path.join(folder, 'namespace'), namespace);
    let token = this.issueToken(serviceAccount(namespace, name));
    writeSecret(path.join(folder, 'token'), token);
    const rotate = () => {
      const before = token;
      token = this.issueToken(serviceAccount(namespace, name));
      writeSecret(path.join(folder, 'token'), token);
      this.revokeToken(before);
    };
    return { root, rotate };
  }

  // ---- what goes wrong ----------------------------------------------------------------------------------------------------

  /** Breaks requests that begin from now on; until the function returned is called. */
  break(fault: Fault): () => void {
    return this.#faults.add(fault);
  }

  /** Mends all of it. */
  mend(): void {
    this.#faults.clear();
  }

  /** Connections are refused, and those that are open torn down, until listen() or restart(). */
  async refuse(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#dropConnections();
    await closed;
  }

  /** Listens again, at the same port. */
  async listen(): Promise<void> {
    await this.#listen();
  }

  /**
   * Another process takes over: every connection is torn down, history is forgotten. With `resourceVersion`, a new epoch begins
   * there, which may lie before the one that was, as after etcd was restored from a backup.
   */
  async restart(given: { readonly resourceVersion?: number } = {}): Promise<void> {
    await this.refuse();
    this.#storage.restart(given.resourceVersion ?? this.#storage.revision);
    await this.#listen();
  }

  /** Watches that are open and have told what was there when they began. */
  watches(where: Where = {}): OpenWatch[] {
    return [...this.#watches]
      .filter(([, { asked, synced }]) => synced && concerns(where, asked))
      .map(([watch, { asked }]) => ({
        asked,
        end: () => watch.end(),
        reset: () => watch.outlet.reset(),
        stall: () => watch.outlet.stall(),
        cutLine: () => {
          watch.outlet.inject('{"type":"MODIFIED","object":{"kind":"P');
          watch.outlet.finish();
        },
        garbage: () => watch.outlet.inject('{"type":"MODIFIED","object":{"kind":"Pod","meta\n'),
        expire: () => {
          const gone = new Failure(410, 'Expired', 'too old resource version: 1 (2)').status();
          watch.outlet.inject(`${JSON.stringify({ type: 'ERROR', object: gone })}\n`);
          watch.outlet.finish();
        },
        bookmark: () => watch.bookmark(),
      }));
  }

  // ---- what happened ------------------------------------------------------------------------------------------------------

  /**
   * Resolves when `holds`, asked again whenever a request begins or ends or a watch is synced. Rejects, with the last requests,
   * when a minute passes: what has not come by then never will.
   */
  async until(holds: (server: this) => boolean): Promise<void> {
    const deadline = Date.now() + PATIENCE_MS;
    while (!holds(this)) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#waiting.add(resolve);
      const timer = setTimeout(resolve, Math.max(0, deadline - Date.now()));
      await promise;
      clearTimeout(timer);
      if (Date.now() < deadline || holds(this)) continue;
      const last = this.log
        .slice(-10)
        .map((one) => `${one.method} ${one.path}?${one.query} ${one.code}${one.ended ? '' : ' …'}`);
      throw new Error(`not within a minute; the last requests:\n${last.join('\n')}`);
    }
  }

  /** Resolves when so many watches are open that agree with `where`. */
  async untilWatched(where: Where = {}, count = 1): Promise<void> {
    await this.until(() => this.watches(where).length >= count);
  }

  #changed(): void {
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const wake of waiting) wake();
  }

  async stop(): Promise<void> {
    if (this.#server.listening) await this.refuse();
    this.#dropConnections();
    this.#removeFolder();
    process.off('exit', this.#removeFolder);
  }

  readonly #removeFolder = (): void => rmSync(this.folder, { recursive: true, force: true });

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  #dropConnections(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async #listen(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(this.#port, '127.0.0.1', () => {
        this.#server.off('error', reject);
        resolve();
      });
    });
    this.#port = (this.#server.address() as AddressInfo).port;
  }

  // ---- requests -----------------------------------------------------------------------------------------------------------

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const asked = readRequest(request.method ?? 'GET', request.url ?? '/');
    const troubles = this.#faults.of(asked);
    const outlet = new Outlet(response, troubles);
    const record = begun(asked, request, outlet);
    this.log.push(record);
    this.#changed();
    outlet.closed.addEventListener('abort', () => {
      record.ended = true;
      this.#changed();
    });
    response.setHeader('audit-id', randomUUID());
    response.setHeader('cache-control', 'no-cache, private');
    try {
      await this.#answer(asked, request, outlet, troubles, record);
    } catch (error) {
      if (outlet.closed.aborted) return;
      if (!(error instanceof Failure)) throw error;
      await refuse(outlet, error);
    }
  }

  async #answer(
    asked: Asked,
    request: IncomingMessage,
    outlet: Outlet,
    troubles: readonly Trouble[],
    record: LogEntry,
  ): Promise<void> {
    for (const trouble of troubles) {
      if (trouble.kind === 'silence') return;
      if (trouble.kind === 'reset') return outlet.reset();
      if (trouble.kind === 'delay') await new Promise((resolve) => setTimeout(resolve, trouble.ms).unref());
      if (trouble.kind === 'status') throw statusFault(trouble, asked);
    }
    const body = await readBody(request);
    record.requestBytes = body.length;
    if (/^\/(healthz|livez|readyz)(\/|$)/.test(asked.path)) return await plain(outlet, 'ok');
    const user = this.#access.authenticate(request);
    if (user === null) throw unauthorized();
    record.user = user.name;

    const form = acceptedForm(request.headers.accept);
    const { resource } = asked;
    if (resource === null) {
      if (!this.#access.mayVisit(user, asked)) throw forbiddenPath(user.name, asked.method.toLowerCase(), asked.path);
      return await this.#visit(asked, request, outlet, form);
    }
    if (!this.#access.mayUse(user, resource)) throw forbidden(user.name, resource);
    const type = this.#registry.type(resource.group, resource.version, resource.resource);
    if (type === undefined) throw noSuchPath();
    if (form === null) throw notAcceptable();
    await this.#use(asked, resource, { type, user, form, body, request, outlet, troubles });
  }

  async #visit(asked: Asked, request: IncomingMessage, outlet: Outlet, form: Form | null): Promise<void> {
    if (asked.method !== 'GET' && asked.method !== 'HEAD') throw methodNotAllowed();
    const types = this.#registry.types();
    const parts = asked.path.split('/').filter((part) => part !== '');
    const discovery = form?.as === 'APIGroupDiscoveryList';
    const answer = (value: JsonObject | null): Promise<void> => {
      if (value === null) throw noSuchPath();
      return send(outlet, 200, value);
    };
    if (parts[0] === 'openapi' && parts[1] === 'v3') {
      return await answer(parts.length === 2 ? openApiRoot(types) : openApi(types, parts.slice(2).join('/')));
    }
    if (asked.path === '/openapi/v2') {
      if (!(request.headers.accept ?? '').includes('proto-openapi')) return await answer(OPENAPI_V2);
      outlet.start(200, { 'content-type': 'application/com.github.proto-openapi.spec.v2.v1.0+protobuf' });
      await outlet.write(openApiV2Protobuf());
      return await outlet.end();
    }
    if (asked.path === '/version') return await answer(VERSION);
    if (parts[0] === 'api' || parts[0] === 'apis') {
      if (parts.length === 1 && discovery) {
        const type = `${JSON_TYPE};g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList`;
        return await send(outlet, 200, aggregated(types, parts[0] === 'api'), type);
      }
      if (parts.length === 1) return await answer(parts[0] === 'api' ? coreVersions() : groupList(types));
      if (parts[0] === 'api') return await answer(resourceList(types, { group: '', version: parts[1] ?? '' }));
      if (parts.length === 2) return await answer(group(types, parts[1] ?? ''));
      return await answer(resourceList(types, { group: parts[1] ?? '', version: parts[2] ?? '' }));
    }
    throw noSuchPath();
  }

  async #use(
    asked: Asked,
    to: ResourceRequest,
    by: {
      readonly type: ResourceType;
      readonly user: User;
      readonly form: Form;
      readonly body: Buffer;
      readonly request: IncomingMessage;
      readonly outlet: Outlet;
      readonly troubles: readonly Trouble[];
    },
  ): Promise<void> {
    const { type, outlet, form } = by;
    if (type.virtual) {
      if (to.verb !== 'create') throw methodNotAllowed();
      return await send(outlet, 201, this.#review(type, by.user, readObject(by.body, by.request)));
    }
    if (to.subresource !== null && !(to.subresource === 'status' && type.status) && to.subresource !== 'finalize') {
      throw noSuchPath();
    }
    if (type.namespaced && to.namespace === null && !['list', 'watch', 'deletecollection'].includes(to.verb))
      throw noSuchPath();
    const namespace = type.namespaced ? to.namespace : null;
    if (to.verb === 'list' || to.verb === 'watch') return await this.#read(asked, to.verb, namespace, by);
    const show = (code: number, object: JsonObject): Promise<void> =>
      send(outlet, code, this.#formed(type, object, form, asked.query), JSON_TYPE, form.yaml);
    const { query } = asked;
    const writing: Writing = {
      subresource: to.subresource === 'finalize' ? null : to.subresource,
      dryRun: query.get('dryRun') === 'All',
      fieldValidation: fieldValidation(query),
      onWarning: (warning) => by.outlet.response.appendHeader('warning', `299 - ${JSON.stringify(warning)}`),
      fieldManager:
        query.get('fieldManager') ?? (by.request.headers['user-agent'] ?? 'unknown').split('/')[0] ?? 'unknown',
    };
    const object = (): JsonObject => readObject(by.body, by.request);
    if (to.verb === 'create') return await show(201, this.#registry.create(type, namespace, object(), writing));
    if (to.verb === 'deletecollection') return await this.#deleteAll(asked, namespace, by);
    const place = { namespace, name: to.name ?? '' };
    const existed = this.#registry.collection(type).objects.has(keyOf(namespace, place.name));
    switch (to.verb) {
      case 'get':
        return await show(200, this.#registry.get(type, place));
      case 'update':
        return await show(existed ? 200 : 201, this.#registry.update(type, place, object(), writing));
      case 'patch': {
        const patch = patchType(by.request);
        if (patch === 'apply' && query.get('fieldManager') === null) {
          throw badRequest(
            'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch',
          );
        }
        const patched = this.#registry.patch(type, place, readBodyValue(by.body, by.request), {
          ...writing,
          type: patch,
          force: query.get('force') === 'true',
        });
        return await show(existed ? 200 : 201, patched);
      }
      case 'delete': {
        const options = by.body.length === 0 ? {} : object();
        const grace = at(options, 'gracePeriodSeconds') ?? query.get('gracePeriodSeconds');
        const uid = textAt(options, 'preconditions', 'uid');
        const version = textAt(options, 'preconditions', 'resourceVersion');
        const { object: was, gone } = this.#registry.delete(type, place, {
          dryRun: writing.dryRun === true || listAt(options, 'dryRun').includes('All'),
          ...(uid === '' ? {} : { uid }),
          ...(version === '' ? {} : { resourceVersion: version }),
          ...(grace === null ? {} : { graceS: Number(grace) }),
        });
        return await (gone && type.resource !== 'pods' ? send(outlet, 200, deleted(type, was)) : show(200, was));
      }
    }
  }

  async #read(
    asked: Asked,
    verb: 'list' | 'watch',
    namespace: string | null,
    by: {
      readonly type: ResourceType;
      readonly form: Form;
      readonly request: IncomingMessage;
      readonly outlet: Outlet;
      readonly troubles: readonly Trouble[];
    },
  ): Promise<void> {
    const stale = by.troubles.find((trouble) => trouble.kind === 'stale');
    const reading: Reading = {
      registry: this.#registry,
      scope: { type: by.type, namespace },
      query: asked.query,
      form: by.form,
      gzip: (by.request.headers['accept-encoding'] ?? '').includes('gzip'),
      staleAt: stale?.resourceVersion ?? null,
    };
    if (verb === 'list') return await list(reading, by.outlet);
    const { bookmarkMs = 60_000, streamingLists = true } = this.#options;
    const watch = new Watch({ ...reading, bookmarkMs, streamingLists }, by.outlet);
    const state = { asked, type: by.type, synced: false };
    this.#watches.set(watch, state);
    try {
      await watch.run(() => {
        state.synced = true;
        this.#changed();
      });
    } finally {
      this.#watches.delete(watch);
      this.#changed();
    }
  }

  async #deleteAll(
    asked: Asked,
    namespace: string | null,
    by: { readonly type: ResourceType; readonly outlet: Outlet },
  ): Promise<void> {
    const labels = labelSelector(asked.query.get('labelSelector') ?? '');
    const known = ['metadata.name', 'metadata.namespace', ...Object.keys(by.type.fields)];
    const fields = fieldSelector(asked.query.get('fieldSelector') ?? '', known);
    const items = this.#registry
      .collection(by.type)
      .sorted()
      .filter(
        (one) =>
          (namespace === null || one.namespace === namespace) && labels(one.labels) && fields.matches(one.fields),
      )
      .map((one) => this.#registry.delete(by.type, one, { graceS: 0 }).object);
    const metadata = { resourceVersion: String(this.#storage.revision) };
    await send(by.outlet, 200, { kind: `${by.type.kind}List`, apiVersion: apiVersionOf(by.type), metadata, items });
  }

  #formed(type: ResourceType, object: JsonObject, form: Form, query: URLSearchParams): JsonObject {
    if (form.as === 'PartialObjectMetadata') return metadataOnly(object);
    if (form.as !== 'Table') return object;
    const stored = type.toStored === null ? object : type.toStored(object);
    const include = query.get('includeObject');
    return {
      kind: 'Table',
      apiVersion: 'meta.k8s.io/v1',
      metadata: { resourceVersion: textAt(object, 'metadata', 'resourceVersion') },
      columnDefinitions: columnDefinitions(type),
      rows: [tableRow(type, object, stored, include === 'Object' || include === 'None' ? include : 'Metadata')],
    };
  }

  /** The reviews that store nothing. */
  #review(type: ResourceType, user: User, object: JsonObject): JsonObject {
    const whole = { ...object, apiVersion: apiVersionOf(type), kind: type.kind };
    const metadata = { ...objectAt(object, 'metadata') };
    if (type.resource === 'selfsubjectreviews') {
      return { ...whole, metadata, status: { userInfo: { username: user.name, groups: [...user.groups] } } };
    }
    if (type.resource === 'selfsubjectrulesreviews') {
      const all = [{ verbs: ['*'], apiGroups: ['*'], resources: ['*'] }];
      const resourceRules = user.groups.includes('system:masters')
        ? all
        : this.#access.rules(user, textAt(object, 'spec', 'namespace') || null);
      return { ...whole, metadata, status: { resourceRules, nonResourceRules: [], incomplete: false } };
    }
    if (type.resource !== 'selfsubjectaccessreviews') throw internal(`${type.resource} are not there`);
    const given = objectAt(object, 'spec', 'resourceAttributes');
    const attributes: Attributes = {
      verb: textAt(given, 'verb'),
      group: textAt(given, 'group'),
      resource: textAt(given, 'resource'),
      subresource: textAt(given, 'subresource') || null,
      namespace: textAt(given, 'namespace') || null,
      name: textAt(given, 'name') || null,
    };
    const visit = objectAt(object, 'spec', 'nonResourceAttributes');
    const allowed =
      Object.keys(given).length > 0
        ? this.#access.mayUse(user, attributes)
        : this.#access.mayVisit(user, readRequest(textAt(visit, 'verb').toUpperCase(), textAt(visit, 'path') || '/'));
    return { ...whole, metadata, status: { allowed } };
  }

  #place(type: ResourceType, object: JsonObject): { readonly namespace: string | null; readonly name: string } {
    const namespace = type.namespaced ? textAt(object, 'metadata', 'namespace') || 'default' : null;
    return { namespace, name: textAt(object, 'metadata', 'name') };
  }
}

/** Starts a server on a free port of 127.0.0.1; stop() ends it and removes what it made. */
export function startApiServer(options: Options = {}): Promise<ApiServer> {
  return ApiServer.start(options);
}

/** Far longer than anything takes. */
const PATIENCE_MS = 60_000;

type LogEntry = { -readonly [Key in keyof Logged]: Logged[Key] };

function begun(asked: Asked, request: IncomingMessage, outlet: Outlet): LogEntry {
  const { resource } = asked;
  return {
    method: asked.method,
    path: asked.path,
    query: asked.query.toString(),
    verb: resource?.verb ?? '',
    group: resource?.group ?? '',
    resource: resource?.resource ?? '',
    subresource: resource?.subresource ?? '',
    namespace: resource?.namespace ?? '',
    name: resource?.name ?? '',
    user: '',
    userAgent: request.headers['user-agent'] ?? '',
    get code() {
      return outlet.code;
    },
    requestBytes: 0,
    get responseBytes() {
      return outlet.bytes;
    },
    ended: false,
  };
}

/** The server's default is to warn. */
function fieldValidation(query: URLSearchParams): 'Strict' | 'Warn' | 'Ignore' {
  const given = query.get('fieldValidation');
  return given === 'Strict' || given === 'Ignore' ? given : 'Warn';
}

async function readBody(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  const body = Buffer.concat(chunks);
  return request.headers['content-encoding'] === 'gzip' ? gunzipSync(body) : body;
}

function readBodyValue(body: Buffer, request: IncomingMessage): Json {
  const type = request.headers['content-type'] ?? JSON_TYPE;
  if (type.includes('protobuf')) return readProtobuf(body);
  if (type.includes('cbor')) throw unsupportedMediaType([JSON_TYPE, 'application/yaml']);
  try {
    return (type.includes('yaml') ? parseYaml(body.toString()) : JSON.parse(body.toString())) as Json;
  } catch (error) {
    throw badRequest(`the object provided could not be read: ${String(error)}`);
  }
}

function readObject(body: Buffer, request: IncomingMessage): JsonObject {
  const value = readBodyValue(body, request);
  if (!isObject(value)) throw badRequest('the body of the request is no object');
  return value;
}

const PATCHES: Readonly<Record<string, PatchType>> = {
  'application/json-patch+json': 'json',
  'application/merge-patch+json': 'merge',
  'application/strategic-merge-patch+json': 'strategic',
  'application/apply-patch+yaml': 'apply',
};

function patchType(request: IncomingMessage): PatchType {
  const type = (request.headers['content-type'] ?? '').split(';')[0]?.trim() ?? '';
  const found = PATCHES[type];
  if (found === undefined) throw unsupportedMediaType(Object.keys(PATCHES));
  return found;
}

async function send(outlet: Outlet, code: number, value: JsonObject, type = JSON_TYPE, yaml = false): Promise<void> {
  if (yaml) {
    outlet.start(code, { 'content-type': 'application/yaml' });
    await outlet.write(Buffer.from(stringify(value)));
  } else {
    outlet.start(code, { 'content-type': type });
    await outlet.write(Buffer.from(`${JSON.stringify(value)}\n`));
  }
  await outlet.end();
}

async function plain(outlet: Outlet, text: string): Promise<void> {
  outlet.start(200, { 'content-type': 'text/plain; charset=utf-8' });
  await outlet.write(Buffer.from(text));
  await outlet.end();
}

async function refuse(outlet: Outlet, failure: Failure): Promise<void> {
  const retry = failure.retryAfterS === null ? {} : { 'retry-after': String(failure.retryAfterS) };
  if (failure.plain === null) {
    outlet.start(failure.code, { 'content-type': JSON_TYPE, ...retry });
    await outlet.write(Buffer.from(`${JSON.stringify(failure.status())}\n`));
  } else {
    outlet.start(failure.code, { 'content-type': 'text/plain; charset=utf-8', ...retry });
    await outlet.write(Buffer.from(failure.plain));
  }
  await outlet.end();
}

function deleted(type: ResourceType, object: JsonObject): JsonObject {
  const details = {
    name: textAt(object, 'metadata', 'name'),
    ...(type.group === '' ? {} : { group: type.group }),
    kind: type.resource,
    uid: textAt(object, 'metadata', 'uid'),
  };
  return { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Success', details };
}

/** The answers of a real server in trouble, by status. */
function statusFault(trouble: Trouble & { readonly kind: 'status' }, asked: Asked): Failure {
  const { code, body } = trouble;
  const retry = trouble.retryAfterS === undefined ? {} : { retryAfterS: trouble.retryAfterS };
  if (body !== undefined) return new Failure(code, '', body, { plain: true, ...retry });
  switch (code) {
    case 401:
      return unauthorized();
    case 403:
      return asked.resource === null
        ? forbiddenPath('system:anonymous', asked.method.toLowerCase(), asked.path)
        : forbidden('system:anonymous', asked.resource);
    case 404:
      return asked.resource === null ? noSuchPath() : notFound(asked.resource, asked.resource.name ?? '');
    case 410:
      return new Failure(410, 'Expired', 'The resourceVersion for the provided list is too old.');
    case 429:
      // Priority and fairness answers in plain text.
      return new Failure(429, 'TooManyRequests', 'Too many requests, please try again later.\n', {
        plain: true,
        retryAfterS: trouble.retryAfterS ?? 1,
      });
    case 503:
      return new Failure(503, 'ServiceUnavailable', 'apiserver not ready', retry);
    case 504:
      return new Failure(
        504,
        'Timeout',
        'Timeout: request did not complete within requested timeout - context deadline exceeded',
        retry,
      );
    default:
      return new Failure(code, 'InternalError', 'Internal error occurred: etcdserver: request timed out', retry);
  }
}
