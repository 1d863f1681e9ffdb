{{/* What all pods of the chart have in common: root, and the labels of their nodes. */}}
{{- define "gatehouse.podSecurity" -}}
{{- $root := index . 0 -}}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ $root.Values.runAsUser }}
  runAsGroup: {{ $root.Values.runAsUser }}
  fsGroup: {{ $root.Values.runAsUser }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
enableServiceLinks: false
nodeSelector: {{- merge (dict) (index . 1) (dict "kubernetes.io/os" "linux") | toYaml | nindent 2 }}
{{- with $root.Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
# Names of registries are whole: without this each is asked for in every search domain first.
dnsConfig:
  options: [{name: ndots, value: "1"}]
{{- end }}

{{- define "gatehouse.containerSecurity" -}}
image: {{ include "gatehouse.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  privileged: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Environment of a container: more variables, and its resources. Kubernetes can pass on a
     limit only whole; Go's heap needs to stay below it, so nine tenths are worked out here. */}}
{{- define "gatehouse.env" -}}
env:
  - {name: GOMEMLIMIT, value: {{ include "gatehouse.memoryLimit" (index . 1) | quote }}}
  {{- with index . 0 }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Nine tenths of the memory limit of some resources, in bytes. */}}
{{- define "gatehouse.memoryLimit" -}}
{{- div (mul (include "gatehouse.bytes" .limits.memory | int64) 9) 10 -}}
{{- end }}

{{/* Probes on the admin port. Liveness is the process alone; a configuration that was refused,
     or a registry that is down, is nothing that a restart would heal. */}}
{{- define "gatehouse.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: admin}
  periodSeconds: 1
  timeoutSeconds: 2
  failureThreshold: {{ . }}
livenessProbe:
  httpGet: {path: /healthz, port: admin}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{/* The files of a container as sources of one projected volume, which changes as one and
     is seen without a restart: a list of "files" of the values. */}}
{{- define "gatehouse.fileSources" -}}
{{- range . }}
{{- if .secret }}
- secret: {name: {{ .secret | quote }}, items: {{ toJson .items }}}
{{- else }}
- configMap: {name: {{ .configMap | quote }}, items: {{ toJson .items }}}
{{- end }}
{{- end }}
{{- end }}
