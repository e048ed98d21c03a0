{{/*
What the program refuses in llavero.yaml and in tenants' files, where the values' schema can't say it or
not in words that help: pods that don't start are noticed late. `llavero check` knows more.
*/}}
{{- define "llavero.configChecks" -}}
{{- range $key, $instead := dict "listen" "service.port is where apps reach it" "admin_listen" "adminService.port is where it is scraped" }}
{{- if hasKey ($.Values.config.server | default dict) $key }}
{{- fail (printf "config.server.%s is the chart's, since probes, Services and policies lead there: leave it out; %s." $key $instead) }}
{{- end }}
{{- end }}
{{- if hasKey .Values.config "tenants_dir" }}
{{- fail "config.tenants_dir is the chart's, which mounts the tenants there: leave it out, and name them in tenants, tenantSecrets or existingTenantsSecret." }}
{{- end }}
{{- range $index, $network := dig "server" "trusted_proxies" list .Values.config }}
{{- $key := printf "config.server.trusted_proxies[%d]" $index }}
{{- if regexMatch "/0+$" $network }}
{{- fail (printf "%s is everybody, so any caller could take any address: write the network that your ingress is in, such as 10.0.0.0/8." $key) }}
{{- end }}
{{- $octet := "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])" }}
{{- if not (regexMatch (printf "^(%s(\\.%s){3}/([12]?[0-9]|3[0-2])|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*/([1-9]?[0-9]|1[01][0-9]|12[0-8]))$" $octet $octet) $network) }}
{{- fail (printf "%s is no network: write an address and a length of 1 to 32, or 128 in IPv6, such as 10.0.0.0/8, fd00::/8 or, for one address, 10.0.0.1/32." $key) }}
{{- end }}
{{- end }}
{{- with .Values.config.images }}
{{- $isChanged := or (ne (.metadata | default "keep") "keep") (kindIs "float64" .max_dimension) (kindIs "int64" .max_dimension) }}
{{- if and $isChanged (has "heic" (.formats | default list)) }}
{{- fail "config.images.formats has heic, which is passed as it is and can't be changed: leave it out, or write metadata: keep and max_dimension: \"off\"." }}
{{- end }}
{{- if lt (include "llavero.bytes" (.in_flight_bytes | default "512MiB") | int64) (include "llavero.bytes" (.max_bytes | default "12MiB") | int64) }}
{{- fail "config.images.in_flight_bytes is below max_bytes, so the largest photo would never be let in: raise it, or lower max_bytes." }}
{{- end }}
{{- end }}
{{- if dig "proxy" "allow" nil .Values.config }}
{{- fail "config.proxy.allow isn't available in this version: leave it out, and use the operations of the OpenAPI document." }}
{{- end }}

{{- $seen := dict }}
{{- range $index, $issuer := .Values.config.auth.issuers }}
{{- include "llavero.issuerChecks" (list $ (printf "config.auth.issuers[%d]" $index) $issuer) }}
{{- if hasKey $seen $issuer.issuer }}
{{- fail (printf "config.auth.issuers[%d].issuer is that of another entry: make them one." $index) }}
{{- end }}
{{- $_ := set $seen $issuer.issuer true }}
{{- end }}

{{- range $tenant, $file := .Values.tenants }}
{{- range $credential, $given := $file.credentials }}
{{- $key := printf "tenants.%s.credentials.%s" $tenant $credential }}
{{- $keys := kindIs "slice" $given.api_key | ternary $given.api_key (list $given.api_key) }}
{{- range append $keys (dig "login" "password" nil $given) | compact }}
{{- include "llavero.variableCheck" (list $ $key .) }}
{{- end }}
{{- end }}
{{- range $index, $user := $file.users }}
{{- if not (hasKey $file.credentials $user.credential) }}
{{- fail (printf "tenants.%s.users[%d].credential is %s, which credentials hasn't got: write one of %s." $tenant $index $user.credential (keys $file.credentials | sortAlpha | join ", ")) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* (list . KEY ISSUER) */}}
{{- define "llavero.issuerChecks" -}}
{{- $ := first . }}
{{- $key := index . 1 }}
{{- $issuer := index . 2 }}
{{- $sources := list }}
{{- range list "jwks_url" "discovery" "jwks_file" "public_key_file" "secret" }}
{{- if get $issuer . }}{{ $sources = append $sources . }}{{ end }}
{{- end }}
{{- if not $sources }}
{{- fail (printf "%s has no keys: write discovery: true, or one of jwks_url, jwks_file, public_key_file and secret." $key) }}
{{- end }}
{{- if gt (len $sources) 1 }}
{{- fail (printf "%s has keys from %s: keep one." $key (join " and " $sources)) }}
{{- end }}
{{- range $issuer.algorithms }}
{{- if and (hasPrefix "HS" .) (not $issuer.secret) }}
{{- fail (printf "%s.algorithms has %s, which needs secret: with %s, write what the issuer signs with, such as RS256." $key . (first $sources)) }}
{{- end }}
{{- if and $issuer.secret (not (hasPrefix "HS" .)) }}
{{- fail (printf "%s.algorithms has %s, but with secret only HS256, HS384 and HS512 are possible: leave it out, or give public keys by discovery, jwks_url, jwks_file or public_key_file." $key .) }}
{{- end }}
{{- end }}
{{- $address := $issuer.jwks_url | default "" }}
{{- if $issuer.discovery }}{{ $address = $issuer.issuer }}{{ end }}
{{- $isHere := and (dig "jwks" "allow_loopback_http" false $.Values.config.auth) (regexMatch `^http://(localhost|[^/?#@]*\.localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?(/[^?#]*)?$` $address) }}
{{- if and $address (not $isHere) (not (regexMatch `^https://[^\s/?#@]+(/[^\s?#]*)?$` $address)) }}
{{- if $issuer.discovery }}
{{- fail (printf "%s.discovery needs an issuer that is an https address without a login, ? or #, since whoever changes the answer on its way could sign tokens: write the issuer as its tokens have it in iss, or give its keys by jwks_url or jwks_file." $key) }}
{{- else }}
{{- fail (printf "%s.jwks_url must be https, without a login: whoever changes the answer on its way could sign tokens." $key) }}
{{- end }}
{{- end }}
{{- with $issuer.secret }}
{{- include "llavero.variableCheck" (list $ (printf "%s.secret" $key) .) }}
{{- end }}
{{- end }}

{{/* A secret in a variable has one: (list . KEY SECRET). */}}
{{- define "llavero.variableCheck" -}}
{{- $names := list }}
{{- range (first .).Values.extraEnv }}{{ $names = append $names .name }}{{ end }}
{{- with (index . 2).env }}
{{- if not (has . $names) }}
{{- fail (printf "%s names the variable %s, but extraEnv hasn't got it: add {name: %s, valueFrom: {secretKeyRef: {name: SECRET, key: KEY}}}." (index $ 1) . .) }}
{{- end }}
{{- end }}
{{- end }}
