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
app.kubernetes.io/name: {{ include "llavero.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "llavero.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "llavero.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
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
{{- mergeOverwrite (deepCopy .Values.config) $pod | toYaml }}
{{- end }}

{{/* The seconds of a duration such as 250ms, 30s or 5m, rounded up. */}}
{{- define "llavero.seconds" -}}
{{- $number := toString . | regexFind "[0-9]+" | atoi }}
{{- $unit := toString . | regexFind "[a-z]+" }}
{{- if eq $unit "ms" }}
{{- div (add $number 999) 1000 }}
{{- else }}
{{- mul $number (get (dict "m" 60 "h" 3600 "d" 86400) $unit | default 1) }}
{{- end }}
{{- end }}

{{/*
How long the gateway may take to end. A write that began with the last request that was let in
is never cut: it waits for its turn, then runs to its own timeout. 5 seconds are for the rest.
*/}}
{{- define "llavero.terminationGracePeriodSeconds" -}}
{{- $needed := 5 }}
{{- range list
  (dig "server" "drain_delay" "3s" .Values.config)
  (dig "server" "shutdown_grace" "30s" .Values.config)
  (dig "upstream" "queue_timeout" "10s" .Values.config)
  (dig "upstream" "upload_timeout" "120s" .Values.config) }}
{{- $needed = add $needed (include "llavero.seconds" . | atoi) }}
{{- end }}
{{- $given := .Values.terminationGracePeriodSeconds | default $needed | int64 }}
{{- if lt $given $needed }}
{{- fail (printf "terminationGracePeriodSeconds is %d, but server.drain_delay, server.shutdown_grace, upstream.queue_timeout and upstream.upload_timeout need %d: uploads would be cut. Leave it out, or shorten those." $given $needed) }}
{{- end }}
{{- $given }}
{{- end }}
