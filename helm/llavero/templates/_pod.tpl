{{/* What the gateway's pods and that of `helm test` have in common. */}}

{{/* The restricted Pod Security Standard: https://kubernetes.io/docs/concepts/security/pod-security-standards/ */}}
{{- define "llavero.podSecurityContext" -}}
runAsNonRoot: true
{{- range $name := list "runAsUser" "runAsGroup" "fsGroup" }}
{{- with get $.Values.podSecurityContext $name }}
{{ $name }}: {{ int64 . }}
{{- end }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "llavero.securityContext" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* The variables that the chart sets: a list, maybe empty. */}}
{{- define "llavero.ownEnv" -}}
{{- with .Values.otel }}
{{- if .endpoint }}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .endpoint | quote }}
{{- with .headersSecret }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom:
    secretKeyRef:
      {{- toYaml . | nindent 6 }}
{{- end }}
{{- if not (kindIs "invalid" .sampleRatio) }}
- name: OTEL_TRACES_SAMPLER
  value: parentbased_traceidratio
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ .sampleRatio | quote }}
{{- end }}
{{- $attributes := list "k8s.namespace.name=$(POD_NAMESPACE)" "k8s.pod.name=$(POD_NAME)" (printf "k8s.deployment.name=%s" (include "llavero.fullname" $)) }}
{{- range $name, $value := .resourceAttributes }}
{{- $attributes = append $attributes (printf "%s=%s" $name $value) }}
{{- end }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: {{ join "," $attributes | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "llavero.env" -}}
{{- include "llavero.ownEnv" . }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "llavero.volumeMounts" -}}
- name: config
  mountPath: /etc/llavero/config
  readOnly: true
- name: tenants
  mountPath: /etc/llavero/tenants
  readOnly: true
{{- if .Values.jwks }}
- name: keys
  mountPath: /etc/llavero/keys
  readOnly: true
{{- end }}
{{- if .Values.tls.existingSecret }}
- name: tls
  mountPath: /etc/llavero/tls
  readOnly: true
{{- end }}
{{- range $index, $secret := .Values.existingSecrets }}
- name: secret-{{ $index }}
  mountPath: {{ printf "/run/secrets/llavero/%s" $secret | quote }}
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "llavero.volumes" -}}
- name: config
  configMap:
    name: {{ printf "%s-config" (include "llavero.fullname" .) | quote }}
- name: tenants
  {{- $sources := include "llavero.tenantSources" . | fromYamlArray }}
  {{- if $sources }}
  projected:
    defaultMode: 0440
    sources:
      {{- toYaml $sources | nindent 6 }}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- if .Values.jwks }}
- name: keys
  configMap:
    name: {{ printf "%s-keys" (include "llavero.fullname" .) | quote }}
{{- end }}
{{- with .Values.tls.existingSecret }}
- name: tls
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
{{- end }}
{{- range $index, $secret := .Values.existingSecrets }}
- name: secret-{{ $index }}
  secret:
    secretName: {{ $secret | quote }}
    defaultMode: 0440
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/*
Where tenants come from. Of two files of one name the later source's is mounted, so the slots, which
may be filled by somebody else, come first. A Secret that is optional and isn't there leaves its
tenant out and the others running; when it is there, the volume gets it.
*/}}
{{- define "llavero.tenantSources" -}}
{{- range $slot := untilStep 1 (.Values.tenantSlots | int | add1 | int) 1 }}
- secret: {name: {{ printf "%s-tenant-%d" (include "llavero.fullname" $) $slot | quote }}, optional: true}
{{- end }}
{{- if .Values.existingTenantsSecret }}
- secret:
    name: {{ .Values.existingTenantsSecret | quote }}
{{- else if .Values.tenants }}
- configMap:
    name: {{ printf "%s-tenants" (include "llavero.fullname" .) | quote }}
{{- end }}
{{- range $tenant, $secret := .Values.tenantSecrets }}
- secret:
    name: {{ $secret.name | quote }}
    optional: true
    items:
      {{- range $secret.keys | default (include "llavero.tenantKeys" $ | fromYamlArray) }}
      - {key: {{ . | quote }}, path: {{ printf "%s/%s" $tenant . | quote }}}
      {{- end }}
{{- end }}
{{- end }}
