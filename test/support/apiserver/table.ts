// SPDX-License-Identifier: Apache-2.0
// How is an object shown in a form other than its own: as a row of a Table, as metadata alone? (meta.k8s.io/v1.)
import { type JsonObject, objectAt } from './json.ts';
import type { ResourceType } from './resources.ts';

export type IncludeObject = 'None' | 'Metadata' | 'Object';

export function columnDefinitions(type: ResourceType): JsonObject[] {
  return type.columns.map((column) => ({
    name: column.name,
    type: column.type,
    format: column.format ?? '',
    description: column.description ?? column.name,
    priority: column.priority ?? 0,
  }));
}

export function tableRow(
  type: ResourceType,
  object: JsonObject,
  stored: JsonObject,
  include: IncludeObject,
): JsonObject {
  const shown = include === 'None' ? {} : { object: include === 'Object' ? object : metadataOnly(object) };
  return { cells: type.columns.map((column) => column.cell(stored)), ...shown };
}

export function metadataOnly(object: JsonObject): JsonObject {
  return { kind: 'PartialObjectMetadata', apiVersion: 'meta.k8s.io/v1', metadata: objectAt(object, 'metadata') };
}
