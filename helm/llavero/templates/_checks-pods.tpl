{{/*
What would be unsafe in the cluster, or what Kubernetes refuses or reads otherwise than it is meant, where the
values' schema can't say it or not in words that help.
*/}}
{{- define "llavero.podChecks" -}}
{{- include "llavero.nameChecks" . }}
{{- include "llavero.envChecks" . }}
{{- include "llavero.volumeChecks" . }}
{{- include "llavero.resourceChecks" . }}
{{- $_ := include "llavero.keys" . }}

{{- with .Values.strategy }}
{{- $rolling := .rollingUpdate | default dict }}
{{- $nothing := "^0+%?$" }}
{{- if and (eq .type "RollingUpdate") (regexMatch $nothing (get $rolling "maxSurge" | toString)) (regexMatch $nothing (get $rolling "maxUnavailable" | toString)) }}
{{- fail "strategy.rollingUpdate lets no pod come and none go: write maxSurge: 1, with which a new pod is ready before an old one goes." }}
{{- end }}
{{- end }}

{{- range $index, $network := dig "server" "trusted_proxies" list .Values.config }}
{{- $length := regexFind "[0-9]+$" $network | atoi }}
{{- $least := contains ":" $network | ternary 16 8 }}
{{- if regexMatch "^[fF][cCdD]" $network }}{{ $least = 7 }}{{ end }}
{{- /* An IPv4 network as IPv6 writes it. */}}
{{- if regexMatch "^[0:]*:(ffff|FFFF):" $network }}{{ $least = 104 }}{{ end }}
{{- if lt $length $least }}
{{- fail (printf "config.server.trusted_proxies[%d] is %s: whoever is in so large a network could take any address. Write the network that your ingress is in, /%d or smaller, such as 10.0.0.0/8 or fd00::/8." $index $network $least) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Names and labels of objects, of which some are the chart's own. */}}
{{- define "llavero.nameChecks" -}}
{{- $fullname := include "llavero.fullname" . }}
{{- if not (regexMatch "^[a-z]([a-z0-9-]*[a-z0-9])?$" $fullname) }}
{{- fail (printf "the release's objects would be called %q, but a Service's name begins with a small letter and has only those, digits and -: write fullnameOverride so, such as llavero, or choose another name of the release and nameOverride." $fullname) }}
{{- end }}
{{- $name := include "llavero.name" . }}
{{- if not (regexMatch "^[a-z]([a-z0-9-]*[a-z0-9])?$" $name) }}
{{- fail (printf "nameOverride is %q, but may begin with a small letter and have only those, digits and -, such as gateway." $name) }}
{{- end }}

{{- $own := list "helm.sh/chart" "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "app.kubernetes.io/component" "pod-template-hash" }}
{{- range $key, $labels := dict
  "commonLabels" .Values.commonLabels
  "podLabels" .Values.podLabels
  "serviceMonitor.labels" .Values.serviceMonitor.labels
  "prometheusRule.labels" .Values.prometheusRule.labels
  "dashboard.labels" .Values.dashboard.labels }}
{{- range $label, $_ := $labels }}
{{- if has $label $own }}
{{- fail (printf "%s has %s, which is the chart's own, or Kubernetes': Services, policies and `helm` find objects by it. Leave it out, or take a name of your own, such as example.com/team." $key $label) }}
{{- end }}
{{- end }}
{{- end }}
{{- if hasKey (.Values.podAnnotations | default dict) "checksum/config" }}
{{- fail "podAnnotations has checksum/config, which is the chart's own: new pods come for a new llavero.yaml by it. Leave it out." }}
{{- end }}
{{- end }}

{{/* What is secret comes from a Secret: whoever may read a Deployment reads its variables too. */}}
{{- define "llavero.envChecks" -}}
{{- $secrets := list "OTEL_EXPORTER_OTLP_HEADERS" "OTEL_EXPORTER_OTLP_TRACES_HEADERS" }}
{{- range .Values.config.auth.issuers }}
{{- $secrets = append $secrets (dig "secret" "env" "" .) }}
{{- end }}
{{- range .Values.tenants }}
{{- range .credentials }}
{{- $keys := kindIs "slice" .api_key | ternary .api_key (list .api_key) }}
{{- range append $keys (dig "login" "password" nil .) | compact }}
{{- $secrets = append $secrets (get . "env") }}
{{- end }}
{{- end }}
{{- end }}
{{- range .Values.extraEnv }}
{{- $from := .valueFrom | default dict }}
{{- if and $from (hasKey . "value") }}
{{- fail (printf "extraEnv: %s has a value and a valueFrom: keep one." .name) }}
{{- end }}
{{- /* A tenant's file in a Secret may refer to others, which the chart can't see: they are known by their names. */}}
{{- if or (has .name $secrets) (regexMatch "(?i)(^|_)(API_?KEY|KEY|SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIALS?)$" .name) }}
{{- if not $from.secretKeyRef }}
{{- fail (printf "extraEnv: %s is a secret, and would be seen by everybody who may read a Deployment: write valueFrom: {secretKeyRef: {name: SECRET, key: KEY}} instead. If what stands here is in use, replace it." .name) }}
{{- end }}
{{- end }}
{{- if regexMatch `//[^/?#\s]*@` (.value | default "") }}
{{- fail (printf "extraEnv: %s has a login in its address, which everybody sees who may read a Deployment: take the whole from a Secret, by valueFrom: {secretKeyRef: {name: SECRET, key: KEY}}. For a collector of traces there is otel.headersSecret." .name) }}
{{- end }}
{{- end }}
{{- end }}

{{/* https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, and no token of the cluster. */}}
{{- define "llavero.volumeChecks" -}}
{{- $known := list "configMap" "csi" "downwardAPI" "emptyDir" "ephemeral" "persistentVolumeClaim" "projected" "secret" }}
{{- range .Values.extraVolumes }}
{{- $kinds := keys (omit . "name") | sortAlpha }}
{{- if ne (len $kinds) 1 }}
{{- fail (printf "extraVolumes: %s must be of one kind, and is of %d: write one of %s." .name (len $kinds) (join ", " $known)) }}
{{- end }}
{{- if not (has (first $kinds) $known) }}
{{- fail (printf "extraVolumes: %s is a %s, which the restricted Pod Security Standard has not: use one of %s." .name (first $kinds) (join ", " $known)) }}
{{- end }}
{{- range dig "sources" list (.projected | default dict) }}
{{- if hasKey . "serviceAccountToken" }}
{{- fail "extraVolumes: a serviceAccountToken would let who gets into a pod into the cluster, of which Llavero asks nothing: leave it out." }}
{{- end }}
{{- end }}
{{- end }}
{{- $volumes := list }}
{{- range include "llavero.volumes" . | fromYamlArray }}
{{- if has .name $volumes }}
{{- fail (printf "extraVolumes: %s is the name of another volume, maybe of the chart's: take another." .name) }}
{{- end }}
{{- $volumes = append $volumes .name }}
{{- end }}
{{- $paths := list }}
{{- range include "llavero.volumeMounts" . | fromYamlArray }}
{{- if not (has .name $volumes) }}
{{- fail (printf "extraVolumeMounts: there is no volume %s: add it to extraVolumes." .name) }}
{{- end }}
{{- $path := clean .mountPath }}
{{- if has $path $paths }}
{{- fail (printf "extraVolumeMounts: something else is mounted at %s, maybe by the chart: take another path." $path) }}
{{- end }}
{{- $paths = append $paths $path }}
{{- end }}
{{- end }}

{{- define "llavero.resourceChecks" -}}
{{- $requests := dig "requests" dict .Values.resources }}
{{- $limits := dig "limits" dict .Values.resources }}
{{- range $part, $amounts := dict "requests" $requests "limits" $limits }}
{{- range $name, $amount := $amounts }}
{{- if and (ne $name "cpu") (hasSuffix "m" (toString $amount)) }}
{{- fail (printf "resources.%s.%s is %s, and m is a thousandth: that is %d bytes. Write M or Mi, such as 1024Mi." $part $name $amount (div (include "llavero.thousandths" $amount | int64) 1000)) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $amount := $requests }}
{{- if hasKey $limits $name }}
{{- if gt (include "llavero.thousandths" $amount | int64) (include "llavero.thousandths" (get $limits $name) | int64) }}
{{- fail (printf "resources.requests.%s is %v, above resources.limits.%s, which is %v: Kubernetes takes no such pod. Lower the first, or raise the second." $name $amount $name (get $limits $name)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* A quantity of Kubernetes', times 1000, as far as it can be counted. */}}
{{- define "llavero.thousandths" -}}
{{- $factors := dict "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 }}
{{- $factor := 1.0 }}
{{- if kindIs "string" . }}{{ $factor = get $factors (regexFind "[A-Za-z]+$" .) | default 1.0 }}{{ end }}
{{- $number := kindIs "string" . | ternary (toString . | regexFind "[0-9.]+") . | float64 }}
{{- mulf $number $factor 1000 | minf 1e18 | int64 }}
{{- end }}

{{/*
The files of `jwks`, of which only what is public is rendered, whatever else stands there: everybody may read a
ConfigMap. What is private or looks so is refused, since it has been seen. Members: RFC 7517 §4, RFC 7518 §6, RFC 8037 §2.
*/}}
{{- define "llavero.keys" -}}
{{- range $name, $content := .Values.jwks }}
{{- $text := trim $content }}
{{- $advice := "give public keys only, such as the answer of the issuer's jwks_uri, and replace this one where it is in use. A shared secret stands in a Secret of existingSecrets, and in the issuer's secret: {file: /run/secrets/llavero/SECRET/KEY}." }}
{{- $private := printf "jwks: %s holds a private key or a shared secret, which everybody could read in a ConfigMap: %s" $name $advice }}
{{- if contains "PRIVATE KEY" $text }}{{ fail $private }}{{ end }}
{{- if hasPrefix "{" $text }}
{{- $set := fromJson $text }}
{{- if not (kindIs "slice" $set.keys) }}
{{- fail (printf `jwks: %s is no JWK Set, which is {"keys": […]} in JSON: give the answer of the issuer's jwks_uri as it is.` $name) }}
{{- end }}
{{- $public := list }}
{{- range $key := $set.keys }}
{{- if not (kindIs "map" $key) }}{{ fail (printf "jwks: %s has a key that is no object: give the answer of the issuer's jwks_uri as it is." $name) }}{{ end }}
{{- range $member := list "d" "p" "q" "dp" "dq" "qi" "oth" "k" "priv" }}
{{- if hasKey $key $member }}{{ fail $private }}{{ end }}
{{- end }}
{{- if or (eq (toString $key.kty) "oct") (contains "PRIVATE KEY" (toJson $key)) }}{{ fail $private }}{{ end }}
{{- $kept := dict }}
{{- $parameters := get (dict "RSA" (list "n" "e") "EC" (list "crv" "x" "y") "OKP" (list "crv" "x")) (toString $key.kty) | default list }}
{{- range $member := concat (list "kty" "kid" "use" "alg") $parameters }}
{{- if kindIs "string" (get $key $member) }}{{ $_ := set $kept $member (get $key $member) }}{{ end }}
{{- end }}
{{- if kindIs "slice" $key.key_ops }}
{{- $known := list "sign" "verify" "encrypt" "decrypt" "wrapKey" "unwrapKey" "deriveKey" "deriveBits" }}
{{- $operations := list }}
{{- range $key.key_ops }}{{ if has . $known }}{{ $operations = append $operations . }}{{ end }}{{ end }}
{{- $_ := set $kept "key_ops" $operations }}
{{- end }}
{{- $public = append $public $kept }}
{{- end }}
{{ $name | quote }}: {{ dict "keys" $public | toJson | quote }}
{{- else }}
{{- $block := `-----BEGIN PUBLIC KEY-----[A-Za-z0-9+/=\s]+-----END PUBLIC KEY-----|-----BEGIN RSA PUBLIC KEY-----[A-Za-z0-9+/=\s]+-----END RSA PUBLIC KEY-----` }}
{{- if not (regexMatch (printf "^(%s)$" $block) $text) }}
{{- fail (printf `jwks: %s is neither a JWK Set ({"keys": […]}) nor one public key in PEM, from -----BEGIN PUBLIC KEY----- to -----END PUBLIC KEY-----, and what isn't known to be public isn't put into a ConfigMap. The key of a certificate: openssl x509 -pubkey -noout -in FILE.` $name) }}
{{- end }}
{{- /* A private key under that header: its version, an integer of one byte, comes first (RFC 5958 §2, RFC 8017 A.1.2, RFC 5915 §3). */}}
{{- $der := regexReplaceAll `-----[A-Z ]+-----|\s` $text "" | b64dec }}
{{- if regexMatch `(?s)^0.{1,3}\x02\x01[\x00\x01]` $der }}{{ fail $private }}{{ end }}
{{ $name | quote }}: {{ $content | quote }}
{{- end }}
{{- end }}
{{- end }}
