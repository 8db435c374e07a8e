// SPDX-License-Identifier: Apache-2.0
// What becomes of the objects when one is created, changed, deleted? The rules of kube-apiserver's registries over Storage;
// knows no HTTP and no users.
import { randomBytes } from 'node:crypto';
import { apply } from './apply.ts';
import { crdStatus, typesOfCrd } from './crds.ts';
import { withDefaults } from './defaults.ts';
import { alreadyExists, badRequest, conflict, Failure, invalid, notFound, unsupportedMediaType } from './failure.ts';
import { at, copy, isObject, type Json, type JsonObject, listAt, objectAt, same, textAt, without } from './json.ts';
import { jsonPatch, mergePatch, strategicMerge } from './patch.ts';
import { apiVersionOf, BUILT_IN, fieldsOf, type ResourceType } from './resources.ts';
import { shaped, unknownFields, violations } from './schema.ts';
import { type Collection, keyOf, newMetadata, parse, type Storage, type Stored } from './storage.ts';

export interface Place {
  readonly namespace: string | null;
  readonly name: string;
}

export interface Writing {
  readonly subresource?: string | null;
  readonly dryRun?: boolean;
  readonly fieldManager?: string;
  /** What becomes of fields that a custom resource's schema does not know: refused, told, or dropped without a word. */
  readonly fieldValidation?: 'Strict' | 'Warn' | 'Ignore';
  readonly onWarning?: (warning: string) => void;
}

export interface Deleting {
  readonly uid?: string;
  readonly resourceVersion?: string;
  readonly dryRun?: boolean;
  readonly graceS?: number;
  /** A namespace goes with all it holds before this returns, instead of a while later, as its controller does it. */
  readonly atOnce?: boolean;
}

export type PatchType = 'json' | 'merge' | 'strategic' | 'apply';

export class Registry {
  readonly storage: Storage;
  /** By `group/version/resource`. */
  readonly #types = new Map<string, ResourceType>();
  /** Custom resource types, by the name of their CRD. */
  readonly #custom = new Map<string, readonly ResourceType[]>();
  readonly #onTypesGone: (types: readonly ResourceType[]) => void;
  readonly #gracefulPods: boolean;
  #addresses = 10;
  /** Namespaces that are terminating, with their type. */
  readonly #ending = new Map<string, ResourceType>();
  #endTimer: NodeJS.Timeout | undefined;

  constructor(
    storage: Storage,
    options: { readonly gracefulPods: boolean; readonly onTypesGone: (types: readonly ResourceType[]) => void },
  ) {
    this.storage = storage;
    this.#gracefulPods = options.gracefulPods;
    this.#onTypesGone = options.onTypesGone;
    for (const type of BUILT_IN) {
      this.#types.set(key(type), type);
      if (!type.virtual) this.collection(type);
    }
  }

  types(): readonly ResourceType[] {
    return [...this.#types.values()];
  }

  type(group: string, version: string, resource: string): ResourceType | undefined {
    return this.#types.get(key({ group, version, resource }));
  }

  /** Throws where nobody serves this kind: a bug of the test. */
  typeOf(object: JsonObject): ResourceType {
    const apiVersion = textAt(object, 'apiVersion');
    const kind = textAt(object, 'kind');
    const type = this.types().find((one) => apiVersionOf(one) === apiVersion && one.kind === kind);
    if (type === undefined) throw new Error(`no resource for ${apiVersion} ${kind}: is its CRD there?`);
    return type;
  }

  collection(type: ResourceType): Collection {
    const stored = type.fromStored === null ? type : (BUILT_IN.find((one) => one.storage === type.storage) ?? type);
    return this.storage.collection(type.storage, { fieldsOf: fieldsOf(stored), custom: type.custom });
  }

  /** As the type's version has it. Throws a Failure of 404. */
  get(type: ResourceType, place: Place): JsonObject {
    return this.#shown(type, this.#stored(type, place));
  }

  shown(type: ResourceType, stored: Stored): JsonObject {
    return this.#shown(type, stored);
  }

  create(type: ResourceType, namespace: string | null, given: JsonObject, how: Writing = {}): JsonObject {
    const object = this.#identified(type, namespace, null, given);
    const metadata = objectAt(object, 'metadata');
    const generateName = textAt(metadata, 'generateName');
    const name =
      textAt(metadata, 'name') ||
      (generateName === '' ? '' : generateName + randomBytes(3).toString('hex').slice(0, 5));
    if (name === '') {
      throw invalid(type, '', [
        {
          field: 'metadata.name',
          reason: 'FieldValueRequired',
          message: 'Required value: name or generateName is required',
        },
      ]);
    }
    checkName(type, name);
    if (textAt(metadata, 'resourceVersion') !== '') {
      throw new Failure(500, 'InternalError', 'resourceVersion should not be set on objects to be created');
    }
    if (type.namespaced) this.#demandNamespace(namespace);
    const collection = this.collection(type);
    if (collection.objects.has(keyOf(type.namespaced ? namespace : null, name))) throw alreadyExists(type, name);
    const fresh = {
      ...(type.status && type.resource !== 'nodes' ? without(object, 'status') : object),
      metadata: {
        ...newMetadata({ ...metadata, name }, new Date()),
        ...(type.generation ? { generation: 1 } : {}),
      },
    };
    return this.#commit(type, this.#finished(type, fresh, how), how);
  }

  /** Replaces; throws a Failure of 409 where the object's resourceVersion is not the current one. */
  update(type: ResourceType, place: Place, given: JsonObject, how: Writing = {}): JsonObject {
    const object = this.#identified(type, place.namespace, place.name, given);
    const collection = this.collection(type);
    if (type.createOnUpdate && !collection.objects.has(keyOf(place.namespace, place.name))) {
      return this.create(
        type,
        place.namespace,
        { ...object, metadata: without(objectAt(object, 'metadata'), 'resourceVersion') },
        how,
      );
    }
    return this.#replace(type, this.#stored(type, place), object, how);
  }

  patch(
    type: ResourceType,
    place: Place,
    patch: Json,
    how: Writing & { readonly type: PatchType; readonly force?: boolean },
  ): JsonObject {
    const old = this.collection(type).objects.get(keyOf(place.namespace, place.name));
    if (how.type === 'apply') return this.#apply(type, place, patch, how, old);
    if (old === undefined) throw notFound(type, place.name);
    if (how.type === 'strategic' && type.custom) {
      throw unsupportedMediaType([
        'application/json-patch+json',
        'application/merge-patch+json',
        'application/apply-patch+yaml',
      ]);
    }
    const before = this.#shown(type, old);
    let after: Json;
    if (how.type === 'json') after = jsonPatch(before, patch);
    else if (!isObject(patch)) throw badRequest('a patch is an object');
    else after = how.type === 'merge' ? mergePatch(before, patch) : strategicMerge(before, patch);
    if (!isObject(after)) throw badRequest('the patch leaves no object');
    return this.#replace(type, old, this.#identified(type, place.namespace, place.name, after), how);
  }

  /** What is told of a deletion: the object as it was, and whether it is gone for good. */
  delete(
    type: ResourceType,
    place: Place,
    how: Deleting = {},
  ): { readonly object: JsonObject; readonly gone: boolean } {
    this.#endNamespaces();
    const old = this.#stored(type, place);
    const object = this.#shown(type, old);
    if (how.uid !== undefined && how.uid !== old.uid) {
      throw conflict(
        type,
        place.name,
        `Precondition failed: UID in precondition: ${how.uid}, UID in object meta: ${old.uid}`,
      );
    }
    if (how.resourceVersion !== undefined && how.resourceVersion !== String(old.resourceVersion)) {
      throw conflict(
        type,
        place.name,
        `Precondition failed: ResourceVersion in precondition: ${how.resourceVersion}, ResourceVersion in object meta: ${old.resourceVersion}`,
      );
    }
    if (how.dryRun === true) return { object, gone: true };
    const scheduled = type.resource === 'pods' && textAt(object, 'spec', 'nodeName') !== '';
    const graceS = how.graceS ?? Number(textAt(object, 'spec', 'terminationGracePeriodSeconds') || 30);
    const waitsForKubelet = this.#gracefulPods && scheduled && graceS > 0;
    const finalizers = listAt(object, 'metadata', 'finalizers');
    if (waitsForKubelet || finalizers.length > 0) {
      return { object: this.#terminating(type, object, waitsForKubelet ? graceS : 0), gone: false };
    }
    if (type.storage === 'namespaces') {
      if (how.atOnce !== true) {
        const terminating = this.#terminating(type, { ...object, status: { phase: 'Terminating' } }, 0);
        this.#ending.set(place.name, type);
        this.#endNamespaces();
        return { object: terminating, gone: false };
      }
      this.#emptyNamespace(type, object, place.name);
    }
    if (type.storage === CRDS) this.#removeCrd(place.name);
    this.#remove(type, old.key);
    return { object, gone: true };
  }

  /**
   * Writes an object as the cluster's own components would: nobody is asked, its status, uid and labels are what is given.
   * One that is there keeps what only the server sets. Returns what is stored.
   */
  put(given: object): JsonObject {
    const object = copy(given);
    const type = this.typeOf(object);
    const metadata = objectAt(object, 'metadata');
    const namespace = type.namespaced ? textAt(metadata, 'namespace') || 'default' : null;
    const name = textAt(metadata, 'name');
    if (name === '') throw new Error(`an object without a name: ${JSON.stringify(object).slice(0, 200)}`);
    const collection = this.collection(type);
    const old = collection.objects.get(keyOf(namespace, name));
    const before = old === undefined ? null : parse(old);
    // Another uid is another object: the one before it was deleted, whether anybody saw that or not.
    const uid = textAt(metadata, 'uid');
    if (old !== undefined && uid !== '' && uid !== old.uid) {
      this.#remove(type, old.key);
      return this.put(given);
    }
    const kept =
      before === null
        ? newMetadata({}, new Date())
        : {
            uid: textAt(before, 'metadata', 'uid'),
            creationTimestamp: textAt(before, 'metadata', 'creationTimestamp'),
          };
    const identified = this.#identified(type, namespace, name, {
      ...object,
      metadata: { ...kept, ...without(metadata, 'resourceVersion', 'generation') },
    });
    const finished = this.#finished(type, identified, null);
    const generation = before === null ? 1 : nextGeneration(before, finished);
    return this.#commit(type, withGeneration(type, finished, generation), {}, old);
  }

  #apply(
    type: ResourceType,
    place: Place,
    config: Json,
    how: Writing & { readonly force?: boolean },
    old: Stored | undefined,
  ): JsonObject {
    if (!isObject(config)) throw badRequest('the configuration applied is an object');
    if (how.fieldManager === undefined) {
      throw badRequest(
        'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch',
      );
    }
    if (listAt(config, 'metadata', 'managedFields').length > 0) throw badRequest('metadata.managedFields must be nil');
    const wanted = this.#identified(type, place.namespace, place.name, config);
    const live: JsonObject =
      old === undefined
        ? { apiVersion: apiVersionOf(type), kind: type.kind, metadata: { ...identity(type, place) } }
        : this.#shown(type, old);
    const after = apply(live, wanted, {
      manager: how.fieldManager,
      force: how.force === true,
      subresource: how.subresource ?? null,
      of: type,
      schema: type.schema,
    });
    if (old === undefined) {
      if (how.subresource != null) throw notFound(type, place.name);
      return this.create(type, place.namespace, after, how);
    }
    return this.#replace(type, old, after, how);
  }

  #replace(type: ResourceType, old: Stored, given: JsonObject, how: Writing): JsonObject {
    const before = this.#shown(type, old);
    const metadata = objectAt(given, 'metadata');
    const version = textAt(metadata, 'resourceVersion');
    if (version !== '' && version !== String(old.resourceVersion)) throw conflict(type, old.name);
    const uid = textAt(metadata, 'uid');
    if (uid !== '' && uid !== old.uid) {
      throw conflict(
        type,
        old.name,
        `Precondition failed: UID in precondition: ${uid}, UID in object meta: ${old.uid}`,
      );
    }
    const wasMetadata = objectAt(before, 'metadata');
    const fixed = [
      'uid',
      'creationTimestamp',
      'deletionTimestamp',
      'deletionGracePeriodSeconds',
      'generation',
      'resourceVersion',
    ];
    const nowMetadata = {
      ...without(metadata, ...fixed),
      ...Object.fromEntries(fixed.filter((one) => one in wasMetadata).map((one) => [one, wasMetadata[one] ?? null])),
    };
    let after: JsonObject;
    if (how.subresource === 'status') {
      const managed = nowMetadata.managedFields;
      after = {
        ...without(before, 'status'),
        metadata: managed === undefined ? wasMetadata : { ...wasMetadata, managedFields: managed },
        ...(given.status === undefined ? {} : { status: given.status }),
      };
    } else {
      after = {
        ...(type.status ? without(given, 'status') : given),
        ...(type.status && before.status !== undefined ? { status: before.status } : {}),
        metadata: nowMetadata,
      };
    }
    const finished = this.#finished(type, after, how);
    const written = this.#commit(type, withGeneration(type, finished, nextGeneration(before, finished)), how, old);
    // A finalizer was the last thing that held it.
    if (
      how.dryRun !== true &&
      textAt(written, 'metadata', 'deletionTimestamp') !== '' &&
      listAt(written, 'metadata', 'finalizers').length === 0 &&
      textAt(written, 'metadata', 'deletionGracePeriodSeconds') === '0'
    ) {
      this.#remove(type, old.key);
    }
    return written;
  }

  /** Pruned, defaulted and, where a client wrote it, checked. */
  #finished(type: ResourceType, object: JsonObject, how: Writing | null): JsonObject {
    if (type.storage === CRDS) return crdStatus(object);
    if (type.schema === null) {
      return withDefaults(type, object, () => this.#addresses++);
    }
    if (how !== null) {
      const unknown = unknownFields(type.schema, object);
      if (how.fieldValidation === 'Strict' && unknown.length > 0) {
        const told = unknown.map((one) => `unknown field "${one}"`).join(', ');
        throw badRequest(
          `${type.kind} in version "${type.version}" cannot be handled as a ${type.kind}: strict decoding error: ${told}`,
        );
      }
      if (how.fieldValidation === 'Warn') for (const one of unknown) how.onWarning?.(`unknown field "${one}"`);
      // A status can be written beside a spec that is not valid any more (customresource's ValidateStatusUpdate).
      const causes = violations(type.schema, object).filter(
        ({ field }) => how.subresource !== 'status' || /^status\b/.test(field),
      );
      if (causes.length > 0) throw invalid(type, textAt(object, 'metadata', 'name'), causes);
    }
    return shaped(type.schema, object);
  }

  #commit(type: ResourceType, object: JsonObject, how: Writing, old?: Stored): JsonObject {
    const stored = type.toStored === null ? object : type.toStored(object);
    const unversioned = (one: JsonObject): JsonObject => ({
      ...one,
      metadata: without(objectAt(one, 'metadata'), 'resourceVersion'),
    });
    // A write that changes nothing is no write (etcd3's GuaranteedUpdate): no version, no event.
    if (old !== undefined) {
      const before = parse(old);
      if (same(unversioned(before), unversioned(stored))) return this.#shown(type, old);
    }
    if (how.dryRun === true) return object;
    if (type.storage === CRDS) this.#installCrd(object);
    const { resourceVersion } = this.collection(type).write(stored, this.storage.next());
    return { ...object, metadata: { ...objectAt(object, 'metadata'), resourceVersion: String(resourceVersion) } };
  }

  #remove(type: ResourceType, objectKey: string): void {
    if (this.collection(type).objects.has(objectKey)) this.collection(type).remove(objectKey, this.storage.next());
  }

  #stored(type: ResourceType, { namespace, name }: Place): Stored {
    const stored = this.collection(type).objects.get(keyOf(namespace, name));
    if (stored === undefined) throw notFound(type, name);
    return stored;
  }

  #shown(type: ResourceType, stored: Stored): JsonObject {
    const object = parse(stored);
    return type.fromStored === null ? object : type.fromStored(object);
  }

  #identified(type: ResourceType, namespace: string | null, name: string | null, object: JsonObject): JsonObject {
    const metadata = objectAt(object, 'metadata');
    const { apiVersion, kind } = object;
    if ((apiVersion !== undefined && apiVersion !== apiVersionOf(type)) || (kind !== undefined && kind !== type.kind)) {
      throw badRequest(
        `the object provided is unrecognized (must be of type ${type.kind}): ${String(apiVersion)}, Kind=${String(kind)}`,
      );
    }
    const named = textAt(metadata, 'name');
    if (name !== null && named !== '' && named !== name) {
      throw badRequest(`the name of the object (${named}) does not match the name on the URL (${name})`);
    }
    const within = textAt(metadata, 'namespace');
    if (within !== '' && within !== namespace) {
      throw badRequest(`the namespace of the provided object does not match the namespace sent on the request`);
    }
    return {
      ...object,
      apiVersion: apiVersionOf(type),
      kind: type.kind,
      metadata: {
        ...metadata,
        ...(name === null ? {} : { name }),
        ...(type.namespaced && namespace !== null ? { namespace } : {}),
      },
    };
  }

  #demandNamespace(namespace: string | null): void {
    const namespaces = this.type('', 'v1', 'namespaces');
    if (namespaces === undefined || namespace === null) throw badRequest('an object of a namespace needs one');
    const found = this.collection(namespaces).objects.get(namespace);
    if (found === undefined) throw notFound(namespaces, namespace);
    if (textAt(parse(found), 'status', 'phase') === 'Terminating') {
      throw new Failure(
        403,
        'Forbidden',
        `unable to create new content in namespace ${namespace} because it is being terminated`,
      );
    }
  }

  #terminating(type: ResourceType, object: JsonObject, graceS: number): JsonObject {
    if (textAt(object, 'metadata', 'deletionTimestamp') !== '') return object;
    const deletionTimestamp = new Date(Date.now() + graceS * 1000).toISOString().replace(/\.\d+Z$/, 'Z');
    const metadata = { ...objectAt(object, 'metadata'), deletionTimestamp, deletionGracePeriodSeconds: graceS };
    return this.#commit(type, { ...object, metadata }, {});
  }

  /**
   * Empties what is terminating when nobody has deleted anything for a while: who deletes a namespace and what is in it one after
   * another finds it all there, as on a real cluster, whose controller takes seconds.
   */
  #endNamespaces(): void {
    clearTimeout(this.#endTimer);
    if (this.#ending.size === 0) return;
    this.#endTimer = setTimeout(() => {
      for (const [name, type] of this.#ending) {
        const stored = this.collection(type).objects.get(name);
        if (stored === undefined) continue;
        this.#emptyNamespace(type, this.#shown(type, stored), name);
        this.#remove(type, name);
      }
      this.#ending.clear();
    }, NAMESPACE_ENDS_MS).unref();
  }

  /** The namespace controller's work. */
  #emptyNamespace(type: ResourceType, object: JsonObject, namespace: string): void {
    this.#terminating(type, { ...object, status: { phase: 'Terminating' } }, 0);
    for (const one of this.types()) {
      if (!one.namespaced || one.virtual) continue;
      const collection = this.collection(one);
      for (const stored of collection.sorted()) if (stored.namespace === namespace) this.#remove(one, stored.key);
    }
  }

  #installCrd(crd: JsonObject): void {
    const name = textAt(crd, 'metadata', 'name');
    for (const type of this.#custom.get(name) ?? []) this.#types.delete(key(type));
    const types = typesOfCrd(crd);
    this.#custom.set(name, types);
    for (const type of types) {
      this.#types.set(key(type), type);
      this.collection(type);
    }
  }

  #removeCrd(name: string): void {
    const types = this.#custom.get(name) ?? [];
    this.#custom.delete(name);
    const [first] = types;
    if (first !== undefined) {
      const collection = this.collection(first);
      for (const stored of collection.sorted()) collection.remove(stored.key, this.storage.next());
      this.storage.drop(first.storage);
    }
    for (const type of types) this.#types.delete(key(type));
    this.#onTypesGone(types);
  }
}

const NAMESPACE_ENDS_MS = 1_000;
const CRDS = 'customresourcedefinitions.apiextensions.k8s.io';

const key = ({ group, version, resource }: Pick<ResourceType, 'group' | 'version' | 'resource'>): string =>
  `${group}/${version}/${resource}`;

const identity = (type: ResourceType, { namespace, name }: Place): JsonObject => ({
  name,
  ...(type.namespaced && namespace !== null ? { namespace } : {}),
});

function checkName(type: ResourceType, name: string): void {
  // RBAC's names are path segments; all others here DNS-1123 subdomains.
  const valid = type.group === 'rbac.authorization.k8s.io' ? /^[^/%]+$/ : /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/;
  if (valid.test(name) && name.length <= 253) return;
  const message = `Invalid value: ${JSON.stringify(name)}: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character`;
  throw invalid(type, name, [{ field: 'metadata.name', reason: 'FieldValueInvalid', message }]);
}

/** One more where anything but metadata and status changed. */
function nextGeneration(before: JsonObject, after: JsonObject): number {
  const generation = Number(at(before, 'metadata', 'generation') ?? 1);
  return same(without(before, 'metadata', 'status'), without(after, 'metadata', 'status'))
    ? generation
    : generation + 1;
}

function withGeneration(type: ResourceType, object: JsonObject, generation: number): JsonObject {
  if (!type.generation) return object;
  return { ...object, metadata: { ...objectAt(object, 'metadata'), generation } };
}
