// SPDX-License-Identifier: Apache-2.0
// By which schema is an object of a CRD judged? Those that the build derived from daemonset/crds/, ready to run. Knows no kind's meaning.
import { readFileSync } from 'node:fs';
import { Ajv, type ValidateFunction } from 'ajv';
import type { SchemaWithRules } from './cel.ts';
import type { CrdKind } from './kind.ts';

type RuntimeSchema = SchemaWithRules & Record<string, unknown>;

let schemas: Readonly<Record<CrdKind, RuntimeSchema>> | null = null;
const validators = new Map<CrdKind, ValidateFunction>();

export function schemaOf(kind: CrdKind): RuntimeSchema {
  schemas ??= JSON.parse(
    readFileSync(new URL('../../build/generated/policy-schemas.json', import.meta.url), 'utf8'),
  ) as Readonly<Record<CrdKind, RuntimeSchema>>;
  return schemas[kind];
}

/** Fills the schema's defaults into what it is given. */
export function validatorOf(kind: CrdKind): ValidateFunction {
  let validate = validators.get(kind);
  if (!validate) {
    // verbose: an error then carries the value and the schema that it is about.
    const ajv = new Ajv({ allErrors: true, useDefaults: true, strict: false, verbose: true, validateFormats: false });
    validate = ajv.compile(schemaOf(kind));
    validators.set(kind, validate);
  }
  return validate;
}
