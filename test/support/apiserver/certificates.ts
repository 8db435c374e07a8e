// SPDX-License-Identifier: Apache-2.0
// Keys and certificates of a cluster of one test, made by openssl in a folder of its own.
import { execFileSync } from 'node:child_process';
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';

export interface KeyPair {
  readonly certificate: string;
  readonly key: string;
}

const KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-sha256'];

export class Authority {
  readonly certificate: string;
  readonly #folder: string;
  #made = 0;

  /** Makes a new authority; its files lie in `folder`. */
  constructor(folder: string) {
    this.#folder = folder;
    const made = this.#request('ca', [
      '-subj',
      '/CN=test-ca',
      '-days',
      '1',
      '-addext',
      'keyUsage=critical,keyCertSign',
    ]);
    this.certificate = made.certificate;
  }

  /** For the addresses of loopback. */
  server(): KeyPair {
    const names = 'DNS:localhost,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:::1';
    return this.#signed('/CN=kube-apiserver', [
      '-addext',
      `subjectAltName=${names}`,
      '-addext',
      'extendedKeyUsage=serverAuth',
    ]);
  }

  /** As kube-apiserver reads client certificates: CN is the user, each O a group. */
  client(user: string, groups: readonly string[]): KeyPair {
    const subject = `${groups.map((group) => `/O=${group}`).join('')}/CN=${user}`;
    return this.#signed(subject, ['-addext', 'extendedKeyUsage=clientAuth']);
  }

  #signed(subject: string, extensions: readonly string[]): KeyPair {
    this.#made++;
    const authority = ['-CA', this.#path('ca.crt'), '-CAkey', this.#path('ca.key')];
    const common = ['-addext', 'basicConstraints=critical,CA:FALSE', '-days', '1'];
    return this.#request(`${this.#made}`, [...authority, '-subj', subject, ...common, ...extensions]);
  }

  #request(name: string, more: readonly string[]): KeyPair {
    const out = ['-keyout', this.#path(`${name}.key`), '-out', this.#path(`${name}.crt`)];
    execFileSync('openssl', ['req', '-x509', ...KEY, ...out, ...more], { stdio: 'pipe' });
    return {
      certificate: readFileSync(this.#path(`${name}.crt`), 'utf8'),
      key: readFileSync(this.#path(`${name}.key`), 'utf8'),
    };
  }

  #path(name: string): string {
    return path.join(this.#folder, name);
  }
}

/** Writes so that a reader sees the old content or the new. */
export function writeSecret(file: string, text: string): void {
  writeFileSync(`${file}.new`, text, { mode: 0o600 });
  renameSync(`${file}.new`, file);
}
