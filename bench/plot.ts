// SPDX-License-Identifier: Apache-2.0
// Cost of a packet against how much a policy allows, as an SVG that reads on light and on dark. Knows no numbers of its own.

import type { Point, Series } from './packet-cost.ts';

const WIDTH = 760;
const HEIGHT = 440;
/** Room for the axes and, on the right, for the names of the lines. */
const LEFT = 64;
const RIGHT = 216;
const TOP = 44;
const BOTTOM = 56;
const LABEL_HEIGHT = 17;

interface Line {
  readonly name: string;
  readonly style: string;
  readonly points: readonly { readonly count: number; readonly ns: number }[];
}

/** `series` holds those of addresses and prefixes; `footnote` says where and when. */
export function plot(series: readonly Series[], footnote: string): string {
  const lines = linesOf(series);
  const all = lines.flatMap(({ points }) => points);
  const [low, high] = [
    Math.log10(Math.min(...all.map(({ count }) => count))),
    Math.log10(Math.max(...all.map(({ count }) => count))),
  ];
  const step = tick(Math.max(...all.map(({ ns }) => ns)));
  const top = Math.ceil(Math.max(...all.map(({ ns }) => ns)) / step) * step;
  const x = (count: number): number => place(LEFT, WIDTH - RIGHT, (Math.log10(count) - low) / (high - low));
  const y = (ns: number): number => place(HEIGHT - BOTTOM, TOP, ns / top);

  const decades = Array.from({ length: Math.round(high - low) + 1 }, (_, index) => 10 ** (low + index));
  const levels = Array.from({ length: top / step + 1 }, (_, index) => index * step);
  const ends = spaced(lines.map(({ points }) => y(points.at(-1)?.ns ?? 0)));
  return `${[
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}" role="img" aria-labelledby="title">`,
    '<!-- SPDX-License-Identifier: Apache-2.0 -->',
    '<title id="title">Cost of a packet against the number of allowed addresses or prefixes</title>',
    `<style>${STYLE}</style>`,
    `<rect class="paper" width="${WIDTH}" height="${HEIGHT}"/>`,
    text(LEFT, 22, 'heading', 'Cost of a packet over an empty program (ns)'),
    ...levels.map((ns) => `<line class="grid" x1="${LEFT}" y1="${y(ns)}" x2="${WIDTH - RIGHT}" y2="${y(ns)}"/>`),
    ...levels.map((ns) => text(LEFT - 8, y(ns) + 4, 'tick end', ns.toLocaleString('en'))),
    ...decades.map((count) => text(x(count), HEIGHT - BOTTOM + 20, 'tick middle', count.toLocaleString('en'))),
    text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 40, 'tick middle', 'Allowed addresses or prefixes (log scale)'),
    ...lines.map(
      ({ points, style }) =>
        `<polyline class="line ${style}" points="${points.map(({ count, ns }) => `${x(count)},${y(ns)}`).join(' ')}"/>`,
    ),
    ...lines.flatMap(({ points, style }) =>
      points.map(({ count, ns }) => `<circle class="dot ${style}" cx="${x(count)}" cy="${y(ns)}" r="3"/>`),
    ),
    ...lines.map(({ name, style }, index) => text(WIDTH - RIGHT + 10, (ends[index] ?? 0) + 4, `name ${style}`, name)),
    text(WIDTH - 8, HEIGHT - 4, 'note end', footnote),
    '</svg>',
  ].join('\n')}\n`;
}

/** What is known costs the same whatever is allowed, so one line stands for both. */
function linesOf(series: readonly Series[]): Line[] {
  const line = (of: Series['of'], kind: 'known' | 'hot' | 'random', name: string, style: string): Line => ({
    ...{ name, style },
    points: pointsOf(series, of).map((point) => ({ count: point.count, ns: point[kind] })),
  });
  return [
    line('prefixes', 'random', 'new, any of the prefixes', 'prefixes'),
    line('addresses', 'random', 'new, any of the addresses', 'addresses'),
    line('prefixes', 'hot', 'new, one of the prefixes', 'prefixes hot'),
    line('addresses', 'hot', 'new, one of the addresses', 'addresses hot'),
    line('addresses', 'known', 'known flow', 'known'),
  ];
}

function pointsOf(series: readonly Series[], of: Series['of']): readonly Point[] {
  const found = series.find((each) => each.of === of);
  if (found === undefined) throw new RangeError(`there is no series of ${of}`);
  return found.points;
}

function place(from: number, to: number, part: number): number {
  return Math.round((from + (to - from) * part) * 10) / 10;
}

/** A round number of which some four to eight make `most`. */
function tick(most: number): number {
  const rough = most / 6;
  const magnitude = 10 ** Math.floor(Math.log10(rough));
  return ([1, 2, 5, 10].find((factor) => factor * magnitude >= rough) ?? 10) * magnitude;
}

/** Heights for labels that would lie on one another, moved down no further than needed, in their order. */
function spaced(heights: readonly number[]): number[] {
  const order = heights.map((_, index) => index).sort((a, b) => (heights[a] ?? 0) - (heights[b] ?? 0));
  const moved = [...heights];
  let free = 0;
  for (const index of order) {
    const height = Math.max(heights[index] ?? 0, free);
    moved[index] = height;
    free = height + LABEL_HEIGHT;
  }
  return moved;
}

function text(x: number, y: number, style: string, words: string): string {
  return `<text class="${style}" x="${x}" y="${y}">${words.replace(/[&<>]/g, (character) => `&#${character.charCodeAt(0)};`)}</text>`;
}

/** A background of its own: a page's scheme need not be the reader's. */
const STYLE = `
text { font: 12px system-ui, sans-serif; fill: #333a44 }
.paper { fill: #ffffff }
.heading { font-size: 14px; font-weight: 600 }
.tick, .note { fill: #59636e }
.note { font-size: 10px }
.end { text-anchor: end }
.middle { text-anchor: middle }
.grid { stroke: #8b949e; stroke-opacity: .3 }
.line { fill: none; stroke-width: 2; stroke-linejoin: round }
.hot { stroke-dasharray: 6 4 }
.dot.hot, text.hot { stroke-dasharray: none }
.line.prefixes { stroke: #b3500b } .dot.prefixes, text.prefixes { fill: #b3500b }
.line.addresses { stroke: #0a62c4 } .dot.addresses, text.addresses { fill: #0a62c4 }
.line.known { stroke: #1a7f37 } .dot.known, text.known { fill: #1a7f37 }
@media (prefers-color-scheme: dark) {
text { fill: #d5dbe3 }
.paper { fill: #0d1117 }
.tick, .note { fill: #9aa4b0 }
.line.prefixes { stroke: #f0914a } .dot.prefixes, text.prefixes { fill: #f0914a }
.line.addresses { stroke: #63a9ff } .dot.addresses, text.addresses { fill: #63a9ff }
.line.known { stroke: #4ac26b } .dot.known, text.known { fill: #4ac26b }
}
`;
