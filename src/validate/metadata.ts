// SPDX-License-Identifier: Apache-2.0
// Names, labels and annotations as kube-apiserver takes them: apimachinery's ValidateObjectMeta and metav1 validation, the rules of which are
// in k8s.io/apimachinery/pkg/util/validation (IsDNS1123Label, IsDNS1123Subdomain, IsQualifiedName, IsValidLabelValue).
import type { Path } from '../yaml/documents.ts';
import { doubtful, type Finding, quote, wrong, wrongKey } from './finding.ts';
import { isObject, type Kind, kinds } from './kind.ts';

const LABEL = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/;
const SUBDOMAIN = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;
const QUALIFIED = /^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$/;

export const isDns1123Label = (text: string): boolean => text.length <= 63 && LABEL.test(text);
export const isDns1123Subdomain = (text: string): boolean => text.length <= 253 && SUBDOMAIN.test(text);

/** IsQualifiedName: an optional DNS subdomain and a slash, then a name. */
export function isLabelKey(text: string): boolean {
  const slash = text.indexOf('/');
  const name = text.slice(slash + 1);
  if (slash >= 0 && !isDns1123Subdomain(text.slice(0, slash))) return false;
  return name.length <= 63 && QUALIFIED.test(name);
}

/** IsValidLabelValue: empty, or as a name. */
export const isLabelValue = (text: string): boolean => text === '' || (text.length <= 63 && QUALIFIED.test(text));

export function checkMetadata(kind: Kind, metadata: unknown): Finding[] {
  if (!isObject(metadata)) {
    return metadata === undefined || metadata === null
      ? [wrong('name', ['metadata'], 'metadata is missing', 'write metadata: {name: …}')]
      : [];
  }
  const findings: Finding[] = [];
  const { name, namespace, generateName, labels, annotations } = metadata;
  const path = ['metadata', 'name'];
  // Namespaces and Services are names in DNS themselves (ValidateNamespaceName, ValidateServiceName).
  const isLabel = kind === 'Namespace' || kind === 'Service';
  if (name === undefined || name === null || name === '') {
    const message = generateName === undefined ? 'the name is missing' : 'generateName gives no name without a cluster';
    findings.push(wrong('name', path, message, 'write metadata.name'));
  } else if (typeof name === 'string' && !(isLabel ? isDns1123Label(name) : isDns1123Subdomain(name))) {
    const rule = `at most ${isLabel ? 63 : 253} of a-z, 0-9${isLabel ? '' : ', .'} and -, a letter or digit at either end`;
    findings.push(wrong('name', path, `${quote(name)} is no valid name`, `write ${rule}`));
  }
  if (typeof namespace === 'string' && namespace !== '') {
    const at = ['metadata', 'namespace'];
    if (!kinds[kind].namespaced) {
      findings.push(doubtful('namespace', at, `${kind} is cluster-scoped: it has no namespace`, 'remove it'));
    } else if (!isDns1123Label(namespace)) {
      const advice = 'write at most 63 of a-z, 0-9 and -, a letter or digit at either end';
      findings.push(wrong('namespace', at, `${quote(namespace)} is no valid namespace`, advice));
    }
  }
  findings.push(...checkLabels(labels, ['metadata', 'labels']));
  if (isObject(annotations)) {
    for (const key of Object.keys(annotations)) {
      // ValidateAnnotations compares in lower case.
      if (!isLabelKey(key.toLowerCase())) findings.push(badKey(key, ['metadata', 'annotations', key]));
    }
  }
  return findings;
}

/** Keys and values of a mapping of labels; what is no text is checkTypes' affair. */
export function checkLabels(labels: unknown, path: Path): Finding[] {
  if (!isObject(labels)) return [];
  const findings: Finding[] = [];
  for (const [key, value] of Object.entries(labels)) {
    if (!isLabelKey(key)) findings.push(badKey(key, [...path, key]));
    if (typeof value === 'string' && !isLabelValue(value)) findings.push(badValue(value, [...path, key]));
  }
  return findings;
}

/** meta/v1 validation's ValidateLabelSelector. Missing values where an operator needs them are told here, too. */
export function checkSelector(selector: unknown, path: Path, { operators }: { operators: boolean }): Finding[] {
  if (!isObject(selector)) return [];
  const findings = checkLabels(selector.matchLabels, [...path, 'matchLabels']);
  const expressions = selector.matchExpressions;
  if (!Array.isArray(expressions)) return findings;
  for (const [i, written] of expressions.entries()) {
    // null is what Go decodes to an empty requirement.
    const expression = written === null && operators ? {} : written;
    if (!isObject(expression)) continue;
    const at = [...path, 'matchExpressions', i];
    const { key, operator, values } = expression;
    if (typeof key === 'string' && !isLabelKey(key)) {
      findings.push({ ...badKey(key, [...at, 'key']), at: 'value' });
    }
    if (Array.isArray(values)) {
      for (const [j, value] of values.entries()) {
        if (typeof value === 'string' && !isLabelValue(value)) findings.push(badValue(value, [...at, 'values', j]));
      }
    }
    if (operators) findings.push(...checkOperator(operator, key, values, at));
  }
  return findings;
}

function checkOperator(operator: unknown, key: unknown, values: unknown, at: Path): Finding[] {
  const findings: Finding[] = [];
  const count = Array.isArray(values) ? values.length : 0;
  if (key === undefined || key === null || key === '') {
    findings.push(wrong('selector', [...at, 'key'], 'key is missing', 'write the key of a label'));
  }
  switch (operator) {
    case 'In':
    case 'NotIn':
      if (count === 0) {
        const message = `${operator} needs values`;
        findings.push(wrong('selector', [...at, 'values'], message, 'write values: [a, b], or the operator Exists'));
      }
      break;
    case 'Exists':
    case 'DoesNotExist':
      if (count > 0) {
        const message = `${operator} takes no values`;
        findings.push(wrong('selector', [...at, 'values'], message, 'remove values, or write the operator In'));
      }
      break;
    default: {
      const message = operator === undefined ? 'operator is missing' : `there is no operator ${quote(operator)}`;
      findings.push(wrong('selector', [...at, 'operator'], message, 'write In, NotIn, Exists or DoesNotExist'));
    }
  }
  return findings;
}

function badKey(key: string, path: Path): Finding {
  const advice = 'write at most 63 letters, digits, -, _ and ., after an optional DNS name and a slash';
  return wrongKey('label', path, `${quote(key)} is no valid label key`, advice);
}

function badValue(value: string, path: Path): Finding {
  const advice = 'write at most 63 letters, digits, -, _ and ., a letter or digit at either end';
  return wrong('label', path, `${quote(value)} is no valid label value`, advice);
}
