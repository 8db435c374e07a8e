// SPDX-License-Identifier: Apache-2.0
// Are the committed CRDs what their source says, structural as an API server demands, described in full, and their rules sound?
import assert from 'node:assert/strict';
import { hash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { parse } from 'yaml';
import { type Crd, crds, type Schema } from '../../src/schema/crds.ts';
import { crdText } from '../../src/schema/generate.ts';
import { compileRule } from '../../src/validate/cel.ts';

/** SHA-256 of the files as upstream has them. */
const UPSTREAM_HASHES = {
  standard: 'dfef267080bbc698a7bda02514939eb462a54763ac220ce0c39972c8da934a63',
  experimental: '4002f0b1e59f2b0a4f186db194ab0e7bd471bfe5e1e5dc63d6c4c557f160f73d',
};

/** Every schema below this one, with its path. */
function* walk(schema: Schema, path = ''): Generator<[string, Schema]> {
  yield [path, schema];
  for (const [name, property] of Object.entries(schema.properties ?? {})) yield* walk(property, `${path}.${name}`);
  if (schema.items) yield* walk(schema.items, `${path}[]`);
  if (schema.additionalProperties) yield* walk(schema.additionalProperties, `${path}{}`);
}

for (const [file, crd] of Object.entries(crds)) {
  describe(file, () => {
    const text = readFileSync(new URL(`../../daemonset/crds/${file}`, import.meta.url), 'utf8');
    const read = parse(text) as Crd;
    const [version] = read.spec.versions;
    assert.ok(version);
    const root = version.schema.openAPIV3Schema;
    const schemas = [...walk(root)];

    test('is committed as it is written', () => {
      assert.equal(text, crdText(crd), 'run the build and commit daemonset/crds');
      assert.deepEqual(read, JSON.parse(JSON.stringify(crd)));
    });

    test('names', () => {
      const { kind, plural, singular, listKind, shortNames, categories } = read.spec.names;
      assert.equal(read.metadata.name, `${plural}.postern.dev`);
      assert.equal(listKind, `${kind}List`);
      assert.equal(singular, kind.toLowerCase());
      assert.deepEqual(categories, ['postern']);
      assert.deepEqual(shortNames, [kind === 'EgressPolicy' ? 'egpol' : 'cegpol']);
      const columns = version.additionalPrinterColumns.map(({ name }) => name);
      assert.deepEqual(columns, ['Effect', 'Mode', 'Workloads', 'Programmed', 'Age']);
      assert.deepEqual(version.subresources, { status: {} });
    });

    test('is structural', () => {
      // apiextensions.k8s.io: a type everywhere (or int-or-string), no properties beside additionalProperties, nothing but a type for metadata.
      for (const [path, schema] of schemas) {
        const isIntOrString = schema['x-kubernetes-int-or-string'] === true;
        assert.ok(isIntOrString !== (schema.type !== undefined), `${path}: a type, or int-or-string`);
        assert.ok(!(schema.properties && schema.additionalProperties), path);
        assert.equal(schema.items !== undefined, schema.type === 'array', path);
        for (const name of schema.required ?? []) assert.ok(schema.properties?.[name], `${path}.${name} is required`);
        const { default: preset } = schema;
        if (typeof preset === 'string') assert.ok(schema.enum?.includes(preset), path);
      }
      assert.deepEqual(root.properties?.metadata, { type: 'object' });
    });

    test('describes every field, in a sentence', () => {
      for (const [path, { description }] of schemas) {
        if (path === '.metadata') continue;
        assert.match(description ?? '', /\S.*\.$/s, path);
      }
    });

    test('bounds every list and text that a rule looks at, and says what kind of list it is', () => {
      for (const [path, schema] of schemas) {
        if (schema.type === 'array') {
          assert.ok(schema.maxItems !== undefined, `${path} has no maxItems`);
          assert.ok(schema['x-kubernetes-list-type'], `${path} has no list type`);
        }
        if (path.startsWith('.spec') && schema.type === 'string' && !schema.enum) {
          assert.ok(schema.maxLength !== undefined, `${path} has no maxLength`);
        }
      }
    });

    test('has sets, maps and atomic lists where they belong', () => {
      const types = new Map(schemas.map(([path, schema]) => [path, schema['x-kubernetes-list-type']]));
      for (const [path, type] of types) {
        if (/\.(networks|entities|domainNames|units|names)$/.test(path)) assert.equal(type, 'set', path);
        if (/\.to\[\]\.except$/.test(path)) assert.equal(type, 'set', path);
        if (/\.(egress|to|ports|services|matchExpressions|values)$/.test(path)) assert.equal(type, 'atomic', path);
      }
      assert.equal(types.get('.status.conditions'), 'map');
    });

    test('has rules that compile, with a message that says what to write', () => {
      const rules = schemas.flatMap(([path, schema]) =>
        (schema['x-kubernetes-validations'] ?? []).map((rule) => ({ path, schema, ...rule })),
      );
      assert.ok(new Set(rules.map(({ rule }) => rule)).size >= 16, 'sixteen rules at least');
      for (const { path, rule, message, fieldPath, schema } of rules) {
        assert.doesNotThrow(() => compileRule(rule), `${path}: ${rule}`);
        assert.match(message, /^[^;]+; [^;]+$/, path);
        if (fieldPath !== undefined) assert.ok(schema.properties?.[fieldPath.slice(1)], `${path} has no ${fieldPath}`);
      }
    });
  });
}

test('the two kinds differ only where they must', () => {
  const [own, cluster] = Object.values(crds).map(({ spec }) => spec.versions[0]?.schema.openAPIV3Schema);
  assert.ok(own && cluster);
  const paths = (schema: Schema) => new Set([...walk(schema)].map(([path]) => path));
  const different = [...paths(own).symmetricDifference(paths(cluster))].map((path) => path.split(/[.[]/)[2]);
  assert.deepEqual(new Set(different), new Set(['podSelector', 'subject']));
});

describe("upstream's CRDs", () => {
  const read = (channel: string) => {
    const file = `../../daemonset/crds/network-policy-api/clusternetworkpolicies.${channel}.yaml`;
    return readFileSync(new URL(file, import.meta.url), 'utf8');
  };

  test('are unchanged below two lines that say where they are from', () => {
    for (const [channel, expected] of Object.entries(UPSTREAM_HASHES)) {
      const [license, origin, ...rest] = read(channel).split('\n');
      assert.equal(license, '# SPDX-License-Identifier: Apache-2.0');
      assert.match(origin ?? '', /^# From kubernetes-sigs\/network-policy-api, /);
      assert.equal(hash('sha256', rest.join('\n'), 'hex'), expected, channel);
    }
  });

  test('the standard channel is a part of the experimental one, which validation is derived from', () => {
    const schemas = ['standard', 'experimental'].map((channel) => {
      const [version] = (parse(read(channel)) as Crd).spec.versions;
      assert.ok(version);
      return new Map(walk(version.schema.openAPIV3Schema));
    });
    const [standard, experimental] = schemas;
    assert.ok(standard && experimental);
    const shape = ({ type, enum: words, minItems, maxItems, minimum, maximum, maxLength, required }: Schema) =>
      JSON.stringify({ type, words, minItems, maxItems, minimum, maximum, maxLength, required });
    for (const [path, schema] of standard) {
      const other = experimental.get(path);
      assert.ok(other, path);
      assert.equal(shape(schema), shape(other), path);
    }
    const more = [...experimental.keys()].filter((path) => !standard.has(path)).map((path) => path.split('to[]')[1]);
    assert.ok(
      more.every((path) => path?.startsWith('.nodes') || path?.startsWith('.domainNames')),
      more.join(),
    );
  });

  test('rules compile', () => {
    const rules = [
      ...walk((parse(read('experimental')) as Crd).spec.versions[0]?.schema.openAPIV3Schema ?? {}),
    ].flatMap(([, schema]) => schema['x-kubernetes-validations'] ?? []);
    assert.ok(rules.length >= 6, `${rules.length}`);
    for (const { rule } of rules) compileRule(rule);
  });
});
