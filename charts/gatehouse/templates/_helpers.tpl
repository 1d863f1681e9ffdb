{{/* The name that all objects of the release begin with: of 38 characters at most, since a
     StatefulSet's can have 52; and one that a Service can have, without dots, a letter first. */}}
{{- define "gatehouse.fullname" -}}
{{- $release := regexReplaceAll "^([0-9])" (.Release.Name | replace "." "-") "r$1" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains "gatehouse" $release -}}
{{- $release | trunc 38 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-gatehouse" ($release | trunc 28 | trimSuffix "-") -}}
{{- end -}}
{{- end }}

{{/* Labels by which pods are found: a list of the root and the component. */}}
{{- define "gatehouse.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: gatehouse
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Labels of an object: a list of the root and the component. */}}
{{- define "gatehouse.labels" -}}
{{- $root := index . 0 -}}
{{ include "gatehouse.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* metadata of an object in the release's namespace: root, component, suffix of the name. */}}
{{- define "gatehouse.metadata" -}}
{{- $root := index . 0 -}}
name: {{ include "gatehouse.fullname" $root }}{{ index . 2 }}
namespace: {{ $root.Release.Namespace | quote }}
labels: {{- include "gatehouse.labels" . | nindent 2 }}
{{- end }}

{{- define "gatehouse.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Bytes of a size, of Kubernetes (512Mi) or of the configuration (10GiB, 10GB, 1024). */}}
{{- define "gatehouse.bytes" -}}
{{- $text := toString . -}}
{{- if kindIs "float64" . -}}
{{- $text = printf "%.0f" . -}}
{{- end -}}
{{- $number := regexFind "^[0-9]+(\\.[0-9]+)?" $text -}}
{{- $unit := trimPrefix $number $text | trimSuffix "B" -}}
{{- $factors := dict "" 1 "k" 1000 "K" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000
  "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- if or (eq $number "") (not (hasKey $factors $unit)) -}}
{{- fail (printf "%q is no size: write 512Mi or 10GiB, say" $text) -}}
{{- end -}}
{{- mulf (float64 $number) (get $factors $unit | default 1) | int64 -}}
{{- end }}

{{/* Milliseconds of a duration such as 1900ms or 1m30s. */}}
{{- define "gatehouse.milliseconds" -}}
{{- $text := toString . -}}
{{- if not (regexMatch "^([0-9]+(\\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$" $text) -}}
{{- fail (printf "%q is no duration: write 1900ms or 2s, say" $text) -}}
{{- end -}}
{{- $epoch := toDate "2006-01-02" "2000-01-01" -}}
{{- $ms := ((dateModify $text $epoch).Sub $epoch).Milliseconds | int64 -}}
{{- /* What is too long to be read leaves the date as it was. */ -}}
{{- if lt $ms 1 -}}
{{- fail (printf "%q is no duration: write 1900ms or 2s, say" $text) -}}
{{- end -}}
{{- $ms -}}
{{- end }}

{{/* Namespaces in which nothing is asked, as a JSON list. */}}
{{- define "gatehouse.exemptNamespaces" -}}
{{- concat .Values.policy.exemptNamespaces (list .Values.gatekeeper.namespace .Release.Namespace) | uniq | toJson -}}
{{- end }}

{{/* The Provider objects as JSON: a list of key, name, path and seconds. */}}
{{- define "gatehouse.providers" -}}
{{- $base := "/ratify/gatekeeper/v1" -}}
{{- $p := .Values.providers -}}
{{- $pods := ternary "?unpinned=deny" "" .Values.mutation.enabled -}}
{{- $all := list
  (dict "name" (printf "%s-verify" $p.namePrefix) "path" (printf "%s/verify" $base) "seconds" $p.verify.timeoutSeconds)
  (dict "name" (printf "%s-verify-pods" $p.namePrefix) "path" (printf "%s/verify%s" $base $pods) "seconds" $p.verifyPods.timeoutSeconds)
  (dict "name" (printf "%s-audit" $p.namePrefix) "path" (printf "%s/audit" $base) "seconds" $p.audit.timeoutSeconds) -}}
{{- if .Values.mutation.enabled -}}
{{- $all = append $all (dict "name" (printf "%s-mutate" $p.namePrefix) "path" (printf "%s/mutate" $base) "seconds" $p.mutate.timeoutSeconds) -}}
{{- end -}}
{{- toJson $all -}}
{{- end }}
