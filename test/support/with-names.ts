// SPDX-License-Identifier: Apache-2.0
// Loaded before the agent (`--import`): domain names are enforced, whatever src/model/name.ts says of users.
import { registerHooks } from 'node:module';

const SWITCH = 'export const NAMES_ENFORCED: boolean = false;';

registerHooks({
  load(url, context, next) {
    const loaded = next(url, context);
    if (!url.endsWith('/src/model/name.ts')) return loaded;
    const source = String(loaded.source);
    if (!source.includes(SWITCH)) throw new Error('the switch is not where it was');
    return { ...loaded, source: source.replace(SWITCH, SWITCH.replace('false', 'true')) };
  },
});
