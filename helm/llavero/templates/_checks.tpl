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

{{- if and .Values.tenants .Values.existingTenantsSecret }}
{{- fail "tenants and existingTenantsSecret are both set: keep one." }}
{{- end }}
{{- range $tenant, $_ := .Values.tenantSecrets }}
{{- if hasKey ($.Values.tenants | default dict) $tenant }}
{{- fail (printf "%s is in tenants and in tenantSecrets: keep one." $tenant) }}
{{- end }}
{{- end }}
{{- if not (or .Values.tenants .Values.tenantSecrets .Values.existingTenantsSecret) }}
{{- fail `there are no tenants: nobody could be served. Write one, for example:

tenants:
  carper:
    clave: carper
    credentials:
      default: {api_key: {file: /run/secrets/llavero/carper/api-key}}
existingSecrets: [carper]

or name a Secret for each in tenantSecrets, or set existingTenantsSecret to a Secret with a key <tenant>.yaml for each tenant.` }}
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
{{- end }}
