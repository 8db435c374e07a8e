// SPDX-License-Identifier: Apache-2.0
// What are EgressPolicy and ClusterEgressPolicy, field by field? The one place that says it: CRDs, validation and TypeScript types are derived.
// Knows nothing of enforcement. isCIDR and isIP need a kube-apiserver of 1.31 or later. Bounds on lists and strings are there for the API server too: it refuses CEL rules that could cost too much.

/** A structural OpenAPI v3 schema, as apiextensions.k8s.io/v1 JSONSchemaProps, cut to what we use. */
export interface Schema {
  description?: string;
  type?: 'object' | 'array' | 'string' | 'integer';
  format?: 'int32' | 'int64' | 'date-time';
  properties?: Record<string, Schema>;
  required?: string[];
  additionalProperties?: Schema;
  items?: Schema;
  enum?: string[];
  default?: unknown;
  pattern?: string;
  minLength?: number;
  maxLength?: number;
  minItems?: number;
  maxItems?: number;
  maxProperties?: number;
  minimum?: number;
  maximum?: number;
  'x-kubernetes-int-or-string'?: true;
  'x-kubernetes-list-type'?: 'atomic' | 'set' | 'map';
  'x-kubernetes-list-map-keys'?: string[];
  'x-kubernetes-map-type'?: 'atomic' | 'granular';
  'x-kubernetes-validations'?: CelRule[];
}

/** `message`: what is wrong; what to write instead. */
export interface CelRule {
  rule: string;
  message: string;
  /** The field of `self` that is told as wrong. */
  fieldPath?: string;
}

type Scope = 'Namespaced' | 'Cluster';

export const GROUP = 'postern.dev';
export const VERSION = 'v1alpha1';

/** Characters of the longest CIDR: an IPv6 address with an embedded IPv4 one, `/128`, and some. */
const CIDR_LENGTH = 64;
const NAME_LENGTH = 253;
/** RFC 1123 label, as apimachinery's IsDNS1123Label. */
const DNS_LABEL = '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$';
const ENTITIES = ['All', 'World', 'Internet', 'Cluster', 'Host', 'KubeAPIServer', 'DNS'];

const object = (description: string, properties: Record<string, Schema>, required: string[] = []): Schema => ({
  description,
  type: 'object',
  properties,
  ...(required.length > 0 && { required }),
});

const list = (
  description: string,
  items: Schema,
  [minItems, maxItems]: [number, number],
  listType: 'atomic' | 'set' = 'atomic',
): Schema => ({
  description,
  type: 'array',
  items,
  ...(minItems > 0 && { minItems }),
  maxItems,
  'x-kubernetes-list-type': listType,
});

const text = (description: string, more: Omit<Schema, 'description' | 'type'> = {}): Schema => ({
  description,
  type: 'string',
  ...more,
});

const oneOf = (description: string, values: string[], preset?: string): Schema => ({
  description,
  type: 'string',
  enum: values,
  ...(preset !== undefined && { default: preset }),
});

/** CEL: how many of these fields are set. */
const exactlyOne = (fields: string[], message: string): CelRule => ({
  rule: `[${fields.map((field) => `has(self.${field})`).join(', ')}].exists_one(set, set)`,
  message,
});

const withRules = (schema: Schema, ...rules: CelRule[]): Schema => ({ ...schema, 'x-kubernetes-validations': rules });

/** meta/v1 LabelSelector, its operators an enum. */
const labelSelector = (description: string, preset = false): Schema => ({
  ...object(`${description} An empty selector, {}, selects all.`, {
    matchLabels: {
      description: 'Labels that must all be there with exactly these values.',
      type: 'object',
      additionalProperties: text('The value that the label must have.', { maxLength: 63 }),
      maxProperties: 50,
    },
    matchExpressions: list(
      'Requirements that must all hold, along with matchLabels.',
      withRules(
        object(
          'A requirement on the label named key.',
          {
            key: text('The label that the requirement is about.', { minLength: 1, maxLength: 317 }),
            operator: oneOf(
              'In and NotIn compare the value with values (NotIn holds without the label, too). Exists and DoesNotExist ask only whether the label is there.',
              ['In', 'NotIn', 'Exists', 'DoesNotExist'],
            ),
            values: list(
              'Values for In and NotIn, at least one. Absent for Exists and DoesNotExist.',
              text('A value of the label.', { maxLength: 63 }),
              [0, 100],
            ),
          },
          ['key', 'operator'],
        ),
        {
          rule: "self.operator in ['In', 'NotIn'] ? has(self.values) && self.values.size() > 0 : !has(self.values) || self.values.size() == 0",
          message:
            'In and NotIn need values, Exists and DoesNotExist take none; write values: [a, b] with In or NotIn, or leave values out',
        },
      ),
      [0, 50],
    ),
  }),
  'x-kubernetes-map-type': 'atomic',
  ...(preset && { default: {} }),
});

const cidr = (description: string): Schema =>
  withRules(text(description, { minLength: 1, maxLength: CIDR_LENGTH }), {
    rule: 'isCIDR(self)',
    message: 'not a CIDR; write an address and a prefix length, such as 10.0.0.0/8, 2001:db8::/32 or 192.0.2.1/32',
  });

const domainName = (description: string, wildcard: boolean): Schema =>
  withRules(
    text(description, {
      minLength: 1,
      maxLength: NAME_LENGTH + 1,
      pattern: `^${wildcard ? '(\\*\\.)?' : ''}[^.*\\s/:@]{1,63}(\\.[^.*\\s/:@]{1,63})*\\.?$`,
    }),
    {
      rule: '!isIP(self)',
      message: 'an address is no domain name; write networks: [192.0.2.1/32] for an address',
    },
  );

const podPeer = (scope: Scope): Schema =>
  object(
    'Pods by their labels and by those of their namespaces. Never hostNetwork pods: their address is the node.',
    {
      namespaceSelector: labelSelector(
        scope === 'Namespaced'
          ? "Namespaces by label. Absent: only the policy's own namespace."
          : 'Namespaces by label. Required: a cluster-scoped policy has no namespace of its own.',
      ),
      podSelector: labelSelector('Pods of these namespaces by label.'),
    },
    scope === 'Namespaced' ? ['podSelector'] : ['namespaceSelector', 'podSelector'],
  );

const serviceReference = (scope: Scope): Schema =>
  object(
    'A Service.',
    {
      namespace: text(
        scope === 'Namespaced'
          ? "The Service's namespace. Absent: the policy's own."
          : "The Service's namespace. Required: a cluster-scoped policy has no namespace of its own.",
        { minLength: 1, maxLength: 63, pattern: DNS_LABEL },
      ),
      name: text("The Service's name.", { minLength: 1, maxLength: 63, pattern: DNS_LABEL }),
    },
    scope === 'Namespaced' ? ['name'] : ['namespace', 'name'],
  );

const PEERS = ['pods', 'namespaces', 'networks', 'nodes', 'services', 'entities', 'domainNames'];

const peer = (scope: Scope): Schema =>
  withRules(
    object('A set of destinations: exactly one of the seven kinds. except goes with networks or entities.', {
      pods: podPeer(scope),
      namespaces: labelSelector('Every pod of the namespaces with these labels, save hostNetwork pods.'),
      networks: list(
        'Destinations by address, whoever has it: pods, nodes and Services too. IPv4 CIDRs cover IPv4 only, IPv6 CIDRs IPv6 only.',
        cidr('A CIDR. Bits beyond the prefix length are ignored, with a warning.'),
        [1, 100],
        'set',
      ),
      nodes: labelSelector('Nodes by label: the addresses of their status.'),
      services: list(
        "Services: their cluster IPs on their ports, and the pods behind them on their target ports. `ports` then means the Service's own ports. ExternalName, external addresses and endpoints that are no pods are not followed.",
        serviceReference(scope),
        [1, 50],
      ),
      entities: list(
        'Well-known sets of destinations.',
        oneOf(
          "All: every address. Cluster: the cluster's pods, nodes and Services. World: all but Cluster, Host, loopback, link-local, multicast and broadcast. Internet: World without private and other special-purpose ranges. Host: the workload's own node. KubeAPIServer: the API server, with its ports. DNS: the trusted resolvers, with their ports.",
          ENTITIES,
        ),
        [1, 7],
        'set',
      ),
      domainNames: list(
        'Destinations by DNS name: the addresses that a trusted resolver gave this workload for one of these names. Does not open DNS itself: add the entity DNS.',
        domainName(
          'A name, such as api.example.com, or *.example.org for one or more whole labels before example.org (never example.org itself). Case and a final dot are ignored.',
          true,
        ),
        [1, 100],
        'set',
      ),
      except: list(
        'Taken from this item only, never from another item, rule or policy. With networks: CIDRs. With the entities All, World, Internet and Cluster: CIDRs, or Internet, Cluster, Host, KubeAPIServer, DNS.',
        text('A CIDR, or with entities the name of an entity.', { minLength: 1, maxLength: CIDR_LENGTH }),
        [0, 100],
        'set',
      ),
    }),
    exactlyOne(
      PEERS,
      `an item of \`to\` has exactly one of ${PEERS.join(', ')}; write one item for each, or remove the empty item`,
    ),
    {
      rule: '!has(self.except) || has(self.networks) || has(self.entities)',
      fieldPath: '.except',
      message: 'except goes with networks or entities only; remove it, or narrow the selector instead',
    },
    {
      rule: '!has(self.except) || !has(self.networks) || self.except.all(item, isCIDR(item))',
      fieldPath: '.except',
      message: 'except beside networks takes CIDRs only; write CIDRs such as 10.1.0.0/16',
    },
    {
      rule: "!has(self.except) || !has(self.entities) || self.entities.all(entity, entity in ['All', 'World', 'Internet', 'Cluster'])",
      fieldPath: '.except',
      message:
        'except goes with the entities All, World, Internet and Cluster only; put the others into an item of their own',
    },
    {
      rule: "!has(self.except) || !has(self.entities) || self.except.all(item, item in ['Internet', 'Cluster', 'Host', 'KubeAPIServer', 'DNS'] || isCIDR(item))",
      fieldPath: '.except',
      message:
        'except beside entities takes CIDRs and Internet, Cluster, Host, KubeAPIServer, DNS; write one of these, or an address as 169.254.169.254/32',
    },
  );

/**
 * Port names: IANA_SVC_NAME (RFC 6335, section 5.1) but for their length, as apimachinery's IsValidPortName. Each digit stands by itself in
 * the first group, so that no engine backtracks. No CEL here: of a value that may be a number or text the API server takes any length for
 * possible, and refuses rules that read it through.
 */
const PORT_NAME = '^([0-9]-?)*[a-z](-?[a-z0-9])*$';

const port = (): Schema =>
  withRules(
    object('A protocol and its ports, or an ICMP type.', {
      protocol: oneOf('ICMP stands for both families: ICMP and ICMPv6.', ['TCP', 'UDP', 'SCTP', 'ICMP'], 'TCP'),
      port: {
        description:
          "A port number, or the name of a port of the destination's containers or Service (only where every item of `to` is pods, namespaces or services). Absent: every port of the protocol.",
        'x-kubernetes-int-or-string': true,
        minimum: 1,
        maximum: 65535,
        maxLength: 15,
        pattern: PORT_NAME,
      },
      endPort: {
        description: 'The last port of a range that begins with port, which must be a number.',
        type: 'integer',
        format: 'int32',
        minimum: 1,
        maximum: 65535,
      },
      icmpType: oneOf('With protocol ICMP only. Absent: every type.', [
        'EchoRequest',
        'EchoReply',
        'DestinationUnreachable',
        'PacketTooBig',
        'TimeExceeded',
        'ParameterProblem',
      ]),
    }),
    {
      rule: '!has(self.endPort) || (has(self.port) && type(self.port) == int && self.endPort >= self.port)',
      fieldPath: '.endPort',
      message: 'endPort needs a numeric port that is not greater; write the smaller number as port',
    },
    {
      rule: "!has(self.icmpType) || self.protocol == 'ICMP'",
      fieldPath: '.icmpType',
      message: 'icmpType goes with protocol ICMP only; write protocol: ICMP, or remove icmpType',
    },
    {
      rule: "self.protocol != 'ICMP' || (!has(self.port) && !has(self.endPort))",
      message: 'ICMP has no ports; remove port and endPort, or write icmpType',
    },
  );

const rule = (scope: Scope): Schema =>
  withRules(
    object(
      'Allows traffic to any of the destinations in `to`, on any of `ports`.',
      {
        name: text('Told in verdicts; else the rule is told by its index. Unique in the policy.', {
          minLength: 1,
          maxLength: 100,
        }),
        to: list('Destinations, any of which matches.', peer(scope), [1, 25]),
        ports: list('Protocols and ports, any of which matches. Absent: every protocol and port.', port(), [1, 50]),
        tls: object('What TLS connections must show. Narrows this rule only.', {
          serverName: oneOf(
            "Ignore: nothing is asked. Match: a connection must open with a ClientHello that names one of the rule's domainNames that led to its address.",
            ['Ignore', 'Match'],
            'Ignore',
          ),
        }),
        via: object(
          'Reserved: the gateway through which alone this traffic may leave. Until there are gateways, a rule with via allows nothing.',
          { gateway: text('The name of an EgressGateway.', { minLength: 1, maxLength: NAME_LENGTH }) },
          ['gateway'],
        ),
      },
      ['to'],
    ),
    {
      rule: "!has(self.ports) || self.to.all(peer, !has(peer.entities) || !peer.entities.exists(entity, entity in ['KubeAPIServer', 'DNS']))",
      fieldPath: '.ports',
      message:
        'the entities KubeAPIServer and DNS bring their own ports; remove ports, or put these entities into a rule of their own',
    },
    {
      rule: '!has(self.ports) || !self.ports.exists(item, has(item.port) && type(item.port) == string) || self.to.all(peer, has(peer.pods) || has(peer.namespaces) || has(peer.services))',
      fieldPath: '.ports',
      message:
        'a port name means something only for pods, namespaces and services; write the port number, or put the other destinations into a rule of their own',
    },
    {
      fieldPath: '.tls',
      rule: "!has(self.tls) || self.tls.serverName != 'Match' || self.to.all(peer, has(peer.domainNames))",
      message:
        'serverName: Match needs domainNames alone in `to`; put the other destinations into a rule of their own, without tls',
    },
    {
      fieldPath: '.tls',
      rule: "!has(self.tls) || self.tls.serverName != 'Match' || (has(self.ports) && self.ports.all(item, item.protocol == 'TCP'))",
      message: 'serverName: Match needs TCP ports; write ports: [{port: 443}]',
    },
    {
      rule: "!has(self.via) || self.to.all(peer, has(peer.networks) || has(peer.domainNames) || (has(peer.entities) && peer.entities.all(entity, entity in ['World', 'Internet'])))",
      fieldPath: '.via',
      message:
        'via goes with networks, domainNames and the entities World and Internet only; put the other destinations into a rule of their own, without via',
    },
  );

const subjectItem = {
  namespaces: labelSelector('Every pod of the namespaces with these labels.'),
  pods: object(
    'Pods by their labels and by those of their namespaces.',
    {
      namespaceSelector: labelSelector('Namespaces by label.'),
      podSelector: labelSelector('Pods of these namespaces by label.'),
    },
    ['namespaceSelector', 'podSelector'],
  ),
};

const subject = (): Schema =>
  withRules(
    object('Whom the policy selects: exactly one of namespaces, pods and nodeServices.', {
      ...subjectItem,
      nodeServices: object(
        'systemd services of nodes, such as kubelet.service.',
        {
          nodeSelector: labelSelector('Nodes by label.', true),
          units: list(
            'Services by exact unit name. No wildcards, no slices.',
            text('The name of a service unit.', {
              maxLength: 255,
              pattern: '^[A-Za-z0-9:_.\\\\@-]+\\.service$',
            }),
            [1, 20],
            'set',
          ),
        },
        ['units'],
      ),
      except: list(
        'Pods that are not selected after all. Not with nodeServices.',
        withRules(
          object('Exactly one of namespaces and pods.', subjectItem),
          exactlyOne(
            ['namespaces', 'pods'],
            'an item of except has exactly one of namespaces and pods; write one item for each',
          ),
        ),
        [1, 20],
      ),
    }),
    exactlyOne(
      ['namespaces', 'pods', 'nodeServices'],
      'subject has exactly one of namespaces, pods and nodeServices; write namespaces: {} for every pod',
    ),
    {
      rule: '!has(self.except) || !has(self.nodeServices)',
      fieldPath: '.except',
      message: 'except does not go with nodeServices; list the units that you mean',
    },
  );

const spec = (scope: Scope): Schema => {
  const schema = object(
    'What the selected workloads may connect to.',
    {
      ...(scope === 'Namespaced'
        ? { podSelector: labelSelector("Pods of the policy's namespace by label.", true) }
        : { subject: subject() }),
      hostNetwork: oneOf(
        'Whether pods with hostNetwork: true that the selector matches are held too. Static pods never are.',
        ['Exclude', 'Include'],
        'Exclude',
      ),
      effect: oneOf(
        'Isolate: the selected may do only what policies allow, these rules among it. Grant: adds these rules, isolates nobody. Limit: nothing beyond these rules, whoever allows it; allows nothing itself.',
        ['Isolate', 'Grant', 'Limit'],
        'Isolate',
      ),
      mode: oneOf(
        'Enforce, or Audit: the policy has no part in what passes, and what it would change is reported.',
        ['Enforce', 'Audit'],
        'Enforce',
      ),
      onDeny: oneOf(
        'Reject: connect and send fail at once with EPERM, and an established TCP connection that is no longer allowed ends at once. Drop: refused packets vanish without an error.',
        ['Reject', 'Drop'],
        'Reject',
      ),
      dns: object('Which names the selected workloads may ask for, and which answers count.', {
        queries: oneOf(
          'Any: every name may be asked. AllowedNamesOnly: only the domainNames of policies, and names.',
          ['Any', 'AllowedNamesOnly'],
          'Any',
        ),
        names: list(
          'Further names that may be asked, but not connected to.',
          domainName('A name, or *.name, as in domainNames.', true),
          [0, 100],
          'set',
        ),
        answers: oneOf(
          'World: only addresses of the entity World count, so that no name leads to a node, a pod, loopback or link-local. Any: all do.',
          ['World', 'Any'],
          'World',
        ),
      }),
      egress: withRules(list('What is allowed. Absent or empty: nothing.', rule(scope), [0, 100]), {
        rule: 'self.all(rule, !has(rule.name) || self.exists_one(other, has(other.name) && other.name == rule.name))',
        message: 'two rules have the same name; write a name of its own for each',
      }),
    },
    scope === 'Namespaced' ? [] : ['subject'],
  );
  if (scope === 'Namespaced') return schema;
  return withRules(schema, {
    rule: "!has(self.subject.nodeServices) || self.hostNetwork == 'Exclude'",
    fieldPath: '.hostNetwork',
    message: 'hostNetwork does not go with nodeServices; remove hostNetwork',
  });
};

const count = (description: string): Schema => ({ description, type: 'integer', format: 'int32', minimum: 0 });

const status = (): Schema =>
  object('What became of the policy. Written by Postern.', {
    workloads: count('Workloads that the policy selects now. 0: it holds nobody.'),
    hostNetwork: count('How many of these are hostNetwork pods.'),
    nodes: object('On how many nodes the policy has to be, and is.', {
      selected: count('Nodes with workloads that the policy selects.'),
      programmed: count('Nodes of these that enforce the policy as it stands.'),
    }),
    conditions: {
      description:
        'Accepted (the policy is valid), ResolvedRefs (what it refers to exists), Programmed (its nodes enforce it), DNSAllowed (only with domainNames: the selected workloads may ask for them).',
      type: 'array',
      'x-kubernetes-list-type': 'map',
      'x-kubernetes-list-map-keys': ['type'],
      maxItems: 16,
      items: object(
        'meta/v1 Condition.',
        {
          type: text('Accepted, ResolvedRefs, Programmed or DNSAllowed.', { minLength: 1, maxLength: 316 }),
          status: oneOf('Whether the condition holds.', ['True', 'False', 'Unknown']),
          observedGeneration: {
            description: 'The generation of the policy that the condition is about.',
            type: 'integer',
            format: 'int64',
            minimum: 0,
          },
          lastTransitionTime: {
            description: 'When status changed last.',
            type: 'string',
            format: 'date-time',
          },
          reason: text('Why, in one CamelCase word.', { minLength: 1, maxLength: 1024 }),
          message: text('Why, in a sentence.', { maxLength: 32768 }),
        },
        ['type', 'status', 'lastTransitionTime', 'reason', 'message'],
      ),
    },
  });

/** apiextensions.k8s.io/v1 CustomResourceDefinition, cut to what we use. */
export interface Crd {
  apiVersion: 'apiextensions.k8s.io/v1';
  kind: 'CustomResourceDefinition';
  metadata: { name: string };
  spec: {
    group: string;
    scope: Scope;
    names: Record<'kind' | 'listKind' | 'plural' | 'singular', string> & { shortNames: string[]; categories: string[] };
    versions: {
      name: string;
      served: true;
      storage: true;
      subresources: { status: Record<string, never> };
      additionalPrinterColumns: { name: string; type: string; jsonPath: string; description?: string }[];
      schema: { openAPIV3Schema: Schema };
    }[];
  };
}

const crd = (kind: string, scope: Scope, shortName: string, description: string): Crd => {
  const singular = kind.toLowerCase();
  const plural = `${singular.slice(0, -1)}ies`;
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: `${plural}.${GROUP}` },
    spec: {
      group: GROUP,
      scope,
      names: {
        kind,
        listKind: `${kind}List`,
        plural,
        singular,
        shortNames: [shortName],
        categories: ['postern'],
      },
      versions: [
        {
          name: VERSION,
          served: true,
          storage: true,
          subresources: { status: {} },
          additionalPrinterColumns: [
            { name: 'Effect', type: 'string', jsonPath: '.spec.effect' },
            { name: 'Mode', type: 'string', jsonPath: '.spec.mode' },
            { name: 'Workloads', type: 'integer', jsonPath: '.status.workloads' },
            {
              name: 'Programmed',
              type: 'string',
              jsonPath: '.status.conditions[?(@.type=="Programmed")].status',
            },
            { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' },
          ],
          schema: {
            openAPIV3Schema: object(
              description,
              {
                apiVersion: text(`${GROUP}/${VERSION}.`),
                kind: text(`${kind}.`),
                // apiextensions refuses anything more here, a description too.
                metadata: { type: 'object' },
                spec: spec(scope),
                status: status(),
              },
              ['spec'],
            ),
          },
        },
      ],
    },
  };
};

/** Both definitions, by the file of daemonset/crds/ that holds each. */
export const crds: Readonly<Record<string, Crd>> = {
  'egresspolicies.yaml': crd(
    'EgressPolicy',
    'Namespaced',
    'egpol',
    'EgressPolicy says what pods of its namespace may connect to. Together with NetworkPolicy it makes one union: what any of them allows is allowed.',
  ),
  'clusteregresspolicies.yaml': crd(
    'ClusterEgressPolicy',
    'Cluster',
    'cegpol',
    'ClusterEgressPolicy says what pods of any namespace, or services of nodes, may connect to.',
  ),
};
