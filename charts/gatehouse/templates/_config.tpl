{{/* Refuses a field that the chart sets: config, where it stands in the values, path, because. */}}
{{- define "gatehouse.owned" -}}
{{- $at := .config -}}
{{- $there := true -}}
{{- range splitList "." .path -}}
  {{- if and $there (kindIs "map" $at) -}}
    {{- $there = hasKey $at . -}}
    {{- $at = get $at . -}}
  {{- else -}}
    {{- $there = false -}}
  {{- end -}}
{{- end -}}
{{- if $there -}}
{{- fail (printf "%s.%s is set by the chart, %s: take it out" .where .path .because) -}}
{{- end -}}
{{- end }}

{{/* The provider's configuration as JSON: the values' with what the chart owns. */}}
{{- define "gatehouse.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $names := .Values.gatekeeper.clientNames | default (list (printf "gatekeeper-webhook-service.%s.svc" .Values.gatekeeper.namespace)) -}}
{{- $tls := dict "certificate" "tls/tls.crt" "key" "tls/tls.key" "clientCA" "gatekeeper/ca.crt" "clientNames" $names -}}
{{- $owned := dict "version" "v1alpha1" "server" (dict "address" ":6001" "tls" $tls) "admin" (dict "address" ":8888") -}}
{{- if $config.cache -}}
{{- $_ := set $owned "cache" (dict "directory" "/var/cache/gatehouse/cache") -}}
{{- end -}}
{{- mergeOverwrite $config $owned | toJson -}}
{{- end }}

{{/* The pull-through registry's configuration as JSON. */}}
{{- define "gatehouse.pullThroughConfig" -}}
{{- $config := deepCopy .Values.pullThrough.config -}}
{{- $given := dig "registry" "tls" dict $config -}}
{{- $tls := dict "certificate" "tls/tls.crt" "key" "tls/tls.key" -}}
{{- if not (or $given.clientCA (hasKey $given "insecureAnyClient")) -}}
{{- $_ := set $tls "insecureAnyClient" true -}}
{{- end -}}
{{- $owned := dict "version" "v1alpha1" "registry" (dict "address" ":5080" "tls" $tls)
  "cache" (dict "directory" "/var/cache/gatehouse/cache") "admin" (dict "address" ":8888") -}}
{{- mergeOverwrite $config $owned | toJson -}}
{{- end }}

{{/* What a running process cannot change: pods are replaced when it does, and only then. */}}
{{- define "gatehouse.restart" -}}
{{- $fixed := list .admin (dig "server" "tls" "" .) (dig "server" "limits" "connections" "" .) (dig "server" "limits" "inFlightBytes" "" .)
  (omit (.cache | default dict) "onRegistryDown") (dig "registry" "tls" "" .) (dig "registry" "connections" "" .) (dig "registry" "preload" "" .) -}}
{{- $fixed | toJson | sha256sum | trunc 16 -}}
{{- end }}

{{/* Secrets that credentials of type kubernetes name, as JSON: a map from namespace to names.
     Takes a configuration and the namespace of the pods. */}}
{{- define "gatehouse.pullSecrets" -}}
{{- $namespace := index . 1 -}}
{{- $found := dict -}}
{{- range (index . 0).stores -}}
  {{- range .credentials -}}
    {{- if and (eq (toString .type) "kubernetes") .name -}}
      {{- $in := .namespace | default $namespace -}}
      {{- $_ := set $found $in (append (get $found $in | default list) .name | uniq | sortAlpha) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end }}

{{/* Size of a cache's volume in Gi: maxBytes and a fifth, with minFreeBytes. */}}
{{- define "gatehouse.cacheGi" -}}
{{- $max := include "gatehouse.bytes" (.maxBytes | default "10GiB") | int64 -}}
{{- $free := include "gatehouse.bytes" (.minFreeBytes | default "0") | int64 -}}
{{- div (add (div (mul $max 6) 5) $free 1073741823) 1073741824 -}}
{{- end }}
