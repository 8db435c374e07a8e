// SPDX-License-Identifier: Apache-2.0
// Build step: writes the CRDs (daemonset/crds/, committed) from crds.ts, and from them and the models of the Kubernetes client
// what validation reads at run time (build/generated/policy-schemas.json, core-types.json) and TypeScript's view (policy-types.ts).
// ClusterNetworkPolicy's CRD is upstream's: read, never written.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import * as kubernetes from '@kubernetes/client-node';
import { compile } from 'json-schema-to-typescript';
import { parse, stringify } from 'yaml';
import { type Crd, crds, type Schema } from './crds.ts';

const root = new URL('../../', import.meta.url);
const LICENSE = '# SPDX-License-Identifier: Apache-2.0';

/** The text of a committed CRD file. */
export function crdText(crd: Crd): string {
  const head = `${LICENSE}\n# Written by src/schema/generate.ts from src/schema/crds.ts: edit that, then build.\n`;
  return `${head}---\n${stringify(crd, { lineWidth: 120, aliasDuplicateObjects: false })}`;
}

/** Upstream's CRD of the experimental channel, of which the standard one is a part: one schema reads both. */
export const UPSTREAM_CRD = 'network-policy-api/clusternetworkpolicies.experimental.yaml';

type JsonSchema = Record<string, unknown>;

/**
 * JSON Schema (draft 7) of a structural schema: unknown fields refused, sets unique, int-or-string spelled out. CEL rules stay, under
 * their own keyword. `described` keeps descriptions, which validation has no use for.
 */
export function jsonSchema(schema: Schema, described: boolean): JsonSchema {
  const { description, properties, items, additionalProperties, ...rest } = schema;
  const json: JsonSchema = { ...rest };
  if (described && description !== undefined) json.description = description;
  if (schema['x-kubernetes-int-or-string']) {
    json.type = ['integer', 'string'];
    if (described) json.tsType = 'number | string';
  }
  if (schema['x-kubernetes-list-type'] === 'set') json.uniqueItems = true;
  if (items) json.items = jsonSchema(items, described);
  // Kubernetes' metadata has a validation of its own.
  if (schema.type === 'object') json.additionalProperties = additionalProperties || !properties;
  if (additionalProperties) json.additionalProperties = jsonSchema(additionalProperties, described);
  if (properties) {
    json.properties = Object.fromEntries(
      Object.entries(properties).map(([name, property]) => [name, jsonSchema(property, described)]),
    );
    json.additionalProperties = false;
  }
  for (const keyword of Object.keys(json)) {
    if (keyword.startsWith('x-kubernetes-') && keyword !== 'x-kubernetes-validations') delete json[keyword];
  }
  return json;
}

/** Type → field → type, from the attribute maps of the client's generated models, for the given types and all they lead to. */
export function coreTypes(roots: readonly string[]): Record<string, Record<string, string>> {
  const models = kubernetes as unknown as Record<string, { getAttributeTypeMap?: () => Attribute[] }>;
  const types: Record<string, Record<string, string>> = {};
  const pending = [...roots];
  for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
    const attributes = models[name]?.getAttributeTypeMap?.();
    if (types[name] || !attributes) continue;
    types[name] = Object.fromEntries(
      attributes.map(({ baseName, type, format }) => [
        baseName,
        INTEGERS.has(format) ? type.replace('number', 'integer') : type,
      ]),
    );
    for (const { type } of attributes) pending.push(...(type.match(/\w+/g) ?? []));
  }
  return types;
}

const INTEGERS = new Set(['int32', 'int64']);

interface Attribute {
  baseName: string;
  type: string;
  format: string;
}

async function generate(): Promise<void> {
  const generated = new URL('build/generated/', root);
  mkdirSync(generated, { recursive: true });
  mkdirSync(new URL('daemonset/crds/', root), { recursive: true });
  const schemas: Record<string, JsonSchema> = {};
  let types = `// SPDX-License-Identifier: Apache-2.0\n// Written by src/schema/generate.ts from daemonset/crds/.\n/* eslint-disable */\n`;
  for (const [file, crd] of Object.entries(crds)) {
    writeIfChanged(new URL(`daemonset/crds/${file}`, root), crdText(crd));
  }
  for (const file of [...Object.keys(crds), UPSTREAM_CRD]) {
    const read = parse(readFileSync(new URL(`daemonset/crds/${file}`, root), 'utf8')) as Crd;
    const version = read.spec.versions[0];
    if (!version) throw new Error(`${file} has no version`);
    const { kind } = read.spec.names;
    const schema = version.schema.openAPIV3Schema;
    schemas[kind] = jsonSchema(schema, false);
    types += await compile({ ...jsonSchema(schema, true), title: kind }, kind, {
      bannerComment: '',
      ignoreMinAndMaxItems: true,
      format: false,
    });
  }
  writeIfChanged(new URL('policy-schemas.json', generated), JSON.stringify(schemas));
  writeIfChanged(new URL('policy-types.ts', generated), types);
  const roots = ['V1Namespace', 'V1Node', 'V1Pod', 'V1Service', 'V1EndpointSlice', 'V1NetworkPolicy'];
  writeIfChanged(new URL('core-types.json', generated), JSON.stringify(coreTypes(roots)));
}

/** Leaves the time of an unchanged file alone, so that make need not build what depends on it. */
function writeIfChanged(path: URL, text: string): void {
  let old: string | null = null;
  try {
    old = readFileSync(path, 'utf8');
  } catch {
    // Not there yet.
  }
  if (old !== text) writeFileSync(path, text);
}

if (import.meta.main) await generate();
