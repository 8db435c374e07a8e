// SPDX-License-Identifier: Apache-2.0
// What does a workload's flood take of the agent? A million refused packets, new flows and new names each, from behind a guard: how fast this machine
// sends them, and what the agent runs for meanwhile. Everything shares the two CPUs.
import { FloodedNode, type FloodName } from '../test/support/flood.ts';
import { rounded } from './statistics.ts';

export interface FloodCost {
  readonly of: FloodName;
  readonly count: number;
  readonly perSecond: number;
  /** Seconds that the agent ran for in each second of the flood. */
  readonly agentCpu: number;
  /** How many of them it was told of. */
  readonly told: number;
}

const FLOODS: readonly FloodName[] = ['refused', 'flows', 'names'];

/** Throws where one of them was not judged as it should be: that is no measurement. */
export async function measureFloods(count: number): Promise<FloodCost[]> {
  const node = await FloodedNode.start();
  try {
    const costs: FloodCost[] = [];
    for (const of of FLOODS) {
      const before = await node.metrics();
      const { said, seconds, agentSeconds } = await node.flood(of, count);
      const after = await node.metrics();
      const grown = (name: string) => sum(after, name) - sum(before, name);
      const judged = grown(of === 'refused' ? 'postern_drop_count_total' : 'postern_forward_count_total');
      if (judged < count || said !== (of === 'flows' ? 0 : count)) {
        throw new Error(`of ${count} ${of} ${judged} were judged, and ${said} came to what they should`);
      }
      const lost =
        grown('postern_events_lost_total{why="events_rate"}') + grown('postern_events_lost_total{why="events_full"}');
      costs.push({
        ...{ of, count, perSecond: rounded(count / seconds), agentCpu: rounded(agentSeconds / seconds) },
        told: of === 'refused' ? count - lost : 0,
      });
    }
    return costs;
  } finally {
    await node.close();
  }
}

function sum(metrics: ReadonlyMap<string, number>, beginning: string): number {
  return [...metrics].reduce((total, [series, value]) => total + (series.startsWith(beginning) ? value : 0), 0);
}
