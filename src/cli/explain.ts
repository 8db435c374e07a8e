// SPDX-License-Identifier: Apache-2.0
// `postern explain`: what would be decided, by which policy and rule, and why. Reads a folder; asks neither root nor the kernel.
import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import { Command, InvalidArgumentError, Option } from 'commander';
import { compile } from '../compile/compile.ts';
import { IcmpKind, Protocol } from '../compile/numbers.ts';
import { overfullProblems } from '../compile/overfull.ts';
import { type Explanation, explainer, type NameExplanation, type Query, QueryError } from '../judge/explain.ts';
import type { IcmpType } from '../model/objects.ts';
import { Folder } from '../source/folder.ts';
import { readHost } from '../source/host.ts';
import { ObjectStore } from '../source/store.ts';
import { clusterDomainOption, resolverOption } from './resolver.ts';
import { printable } from './table.ts';

interface Options {
  readonly policies: string;
  readonly from?: string;
  readonly to?: string;
  readonly port?: number;
  readonly protocol: keyof typeof Protocol;
  readonly icmpType?: IcmpType;
  readonly name?: readonly string[];
  readonly ask?: string;
  readonly queries?: string;
  readonly nodeName?: string;
  readonly resolver?: readonly string[];
  readonly clusterDomain: string;
  readonly ownNode: 'allow' | 'deny';
  readonly output: 'text' | 'json';
}

/** Exit status: 0 answered (whatever the verdict), 1 the question or the folder cannot be read. */
export function command(): Command {
  return new Command('explain')
    .description('Tell what would be decided for a connection, by which policy and rule, and why')
    .requiredOption('--policies <dir>', 'folder of Kubernetes objects, as `postern agent` reads it')
    .option('--from <ns/pod>', 'the workload that sends; node/NAME.service is a systemd unit of this node')
    .option('--to <dest>', 'NS/POD, an address, service:NS/NAME, or a domain name')
    .option('--port <number>', 'destination port; of a Service its own port', parsePort)
    .addOption(new Option('--protocol <name>', 'TCP, UDP, SCTP or ICMP').choices(Object.keys(Protocol)).default('TCP'))
    .addOption(new Option('--icmp-type <type>', 'of ICMP').choices(Object.keys(IcmpKind)))
    .addOption(
      new Option(
        '--name <name>',
        'a name that DNS told the workload leads to this address; may be given several times',
      ).argParser((name: string, all: readonly string[] | undefined) => [...(all ?? []), name]),
    )
    .option('--ask <name>', 'instead of --to: may DNS be asked for this name?')
    .option('--queries <file>', 'answer many: a file of JSON lines, or - for standard input')
    .option('--node-name <name>', 'the Node object that is this machine (for the entity Host, and for nodeServices)')
    .addOption(resolverOption())
    .addOption(clusterDomainOption())
    .addOption(
      new Option(
        '--own-node <verdict>',
        'whether pods that a NetworkPolicy holds may reach their own node; as of the agent, with --kube allow',
      )
        .choices(['allow', 'deny'])
        .default('deny'),
    )
    .addOption(new Option('-o, --output <format>', 'how to print').choices(['text', 'json']).default('text'))
    .addHelpText(
      'after',
      `
Pure: neither root nor a kernel is needed, and nothing is changed. Objects with problems are left out, as an agent that has
never seen a valid version of them would (an invalid policy isolates what it selects); see \`postern lint\`.

With --queries each line is
  {"from":"shop/web","to":"data/db","port":5432,"protocol":"TCP"}
("icmpType" besides, where protocol is ICMP; "names":["api.example.com"] where DNS told these of the address), and each answer a line
  {"verdict":"allow|deny|audit","policy":"NetworkPolicy/shop/web" or null,"rule":0 or null,"reason":"rule"}
A line that cannot be answered gives {"error":"..."}, and the exit status is 1.

Reasons are those of metrics and drop logs, and no_address: the Pod or Service has none.
Examples:
  postern explain --policies examples --from shop/web --to data/db --port 5432
  postern explain --policies examples --from shop/web --to service:data/db --port 5432 -o json
  postern explain --policies examples --from shop/web --ask api.example.com
  postern explain --policies examples --queries questions.jsonl`,
    )
    .action(run);
}

async function run(options: Options, self: Command): Promise<void> {
  const scan = new Folder(options.policies).scan();
  const [unreadable] = scan.unreadable;
  if (unreadable !== undefined) return self.error(`error: ${unreadable.path}: ${unreadable.message}`, { exitCode: 1 });
  const { snapshot, problems } = new ObjectStore(null).update(
    scan,
    readHost(options.nodeName ?? null, {
      resolvers: options.resolver ?? [],
      clusterDomain: options.clusterDomain,
    }),
  );
  const errors = problems.filter(({ severity }) => severity === 'error').length;
  if (errors > 0) {
    process.stderr.write(`warning: ${errors} problems in ${options.policies}; run: postern lint ${options.policies}\n`);
  }
  const compiled = compile(snapshot, { ownNode: options.ownNode === 'allow' });
  for (const { object, message, advice } of [...compiled.problems, ...overfullProblems(compiled.overfull)]) {
    process.stderr.write(`error: ${object ?? options.policies} ${message}; ${advice}\n`);
  }
  const { answer, explain, explainName } = explainer(snapshot, compiled, problems);
  if (options.queries !== undefined) return answerAll(options.queries, answer);

  const { from, ask, output } = options;
  const print = <T>(make: () => T, asText: (told: T) => string): void => {
    try {
      const told = make();
      process.stdout.write(output === 'json' ? `${JSON.stringify(told, null, 2)}\n` : asText(told));
    } catch (error) {
      if (!(error instanceof QueryError)) throw error;
      self.error(`error: ${error.message}`, { exitCode: 1 });
    }
  };
  if (from !== undefined && ask !== undefined) return print(() => explainName({ from, ask }), nameText);
  const { to, port, protocol, icmpType, name: names } = options;
  if (from === undefined || to === undefined) {
    return self.error('error: --from, and --to or --ask, are needed; or --queries FILE for many', { exitCode: 1 });
  }
  if (port === undefined && protocol !== 'ICMP') {
    return self.error(`error: --port is needed for ${protocol}; write --port N`, { exitCode: 1 });
  }
  if (icmpType !== undefined && protocol !== 'ICMP') {
    return self.error(`error: --icmp-type is of ICMP, not of ${protocol}; write --protocol ICMP`, { exitCode: 1 });
  }
  print(
    () =>
      explain({
        ...{ from, to, port: port ?? null, protocol },
        ...(icmpType && { icmpType }),
        ...(names && { names }),
      }),
    text,
  );
}

async function answerAll(file: string, answer: (query: Query) => object): Promise<void> {
  const input = file === '-' ? process.stdin : createReadStream(file);
  const failed = new Promise<never>((_, reject) => input.once('error', reject));
  let batch: string[] = [];
  // Whoever read the answers may have gone: nothing drains any more then.
  let isGone = false;
  const gone = new Promise<void>((resolve) => {
    process.stdout.once('error', () => {
      isGone = true;
      resolve();
    });
  });
  const flush = async (): Promise<void> => {
    if (batch.length === 0) return;
    const more = process.stdout.write(`${batch.join('\n')}\n`);
    batch = [];
    if (!more) await Promise.race([gone, new Promise((resolve) => process.stdout.once('drain', resolve))]);
  };
  const all = async (): Promise<void> => {
    for await (const line of createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY })) {
      if (line.trim() === '') continue;
      try {
        batch.push(JSON.stringify(answer(parseQuery(line))));
      } catch (error) {
        if (!(error instanceof QueryError)) throw error;
        batch.push(JSON.stringify({ error: error.message }));
        process.exitCode = 1;
      }
      if (batch.length >= 1000) await flush();
      if (isGone) return;
    }
    await flush();
  };
  try {
    await Promise.race([all(), failed]);
  } catch (error) {
    if (!(error instanceof Error) || !('code' in error)) throw error;
    process.stderr.write(`error: ${file}: ${error.message}\n`);
    process.exitCode = 1;
  }
}

function parseQuery(line: string): Query {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw new QueryError('not JSON; write {"from":"NS/POD","to":"DEST","port":N,"protocol":"TCP"}');
  }
  const { from, to, port, protocol = 'TCP', icmpType, names } = (value ?? {}) as Record<string, unknown>;
  if (typeof from !== 'string' || typeof to !== 'string')
    throw new QueryError('"from" and "to" are needed, as strings');
  if (typeof protocol !== 'string' || !Object.hasOwn(Protocol, protocol)) {
    throw new QueryError(`"protocol" is one of ${Object.keys(Protocol).join(', ')}`);
  }
  const isIcmp = protocol === 'ICMP';
  if (!isIcmp && !isPort(port)) throw new QueryError('"port" is a number from 1 to 65535');
  if (icmpType !== undefined && (typeof icmpType !== 'string' || !Object.hasOwn(IcmpKind, icmpType))) {
    throw new QueryError(`"icmpType" is one of ${Object.keys(IcmpKind).join(', ')}`);
  }
  if (icmpType !== undefined && !isIcmp) throw new QueryError(`"icmpType" is of ICMP, not of ${protocol}`);
  if (names !== undefined && !isStrings(names)) throw new QueryError('"names" is a list of domain names');
  return {
    ...{ from, to, port: isIcmp ? null : (port as number), protocol: protocol as Query['protocol'] },
    ...(icmpType === undefined ? {} : { icmpType: icmpType as IcmpType }),
    ...(names === undefined ? {} : { names }),
  };
}

function isStrings(list: unknown): list is string[] {
  return Array.isArray(list) && list.every((item) => typeof item === 'string');
}

function isPort(port: unknown): boolean {
  return typeof port === 'number' && Number.isInteger(port) && port >= 1 && port <= 65535;
}

function parsePort(text: string): number {
  if (!/^\d+$/.test(text) || !isPort(Number(text)))
    throw new InvalidArgumentError('a port is a number from 1 to 65535.');
  return Number(text);
}

function text(told: Explanation): string {
  const where = told.address === null || told.address === told.to ? told.to : `${told.to} (${told.address})`;
  const rule = told.rule === null ? '' : ` rule ${told.rule}${told.ruleName === null ? '' : ` "${told.ruleName}"`}`;
  const lines: [string, string][] = [
    ['reason', `${told.reason}: ${MEANINGS[told.reason] ?? 'see the documentation of reasons'}`],
    ['policy', told.policy === null ? 'none' : `${told.policy}${rule}`],
  ];
  if (told.onDeny !== null) {
    lines.push(['refusal', told.onDeny === 'Drop' ? 'Drop: silence' : 'Reject: EPERM at once']);
  }
  if (told.isolatedBy.length > 1) lines.push(['isolated by', told.isolatedBy.join(', ')]);
  if (told.wouldAllow !== null) lines.push(['would allow', `${told.wouldAllow}, if it were not in Audit`]);
  if (told.heldBy.length > 0) {
    const held = told.heldBy.map(
      ({ policy, mode, effect }) => `${policy} (${effect}${mode === 'Audit' ? ', Audit' : ''})`,
    );
    lines.push(['held by', held.join(', ')]);
  }
  for (const note of told.notes) lines.push(['note', note]);
  const port = told.port === null ? '' : ` ${told.port}`;
  const head = `${told.verdict.toUpperCase()}  ${told.from} -> ${where} ${told.protocol}${port}\n`;
  return head + lines.map(([name, value]) => `  ${name.padEnd(12)}${printable(value)}\n`).join('');
}

function nameText(told: NameExplanation): string {
  const lines: [string, string][] = [
    ['reason', `${told.reason}: ${NAME_MEANINGS[told.reason] ?? 'see the documentation of reasons'}`],
    ['policy', told.policy ?? 'none'],
  ];
  if (told.onDeny !== null)
    lines.push(['refusal', told.onDeny === 'Drop' ? 'Drop: silence' : 'Reject: REFUSED at once']);
  if (told.limitedBy.length > 0) lines.push(['limited by', told.limitedBy.join(', ')]);
  lines.push(['listed by', told.listedBy.length === 0 ? 'no policy on it' : told.listedBy.join(', ')]);
  const head = `${told.verdict.toUpperCase()}  ${told.from} asks DNS for ${told.ask}\n`;
  return head + lines.map(([name, value]) => `  ${name.padEnd(12)}${printable(value)}\n`).join('');
}

/** The same of a name that is asked for. */
const NAME_MEANINGS: Readonly<Record<string, string>> = {
  rule: 'policies list it, or it is the cluster’s own',
  not_isolated: 'no policy says which names may be asked',
  name_not_allowed: 'no policy lists it that would have to',
  search_domain: 'an allowed name with a search domain behind it: a guard answers that there is none',
};

/** What a reason says to a user, in a few words. */
const MEANINGS: Readonly<Record<string, string>> = {
  rule: 'a rule allows it',
  not_isolated: 'no policy isolates this workload, so everything passes that nothing else denies',
  loopback: 'loopback always passes',
  self: 'its own address always passes',
  no_rule: 'the workload is isolated, and no rule allows this (default deny)',
  limit: 'a Limit on this workload has no rule for it, whoever else allows it',
  no_ready_endpoint: 'nothing ready stands behind this Service',
  no_address: 'it has no address, so nothing can be sent to it',
  admin_accept: 'an Admin tier rule accepts it',
  admin_deny: 'an Admin tier rule denies it',
  baseline_accept: 'a Baseline tier rule accepts it',
  baseline_deny: 'a Baseline tier rule denies it',
};
