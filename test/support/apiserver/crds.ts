// SPDX-License-Identifier: Apache-2.0
// Which resources does a CustomResourceDefinition make, and what does the server say of it? (apiextensions-apiserver.)
import { at, isObject, type Json, type JsonObject, listAt, objectAt, textAt } from './json.ts';
import { jsonPath } from './jsonpath.ts';
import {
  apiVersionOf,
  type Column,
  DEFAULT_COLUMNS,
  NAME_COLUMN,
  type ResourceType,
  resourceType,
  since,
} from './resources.ts';

/** One type for each version served. */
export function typesOfCrd(crd: JsonObject): readonly ResourceType[] {
  const group = textAt(crd, 'spec', 'group');
  const names = objectAt(crd, 'spec', 'names');
  const strings = (key: string): string[] => listAt(names, key).filter((one) => typeof one === 'string');
  const versions = listAt(crd, 'spec', 'versions').filter(isObject);
  const storageVersion = textAt(
    versions.find((version) => version.storage === true),
    'name',
  );
  return versions
    .filter((version) => version.served === true)
    .map((version) => {
      const type = {
        group,
        version: textAt(version, 'name'),
        resource: textAt(names, 'plural'),
        kind: textAt(names, 'kind'),
      };
      const own = apiVersionOf(type);
      const stored = apiVersionOf({ group, version: storageVersion });
      return resourceType({
        ...type,
        namespaced: textAt(crd, 'spec', 'scope') === 'Namespaced',
        singular: textAt(names, 'singular') || type.kind.toLowerCase(),
        shortNames: strings('shortNames'),
        categories: strings('categories'),
        status: at(version, 'subresources', 'status') !== undefined,
        generation: true,
        columns: columnsOf(version),
        fields: Object.fromEntries(
          listAt(version, 'selectableFields').map((one) => {
            const path = textAt(one, 'jsonPath').replace(/^\./, '');
            return [path, path.split('.')];
          }),
        ),
        custom: true,
        schema: objectAt(version, 'schema', 'openAPIV3Schema'),
        // The only conversion here is None: another apiVersion.
        toStored: own === stored ? null : (object) => ({ ...object, apiVersion: stored }),
        fromStored: own === stored ? null : (object) => ({ ...object, apiVersion: own }),
      });
    });
}

function columnsOf(version: JsonObject): readonly Column[] {
  const given = listAt(version, 'additionalPrinterColumns');
  if (given.length === 0) return DEFAULT_COLUMNS;
  return [
    NAME_COLUMN,
    ...given.map((one): Column => {
      const type = textAt(one, 'type') as Column['type'];
      const values = jsonPath(textAt(one, 'jsonPath'));
      return {
        name: textAt(one, 'name'),
        type,
        description: textAt(one, 'description'),
        priority: Number(textAt(one, 'priority')),
        cell: (object) => cell(type, values === null ? [] : values(object)),
      };
    }),
  ];
}

function cell(type: Column['type'], [first]: readonly Json[]): Json {
  if (first === undefined) return null;
  if (type === 'date') return typeof first === 'string' ? since(first) : '<invalid>';
  if (type === 'string') return typeof first === 'string' ? first : JSON.stringify(first);
  return first;
}

/** The CRD with what the server says of it: established at once. */
export function crdStatus(crd: JsonObject): JsonObject {
  const names = objectAt(crd, 'spec', 'names');
  const kind = textAt(names, 'kind');
  const all = { singular: kind.toLowerCase(), listKind: `${kind}List`, ...names };
  const since = textAt(crd, 'metadata', 'creationTimestamp');
  const condition = (type: string, reason: string, message: string): JsonObject => ({
    lastTransitionTime: since,
    message,
    reason,
    status: 'True',
    type,
  });
  return {
    ...crd,
    spec: { conversion: { strategy: 'None' }, ...objectAt(crd, 'spec'), names: all },
    status: {
      acceptedNames: all,
      conditions: [
        condition('NamesAccepted', 'NoConflicts', 'no conflicts found'),
        condition('Established', 'InitialNamesAccepted', 'the initial names have been accepted'),
      ],
      storedVersions: listAt(crd, 'spec', 'versions')
        .filter((version) => at(version, 'storage') === true)
        .map((version) => textAt(version, 'name')),
    },
  };
}
