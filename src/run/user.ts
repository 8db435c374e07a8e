// SPDX-License-Identifier: Apache-2.0
// As whom is the command run? Asks the system's own name service, so that LDAP users work as files' do.
import { execFileSync } from 'node:child_process';

export interface User {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
  readonly shell: string;
}

/** The user of this name or uid, or null where there is none. */
export function findUser(nameOrUid: string): User | null {
  if (!/^[^\s:\0/-][^\s:\0/]*$/.test(nameOrUid)) return null;
  let line: string;
  try {
    line = execFileSync('getent', ['passwd', nameOrUid], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  } catch (error) {
    // getent(1): 2 is "not found". Anything else is no answer at all.
    if ((error as { status?: number }).status === 2) return null;
    throw error;
  }
  return parsePasswd(line);
}

/** A line as passwd(5) has it, or null. */
export function parsePasswd(line: string): User | null {
  const [name, , uid, gid, , home, shell] = line.trim().split(':');
  if (name === undefined || !/^\d+$/.test(uid ?? '') || !/^\d+$/.test(gid ?? '')) return null;
  return { name, uid: Number(uid), gid: Number(gid), home: home || '/', shell: shell || '/bin/sh' };
}
