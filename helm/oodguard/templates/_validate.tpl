{{/* Values that contradict each other: the chart renders nothing and prints one sentence for each contradiction. */}}
{{- define "oodguard.validate" -}}
{{- $v := .Values }}
{{- $problems := list }}

{{- if not $v.enabled }}
{{- $problems = append $problems "enabled is false, which only the condition of a parent chart reads; run helm uninstall to remove the release" }}
{{- end }}

{{- $sources := dict "bundle" $v.bundle }}
{{- if ne $v.triton.mode "none" }}
{{- $_ := set $sources "triton.repository" $v.triton.repository }}
{{- end }}
{{- if $v.shadow.enabled }}
{{- $_ := set $sources "shadow.bundle" $v.shadow.bundle }}
{{- else if or $v.shadow.bundle.image.reference $v.shadow.bundle.pvc.claim $v.shadow.bundle.objectStorage.url }}
{{- $problems = append $problems "shadow.bundle names a bundle, but shadow.enabled is false; set it to true" }}
{{- end }}
{{- range $name, $spec := $sources }}
{{- if and (eq $spec.source "image") (not $spec.image.reference) }}
{{- $problems = append $problems (printf "%s.source is image; name the image that holds it in %s.image.reference, or choose another source" $name $name) }}
{{- end }}
{{- if and (eq $spec.source "pvc") (not $spec.pvc.claim) }}
{{- $problems = append $problems (printf "%s.source is pvc; name the claim in %s.pvc.claim" $name $name) }}
{{- end }}
{{- if and (eq $spec.source "objectStorage") (not (regexMatch "^(s3|gs|az)://[^/]+/.+" $spec.objectStorage.url)) }}
{{- $problems = append $problems (printf "%s.source is objectStorage; %s.objectStorage.url must be s3://bucket/folder, gs://bucket/folder or az://container/folder" $name $name) }}
{{- end }}
{{- if and (eq $spec.source "objectStorage") (hasPrefix "az://" $spec.objectStorage.url) (not $spec.objectStorage.account) }}
{{- $problems = append $problems (printf "%s.objectStorage.url is az://; name the storage account in %s.objectStorage.account" $name $name) }}
{{- end }}
{{- if and (ne $spec.source "image") $spec.image.reference }}
{{- $problems = append $problems (printf "%s.image.reference is set, but %s.source is %s; change one of them" $name $name $spec.source) }}
{{- end }}
{{- if and (ne $spec.source "pvc") $spec.pvc.claim }}
{{- $problems = append $problems (printf "%s.pvc.claim is set, but %s.source is %s; change one of them" $name $name $spec.source) }}
{{- end }}
{{- if and (ne $spec.source "objectStorage") $spec.objectStorage.url }}
{{- $problems = append $problems (printf "%s.objectStorage.url is set, but %s.source is %s; change one of them" $name $name $spec.source) }}
{{- end }}
{{- if and (eq $spec.source "image") (eq $spec.image.mount "volume") (semverCompare "<1.35.0-0" $.Capabilities.KubeVersion.Version) }}
{{- $problems = append $problems (printf "%s.image.mount is volume, but image volumes need Kubernetes 1.35, this cluster is %s; use copy" $name $.Capabilities.KubeVersion.Version) }}
{{- end }}
{{- end }}

{{- $drain := include "oodguard.drainSeconds" . | int }}
{{- if le (include "oodguard.gracePeriod" . | int) $drain }}
{{- $problems = append $problems (printf "terminationGracePeriodSeconds is %v, but must be above drain_delay + drain_timeout = %d so that admitted requests can finish" $v.terminationGracePeriodSeconds $drain) }}
{{- end }}
{{- $unready := mul (int $v.probes.readiness.periodSeconds) (int $v.probes.readiness.failureThreshold) }}
{{- if gt (float64 $unready) (include "oodguard.setting" (list . "drain_delay") | float64) }}
{{- $problems = append $problems (printf "probes.readiness takes %d s to see that a pod drains, longer than drain_delay; raise drain_delay, or load balancers will send requests to a closed port" $unready) }}
{{- end }}

{{- $workers := include "oodguard.setting" (list . "workers") }}
{{- if eq $workers "auto" }}
{{- $problems = append $problems "settings.workers is auto, which counts the cores of the node; give a number, as memory is computed from it" }}
{{- end }}
{{- if and (ne $workers "1") (or $v.shadow.enabled (ne $v.triton.mode "none")) }}
{{- $problems = append $problems "settings.workers cannot be used with shadow.enabled or with Triton; leave it out, and raise replicaCount instead" }}
{{- end }}

{{- with dig "limits" "memory" "" $v.resources }}
{{- $needed := include "oodguard.memoryNeeded" $ | int }}
{{- if lt (include "oodguard.mebibytes" . | int) $needed }}
{{- $problems = append $problems (printf "resources.limits.memory is %v, but images that the settings allow may take %d MiB and the pod would be killed; raise it, or lower settings.max_decode_bytes or settings.max_queue_bytes" . $needed) }}
{{- end }}
{{- end }}

{{- if eq (int $v.ports.http) (int $v.ports.admin) }}
{{- $problems = append $problems "ports.http and ports.admin are the same; change one of them" }}
{{- end }}
{{- if and $v.grpc.enabled (has (int $v.ports.grpc) (list (int $v.ports.http) (int $v.ports.admin))) }}
{{- $problems = append $problems "ports.grpc is the same as ports.http or ports.admin; change it" }}
{{- end }}
{{- if and $v.grpc.enabled (eq (int $v.service.grpcPort) (int $v.service.port)) }}
{{- $problems = append $problems "service.grpcPort and service.port are the same; change one of them" }}
{{- end }}
{{- if and (eq $v.keys.mode "existing") (not $v.keys.existing.secret) }}
{{- $problems = append $problems "keys.mode is existing; name the Secret in keys.existing.secret" }}
{{- end }}
{{- if and (ne $v.keys.mode "existing") $v.keys.existing.secret }}
{{- $problems = append $problems (printf "keys.existing.secret is set, but keys.mode is %s; set keys.mode to existing" $v.keys.mode) }}
{{- end }}
{{- if and (ne $v.keys.mode "existing") $v.test.keySecret }}
{{- $problems = append $problems (printf "test.keySecret is set, but keys.mode is %s; leave it out" $v.keys.mode) }}
{{- end }}
{{- if and $v.sampleDir.path (not $v.sampleDir.claim) }}
{{- $problems = append $problems "sampleDir.path is a folder of a claim; name the claim in sampleDir.claim" }}
{{- end }}
{{- if and $v.sampleDir.claim (get $v.settings "sample_store") }}
{{- $problems = append $problems "sampleDir.claim and settings.sample_store are two places for flagged images; leave one of them out" }}
{{- end }}
{{- with get $v.settings "sample_dir" }}
{{- if $v.sampleDir.claim }}
{{- $problems = append $problems "sampleDir.claim and settings.sample_dir are two places for flagged images; leave settings.sample_dir out" }}
{{- else }}
{{- $held := false }}
{{- range $v.extraVolumeMounts }}
{{- $place := printf "%s/" (trimSuffix "/" (clean .mountPath)) }}
{{- if and (not .readOnly) (hasPrefix $place (printf "%s/" (clean $v.settings.sample_dir))) }}
{{- $held = true }}
{{- end }}
{{- end }}
{{- if not $held }}
{{- $problems = append $problems (printf "settings.sample_dir is %s, where the pod has no volume to write to; name a claim in sampleDir.claim instead, or mount a volume there with extraVolumes and extraVolumeMounts" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- if ne (empty $v.sampleWebhook.url) (empty $v.sampleWebhook.secret) }}
{{- $problems = append $problems "sampleWebhook.url and sampleWebhook.secret go together; give both or neither" }}
{{- end }}
{{- if and $v.tls.clientCertificates (not $v.tls.secret) }}
{{- $problems = append $problems "tls.clientCertificates needs tls.secret; name the Secret" }}
{{- end }}
{{- if and (eq $v.keys.mode "none") (not $v.networkPolicy.enabled) (not $v.tls.clientCertificates) }}
{{- $problems = append $problems "keys.mode is none and networkPolicy is off, so anyone in the cluster could call, and reload the bundle on the private port; keep one of them" }}
{{- end }}

{{- if ne $v.triton.mode "none" }}
{{- $ports := list (int $v.ports.http) (int $v.ports.admin) (int $v.triton.ports.http) (int $v.triton.ports.grpc) (int $v.triton.ports.metrics) }}
{{- if $v.grpc.enabled }}
{{- $ports = append $ports (int $v.ports.grpc) }}
{{- end }}
{{- if and (eq $v.triton.mode "sidecar") (lt (len (uniq $ports)) (len $ports)) }}
{{- $problems = append $problems "triton.mode is sidecar, so the gateway and Triton share the pod's ports, but two of ports.* and triton.ports.* are the same; change one of them" }}
{{- end }}
{{- if $v.gpu.enabled }}
{{- $problems = append $problems "gpu.enabled gives the gateway a GPU, but with triton.mode Triton runs the graph; use triton.gpu" }}
{{- end }}
{{- if and (eq $v.triton.mode "sidecar") (ne (int $v.triton.replicas) 1) }}
{{- $problems = append $problems "triton.replicas is for triton.mode deployment; leave it out, because each gateway pod has its own sidecar" }}
{{- end }}
{{- range $name := list "engine" "sessions" "threads" "tuning" "device" "max_batch" "max_delay" }}
{{- if hasKey $v.settings $name }}
{{- $problems = append $problems (printf "settings.%s is for a graph that the gateway runs itself, but triton.mode is %s; leave it out" $name $v.triton.mode) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and (eq $v.triton.mode "none") (eq (toString (get $v.settings "engine")) "triton") }}
{{- $problems = append $problems "settings.engine is triton; set triton.mode instead, which also starts Triton" }}
{{- end }}
{{- if and $v.gpu.enabled (eq (toString (get $v.settings "device")) "cpu") }}
{{- $problems = append $problems "gpu.enabled and settings.device cpu contradict each other; leave one of them out" }}
{{- end }}
{{- if and $v.gpu.enabled (eq (toString (get $v.settings "engine")) "openvino") }}
{{- $problems = append $problems "gpu.enabled and settings.engine openvino contradict each other, because openvino runs on the CPU only; leave one of them out" }}
{{- end }}
{{- if and (hasKey $v.settings "max_files") (gt (int $v.settings.max_files) (include "oodguard.setting" (list . "max_queue") | int)) }}
{{- $problems = append $problems "settings.max_files is larger than max_queue, so that the largest requests could never be admitted; lower settings.max_files" }}
{{- end }}

{{- if and $v.ingress.enabled (not $v.ingress.hosts) }}
{{- $problems = append $problems "ingress.enabled needs ingress.hosts; list the host names" }}
{{- end }}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) }}
{{- $problems = append $problems "httpRoute.enabled needs httpRoute.parentRefs; name the Gateway that the route belongs to" }}
{{- end }}
{{- if and (or $v.ingress.enabled $v.httpRoute.enabled) $v.networkPolicy.enabled (not $v.networkPolicy.clients) }}
{{- $problems = append $problems "an Ingress or HTTPRoute needs networkPolicy.clients; name the namespace of its controller there, or the NetworkPolicy drops its requests" }}
{{- end }}
{{- if and $v.httpRoute.backendTLS.hostname (not $v.tls.secret) }}
{{- $problems = append $problems "httpRoute.backendTLS.hostname is set, but the gateway speaks no TLS; set tls.secret" }}
{{- end }}
{{- if and $v.httpRoute.enabled $v.tls.secret (not $v.httpRoute.backendTLS.hostname) }}
{{- $problems = append $problems "tls.secret makes the gateway speak TLS; an HTTPRoute then needs httpRoute.backendTLS.hostname" }}
{{- end }}

{{- if ne $v.autoscaling.mode "none" }}
{{- if gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas) }}
{{- $problems = append $problems (printf "autoscaling.minReplicas (%d) is above autoscaling.maxReplicas (%d); change one of them" (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) }}
{{- end }}
{{- if and (eq $v.autoscaling.mode "cpu") (not (dig "requests" "cpu" "" $v.resources)) }}
{{- $problems = append $problems "autoscaling.mode is cpu, which needs resources.requests.cpu; set it, because the target is a share of it" }}
{{- end }}
{{- if and (has $v.autoscaling.mode (list "prometheusAdapter" "keda")) (ge (int $v.autoscaling.targetQueue) (include "oodguard.setting" (list . "max_queue") | int)) }}
{{- $problems = append $problems "autoscaling.targetQueue is not below max_queue, so that pods would refuse requests before new pods start; lower autoscaling.targetQueue" }}
{{- end }}
{{- end }}

{{- $pods := ternary (int $v.replicas) (int $v.autoscaling.minReplicas) (eq $v.autoscaling.mode "none") }}
{{- if and $v.podDisruptionBudget.enabled (not (kindIs "string" $v.podDisruptionBudget.maxUnavailable)) (gt $pods 1) (ge (int $v.podDisruptionBudget.maxUnavailable) $pods) }}
{{- $problems = append $problems (printf "podDisruptionBudget.maxUnavailable (%d) lets all %d pods go at once; lower it" (int $v.podDisruptionBudget.maxUnavailable) $pods) }}
{{- end }}

{{- range $v.extraEnv }}
{{- if hasPrefix "OODGUARD_SERVE_" .name }}
{{- $problems = append $problems (printf "extraEnv sets %s; put it into settings" .name) }}
{{- end }}
{{- end }}

{{- with $problems }}
{{- fail (printf "\n\noodguard: %s\n" (join "\noodguard: " .)) }}
{{- end }}
{{- end }}
