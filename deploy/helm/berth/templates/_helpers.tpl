{{- define "berth.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "berth.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "berth.selectorLabels" -}}
app.kubernetes.io/name: {{ include "berth.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "berth.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "berth.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "berth.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "berth.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "berth.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "berth.stateless" -}}
{{- if eq .Values.mode "stateless" }}yes{{ end }}
{{- end }}

{{/* "on" and "off" are true and false in the YAML that Helm reads. */}}
{{- define "berth.switch" -}}
{{- if kindIs "bool" . }}{{ ternary "on" "off" . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{/* The protocol that the pods speak, as probes name it. */}}
{{- define "berth.scheme" -}}
{{- if .Values.tls.existingSecret }}HTTPS{{ else }}HTTP{{ end }}
{{- end }}

{{/* What the values say that cannot be, in words. */}}
{{- define "berth.check" -}}
{{- if .Values.auth.enabled }}
{{- if .Values.insecureOpen }}
{{- fail "\n\nauth.enabled and insecureOpen exclude each other" }}
{{- end }}
{{- if not (or .Values.tls.existingSecret (hasPrefix "https://" .Values.externalURL)) }}
{{- fail "\n\nauth.enabled: passwords must not be read on the way. Set tls.existingSecret to a Secret with a certificate, or,\nwhere an Ingress has one, externalURL to its https:// address" }}
{{- end }}
{{- if and .Values.ingress.enabled (not (and .Values.externalURL .Values.trustedProxies)) }}
{{- fail "\n\nauth.enabled behind an Ingress needs externalURL, so that clients are sent to sign in there, and trustedProxies, the networks\nof its controller, so that one who guesses passwords does not lock out everybody" }}
{{- end }}
{{- if and .Values.metrics.enabled (not .Values.metrics.existingSecret) }}
{{- fail "\n\nauth.enabled: metrics need a token, too. Set metrics.existingSecret to a Secret that has one, or metrics.enabled=false" }}
{{- end }}
{{- else if not .Values.insecureOpen }}
{{- fail "\n\nWithout access control, whoever reaches its Service can pull, push and delete.\nSwitch it on, --set auth.enabled=true, or say that you know: --set insecureOpen=true" }}
{{- else if .Values.auth.existingSecret }}
{{- fail "\n\nauth.existingSecret is for auth.enabled" }}
{{- end }}
{{- if and .Values.tls.clientCASecret (not .Values.tls.existingSecret) }}
{{- fail "\n\ntls.clientCASecret is for TLS that ends in the pods: set tls.existingSecret" }}
{{- end }}
{{- $auth := .Values.config.auth | default dict }}
{{- if hasKey $auth "enabled" }}
{{- fail "\n\nconfig.auth.enabled: set auth.enabled instead" }}
{{- end }}
{{- $secrets := list (dict "key" "ldap.bind_password" "value" (($auth.ldap | default dict).bind_password)) }}
{{- range $i, $p := $auth.oidc }}{{ $secrets = append $secrets (dict "key" (printf "oidc[%d].client_secret" $i) "value" $p.client_secret) }}{{ end }}
{{- range $secrets }}
{{- if and .value (not (hasPrefix "file:" .value)) }}
{{- fail (printf "\n\nconfig.auth.%s: a secret has no place in values. Put it into a Secret, auth.existingSecret, and write\nfile:/etc/berth/secrets/auth/KEY here" .key) }}
{{- end }}
{{- end }}
{{- if include "berth.stateless" . }}
{{- if not .Values.database.existingSecret }}
{{- fail "\n\nmode stateless needs database.existingSecret: the name of a Secret whose key \"url\" holds postgres://USER:PASSWORD@HOST/NAME" }}
{{- end }}
{{- if not .Values.s3.bucket }}
{{- fail "\n\nmode stateless needs s3.bucket: the name of a bucket that exists" }}
{{- end }}
{{- else }}
{{- if or .Values.database.existingSecret .Values.s3.bucket }}
{{- fail "\n\ndatabase and s3 are for mode stateless: --set mode=stateless" }}
{{- end }}
{{- if .Values.autoscaling.enabled }}
{{- fail "\n\nmode embedded has one pod, so autoscaling cannot be enabled: use mode stateless" }}
{{- end }}
{{- end }}
{{- range list "listen" "data" "insecure_open" "tls" "external_url" "trusted_proxies" "database" "database_pool" "storage" "metrics" }}
{{- if hasKey $.Values.config . }}
{{- fail (printf "\n\nconfig.%s: the chart sets this one from other values; see its values.yaml" .) }}
{{- end }}
{{- end }}
{{- if hasKey (.Values.config.timeouts | default dict) "stop" }}
{{- fail "\n\nconfig.timeouts.stop: set stop.timeoutSeconds instead, so that the pod is given the time" }}
{{- end }}
{{- end }}

{{/* The configuration file, without secrets: those are files beside it. */}}
{{- define "berth.config" -}}
{{- $c := dict "listen" ":5000" "timeouts" (dict "stop" (printf "%ds" (int .Values.stop.timeoutSeconds))) }}
{{- if .Values.auth.enabled }}{{ $_ := set $c "auth" (dict "enabled" true) }}{{ else }}{{ $_ := set $c "insecure_open" true }}{{ end }}
{{- if .Values.tls.existingSecret }}
{{- $tls := dict "certificate" "/etc/berth/secrets/tls/tls.crt" "key" "/etc/berth/secrets/tls/tls.key" }}
{{- if .Values.tls.clientCASecret }}{{ $_ := set $tls "client_ca" "/etc/berth/secrets/tls-client-ca/ca.crt" }}{{ end }}
{{- $_ := set $c "tls" $tls }}
{{- end }}
{{- with .Values.externalURL }}{{ $_ := set $c "external_url" . }}{{ end }}
{{- with .Values.trustedProxies }}{{ $_ := set $c "trusted_proxies" . }}{{ end }}
{{- if .Values.metrics.enabled }}
{{- $metrics := dict "listen" (printf ":%d" (int .Values.metrics.port)) }}
{{- if .Values.metrics.existingSecret }}{{ $_ := set $metrics "token" "file:/etc/berth/secrets/metrics/token" }}{{ end }}
{{- $_ := set $c "metrics" $metrics }}
{{- end }}
{{- if include "berth.stateless" . }}
{{- $_ := set $c "database" "file:/etc/berth/secrets/database/url" }}
{{- $_ := set $c "database_pool" (dict "connections" (int .Values.database.pool.connections) "timeout" .Values.database.pool.timeout) }}
{{- $s3 := dict "bucket" .Values.s3.bucket "path_style" (include "berth.switch" .Values.s3.pathStyle) "encryption" .Values.s3.encryption "redirect" (include "berth.switch" .Values.s3.redirect) "redirect_expire" .Values.s3.redirectExpire }}
{{- with .Values.s3.endpoint }}{{ $_ := set $s3 "endpoint" . }}{{ end }}
{{- with .Values.s3.region }}{{ $_ := set $s3 "region" . }}{{ end }}
{{- with .Values.s3.prefix }}{{ $_ := set $s3 "prefix" . }}{{ end }}
{{- with .Values.s3.partSize }}{{ $_ := set $s3 "part_size" . }}{{ end }}
{{- with .Values.s3.storageClass }}{{ $_ := set $s3 "storage_class" . }}{{ end }}
{{- with .Values.s3.kmsKey }}{{ $_ := set $s3 "kms_key" . }}{{ end }}
{{- with .Values.s3.redirectExcept }}{{ $_ := set $s3 "redirect_except" . }}{{ end }}
{{- if .Values.s3.existingSecret }}
{{- $_ := set $s3 "access_key_id" "file:/etc/berth/secrets/s3/access_key_id" }}
{{- $_ := set $s3 "secret_access_key" "file:/etc/berth/secrets/s3/secret_access_key" }}
{{- end }}
{{- if .Values.s3.caSecret }}{{ $_ := set $s3 "ca_file" "/etc/berth/secrets/s3-ca/ca.crt" }}{{ end }}
{{- $_ := set $c "storage" (dict "s3" $s3) }}
{{- if not (hasKey (.Values.config.limits | default dict) "uploads") }}{{ $_ := set $c "limits" (dict "uploads" 32) }}{{ end }}
{{- else }}
{{- $_ := set $c "data" "/data" }}
{{- end }}
{{- mergeOverwrite (deepCopy .Values.config) $c | toYaml }}
{{- end }}
