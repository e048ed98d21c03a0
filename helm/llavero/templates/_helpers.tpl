{{- define "llavero.name" -}}
{{ .Values.nameOverride | default .Chart.Name | trunc 57 | trimSuffix "-" }}
{{- end }}

{{/* The release's objects are called this. A Service's name has 63 letters: room for `-admin`. */}}
{{- define "llavero.fullname" -}}
{{- $name := include "llavero.name" . }}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- .Values.fullnameOverride | default $full | trunc 57 | trimSuffix "-" }}
{{- end }}

{{- define "llavero.selectorLabels" -}}
app.kubernetes.io/name: {{ include "llavero.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Of the objects. Pods have the selector's only: a new chart alone gives no new pods. */}}
{{- define "llavero.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
{{ include "llavero.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The metadata that all objects have: (list . SUFFIX ANNOTATIONS LABELS), of which the last two may be left out. */}}
{{- define "llavero.metadata" -}}
{{- $ := first . -}}
name: {{ printf "%s%s" (include "llavero.fullname" $) (index . 1) | quote }}
namespace: {{ $.Release.Namespace | quote }}
labels:
  {{- mergeOverwrite (include "llavero.labels" $ | fromYaml) (index (concat . (list dict dict)) 3 | default dict) | toYaml | nindent 2 }}
{{- with index (concat . (list dict dict)) 2 }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "llavero.serviceAccountName" -}}
{{ .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "llavero.fullname" .) "default") }}
{{- end }}

{{- define "llavero.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* The settings of a tenant that is a directory. Those that its Secret hasn't got are left out. */}}
{{- define "llavero.tenantKeys" -}}
[clave, api-key, next-api-key, username, password, mode, users.yaml, tenant.yaml]
{{- end }}

{{/* llavero.yaml: what the operator wrote, and what follows from the pod. */}}
{{- define "llavero.config" -}}
{{- $pod := dict
  "server" (dict "listen" "0.0.0.0:8080" "admin_listen" "0.0.0.0:9090")
  "tenants_dir" "/etc/llavero/tenants" }}
{{- if .Values.tls.existingSecret }}
{{- $files := dict "cert_file" "/etc/llavero/tls/tls.crt" "key_file" "/etc/llavero/tls/tls.key" }}
{{- $_ := set $pod.server "tls" $files }}
{{- end }}
{{- mergeOverwrite (deepCopy .Values.config) $pod | toYaml }}
{{- end }}

{{/* `https` where the gateway ends TLS, `http` otherwise: the port's name and its protocol. */}}
{{- define "llavero.scheme" -}}
{{ if or .Values.tls.existingSecret (dig "server" "tls" nil .Values.config) }}https{{ else }}http{{ end }}
{{- end }}

{{- define "llavero.servicePort" -}}
{{ .Values.service.port | default (eq (include "llavero.scheme" .) "https" | ternary 443 80) }}
{{- end }}

{{/* The port of the collector's address. */}}
{{- define "llavero.otelPort" -}}
{{- $address := urlParse .Values.otel.endpoint }}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" $address.host) | default (eq $address.scheme "https" | ternary "443" "80") }}
{{- end }}

{{/* The seconds of a duration such as 250ms, 30s or 5m, rounded up. */}}
{{- define "llavero.seconds" -}}
{{- $number := toString . | regexFind "[0-9]+" | float64 | minf 1e9 | int64 }}
{{- $unit := toString . | regexFind "[a-z]+" }}
{{- if eq $unit "ms" }}
{{- div (add $number 999) 1000 }}
{{- else }}
{{- mul $number (get (dict "m" 60 "h" 3600 "d" 86400) $unit | default 1) }}
{{- end }}
{{- end }}

{{/*
How long the gateway may take to end. A write that began with the last request that was let in
is never cut: it waits for its turn, then runs to its own timeout; where no answer came, it is looked at the ERP what became
of it, which waits for a turn and an answer again. 5 seconds are for the rest.
*/}}
{{- define "llavero.terminationGracePeriodSeconds" -}}
{{- $needed := dig "sleep" "seconds" 0 .Values.preStop | add 5 }}
{{- $turn := dig "upstream" "queue_timeout" "10s" .Values.config }}
{{- range list
  (dig "server" "drain_delay" "3s" .Values.config)
  (dig "server" "shutdown_grace" "30s" .Values.config)
  $turn (dig "upstream" "upload_timeout" "120s" .Values.config)
  $turn (dig "upstream" "timeout" "15s" .Values.config) }}
{{- $needed = add $needed (include "llavero.seconds" . | atoi) }}
{{- end }}
{{- if gt $needed 86400 }}
{{- fail "server.drain_delay, server.shutdown_grace, upstream.queue_timeout, upstream.upload_timeout, upstream.timeout and preStop.sleep are more than a day together: a pod that ends would stay. Shorten them." }}
{{- end }}
{{- $given := .Values.terminationGracePeriodSeconds | default $needed | int64 }}
{{- if lt $given $needed }}
{{- fail (printf "terminationGracePeriodSeconds is %d, but server.drain_delay, server.shutdown_grace, upstream.queue_timeout (twice), upstream.upload_timeout, upstream.timeout and preStop.sleep need %d: uploads would be cut. Leave it out, or shorten those." $given $needed) }}
{{- end }}
{{- $given }}
{{- end }}

{{/* The bytes of a size of Llavero's (64KiB, 12MiB) or of Kubernetes' (384Mi, 1G, 1.5Gi), rounded down. */}}
{{- define "llavero.bytes" -}}
{{- if kindIs "string" . }}
{{- $factors := dict "ki" 1024 "mi" 1048576 "gi" 1073741824 "ti" 1099511627776 "k" 1000 "m" 1000000 "g" 1000000000 "t" 1000000000000 }}
{{- $unit := regexFind "[A-Za-z]+" . | lower | trimSuffix "b" }}
{{- mulf (regexFind "[0-9.]+" . | float64) (get $factors $unit | default 1) | minf 1e18 | int64 }}
{{- else }}
{{- float64 . | minf 1e18 | int64 }}
{{- end }}
{{- end }}

{{/* What a pod may hold: what is bounded by settings, 192 MiB for the rest, and what photos take that are made smaller. */}}
{{- define "llavero.memory" -}}
{{- $images := .Values.config.images | default dict }}
{{- $needed := 201326592 }}
{{- range list
  (dig "cache" "max_bytes" "256MiB" .Values.config)
  (dig "idempotency" "max_bytes" "64MiB" .Values.config)
  (dig "in_flight_bytes" "512MiB" $images) }}
{{- $needed = add $needed (include "llavero.bytes" . | int64) }}
{{- end }}
{{- if not (has ($images.max_dimension | default "off" | toString) (list "off" "false" "0")) }}
{{- $needed = add $needed (div (mul 3 (max 335544320 (mul 9 (dig "max_pixels" 50000000 $images | float64 | minf 1e15 | int64)))) 2) }}
{{- end }}
{{- $needed }}
{{- end }}
