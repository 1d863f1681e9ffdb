{{/* The Secret with the certificate that Gatehouse shows to Gatekeeper. */}}
{{- define "gatehouse.tlsSecret" -}}
{{- if eq .Values.certificates.mode "supplied" -}}
{{- .Values.certificates.secretName -}}
{{- else -}}
{{- include "gatehouse.fullname" . }}-tls
{{- end -}}
{{- end }}

{{/* The caBundle of a Provider: root, and the Provider's name. Gatekeeper refuses one without.
     Where nothing is known yet it is files/nobody.pem, an ended certificate to which nobody has
     a key: calls of the Provider fail, which denies, until somebody writes the true one. What
     the rotator wrote is kept. */}}
{{- define "gatehouse.caBundle" -}}
{{- $root := index . 0 -}}
{{- $c := $root.Values.certificates -}}
{{- if $c.caBundle -}}
{{- printf "%s\n" (trim $c.caBundle) | b64enc -}}
{{- else -}}
  {{- $live := "" -}}
  {{- /* To look for a kind that a cluster does not know is an error. */ -}}
  {{- if and (eq $c.mode "rotator") ($root.Capabilities.APIVersions.Has "externaldata.gatekeeper.sh/v1beta1") -}}
    {{- $live = dig "spec" "caBundle" "" (lookup "externaldata.gatekeeper.sh/v1beta1" "Provider" "" (index . 1)) -}}
  {{- end -}}
  {{- if not $live -}}
    {{- $secret := lookup "v1" "Secret" $root.Release.Namespace (include "gatehouse.tlsSecret" $root) -}}
    {{- $live = index ($secret.data | default dict) "ca.crt" -}}
  {{- end -}}
  {{- $live | default ($root.Files.Get "files/nobody.pem" | b64enc) -}}
{{- end -}}
{{- end }}
