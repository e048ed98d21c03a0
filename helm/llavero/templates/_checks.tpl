{{/* What the values' schema can't say, or not in words that help. */}}
{{- define "llavero.checks" -}}
{{- if not .Values.config.auth.issuers }}
{{- fail `config.auth.issuers is empty: nobody's tokens would be accepted. Say whose are, and give the keys, for example:

config:
  auth:
    issuers:
      - issuer: https://id.example.com/
        audience: [llavero]
        algorithms: [RS256]
        discovery: true

or, without discovery, jwks_file: /etc/llavero/keys/id.example.com.json
and --set-file 'jwks.id\.example\.com\.json=FILE' with the issuer's JWK Set.` }}
{{- end }}

{{- include "llavero.configChecks" . }}
{{- include "llavero.podChecks" . }}

{{- if and .Values.tenants .Values.existingTenantsSecret }}
{{- fail "tenants and existingTenantsSecret are both set: keep one." }}
{{- end }}
{{- range $tenant, $_ := .Values.tenantSecrets }}
{{- if hasKey ($.Values.tenants | default dict) $tenant }}
{{- fail (printf "%s is in tenants and in tenantSecrets: keep one." $tenant) }}
{{- end }}
{{- end }}
{{- if not (or .Values.tenants .Values.tenantSecrets .Values.existingTenantsSecret .Values.tenantSlots) }}
{{- fail `there are no tenants: nobody could be served. Write one, for example:

tenants:
  carper:
    clave: carper
    credentials:
      default: {api_key: {file: /run/secrets/llavero/carper/api-key}}
existingSecrets: [carper]

or name a Secret for each in tenantSecrets, or set existingTenantsSecret to a Secret with a key <tenant>.yaml for each tenant,
or leave tenantSlots at more than 0 and apply Secrets later.` }}
{{- end }}

{{- $written := list .Values.config .Values.tenants | toJson }}
{{- range regexFindAll "/run/secrets/llavero/[^/\"]+" $written -1 }}
{{- if not (has (base .) $.Values.existingSecrets) }}
{{- fail (printf "%s is named, but existingSecrets hasn't got %s: add it. (What extraVolumeMounts mount belongs elsewhere.)" . (base .)) }}
{{- end }}
{{- end }}
{{- range regexFindAll "/etc/llavero/keys/[^/\"]+" $written -1 }}
{{- if not (hasKey ($.Values.jwks | default dict) (base .)) }}
{{- fail (printf "%s is named, but jwks hasn't got %s: add it. (What extraVolumeMounts mount belongs elsewhere.)" . (base .)) }}
{{- end }}
{{- end }}

{{- if and .Values.tls.existingSecret (dig "server" "tls" nil .Values.config) }}
{{- fail "tls.existingSecret and config.server.tls are both set: keep one." }}
{{- end }}

{{- $own := include "llavero.ownEnv" . | fromYamlArray }}
{{- $names := list }}
{{- range .Values.extraEnv }}
{{- if hasPrefix "LLAVERO__" (upper .name) }}
{{- fail (printf "extraEnv: %s is a setting, and would win over llavero.yaml unseen by the chart, which computes grace and memory from it: write it in config, as config.%s." .name (trimPrefix "LLAVERO__" (upper .name) | lower | replace "__" ".")) }}
{{- end }}
{{- end }}
{{- range concat $own .Values.extraEnv }}
{{- if has .name $names }}
{{- fail (printf "extraEnv: %s is set twice, or by the chart already: keep one." .name) }}
{{- end }}
{{- $names = append $names .name }}
{{- end }}

{{- range .Values.extraVolumes }}
{{- if hasKey . "hostPath" }}
{{- fail (printf "extraVolumes: %s is a hostPath, which the restricted Pod Security Standard has not: use a persistentVolumeClaim, csi, ephemeral or emptyDir." .name) }}
{{- end }}
{{- end }}

{{- with dig "limits" "memory" nil .Values.resources }}
{{- $given := include "llavero.bytes" . | int64 }}
{{- $needed := include "llavero.memory" $ | int64 }}
{{- if lt $given $needed }}
{{- fail (printf "resources.limits.memory is %v, but cache.max_bytes, images.in_flight_bytes, idempotency.max_bytes, what images.max_dimension takes, and 192Mi need %dMi: a pod would be killed when it is busy. Raise it, or lower those." . (div (add $needed 1048575) 1048576)) }}
{{- end }}
{{- end }}

{{- with .Values.autoscaling }}
{{- if .enabled }}
{{- if gt (int .minReplicas) (int .maxReplicas) }}
{{- fail "autoscaling.minReplicas is above maxReplicas." }}
{{- end }}
{{- if not (or .targetCPUUtilizationPercentage .targetMemoryUtilizationPercentage .metrics) }}
{{- fail "autoscaling has nothing to go by: set targetCPUUtilizationPercentage, targetMemoryUtilizationPercentage or metrics." }}
{{- end }}
{{- range $resource, $percent := dict "cpu" .targetCPUUtilizationPercentage "memory" .targetMemoryUtilizationPercentage }}
{{- if and $percent (not (dig "requests" $resource nil $.Values.resources)) }}
{{- fail (printf "autoscaling goes by a part of what is requested: set resources.requests.%s." $resource) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- with .Values.podDisruptionBudget }}
{{- if and .enabled (kindIs "invalid" .minAvailable) (kindIs "invalid" .maxUnavailable) }}
{{- fail "podDisruptionBudget says nothing: set maxUnavailable or minAvailable." }}
{{- end }}
{{- end }}

{{- with .Values.service }}
{{- if eq .type "ClusterIP" }}
{{- range $key := list "nodePort" "externalTrafficPolicy" }}
{{- if get $.Values.service $key }}
{{- fail (printf "service.%s is set, but service.type is ClusterIP, with which Kubernetes refuses it: leave it out, or write type: NodePort or LoadBalancer." $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- if ne .type "LoadBalancer" }}
{{- range $key := list "loadBalancerClass" "loadBalancerSourceRanges" }}
{{- if get $.Values.service $key }}
{{- fail (printf "service.%s is set, but service.type is %s, where it would do nothing: leave it out, or write type: LoadBalancer." $key $.Values.service.type) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
{{- fail "ingress.hosts is empty: say under which name, for example [{host: llavero.example.com}]." }}
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
{{- fail "httpRoute.parentRefs is empty: name the Gateway, for example [{name: public, namespace: gateways}]." }}
{{- end }}

{{- if and .Values.serviceMonitor.enabled .Values.networkPolicy.enabled (not .Values.networkPolicy.adminFrom) }}
{{- fail `networkPolicy lets nobody reach /metrics: name Prometheus in networkPolicy.adminFrom, for example
[{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}].` }}
{{- end }}
{{- if and .Values.networkPolicy.otelTo (not .Values.otel.endpoint) }}
{{- fail "networkPolicy.otelTo is set, but otel.endpoint isn't: set both or none." }}
{{- end }}
{{- if and (or .Values.otel.headersSecret .Values.otel.resourceAttributes (not (kindIs "invalid" .Values.otel.sampleRatio))) (not .Values.otel.endpoint) }}
{{- fail "otel.endpoint is empty: no traces would be sent. Set it, or leave the rest of otel out." }}
{{- end }}
{{- end }}
