// SPDX-License-Identifier: Apache-2.0
// Stands for the agent in a pod: asks the API server as the pod's account, once for each line that it reads, and says who it was.
import { createInterface } from 'node:readline';
import { loadAccess } from '../../src/kube/access.ts';
import { Connection } from '../../src/kube/connection.ts';

const connection = new Connection(await loadAccess({ kubeconfig: null, context: null }));
const REVIEWS = '/apis/authentication.k8s.io/v1/selfsubjectreviews';
for await (const _line of createInterface({ input: process.stdin })) {
  const answer = await connection.request('POST', REVIEWS, {
    body: { apiVersion: 'authentication.k8s.io/v1', kind: 'SelfSubjectReview' },
  });
  const { status } = (await answer.json()) as { status: { userInfo: { username: string } } };
  process.stdout.write(`${status.userInfo.username} in ${connection.namespace}\n`);
}
connection.close();
