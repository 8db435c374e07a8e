// SPDX-License-Identifier: Apache-2.0
// What does a client write that sends protobuf, as `kubectl create` and `kubectl auth` do? Reads the few kinds that these write;
// field numbers are those of Kubernetes' generated.proto. Answers are JSON, which such clients take.
import { badRequest, unsupportedMediaType } from './failure.ts';
import type { Json, JsonObject } from './json.ts';

type Shape = {
  readonly [field: number]: readonly [name: string, type: 'text' | 'texts' | 'number' | 'map' | 'bytesMap' | Shape];
};

const METADATA: Shape = {
  1: ['name', 'text'],
  2: ['generateName', 'text'],
  3: ['namespace', 'text'],
  11: ['labels', 'map'],
  12: ['annotations', 'map'],
  14: ['finalizers', 'texts'],
};
const RESOURCE: Shape = {
  1: ['namespace', 'text'],
  2: ['verb', 'text'],
  3: ['group', 'text'],
  4: ['version', 'text'],
  5: ['resource', 'text'],
  6: ['subresource', 'text'],
  7: ['name', 'text'],
};
const NON_RESOURCE: Shape = { 1: ['path', 'text'], 2: ['verb', 'text'] };

const SHAPES: Readonly<Record<string, Shape>> = {
  Namespace: { 1: ['metadata', METADATA], 2: ['spec', { 1: ['finalizers', 'texts'] }] },
  ConfigMap: { 1: ['metadata', METADATA], 2: ['data', 'map'] },
  Secret: { 1: ['metadata', METADATA], 2: ['data', 'bytesMap'], 3: ['type', 'text'], 4: ['stringData', 'map'] },
  ServiceAccount: { 1: ['metadata', METADATA] },
  DeleteOptions: {
    1: ['gracePeriodSeconds', 'number'],
    2: ['preconditions', { 1: ['uid', 'text'], 2: ['resourceVersion', 'text'] }],
    4: ['propagationPolicy', 'text'],
    5: ['dryRun', 'texts'],
  },
  SelfSubjectAccessReview: {
    1: ['metadata', METADATA],
    2: ['spec', { 1: ['resourceAttributes', RESOURCE], 2: ['nonResourceAttributes', NON_RESOURCE] }],
  },
  SelfSubjectRulesReview: { 1: ['metadata', METADATA], 2: ['spec', { 1: ['namespace', 'text'] }] },
  SelfSubjectReview: { 1: ['metadata', METADATA] },
};

/** Opens every message: `k8s` and a zero byte, then runtime.Unknown {typeMeta = 1 {apiVersion = 1, kind = 2}, raw = 2}. */
const MAGIC = Buffer.from('k8s\0');

/** The object in a body of application/vnd.kubernetes.protobuf. Throws a Failure: 415 for a kind that is not known here. */
export function readProtobuf(body: Buffer): JsonObject {
  if (!body.subarray(0, MAGIC.length).equals(MAGIC)) throw badRequest('the body is no Kubernetes protobuf');
  let raw: Buffer = Buffer.alloc(0);
  let meta: JsonObject = {};
  for (const [field, content] of fields(body.subarray(MAGIC.length))) {
    if (typeof content === 'number') continue;
    if (field === 1) meta = message(content, { 1: ['apiVersion', 'text'], 2: ['kind', 'text'] });
    if (field === 2) raw = content;
  }
  const shape = SHAPES[String(meta.kind)];
  if (shape === undefined) throw unsupportedMediaType(['application/json', 'application/yaml']);
  return { ...meta, ...message(raw, shape) };
}

function message(bytes: Buffer, shape: Shape): JsonObject {
  const result: JsonObject = {};
  for (const [field, content] of fields(bytes)) {
    const known = shape[field];
    if (known === undefined) continue;
    const [name, type] = known;
    if (typeof content === 'number') {
      if (type === 'number') result[name] = content;
    } else if (type === 'number') {
      throw badRequest(`proto: wrong wireType for field ${name}`);
    } else if (type === 'text') {
      // Go writes the empty strings of required fields, which JSON leaves out.
      if (content.length > 0) result[name] = content.toString();
    } else if (type === 'texts') {
      const before = result[name];
      result[name] = [...(Array.isArray(before) ? before : []), content.toString()];
    } else if (type === 'map' || type === 'bytesMap') {
      const [key, value] = entry(content);
      const text = value.toString(type === 'map' ? 'utf8' : 'base64');
      result[name] = { ...(result[name] as { [key: string]: Json } | undefined), [key]: text };
    } else result[name] = message(content, type);
  }
  return result;
}

/** A map is a list of messages {key = 1, value = 2}. */
function entry(bytes: Buffer): readonly [key: string, value: Buffer] {
  let key = '';
  let value: Buffer = Buffer.alloc(0);
  for (const [field, content] of fields(bytes)) {
    if (typeof content === 'number') continue;
    if (field === 1) key = content.toString();
    if (field === 2) value = content;
  }
  return [key, value];
}

/** The fields of a message, varints and what has a length; fixed-size numbers are passed over. */
function* fields(bytes: Buffer): Generator<[field: number, content: Buffer | number]> {
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      if (byte === undefined) throw badRequest('unexpected EOF');
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    switch (tag & 7) {
      case 0:
        yield [tag >>> 3, varint()];
        break;
      case 1:
        at += 8;
        break;
      case 2: {
        const length = varint();
        if (at + length > bytes.length) throw badRequest('unexpected EOF');
        yield [tag >>> 3, bytes.subarray(at, at + length)];
        at += length;
        break;
      }
      case 5:
        at += 4;
        break;
      default:
        throw badRequest('proto: illegal wireType');
    }
  }
}
