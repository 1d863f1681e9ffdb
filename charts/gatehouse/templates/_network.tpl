{{/* Who may read /metrics. */}}
{{- define "gatehouse.ingressOfMetrics" -}}
- from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ .Values.networkPolicy.monitoringNamespace | quote }}}}}]
  ports: [{port: 8888}]
{{- end }}

{{/* DNS, registries, and what the values add: root and configuration. */}}
{{- define "gatehouse.egress" -}}
{{- $root := index . 0 -}}
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
- ports: [{port: 443}]
{{- if include "gatehouse.pullSecrets" (list (index . 1) $root.Release.Namespace) | fromJson }}
- ports: [{port: {{ $root.Values.networkPolicy.apiServerPort }}}]
{{- end }}
{{- with $root.Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end }}
