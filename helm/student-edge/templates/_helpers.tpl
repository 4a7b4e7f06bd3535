{{- define "student-edge.labels" -}}
app.kubernetes.io/name: student-edge
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "student-edge.selector" -}}
app.kubernetes.io/name: student-edge
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "student-edge.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{- define "student-edge.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "student-edge.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{- define "student-edge.target" -}}
{{- $waves := list -}}
{{- range .Values.rollout.waves -}}
{{- if .label -}}
{{- $waves = append $waves (dict "label" (list .label.key .label.value)) -}}
{{- else -}}
{{- $waves = append $waves (dict "percent" .percent) -}}
{{- end -}}
{{- end -}}
{{- $rollout := .Values.rollout -}}
{{- dict "name" .Values.release.name "version" (int .Values.release.version) "revision" .Release.Revision
    "waves" $waves "bake_s" $rollout.bakeSeconds "failure_percent" $rollout.failurePercent
    "away_percent" $rollout.awayPercent "silence_s" $rollout.silenceSeconds "deadline_s" $rollout.deadlineSeconds
    "node_selector" .Values.nodeSelector | toJson -}}
{{- end }}
