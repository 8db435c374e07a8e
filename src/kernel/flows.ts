// SPDX-License-Identifier: Apache-2.0
// Takes notes of flows from maps of one size into maps of another, so that who asked before the change is answered after it. Knows how
// bpf/record.h numbers flows and makes room for them; knows no policy, and not which programs use which maps.
import {
  BUDGET_BYTES,
  type Budget,
  decodeBudget,
  decodeFlow,
  encodeBudget,
  encodeFlowOrderKey,
  FLOW_BYTES,
  FLOW_ORDER_KEY_BYTES,
  FLOWS_PER_WORKLOAD,
  FRAGMENTS_PER_WORKLOAD,
} from '#build/generated/abi.ts';
import { KernelError, type LoadedObject } from './native.ts';

const FLOW_MAPS = ['flows', 'flow_order', 'budgets'] as const;
/** Numbers that programs of the old maps may still give once budgets are copied, before they are gone. */
const SPARE = { flows: 256, fragments: 32 };
/** Of the new map: what comes next must find room, too. */
const FILLED = 0.75;
/** BPF_NOEXIST: what programs have noted meanwhile is newer. */
const NOT_THERE = 1;

/**
 * Copies what is not there yet, the last used first where not all fits; nothing where keys or values differ, or where both are the same maps.
 * Programs may use either meanwhile; what they note in `from` after that takes another call. Throws KernelError.
 */
export function carryFlows(from: LoadedObject, to: LoadedObject): void {
  const there = from.mapIds();
  const ids = to.mapIds();
  if (there.flows === ids.flows || !isAlike(from, to)) return;
  if (there.budgets !== ids.budgets) carryBudgets(from, to);
  insert(from, to);
  makeRoom(to);
}

function isAlike(from: LoadedObject, to: LoadedObject): boolean {
  const [one, other] = [from.layouts(), to.layouts()];
  const sizeless = (layout: string | undefined) => layout?.replace(/ entries \d+ /, ' ');
  return FLOW_MAPS.every((map) => one[map] !== undefined && sizeless(one[map]) === sizeless(other[map]));
}

/** Of slots that nothing was counted for yet. */
function carryBudgets(from: LoadedObject, to: LoadedObject): void {
  const ours = budgetsOf(to);
  for (const [slot, budget] of budgetsOf(from)) {
    const own = ours.get(slot);
    if (own === undefined || own.flows + own.fragments + own.numbers > 0) continue;
    if (budget.flows + budget.fragments + budget.numbers === 0) continue;
    const key = Buffer.alloc(4);
    key.writeUInt32LE(slot);
    const value = Buffer.alloc(BUDGET_BYTES);
    const flows = (budget.flows + SPARE.flows) >>> 0;
    encodeBudget({ ...budget, flows, fragments: (budget.fragments + SPARE.fragments) >>> 0 }, value);
    to.update('budgets', key, value, 1, 0);
  }
}

function budgetsOf(maps: LoadedObject): ReadonlyMap<number, Budget> {
  const { keys, values, count } = maps.dump('budgets');
  return new Map(
    Array.from({ length: count }, (_, at) => [keys.readUInt32LE(at * 4), decodeBudget(values, at * BUDGET_BYTES)]),
  );
}

interface Noted {
  readonly key: Buffer;
  readonly value: Buffer;
  readonly slot: number;
  readonly number: number;
  readonly seenNs: bigint;
}

function flowsOf(maps: LoadedObject): Noted[] {
  const { keys, values, count } = maps.dump('flows');
  const keyBytes = count === 0 ? 0 : keys.length / count;
  return Array.from({ length: count }, (_, at) => {
    const { slot, number, seenNs } = decodeFlow(values, at * FLOW_BYTES);
    const key = keys.subarray(at * keyBytes, (at + 1) * keyBytes);
    return { key, value: values.subarray(at * FLOW_BYTES, (at + 1) * FLOW_BYTES), slot, number, seenNs };
  });
}

/** Would bpf/record.h still know it by its number, or has it made room for others? */
function isCounted({ number }: Noted, budget: Budget | undefined): boolean {
  if (budget === undefined) return false;
  const isFragment = number >>> 31 === 1;
  const most = isFragment ? FRAGMENTS_PER_WORKLOAD : FLOWS_PER_WORKLOAD - FRAGMENTS_PER_WORKLOAD;
  const back = ((isFragment ? budget.fragments : budget.flows) - number) & 0x7fffffff;
  return back >= 1 && back <= most;
}

function insert(from: LoadedObject, to: LoadedObject): void {
  const known = flowsOf(to);
  const held = new Set(known.map(({ key }) => key.toString('latin1')));
  const noted = flowsOf(from).filter(({ key }) => !held.has(key.toString('latin1')));
  const budgets = budgetsOf(to);
  const room = Math.max(0, Math.floor((to.maps().flows?.maxEntries ?? 0) * FILLED) - known.length);
  const newest = noted
    .filter((flow) => isCounted(flow, budgets.get(flow.slot)))
    .sort((a, b) => Number(b.seenNs - a.seenNs));
  for (const flow of newest.slice(0, room)) {
    const order = orderOf(flow);
    // As programs do it: a flow that is in no order would stay for ever.
    if (!add(to, 'flow_order', order, flow.key) && to.lookup('flow_order', order)?.equals(flow.key) !== true) continue;
    add(to, 'flows', flow.key, flow.value);
  }
}

/** What made room in the old maps, or was past its time when it came here, and which no program will come by any more. */
function makeRoom(to: LoadedObject): void {
  const flows = flowsOf(to);
  const budgets = budgetsOf(to);
  for (const flow of flows) {
    if (isCounted(flow, budgets.get(flow.slot))) continue;
    const now = to.lookup('flows', flow.key);
    // Noted anew meanwhile, by another number.
    if (now === null || decodeFlow(now).number !== flow.number) continue;
    to.remove('flows', flow.key, 1);
    to.remove('flow_order', orderOf(flow), 1);
  }
}

function orderOf({ slot, number }: Noted): Buffer {
  const order = Buffer.alloc(FLOW_ORDER_KEY_BYTES);
  encodeFlowOrderKey({ slot, number }, order);
  return order;
}

/** False: there is one already, or no room. */
function add(to: LoadedObject, map: string, key: Buffer, value: Buffer): boolean {
  try {
    to.update(map, key, value, 1, NOT_THERE);
    return true;
  } catch (error) {
    if (error instanceof KernelError && (error.code === 'EEXIST' || error.code === 'E2BIG')) return false;
    throw error;
  }
}
