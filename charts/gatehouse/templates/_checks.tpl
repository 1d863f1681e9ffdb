{{/* What the schema cannot say: values against each other. Each part refuses to render with one
     sentence on what is wrong and what to do. */}}
{{- define "gatehouse.checks" -}}
{{- /* Chart.yaml's kubeVersion would refuse builds that do not know their version. */ -}}
{{- $kubernetes := .Capabilities.KubeVersion.Version -}}
{{- if and (regexMatch "^v1\\.[0-9]+\\." $kubernetes) (semverCompare "<1.30.0-0" $kubernetes) -}}
  {{- fail (printf "Kubernetes %s does not know the lifecycle action sleep, by which pods without a shell drain: 1.30 is needed (where no cluster is asked, helm template wants its version in --kube-version)" $kubernetes) -}}
{{- end -}}
{{- if eq .Release.Namespace "default" -}}
  {{- fail "the release is in the namespace default: its images would not be asked about, and everybody makes pods there; install with --namespace gatekeeper-system" -}}
{{- end -}}
{{- include "gatehouse.checkConfig" . -}}
{{- include "gatehouse.checkTimes" . -}}
{{- include "gatehouse.checkCertificates" . -}}
{{- include "gatehouse.checkFiles" (list "files" .Values.files) -}}
{{- include "gatehouse.checkMemory" (list "resources" .Values.resources (include "gatehouse.config" . | fromJson)) -}}
{{- include "gatehouse.checkResources" (list "resources" .Values.resources) -}}
{{- include "gatehouse.checkResources" (list "rotator.resources" .Values.rotator.resources) -}}
{{- if lt (include "gatehouse.bytes" .Values.rotator.resources.limits.memory | int64) 33554432 -}}
  {{- fail (printf "rotator.resources.limits.memory %v is too little: the rotator needs 32Mi" .Values.rotator.resources.limits.memory) -}}
{{- end -}}
{{- include "gatehouse.checkReplicas" . -}}
{{- include "gatehouse.checkNames" . -}}
{{- if .Values.pullThrough.enabled -}}
{{- include "gatehouse.checkPullThrough" . -}}
{{- end -}}
{{- end }}

{{- define "gatehouse.checkConfig" -}}
{{- $config := .Values.config -}}
{{- range list "stores" "policy" -}}
  {{- if not (get $config .) -}}
    {{- fail (printf "config.%s is missing: nothing is verified without it; docs/configuration.md shows a whole configuration" .) -}}
  {{- end -}}
{{- end -}}
{{- range list "server.address" "server.tls" "server.insecureHTTP" "admin" -}}
  {{- include "gatehouse.owned" (dict "config" $config "where" "config" "path" . "because" "which knows the pod's ports and certificates") -}}
{{- end -}}
{{- include "gatehouse.owned" (dict "config" $config "where" "config" "path" "cache.directory" "because" "which mounts a volume there") -}}
{{- if hasKey $config "registry" -}}
  {{- fail "config.registry is not served by the provider's pods: move it, with its stores and cache, to pullThrough.config" -}}
{{- end -}}
{{- if ne (toString ($config.version | default "v1alpha1")) "v1alpha1" -}}
  {{- fail (printf "config.version %q is not known to this chart: leave it out" (toString $config.version)) -}}
{{- end -}}
{{- if eq (dig "server" "namespaceFrom" "none" $config) "path" -}}
  {{- fail "config.server.namespaceFrom path needs a Provider for each namespace, which this chart does not make: use key" -}}
{{- end -}}
{{- end }}

{{/* A call of a Provider ends before the webhook does, and Gatehouse answers before both. */}}
{{- define "gatehouse.checkTimes" -}}
{{- $p := .Values.providers -}}
{{- $gk := .Values.gatekeeper -}}
{{- $verify := include "gatehouse.milliseconds" (dig "server" "verifyTimeout" "1900ms" .Values.config) | int -}}
{{- $mutate := include "gatehouse.milliseconds" (dig "server" "mutateTimeout" "700ms" .Values.config) | int -}}
{{- range $name, $ms := dict "verify" $verify "verifyPods" $verify "audit" $verify -}}
  {{- include "gatehouse.checkAnswer" (list "verifyTimeout" $ms $name (get $p $name).timeoutSeconds) -}}
{{- end -}}
{{- if .Values.mutation.enabled -}}
  {{- include "gatehouse.checkAnswer" (list "mutateTimeout" $mutate "mutate" $p.mutate.timeoutSeconds) -}}
  {{- if lt (int $gk.mutatingWebhookTimeoutSeconds) 2 -}}
    {{- fail (printf "mutation.enabled with gatekeeper.mutatingWebhookTimeoutSeconds %v: an image would be admitted unpinned whenever its registry takes long; install Gatekeeper with mutatingWebhookTimeoutSeconds 2 and say so here" $gk.mutatingWebhookTimeoutSeconds) -}}
  {{- end -}}
  {{- include "gatehouse.checkBudget" (list "mutatingWebhookTimeoutSeconds" $gk.mutatingWebhookTimeoutSeconds "providers.mutate" $p.mutate.timeoutSeconds 1 0) -}}
{{- end -}}
{{- $others := 0 -}}
{{- range $gk.otherProviders -}}
  {{- $others = add $others (mul .timeoutSeconds (.templates | default 1)) -}}
{{- end -}}
{{- range list "verify" "verifyPods" -}}
  {{- include "gatehouse.checkBudget" (list "validatingWebhookTimeoutSeconds" $gk.validatingWebhookTimeoutSeconds (printf "providers.%s" .) (get $p .).timeoutSeconds (get $p .).templates $others) -}}
{{- end -}}
{{- end }}

{{/* Takes the field of config.server and its milliseconds, the Provider and its seconds. */}}
{{- define "gatehouse.checkAnswer" -}}
{{- $ms := index . 1 | int -}}
{{- $seconds := index . 3 | int -}}
{{- if ge $ms (mul $seconds 1000 | int) -}}
{{- fail (printf "config.server.%s is %d ms, and providers.%s.timeoutSeconds %d: the answer must leave before Gatekeeper stops waiting; lower the first or raise the second" (index . 0) $ms (index . 2) $seconds) -}}
{{- end -}}
{{- end }}

{{/* Takes the webhook's value and seconds, the Provider, its seconds and templates, and the
     seconds of others. One review is of one object, a Pod or not: verify and verifyPods are
     never called in the same one. */}}
{{- define "gatehouse.checkBudget" -}}
{{- $webhook := index . 1 | int -}}
{{- $sum := add (mul (index . 3) (index . 4)) (index . 5) | int -}}
{{- if gt (add (mul $sum 1000) 500 | int) (mul $webhook 1000 | int) -}}
{{- fail (printf "Providers may take %d.5 s in one review (%s: %v s x %v templates, other Providers: %v s, Gatekeeper itself: 0.5 s), and gatekeeper.%s is %d: what the webhook does not wait for is admitted; install Gatekeeper with a longer %s, or shorten the Providers' timeouts" $sum (index . 2) (index . 3) (index . 4) (index . 5) (index . 0) $webhook (index . 0)) -}}
{{- end -}}
{{- end }}

{{- define "gatehouse.checkCertificates" -}}
{{- $c := .Values.certificates -}}
{{- $ca := .Values.gatekeeper.clientCA -}}
{{- if and (eq $c.mode "supplied") (or (not $c.secretName) (not $c.caBundle)) -}}
  {{- fail "certificates.mode supplied needs certificates.secretName, and in certificates.caBundle the PEM of the authority that signed its certificate" -}}
{{- end -}}
{{- if and (ne $c.mode "supplied") $c.secretName -}}
  {{- fail (printf "certificates.secretName is for the mode supplied, not for %s: take it out or change the mode" $c.mode) -}}
{{- end -}}
{{- if and (eq $c.mode "certManager") (not $c.caBundle) (not $c.certManager.lookupCA) -}}
  {{- fail "certificates.mode certManager needs the issuer's authority, because cert-manager cannot write into Providers: put its PEM into certificates.caBundle, or set certificates.certManager.lookupCA" -}}
{{- end -}}
{{- if and (eq $c.mode "rotator") $c.caBundle -}}
  {{- fail "certificates.caBundle would be overwritten by the rotator: take it out or change certificates.mode" -}}
{{- end -}}
{{- if and $c.caBundle (not (contains "-----BEGIN CERTIFICATE-----" $c.caBundle)) -}}
  {{- fail "certificates.caBundle is no PEM of certificates: give the text that begins with -----BEGIN CERTIFICATE-----, not its base64" -}}
{{- end -}}
{{- if contains "PRIVATE KEY" $c.caBundle -}}
  {{- fail "certificates.caBundle holds a private key: give certificates only" -}}
{{- end -}}
{{- if and $ca.secretName $ca.configMapName -}}
  {{- fail "gatekeeper.clientCA names a Secret and a ConfigMap: name one" -}}
{{- end -}}
{{- if and (ne .Release.Namespace .Values.gatekeeper.namespace) (not $ca.secretName) (not $ca.configMapName) -}}
  {{- fail (printf "the release is in namespace %s, and the certificate of Gatekeeper's authority in %s: install into that one, or copy ca.crt into a ConfigMap here and name it in gatekeeper.clientCA.configMapName" .Release.Namespace .Values.gatekeeper.namespace) -}}
{{- end -}}
{{- end }}

{{/* Takes where the files stand in the values, and the files. */}}
{{- define "gatehouse.checkFiles" -}}
{{- $where := index . 0 -}}
{{- $taken := dict -}}
{{- range $i, $file := index . 1 -}}
  {{- if eq (empty $file.secret) (empty $file.configMap) -}}
    {{- fail (printf "%s[%d] names either a secret or a configMap" $where $i) -}}
  {{- end -}}
  {{- range $file.items -}}
    {{- $path := clean .path -}}
    {{- if hasKey $taken $path -}}
      {{- fail (printf "%s[%d]: path %q is there already: choose another" $where $i .path) -}}
    {{- end -}}
    {{- $_ := set $taken $path true -}}
    {{- if or (hasPrefix "/" $path) (contains ".." .path) (regexMatch "^(\\.|gatehouse\\.yaml|tls(/.*)?|gatekeeper(/.*)?)$" $path) -}}
      {{- fail (printf "%s[%d]: path %q is the chart's own, or leads out of /etc/gatehouse: choose another, certs/%s say" $where $i .path (base .path)) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{/* Takes where the resources stand in the values, the resources, and the configuration. */}}
{{- define "gatehouse.checkMemory" -}}
{{- $limit := include "gatehouse.memoryLimit" (index . 1) | int64 -}}
{{- $config := index . 2 -}}
{{- $bound := add (include "gatehouse.bytes" (dig "server" "limits" "inFlightBytes" "64MiB" $config) | int64)
  (include "gatehouse.bytes" (dig "proofs" "maxBytes" "16MiB" $config) | int64) 67108864 -}}
{{- if $config.cache -}}
{{- $bound = add $bound (include "gatehouse.bytes" ($config.cache.replicaBytes | default "64MiB") | int64) -}}
{{- end -}}
{{- if gt $bound $limit -}}
{{- fail (printf "%s.limits.memory %v is too little: its configuration may use %d MiB with what the process needs, and GOMEMLIMIT would be %d MiB; raise it, or lower server.limits.inFlightBytes, proofs.maxBytes or cache.replicaBytes" (index . 0) (index . 1).limits.memory (div $bound 1048576) (div $limit 1048576)) -}}
{{- end -}}
{{- end }}

{{/* Takes where the resources stand in the values, and the resources. */}}
{{- define "gatehouse.checkResources" -}}
{{- $memory := dig "memory" "" ((index . 1).requests | default dict) -}}
{{- $limit := (index . 1).limits.memory -}}
{{- if and $memory (gt (include "gatehouse.bytes" $memory | int64) (include "gatehouse.bytes" $limit | int64)) -}}
  {{- fail (printf "%s.requests.memory %v is above %s.limits.memory %v: lower the first or raise the second" (index . 0) $memory (index . 0) $limit) -}}
{{- end -}}
{{- end }}

{{/* Names that the chart has taken. */}}
{{- define "gatehouse.checkNames" -}}
{{- if eq (int .Values.service.port) (int .Values.service.adminPort) -}}
  {{- fail (printf "service.adminPort %v is service.port as well: choose another" .Values.service.adminPort) -}}
{{- end -}}
{{- $volumes := dict -}}
{{- range .Values.extraVolumes -}}
  {{- if or (has .name (list "config" "cache")) (hasKey $volumes .name) -}}
    {{- fail (printf "extraVolumes: the name %s is taken: choose another" .name) -}}
  {{- end -}}
  {{- $_ := set $volumes .name true -}}
{{- end -}}
{{- range .Values.extraVolumeMounts -}}
  {{- if not (hasKey $volumes .name) -}}
    {{- fail (printf "extraVolumeMounts: there is no volume %s in extraVolumes" .name) -}}
  {{- end -}}
  {{- if regexMatch "^/((gatehouse|etc/gatehouse|var/cache/gatehouse)(/.*)?|etc|var|var/cache|proc|sys|dev)?$" (clean .mountPath) -}}
    {{- fail (printf "extraVolumeMounts: %s would hide what the chart or the image has there, or lie within it: use \"files\", or mount it elsewhere" .mountPath) -}}
  {{- end -}}
{{- end -}}
{{- $m := .Values.monitoring -}}
{{- $own := include "gatehouse.labels" (list . "") | fromYaml | keys -}}
{{- range $where, $labels := dict "podLabels" .Values.podLabels "monitoring.serviceMonitor.labels" $m.serviceMonitor.labels
  "monitoring.prometheusRule.labels" $m.prometheusRule.labels "monitoring.dashboard.labels" $m.dashboard.labels -}}
  {{- range $key, $_ := $labels -}}
    {{- if has $key $own -}}
      {{- fail (printf "%s: %s is set by the chart: take it out" $where $key) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if hasKey (.Values.podAnnotations | default dict) "gatehouse/restart" -}}
  {{- fail "podAnnotations: gatehouse/restart is set by the chart: take it out" -}}
{{- end -}}
{{- end }}

{{- define "gatehouse.checkReplicas" -}}
{{- $hpa := .Values.autoscaling -}}
{{- if and $hpa.enabled (not (dig "cpu" "" (.Values.resources.requests | default dict))) -}}
  {{- fail "autoscaling needs resources.requests.cpu, of which it measures shares: set it" -}}
{{- end -}}
{{- $least := ternary $hpa.minReplicas .Values.replicas $hpa.enabled | int -}}
{{- $away := .Values.podDisruptionBudget.maxUnavailable -}}
{{- $most := int $away -}}
{{- if kindIs "string" $away -}}
  {{- $most = div (add (mul (trimSuffix "%" $away) $least) 99) 100 | int -}}
{{- end -}}
{{- if and (gt $least 1) (ge $most $least) -}}
  {{- fail (printf "podDisruptionBudget.maxUnavailable %v of %d pods lets a drain take all of them at once: lower it, or add replicas" $away $least) -}}
{{- end -}}
{{- if and $hpa.enabled (gt (int $hpa.minReplicas) (int $hpa.maxReplicas)) -}}
  {{- fail (printf "autoscaling.minReplicas %v is above autoscaling.maxReplicas %v: lower the first or raise the second" $hpa.minReplicas $hpa.maxReplicas) -}}
{{- end -}}
{{- $verify := include "gatehouse.milliseconds" (dig "server" "verifyTimeout" "1900ms" .Values.config) | int -}}
{{- $least := add .Values.drain.preStopSeconds (div (add $verify 999) 1000) 2 -}}
{{- if lt (int .Values.drain.terminationGracePeriodSeconds) (int $least) -}}
  {{- fail (printf "drain.terminationGracePeriodSeconds %v is too short: drain.preStopSeconds, config.server.verifyTimeout and 2 s to end need %d" .Values.drain.terminationGracePeriodSeconds $least) -}}
{{- end -}}
{{- end }}

{{- define "gatehouse.checkPullThrough" -}}
{{- $p := .Values.pullThrough -}}
{{- $config := $p.config -}}
{{- range list "stores" "registry" -}}
  {{- if not (get $config .) -}}
    {{- fail (printf "pullThrough.config.%s is missing: the registry that nodes pull through needs it; docs/pulls.md shows one" .) -}}
  {{- end -}}
{{- end -}}
{{- range list "registry.address" "registry.tls.certificate" "registry.tls.key" "registry.insecureHTTP" "cache.directory" "admin" -}}
  {{- include "gatehouse.owned" (dict "config" $config "where" "pullThrough.config" "path" . "because" "which knows the pod's ports, certificates and volume") -}}
{{- end -}}
{{- if hasKey $config "server" -}}
  {{- fail "pullThrough.config.server would let pulls take the webhook's time: Gatekeeper is served by the provider's pods; take it out" -}}
{{- end -}}
{{- if not (dig "cache" "maxBytes" "" $config) -}}
  {{- fail "pullThrough.config.cache.maxBytes is missing: the volume's size is worked out from it" -}}
{{- end -}}
{{- if eq (empty $p.tls.secretName) (empty $p.tls.certManager.issuerRef) -}}
  {{- fail "pullThrough.tls needs either secretName or certManager.issuerRef: nodes pull over TLS only" -}}
{{- end -}}
{{- if and $p.tls.certManager.issuerRef (not $p.tls.certManager.dnsNames) (not $p.tls.certManager.ipAddresses) -}}
  {{- fail "pullThrough.tls.certManager needs dnsNames or ipAddresses: the address that hosts.toml on the nodes names" -}}
{{- end -}}
{{- if and (eq $p.expose.type "nodePort") (lt (int $p.expose.port) 30000) -}}
  {{- fail (printf "pullThrough.expose.port %v is no node port: choose one of 30000 to 32767, or the type hostPort" $p.expose.port) -}}
{{- end -}}
{{- if $p.storage.size -}}
  {{- $least := include "gatehouse.cacheGi" $config.cache | int64 -}}
  {{- if lt (include "gatehouse.bytes" $p.storage.size | int64) (mul $least 1073741824) -}}
    {{- fail (printf "pullThrough.storage.size %s is too small for pullThrough.config.cache.maxBytes %v: leave it empty, or make it %dGi" $p.storage.size $config.cache.maxBytes $least) -}}
  {{- end -}}
{{- end -}}
{{- include "gatehouse.checkFiles" (list "pullThrough.files" $p.files) -}}
{{- include "gatehouse.checkResources" (list "pullThrough.resources" $p.resources) -}}
{{- include "gatehouse.checkMemory" (list "pullThrough.resources" $p.resources $config) -}}
{{- end }}
