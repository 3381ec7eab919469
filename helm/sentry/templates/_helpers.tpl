{{- define "sentry.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "sentry.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "sentry.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "sentry.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What the pods are found by: it cannot change after the installation. */}}
{{- define "sentry.selector" -}}
app.kubernetes.io/name: {{ include "sentry.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sentry.labels" -}}
{{ include "sentry.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "sentry.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "sentry.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "sentry.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{- define "sentry.configMapName" -}}
{{ .Values.existingConfigMap | default (include "sentry.fullname" .) }}
{{- end -}}

{{/* The Secret with the credentials; empty where there is none. */}}
{{- define "sentry.secretName" -}}
{{- if .Values.secret.existingSecret -}}
{{ .Values.secret.existingSecret }}
{{- else if .Values.secret.data -}}
{{ include "sentry.fullname" . }}
{{- end -}}
{{- end -}}

{{/* Whether the pod uses the API of its own cluster with a token of its own; empty where not. */}}
{{- define "sentry.inCluster" -}}
{{- if and .Values.kubernetes.enabled (not (.Values.config.kubernetes | default dict).kubeconfig) -}}
yes
{{- end -}}
{{- end -}}

{{/* The namespaces in which commands may create PipelineRuns, separated by commas. */}}
{{- define "sentry.namespaces" -}}
{{- $configured := (.Values.config.kubernetes | default dict).namespaces -}}
{{- .Values.rbac.namespaces | default $configured | default (list .Release.Namespace) | uniq | join "," -}}
{{- end -}}

{{/* What config.kubernetes.jobs says, which goes before what the chart would say. */}}
{{- define "sentry.jobsGiven" -}}
{{- ((.Values.config.kubernetes | default dict).jobs | default dict) | toJson -}}
{{- end -}}

{{/* Where Jobs are. */}}
{{- define "sentry.jobsNamespace" -}}
{{- (include "sentry.jobsGiven" . | fromJson).namespace | default .Values.jobs.namespace.name | default (printf "%s-jobs" (trunc 58 .Release.Namespace)) -}}
{{- end -}}

{{/* As whom the commands in Jobs reach the cluster. */}}
{{- define "sentry.runnerName" -}}
{{- (include "sentry.jobsGiven" . | fromJson).service_account | default .Values.jobs.serviceAccount.name | default (printf "%s-runner" (include "sentry.fullname" .)) -}}
{{- end -}}

{{/* All service accounts that Jobs have, separated by commas: repositories may name their own. */}}
{{- define "sentry.runners" -}}
{{- $names := list (include "sentry.runnerName" .) -}}
{{- range .Values.config.repositories -}}
{{- with ((.deploy | default dict).job | default dict).service_account -}}
{{- $names = append $names . -}}
{{- end -}}
{{- end -}}
{{- $names | uniq | join "," -}}
{{- end -}}

{{/* What the chart puts under the configuration. Commands beside Sentry have its rights, so that they are kept to the namespaces in which they may create PipelineRuns. */}}
{{- define "sentry.jobsConfig" -}}
kubernetes:
  namespaces: {{ include "sentry.namespaces" . | splitList "," | toJson }}
  jobs:
    namespace: {{ include "sentry.jobsNamespace" . }}
    image: {{ include "sentry.image" . }}
    image_pull_policy: {{ .Values.image.pullPolicy }}
    {{- with .Values.imagePullSecrets }}
    image_pull_secrets:
      {{- range . }}
      - {{ .name }}
      {{- end }}
    {{- end }}
    service_account: {{ include "sentry.runnerName" . }}
{{- end -}}

{{/* Whether anything in the configuration is to run in Jobs; empty where not. */}}
{{- define "sentry.wantsJobs" -}}
{{- range .Values.config.groups -}}
{{- if eq "kubernetes" ((. | default dict).executor | default "" | toString) }}yes{{ end -}}
{{- end -}}
{{- range .Values.config.repositories -}}
{{- if eq "kubernetes" ((.deploy | default dict).executor | default "" | toString) }}yes{{ end -}}
{{- end -}}
{{- end -}}

{{/* Whether a repository has no commands, so that Sentry itself creates its PipelineRuns; empty where not. */}}
{{- define "sentry.createsRuns" -}}
{{- range .Values.config.repositories -}}
{{- if not (.deploy | default dict).commands }}yes{{ end -}}
{{- end -}}
{{- end -}}

{{/* The port of config.global.listen; empty where nobody outside of the pod reaches it. */}}
{{- define "sentry.port" -}}
{{- if not .Values.existingConfigMap -}}
{{- $listen := (.Values.config.global).listen | default "" | toString -}}
{{- if not (regexMatch "^(127\\.[0-9.]*|localhost|\\[::1\\]):" $listen) -}}
{{- regexFind "[1-9][0-9]*$" (regexFind ":[0-9]+$" $listen) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* How the pod says that it is alive. Both ways end in the same handler, which asks nobody else. */}}
{{- define "sentry.probe" -}}
{{- if include "sentry.port" . -}}
httpGet: {path: /healthz, port: http}
{{- else -}}
exec:
  command: [curl, --silent, --fail, --max-time, "4", --unix-socket, /var/lib/sentry/sentry/sentry.sock, "http://sentry/healthz"]
{{- end -}}
{{- end -}}

{{/* The seconds of a duration as the configuration has it: 10, 10s, 1m30s. Rounded up. */}}
{{- define "sentry.seconds" -}}
{{- if regexMatch "^[0-9.]+$" (toString .) -}}
{{- ceil (toString . | float64) | int -}}
{{- else -}}
{{- $units := dict "h" 3600.0 "m" 60.0 "s" 1.0 "ms" 0.001 "us" 0.000001 "µs" 0.000001 "ns" 0.000000001 -}}
{{- $sum := 0.0 -}}
{{- range regexFindAll "[0-9.]+[a-zµ]+" (toString .) -1 -}}
{{- $sum = addf $sum (mulf (regexFind "^[0-9.]+" . | float64) (get $units (regexFind "[a-zµ]+$" .) | default 0.0)) -}}
{{- end -}}
{{- ceil $sum | int -}}
{{- end -}}
{{- end -}}

{{- define "sentry.gracePeriod" -}}
{{- $grace := 10 -}}
{{- if hasKey (.Values.config.global | default dict) "grace" -}}
{{- $grace = include "sentry.seconds" .Values.config.global.grace | int -}}
{{- end -}}
{{- $least := mul 2 $grace -}}
{{- $given := int .Values.terminationGracePeriodSeconds -}}
{{- if not $given -}}
{{ add $least 25 }}
{{- else if le $given $least -}}
{{- fail (printf "terminationGracePeriodSeconds is %d: Sentry would be killed while its commands are being ended. It first lets them run for config.global.grace (%d seconds), and then gives them as long again to end: choose more than %d, or 0 to have it computed" $given $grace $least) -}}
{{- else -}}
{{ $given }}
{{- end -}}
{{- end -}}

{{/*
Whole numbers of the values come as floating point, which YAML would show as 1e+06. This puts what is at .in, with whole
numbers, at .out.value: templates give back nothing but text.
*/}}
{{- define "sentry.whole" -}}
{{- $in := .in -}}
{{- $out := .out -}}
{{- if kindIs "map" $in -}}
{{- $copy := dict -}}
{{- range $key, $value := $in -}}
{{- $one := dict -}}
{{- include "sentry.whole" (dict "in" $value "out" $one) -}}
{{- $_ := set $copy $key (get $one "value") -}}
{{- end -}}
{{- $_ := set $out "value" $copy -}}
{{- else if kindIs "slice" $in -}}
{{- $copy := list -}}
{{- range $value := $in -}}
{{- $one := dict -}}
{{- include "sentry.whole" (dict "in" $value "out" $one) -}}
{{- $copy = append $copy (get $one "value") -}}
{{- end -}}
{{- $_ := set $out "value" $copy -}}
{{- else if and (kindIs "float64" $in) (eq (floor $in) $in) -}}
{{- $_ := set $out "value" (int64 $in) -}}
{{- else -}}
{{- $_ := set $out "value" $in -}}
{{- end -}}
{{- end -}}

{{/* What cannot work is refused here, with what would. */}}
{{- define "sentry.refuse" -}}
{{- if ne (int .Values.replicas) 1 -}}
{{- fail (printf "replicas is %d, and only 1 is possible: each Sentry has its own state, so two of them would roll every change out twice. To watch more, give one Sentry more resources, or install the chart again with other repositories" (int .Values.replicas)) -}}
{{- end -}}
{{- if and .Values.secret.existingSecret .Values.secret.data -}}
{{- fail "secret.existingSecret and secret.data are both given: the chart uses a Secret of yours, or makes one. Choose one of them" -}}
{{- end -}}
{{- if and .Values.secret.env (not (include "sentry.secretName" .)) -}}
{{- fail "secret.env needs a Secret: name one in secret.existingSecret, or fill secret.data" -}}
{{- end -}}
{{- if and (or .Values.ingress.enabled .Values.serviceMonitor.enabled) (not (include "sentry.port" .)) -}}
{{- fail "ingress and serviceMonitor need an address that others reach: config.global.listen: 0.0.0.0:8080" -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled (ne ((.Values.config.global).metrics | default "local") "open") -}}
{{- fail "serviceMonitor needs config.global.metrics: open, since Prometheus asks from another pod. networkPolicy.ingressFrom says who else can" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
{{- fail "ingress.host is missing: the name by which forges reach Sentry, such as sentry.example.com" -}}
{{- end -}}
{{- if .Values.jobs.enabled -}}
{{- if not (include "sentry.inCluster" .) -}}
{{- fail "jobs.enabled makes Jobs in the cluster that Sentry runs in: set kubernetes.enabled, and leave config.kubernetes.kubeconfig out. For another cluster, config.kubernetes.jobs says how they look, and the rights are to be made there" -}}
{{- end -}}
{{- $namespace := include "sentry.jobsNamespace" . -}}
{{- if has $namespace (prepend (splitList "," (include "sentry.namespaces" .)) .Release.Namespace) -}}
{{- fail (printf "jobs.namespace.name is %s, where Sentry is or commands create PipelineRuns: whoever may make Jobs in a namespace may use every service account and Secret of it. Give Jobs a namespace of their own" $namespace) -}}
{{- end -}}
{{- else if and (include "sentry.wantsJobs" .) (not (include "sentry.jobsGiven" . | fromJson).image) -}}
{{- fail "config has executor: kubernetes. Set jobs.enabled, which gives Sentry the rights for it and names its image; or make the rights yourself, and give config.kubernetes.jobs.image" -}}
{{- end -}}
{{- if and (include "sentry.createsRuns" .) (not .Values.kubernetes.enabled) (not (kindIs "map" .Values.config.kubernetes)) -}}
{{- fail "config has a repository without commands, whose PipelineRuns Sentry creates itself, and no cluster for them: set kubernetes.enabled for the one that Sentry runs in, or config.kubernetes.kubeconfig for another, or give the repository commands" -}}
{{- end -}}
{{- range .Values.rbac.extraRules -}}
{{- if or (has "*" .verbs) (has "*" (.resources | default list)) (has "*" (.apiGroups | default list)) -}}
{{- fail "rbac.extraRules contains \"*\": name the verbs, resources and groups that the commands need. Whatever is allowed there, every command may do" -}}
{{- end -}}
{{- end -}}
{{- end -}}
