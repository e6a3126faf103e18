{{- define "portolan.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Short enough for what Kubernetes appends to the names of pods and of their revisions. */}}
{{- define "portolan.fullname" -}}
{{- $name := include "portolan.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Of everything. */}}
{{- define "portolan.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "portolan.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Of the pods of one component, and of nothing else; they never change. */}}
{{- define "portolan.of" -}}
app.kubernetes.io/name: {{ include "portolan.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "portolan.nodeLabels" -}}
{{- include "portolan.of" (dict "root" . "component" "node") }}
{{- end }}

{{- define "portolan.formLabels" -}}
{{- include "portolan.of" (dict "root" . "component" "form") }}
{{- end }}

{{- define "portolan.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Behind the name of a pod: the rest of its name in the DNS. */}}
{{- define "portolan.domain" -}}
{{- printf "%s-nodes.%s.svc.%s" (include "portolan.fullname" .) .Release.Namespace .Values.clusterDomain }}
{{- end }}

{{- define "portolan.nodePrefix" -}}
{{- default (printf "%s-node-" (include "portolan.fullname" .)) .Values.secrets.nodePrefix }}
{{- end }}

{{- define "portolan.operatorSecret" -}}
{{- default (printf "%s-operator" (include "portolan.fullname" .)) .Values.secrets.operator }}
{{- end }}

{{- define "portolan.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "portolan.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "portolan.isS3" -}}
{{- if eq (dig "blobs" "driver" "fs" .Values.settings) "s3" }}true{{ end }}
{{- end }}

{{/* A value of portolan.toml: what is JSON is TOML, but for numbers, which Helm holds as floats. */}}
{{- define "portolan.tomlValue" -}}
{{- if or (kindIs "float64" .) (kindIs "int64" .) (kindIs "int" .) }}
{{- int64 . }}
{{- else }}
{{- toJson . }}
{{- end }}
{{- end }}

{{/* What the chart sets in portolan.toml. What differs between pods stands in their environment, which wins. */}}
{{- define "portolan.ownSettings" -}}
node:
  data_dir: /data/portolan
  region: {{ .Values.region.name | quote }}
  region_number: {{ .Values.region.number }}
  {{- if eq .Values.zone.from "label" }}
  # no name of a zone: a pod whose environment has none is refused, and this is what it says
  zone: the pod has no label {{ .Values.zone.topologyKey }}
  {{- end }}
listen:
  public: {{ printf "%s:7400" .Values.listenAddress | quote }}
  raft: {{ printf "%s:7401" .Values.listenAddress | quote }}
  blob: {{ printf "%s:7402" .Values.listenAddress | quote }}
  admin: {{ printf "%s:7403" .Values.listenAddress | quote }}
  {{- if .Values.region.listener.enabled }}
  region: {{ printf "%s:7404" .Values.listenAddress | quote }}
  {{- end }}
  {{- if .Values.public.insecure }}
  public_insecure: true
  {{- end }}
cluster: { ca: /certs/ca.pem, cert: /certs/node.pem, key: /certs/node.key }
tls: { cert: /certs/tls.pem, key: /certs/tls.key }
auth: { root_key_file: /certs/root-key }
http: { drain_timeout: {{ .Values.drainSeconds }}s }
{{- if .Values.persistence.log.enabled }}
raft: { dir: /log/raft }
{{- end }}
{{- if include "portolan.isS3" . }}
s3: { secret_key_file: /s3/secret-key }
{{- end }}
{{- end }}

{{- define "portolan.toml" -}}
{{- $own := fromYaml (include "portolan.ownSettings" .) }}
{{- range $section, $keys := mergeOverwrite (deepCopy .Values.settings) $own }}
{{- if $keys }}
[{{ $section }}]
{{- range $key, $value := $keys }}
{{ $key }} = {{ include "portolan.tomlValue" $value }}
{{- end }}
{{ end }}
{{- end }}
{{- end }}

{{- define "portolan.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
# a volume with many blobs is not walked through at every start
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "portolan.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{- define "portolan.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}
