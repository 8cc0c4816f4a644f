{{- define "oodguard.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "oodguard.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "oodguard.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "oodguard.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "oodguard.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "oodguard.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels that select pods of one component; call with (list . "gateway"). */}}
{{- define "oodguard.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "oodguard.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Labels of pods: nothing that changes with the chart alone, or each new chart would roll them. */}}
{{- define "oodguard.podLabels" -}}
{{- $root := index . 0 -}}
{{ include "oodguard.selector" . }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "oodguard.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "oodguard.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "oodguard.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{/* A server setting: what the values say, else the server's default. Numbers of the server's that the chart must know
     are checked against the server by a test. */}}
{{- define "oodguard.setting" -}}
{{- $root := index . 0 }}{{ $name := index . 1 -}}
{{- $defaults := dict "drain_delay" 10 "drain_timeout" 30 "body_timeout" 15 "max_request_timeout" 60 "max_queue" 128 "max_body_bytes" 67108864 "max_queue_bytes" 268435456 "max_decode_bytes" 268435456 "workers" 1 "shadow_max_bytes" 33554432 -}}
{{- if hasKey $root.Values.settings $name }}{{ get $root.Values.settings $name }}{{ else }}{{ get $defaults $name }}{{ end }}
{{- end }}

{{/* MiB that a gateway may take: two models during a reload, the bodies in the queue, and the images that the decoders
     may hold together; SIZING.md has the measurement. */}}
{{- define "oodguard.memoryNeeded" -}}
{{- $setting := dict }}
{{- range $name := list "max_queue_bytes" "max_decode_bytes" }}
{{- $_ := set $setting $name (include "oodguard.setting" (list $ $name) | float64) }}
{{- end }}
{{- $decoding := $setting.max_decode_bytes }}
{{- /* Each worker has models of its own, and room for the largest request; decoded bytes are counted together. */}}
{{- $workers := include "oodguard.setting" (list . "workers") | float64 }}
{{- $processes := addf (mulf 600 $workers) (gt $workers 1.0 | ternary 80 0) }}
{{- $bytes := maxf $setting.max_queue_bytes (mulf $workers (include "oodguard.setting" (list . "max_body_bytes") | float64)) }}
{{- if .Values.grpc.enabled }}
{{- /* Messages that arrive are beside the queue, and gRPC and its reader each have a copy of them. */}}
{{- $bytes = mulf 3 $bytes }}
{{- end }}
{{- if .Values.shadow.enabled }}
{{- /* A decoder of its own, two processes during a reload, and what waits for them. */}}
{{- $decoding = mulf 2 $decoding }}
{{- $processes = 900 }}
{{- $bytes = addf $bytes (include "oodguard.setting" (list . "shadow_max_bytes") | float64) }}
{{- end }}
{{- addf $processes (divf (addf $bytes $decoding) 1048576) | ceil | int }}
{{- end }}

{{/* A quantity of memory, in MiB; call with "5Gi". */}}
{{- define "oodguard.mebibytes" -}}
{{- $text := toString . }}
{{- $units := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- $unit := regexFind "[a-zA-Z]*$" $text }}
{{- divf (mulf (trimSuffix $unit $text | float64) (get $units $unit)) 1048576 | floor | int }}
{{- end }}

{{/* The Ingress's annotations: ingress-nginx and NGINX's own controller refuse bodies above 1 MB unless told. */}}
{{- define "oodguard.ingressAnnotations" -}}
{{- $bytes := include "oodguard.setting" (list . "max_body_bytes") | float64 | int64 }}
{{- /* A number of YAML is a float here: 100000000 would be printed as 1e+08. */}}
{{- $given := .Values.ingress.bodySize }}
{{- $text := kindIs "string" $given | ternary (toString $given) (printf "%.0f" (float64 $given)) }}
{{- $size := $text | default (printf "%dm" (div (add $bytes 1048575) 1048576)) }}
{{- $own := dict "nginx.ingress.kubernetes.io/proxy-body-size" $size "nginx.org/client-max-body-size" $size }}
{{- merge (dict) .Values.ingress.annotations $own | toYaml }}
{{- end }}

{{- define "oodguard.drainSeconds" -}}
{{- addf (include "oodguard.setting" (list . "drain_delay") | float64) (include "oodguard.setting" (list . "drain_timeout") | float64) | ceil | int }}
{{- end }}

{{- define "oodguard.gracePeriod" -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds }}
{{- add (include "oodguard.drainSeconds" . | int) 10 }}
{{- else }}
{{- .Values.terminationGracePeriodSeconds | int }}
{{- end }}
{{- end }}

{{- define "oodguard.keySecretName" -}}
{{- if eq .Values.keys.mode "existing" }}{{ .Values.keys.existing.secret }}{{ else }}{{ include "oodguard.fullname" . }}-key{{ end }}
{{- end }}

{{/* The clear API key: the one in the cluster, else a new one, the same for every template of this rendering. */}}
{{- define "oodguard.apiKey" -}}
{{- if not (hasKey .Values "generatedApiKey") }}
{{- $found := lookup "v1" "Secret" .Release.Namespace (include "oodguard.keySecretName" .) }}
{{- $kept := dig "data" "api-key" "" (default dict $found) }}
{{- $_ := set .Values "generatedApiKey" (empty $kept | ternary (printf "og_%s" (randAlphaNum 43)) (b64dec $kept)) }}
{{- end }}
{{- .Values.generatedApiKey }}
{{- end }}

{{/* What the server reads: the name and the hash, never the key. */}}
{{- define "oodguard.keyLines" -}}
{{ .Values.keys.name }}:{{ include "oodguard.apiKey" . | sha256sum }}
{{- end }}

{{/* Pods roll when the keys change under an upgrade; between upgrades the server reads the mounted file again. */}}
{{- define "oodguard.keyChecksum" -}}
{{- if eq .Values.keys.mode "generate" }}
{{- include "oodguard.keyLines" . | sha256sum }}
{{- else }}
{{- $found := lookup "v1" "Secret" .Release.Namespace .Values.keys.existing.secret }}
{{- dig "data" (dict) (default dict $found) | toJson | sha256sum }}
{{- end }}
{{- end }}

{{- define "oodguard.bundlePath" -}}
{{- if has .Values.bundle.source (list "baked") }}{{ .Values.bundle.path }}
{{- else if eq .Values.bundle.source "pvc" }}{{ clean (printf "/bundles/%s/%s" .Values.bundle.path .Values.bundle.pvc.release) }}
{{- else }}/bundles/current{{ end }}
{{- end }}

{{- define "oodguard.shadowPath" -}}
{{- with .Values.shadow.bundle }}
{{- if eq .source "baked" }}{{ .path }}
{{- else if eq .source "pvc" }}{{ clean (printf "/shadow/%s/%s" .path .pvc.release) }}
{{- else }}/shadow/current{{ end }}
{{- end }}
{{- end }}

{{- define "oodguard.tritonRepositoryPath" -}}
{{- with .Values.triton.repository }}
{{- if eq .source "baked" }}{{ .path }}
{{- else if eq .source "pvc" }}{{ clean (printf "/repository/%s" .path) }}
{{- else }}/repository/current{{ end }}
{{- end }}
{{- end }}

{{/* The addresses of Triton that the gateway is given. */}}
{{- define "oodguard.tritonAddresses" -}}
{{- $port := .Values.triton.ports.grpc }}
{{- if eq .Values.triton.mode "sidecar" -}}
127.0.0.1:{{ $port }}
{{- else }}
{{- $name := include "oodguard.fullname" . }}
{{- $addresses := list }}
{{- range $index := until (int .Values.triton.replicas) }}
{{- $addresses = append $addresses (printf "%s-triton-%d:%v" $name $index $port) }}
{{- end }}
{{- join "," $addresses }}
{{- end }}
{{- end }}

{{/* Files from somewhere: volume, mount and init container. Call with
     (dict "root" $ "spec" .Values.bundle "volume" "bundle" "folder" "/bundles"). */}}
{{- define "oodguard.files.volume" -}}
{{- $spec := .spec }}
{{- if eq $spec.source "pvc" }}
- name: {{ .volume }}
  persistentVolumeClaim:
    claimName: {{ $spec.pvc.claim }}
    readOnly: true
{{- else if and (eq $spec.source "image") (eq $spec.image.mount "volume") }}
- name: {{ .volume }}
  image:
    reference: {{ $spec.image.reference | quote }}
    pullPolicy: {{ $spec.image.pullPolicy }}
{{- else if ne $spec.source "baked" }}
- name: {{ .volume }}
  emptyDir:
    sizeLimit: {{ $spec.sizeLimit }}
{{- end }}
{{- end }}

{{- define "oodguard.files.mount" -}}
{{- $spec := .spec }}
{{- if ne $spec.source "baked" }}
- name: {{ .volume }}
  {{- if and (eq $spec.source "image") (eq $spec.image.mount "volume") }}
  mountPath: {{ .folder }}/current
  {{- with trimAll "/" $spec.path }}
  subPath: {{ . }}
  {{- end }}
  {{- else }}
  # The folder above, so that a bundle that is replaced by renaming is seen.
  mountPath: {{ .folder }}
  {{- end }}
  readOnly: true
{{- end }}
{{- end }}

{{- define "oodguard.files.init" -}}
{{- $spec := .spec }}
{{- $copied := and (eq $spec.source "image") (eq $spec.image.mount "copy") }}
{{- if or $copied (eq $spec.source "objectStorage") }}
- name: fetch-{{ .volume }}
  {{- if $copied }}
  image: {{ $spec.image.reference | quote }}
  imagePullPolicy: {{ $spec.image.pullPolicy }}
  command: [cp, -R, {{ printf "%s/." (trimSuffix "/" $spec.path) | quote }}, {{ .folder }}/current]
  {{- else }}
  {{- $store := $spec.objectStorage }}
  {{- $scheme := regexReplaceAll "://.*$" $store.url "" }}
  {{- $where := regexReplaceAll "^[a-z0-9]+://" $store.url "" }}
  image: {{ printf "%s:%s" $store.image.repository $store.image.tag | quote }}
  imagePullPolicy: {{ $store.image.pullPolicy }}
  {{- $backend := get (dict "s3" "s3" "gs" "gcs" "az" "azureblob") $scheme }}
  command: [rclone, copy, --config=, --cache-dir=/tmp, --transfers=8, {{ printf ":%s:%s" $backend $where | quote }}, {{ .folder }}/current]
  env:
    - name: {{ printf "RCLONE_%s_ENV_AUTH" (upper $backend) }}
      value: "true"
    {{- if eq $scheme "s3" }}
    - name: RCLONE_S3_PROVIDER
      value: {{ ternary "Other" "AWS" (not (empty $store.endpoint)) }}
    {{- with $store.endpoint }}
    - name: RCLONE_S3_ENDPOINT
      value: {{ . | quote }}
    {{- end }}
    {{- with $store.region }}
    - name: RCLONE_S3_REGION
      value: {{ . | quote }}
    {{- end }}
    {{- else if eq $scheme "az" }}
    - name: RCLONE_AZUREBLOB_ACCOUNT
      value: {{ $store.account | quote }}
    {{- end }}
  {{- with $store.credentialsSecret }}
  envFrom:
    - secretRef: {name: {{ . }}}
  {{- end }}
  {{- end }}
  securityContext:
    {{- toYaml .root.Values.securityContext | nindent 4 }}
  resources:
    {{- toYaml $spec.resources | nindent 4 }}
  volumeMounts:
    - {name: {{ .volume }}, mountPath: {{ .folder }}}
    - {name: tmp, mountPath: /tmp}
{{- end }}
{{- end }}

{{/* Triton's container; as a native sidecar it starts before the gateway and ends after it. */}}
{{- define "oodguard.tritonContainer" -}}
{{- $triton := .Values.triton -}}
- name: triton
  image: {{ printf "%s:%s" $triton.image.repository $triton.image.tag | quote }}
  imagePullPolicy: {{ $triton.image.pullPolicy }}
  {{- if eq $triton.mode "sidecar" }}
  restartPolicy: Always
  {{- end }}
  command: [tritonserver]
  args:
    - --model-repository={{ include "oodguard.tritonRepositoryPath" . }}
    - --http-port={{ $triton.ports.http }}
    - --grpc-port={{ $triton.ports.grpc }}
    - --metrics-port={{ $triton.ports.metrics }}
    {{- if eq $triton.mode "sidecar" }}
    # Only the gateway beside it may ask; the kubelet's probes come from outside, so HTTP stays open.
    - --grpc-address=127.0.0.1
    {{- end }}
    - --exit-timeout-secs={{ $triton.drainSeconds }}
    {{- range $triton.extraArgs }}
    - {{ . | quote }}
    {{- end }}
  {{- with $triton.extraEnv }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - {name: triton-http, containerPort: {{ $triton.ports.http }}}
    - {name: triton-grpc, containerPort: {{ $triton.ports.grpc }}}
    - {name: triton-metrics, containerPort: {{ $triton.ports.metrics }}}
  startupProbe:
    httpGet: {path: /v2/health/ready, port: triton-http}
    periodSeconds: 2
    timeoutSeconds: 3
    failureThreshold: {{ div (add $triton.startupSeconds 1) 2 }}
  livenessProbe:
    httpGet: {path: /v2/health/live, port: triton-http}
    periodSeconds: 10
    failureThreshold: 3
    timeoutSeconds: 3
  readinessProbe:
    httpGet: {path: /v2/health/ready, port: triton-http}
    periodSeconds: 5
    timeoutSeconds: 3
  securityContext:
    {{- toYaml .Values.securityContext | nindent 4 }}
  resources:
    {{- $resources := deepCopy $triton.resources }}
    {{- if $triton.gpu.enabled }}
    {{- $gpus := dict $triton.gpu.resource (int $triton.gpu.count) }}
    {{- $_ := set $resources "limits" (merge (dict) $gpus (default dict $resources.limits)) }}
    {{- end }}
    {{- toYaml $resources | nindent 4 }}
  volumeMounts:
    {{- with include "oodguard.files.mount" (dict "root" . "spec" $triton.repository "volume" "repository" "folder" "/repository") | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    - {name: triton-tmp, mountPath: /tmp}
    - {name: triton-shm, mountPath: /dev/shm}
{{- end }}

{{- define "oodguard.tritonVolumes" -}}
{{- include "oodguard.files.volume" (dict "root" . "spec" .Values.triton.repository "volume" "repository" "folder" "/repository") }}
- name: triton-tmp
  emptyDir: {sizeLimit: 1Gi}
- name: triton-shm
  emptyDir: {medium: Memory, sizeLimit: {{ .Values.triton.sharedMemory }}}
{{- end }}

{{/* The server's environment; its checksum rolls the pods. */}}
{{- define "oodguard.environment" -}}
# ONNX Runtime would otherwise report to its maker.
ORT_DISABLE_TELEMETRY: "1"
OODGUARD_SERVE_BUNDLE: {{ include "oodguard.bundlePath" . | quote }}
OODGUARD_SERVE_HOST: {{ .Values.listenAddress | quote }}
OODGUARD_SERVE_PORT: {{ .Values.ports.http | quote }}
OODGUARD_SERVE_ADMIN_HOST: {{ .Values.listenAddress | quote }}
OODGUARD_SERVE_ADMIN_PORT: {{ .Values.ports.admin | quote }}
{{- if .Values.grpc.enabled }}
OODGUARD_SERVE_GRPC_PORT: {{ .Values.ports.grpc | quote }}
{{- end }}
{{- if eq .Values.keys.mode "none" }}
OODGUARD_SERVE_AUTH: none
{{- else }}
OODGUARD_SERVE_AUTH: keys
OODGUARD_SERVE_KEY_FILE: /etc/oodguard/keys/keys
{{- end }}
{{- if .Values.tls.secret }}
OODGUARD_SERVE_TLS_CERT: /etc/oodguard/tls/tls.crt
OODGUARD_SERVE_TLS_KEY: /etc/oodguard/tls/tls.key
{{- if .Values.tls.clientCertificates }}
OODGUARD_SERVE_TLS_CA: /etc/oodguard/tls/ca.crt
{{- end }}
{{- end }}
{{- if ne .Values.triton.mode "none" }}
OODGUARD_SERVE_ENGINE: triton
OODGUARD_SERVE_TRITON_URL: {{ include "oodguard.tritonAddresses" . | quote }}
{{- end }}
{{- if and .Values.gpu.enabled (not (hasKey .Values.settings "device")) }}
# Rather not start than be slow without a word.
OODGUARD_SERVE_DEVICE: cuda
{{- end }}
{{- if not (hasKey .Values.settings "drain_delay") }}
# As long as load balancers may take to see that a pod has left.
OODGUARD_SERVE_DRAIN_DELAY: {{ include "oodguard.setting" (list . "drain_delay") | quote }}
{{- end }}
{{- if .Values.shadow.enabled }}
OODGUARD_SERVE_SHADOW: {{ include "oodguard.shadowPath" . | quote }}
OODGUARD_SERVE_SHADOW_SHARE: {{ .Values.shadow.share | quote }}
{{- end }}
{{- if .Values.sampleDir.claim }}
OODGUARD_SERVE_SAMPLE_DIR: {{ clean (printf "/var/lib/oodguard/flagged/%s" .Values.sampleDir.path) | quote }}
{{- end }}
{{- with .Values.sampleWebhook.url }}
OODGUARD_SERVE_SAMPLE_WEBHOOK: {{ . | quote }}
OODGUARD_SERVE_SAMPLE_WEBHOOK_SECRET: /etc/oodguard/webhook/secret
{{- end }}
{{- range $name, $value := .Values.settings }}
{{- if not (kindIs "invalid" $value) }}
{{- /* Numbers of YAML are floats here: 268435456 would be printed as 2.68435456e+08. */}}
OODGUARD_SERVE_{{ upper $name }}: {{ (and (kindIs "float64" $value) (eq (floor $value) $value)) | ternary (printf "%.0f" (float64 (default 0 $value))) (toString $value) | quote }}
{{- end }}
{{- end }}
{{- end }}
