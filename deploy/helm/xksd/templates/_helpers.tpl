{{- define "xksd.name" -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "xksd.selector" -}}
app.kubernetes.io/name: xksd
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "xksd.labels" -}}
{{ include "xksd.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "xksd.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- /* A file of the ConfigMap, by the path that it gets: a key may have no slash. */ -}}
{{- define "xksd.key" -}}
{{- . | replace "/" "." -}}
{{- end -}}

{{- /* Whether the service is a Network Load Balancer. */ -}}
{{- define "xksd.nlb" -}}
{{- if and (eq .Values.service.type "LoadBalancer") .Values.service.nlb.enabled -}}
{{- if not .Values.service.nlb.subnets -}}
{{- fail "service.nlb.subnets: name the networks of the load balancer's subnets, as 10.0.1.0/24" -}}
{{- end -}}
yes
{{- end -}}
{{- end -}}
