{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}
{{- /* How everything here is labelled. One agent a node: names are fixed, and a second release is refused by the first one's names. */ -}}

{{- define "postern.labels" -}}
app.kubernetes.io/name: postern
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- /* A DaemonSet's selector can't be changed, so nothing is in it that might. */ -}}
{{- define "postern.selector" -}}
app.kubernetes.io/name: postern
app.kubernetes.io/component: agent
{{- end -}}
