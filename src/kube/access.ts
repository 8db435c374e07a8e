// SPDX-License-Identifier: Apache-2.0
// Where is the API server, and as whom do we speak to it now? KubeConfig of @kubernetes/client-node answers; what it does not do is done
// here: a kubeconfig that changed is read again, a refused token is not kept, one plug-in runs for all who wait.
import { accessSync, readFileSync, statSync } from 'node:fs';
import type { RequestOptions } from 'node:https';
import path from 'node:path';
import type { KubeConfig } from '@kubernetes/client-node';
import { KubeError } from './errors.ts';

/** What one attempt to connect needs. Equal contents may be different objects. */
export interface Endpoint {
  readonly url: URL;
  readonly tls: Readonly<
    Pick<RequestOptions, 'ca' | 'cert' | 'key' | 'passphrase' | 'servername' | 'rejectUnauthorized'>
  >;
  /** Authorization and impersonation. */
  readonly headers: Readonly<Record<string, string>>;
  /** The proxy of the kubeconfig; null: as the environment says. */
  readonly proxy: string | null;
  /** Changes when credentials were read anew. */
  readonly generation: number;
}

export interface Access {
  /** Rejects with KubeError CREDENTIALS, CONFIG. */
  endpoint(): Promise<Endpoint>;
  /** These credentials were refused: the next endpoint has them read anew. */
  refuse(endpoint: Endpoint): void;
  /** The namespace that the agent is in, or that the context names. */
  readonly namespace: string;
  /** Credentials come of a program that is started for them (`exec`). */
  readonly startsProgram: boolean;
}

export interface AccessOptions {
  /** A kubeconfig file; null: $KUBECONFIG, else the account of the pod, else ~/.kube/config. */
  readonly kubeconfig: string | null;
  /** null: the current one. */
  readonly context: string | null;
}

/** Where kubelet puts a pod's account (client-go rest.InClusterConfig). */
const ACCOUNT_TOKEN = '/var/run/secrets/kubernetes.io/serviceaccount/token';
/** A plug-in that asks a human something waits for ever. */
const PLUGIN_TIMEOUT_MS = 60_000;

/** Rejects with KubeError CONFIG: waiting would not help. */
export async function loadAccess(options: AccessOptions): Promise<Access> {
  // Some 80 MiB of generated models come with it: nobody who reads a folder should pay for that.
  const { KubeConfig } = await import('@kubernetes/client-node');
  return new ConfigAccess(options, () => new KubeConfig());
}

class ConfigAccess implements Access {
  readonly #options: AccessOptions;
  readonly #create: () => KubeConfig;
  readonly #files: readonly string[];
  #config: KubeConfig;
  #stamp: string;
  #generation = 0;
  #pending: Promise<Endpoint> | null = null;

  constructor(options: AccessOptions, create: () => KubeConfig) {
    this.#options = options;
    this.#create = create;
    this.#files = configFiles(options.kubeconfig);
    this.#stamp = stampOf(this.#files);
    this.#config = this.#load();
  }

  get namespace(): string {
    return this.#config.getContextObject(this.#config.getCurrentContext())?.namespace ?? 'default';
  }

  get startsProgram(): boolean {
    return this.#config.getCurrentUser()?.exec != null;
  }

  endpoint(): Promise<Endpoint> {
    this.#pending ??= this.#ask().finally(() => {
      this.#pending = null;
    });
    return this.#pending;
  }

  refuse(endpoint: Endpoint): void {
    if (endpoint.generation === this.#generation) this.#reload();
  }

  /** KubeConfig keeps tokens and what plug-ins said; a new one has none of it. */
  #reload(): void {
    this.#generation++;
    try {
      this.#config = this.#load();
    } catch {
      // Half-written, or gone for a moment: what was read before is as good as anything.
    }
  }

  #load(): KubeConfig {
    const config = this.#create();
    const { kubeconfig, context } = this.#options;
    try {
      if (kubeconfig !== null) config.loadFromFile(kubeconfig);
      else if (listedFiles().length > 0) config.loadFromDefault();
      else if (isInCluster()) config.loadFromCluster();
      // Never KubeConfig's own default beyond that: http://localhost:8080, where any process of this machine may answer.
      else config.loadFromFile(defaultFile());
    } catch (error) {
      if (kubeconfig === null && this.#files.includes(defaultFile()) && readText(defaultFile()) === null) {
        const looked = '--kubeconfig and $KUBECONFIG are not set, this is no pod with a service account';
        throw new KubeError('CONFIG', `there is no kubeconfig: ${looked}, and ${defaultFile()} cannot be read`, error);
      }
      // A parser's message goes on with the lines that it could not read.
      const [why = ''] = messageOf(error).split('\n');
      throw new KubeError('CONFIG', `the kubeconfig cannot be read: ${why}`, error);
    }
    if (context !== null) config.setCurrentContext(context);
    const name = config.getCurrentContext() || '';
    if (config.getContextObject(name) === null) {
      const known = config.getContexts().map((one) => one.name);
      const hint = known.length === 0 ? 'it has none' : `it has ${known.join(', ')}`;
      const what = name === '' ? 'names no current-context' : `has no context ${JSON.stringify(name)}`;
      throw new KubeError('CONFIG', `the kubeconfig ${what}; ${hint}`);
    }
    tellPlugin(config);
    const server = config.getCurrentCluster()?.server ?? '';
    if (!URL.canParse(server) || !/^https?:$/.test(new URL(server).protocol)) {
      throw new KubeError('CONFIG', `the kubeconfig's context ${name} has no server that is an https URL`);
    }
    return config;
  }

  async #ask(): Promise<Endpoint> {
    const stamp = stampOf(this.#files);
    if (stamp !== this.#stamp) {
      this.#stamp = stamp;
      this.#reload();
    }
    const config = this.#config;
    const generation = this.#generation;
    const cluster = config.getCurrentCluster();
    if (cluster === null) throw new KubeError('CONFIG', 'the kubeconfig names no cluster');
    const url = new URL(cluster.server);
    const proxy = cluster.proxyUrl ?? null;
    if (proxy?.startsWith('socks')) throw new KubeError('CONFIG', 'a SOCKS proxy is not supported: use an HTTP one');
    // In the clear (kubectl proxy, on the same machine) no credentials are sent.
    if (url.protocol === 'http:') return { url, tls: {}, headers: {}, proxy, generation };
    const options: RequestOptions = {};
    await withTimeout(config.applyToHTTPSOptions(options), config.getCurrentUser()?.exec?.command ?? null);
    const { ca, cert, key, passphrase, servername, rejectUnauthorized, auth } = options;
    const headers = headersOf(options.headers);
    const user = config.getCurrentUser()?.name ?? '';
    const token = headers.Authorization === undefined ? await tokenFromFile(this.#files, user) : null;
    if (token !== null) headers.Authorization = `Bearer ${token}`;
    if (auth !== undefined && auth !== null) headers.Authorization = `Basic ${Buffer.from(auth).toString('base64')}`;
    return {
      url,
      tls: without({ ca, cert, key, passphrase, servername, rejectUnauthorized }),
      headers,
      proxy,
      generation,
    };
  }
}

/**
 * What a plug-in is told of its task (client.authentication.k8s.io/v1 ExecCredential), which KubeConfig leaves out and some plug-ins
 * refuse to do without.
 */
function tellPlugin(config: KubeConfig): void {
  const exec = config.getCurrentUser()?.exec as
    | { apiVersion?: string; provideClusterInfo?: boolean; env?: { name: string; value: string }[] | null }
    | null
    | undefined;
  if (exec === null || exec === undefined) return;
  const { server, caData, skipTLSVerify, tlsServerName } = config.getCurrentCluster() ?? { server: '' };
  const cluster = {
    server,
    'certificate-authority-data': caData,
    'insecure-skip-tls-verify': skipTLSVerify,
    'tls-server-name': tlsServerName,
  };
  const told = {
    kind: 'ExecCredential',
    apiVersion: exec.apiVersion ?? 'client.authentication.k8s.io/v1',
    // Nobody is there to be asked.
    spec: { interactive: false, ...(exec.provideClusterInfo === true ? { cluster } : {}) },
  };
  exec.env = [...(exec.env ?? []), { name: 'KUBERNETES_EXEC_INFO', value: JSON.stringify(told) }];
}

/** The files that a kubeconfig comes from, those of $KUBECONFIG included; empty in a pod. */
function configFiles(kubeconfig: string | null): readonly string[] {
  if (kubeconfig !== null) return [kubeconfig];
  const listed = listedFiles();
  return listed.length > 0 || isInCluster() ? listed : [defaultFile()];
}

function listedFiles(): readonly string[] {
  return (process.env.KUBECONFIG ?? '').split(path.delimiter).filter((file) => file !== '');
}

function defaultFile(): string {
  return path.join(process.env.HOME ?? '/root', '.kube', 'config');
}

function isInCluster(): boolean {
  if (!process.env.KUBERNETES_SERVICE_HOST || !process.env.KUBERNETES_SERVICE_PORT) return false;
  try {
    accessSync(ACCOUNT_TOKEN);
    return true;
  } catch {
    return false;
  }
}

function stampOf(files: readonly string[]): string {
  return files
    .map((file) => statSync(file, { bigint: true, throwIfNoEntry: false }))
    .map((stat) => (stat === undefined ? '' : `${stat.ino}/${stat.size}/${stat.mtimeNs}`))
    .join();
}

/** `tokenFile` of a user (client-go's clientcmd api v1 AuthInfo), which KubeConfig does not know; read each time, since it rotates. */
async function tokenFromFile(files: readonly string[], user: string): Promise<string | null> {
  for (const file of files) {
    const text = readText(file);
    if (text === null || !text.includes('tokenFile')) continue;
    const { parse } = await import('yaml');
    const { users } = parse(text) as { readonly users?: readonly NamedUser[] };
    const found = users?.find(({ name }) => name === user)?.user?.tokenFile;
    if (typeof found !== 'string') continue;
    const token = readText(path.resolve(path.dirname(file), found));
    if (token === null) throw new KubeError('CREDENTIALS', `the token file ${found} cannot be read`);
    return token.trim();
  }
  return null;
}

interface NamedUser {
  readonly name?: unknown;
  readonly user?: { readonly tokenFile?: unknown } | null;
}

function readText(file: string): string | null {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return null;
  }
}

/** @param plugin what is run for it; null: nothing is. */
async function withTimeout(asked: Promise<void>, plugin: string | null): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`did not answer in ${PLUGIN_TIMEOUT_MS / 1000} s`)), PLUGIN_TIMEOUT_MS);
  });
  try {
    await Promise.race([asked, late]);
  } catch (error) {
    const who = plugin === null ? '' : `the plug-in ${plugin}: `;
    throw new KubeError('CREDENTIALS', `no credentials for the API server: ${who}${messageOf(error)}`, error);
  } finally {
    clearTimeout(timer);
  }
}

function headersOf(headers: RequestOptions['headers']): Record<string, string> {
  if (headers === undefined || Array.isArray(headers)) return {};
  return Object.fromEntries(
    Object.entries(headers).flatMap(([name, value]) =>
      value === undefined ? [] : [[name, String(value).trim()] as const],
    ),
  );
}

function without<T extends object>(fields: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message.trim() : String(error);
}
