{{/* Rights to get the Secrets that a configuration names, and no others: root, component,
     suffix of the service account, configuration. */}}
{{- define "gatehouse.secretReader" -}}
{{- $root := index . 0 -}}
{{- $account := printf "%s%s" (include "gatehouse.fullname" $root) (index . 2) -}}
{{- $labels := include "gatehouse.labels" (list $root (index . 1)) -}}
{{- range $namespace, $names := include "gatehouse.pullSecrets" (list (index . 3) $root.Release.Namespace) | fromJson }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $account }}-pull-secrets
  namespace: {{ $namespace | quote }}
  labels: {{- $labels | nindent 4 }}
rules:
  - {apiGroups: [""], resources: [secrets], resourceNames: {{ toJson $names }}, verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $account }}-pull-secrets
  namespace: {{ $namespace | quote }}
  labels: {{- $labels | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ $account }}-pull-secrets}
subjects:
  - {kind: ServiceAccount, name: {{ $account }}, namespace: {{ $root.Release.Namespace | quote }}}
{{- end }}
{{- end }}
