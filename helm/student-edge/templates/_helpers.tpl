{{- define "student-edge.labels" -}}
app.kubernetes.io/name: student-edge
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "student-edge.selector" -}}
app.kubernetes.io/name: student-edge
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "student-edge.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default ($.Chart.AppVersion | replace "+" "-") }}{{ end }}
{{- end -}}
{{- end }}

{{- define "student-edge.pullSecret" -}}
{{- with .Values.image.pullSecret -}}
imagePullSecrets: [{ name: {{ quote . }} }]
{{- end -}}
{{- end }}

{{- define "student-edge.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "student-edge.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{- /* The longest that the waves can take, in seconds, and two minutes for the pods to start. */}}
{{- define "student-edge.longestSeconds" -}}
{{- $each := addf .Values.rollout.deadlineSeconds .Values.rollout.bakeSeconds -}}
{{- add 120 (mulf (len .Values.rollout.waves) $each | ceil | int64) -}}
{{- end }}

{{- define "student-edge.waitSeconds" -}}
{{- .Values.rollout.waitSeconds | int64 | default (include "student-edge.longestSeconds" . | int64) -}}
{{- end }}

{{- /* A number in one form, whether it came as 1000000 or as 1e6: the hash of the pods must not see a difference. */}}
{{- define "student-edge.number" -}}
{{- float64 . | toJson -}}
{{- end }}

{{- /* Port of an http(s) address. */}}
{{- define "student-edge.port" -}}
{{- $authority := regexReplaceAll "^(https?://[^/]*).*$" . "${1}" -}}
{{- regexFind ":[0-9]+$" $authority | trimPrefix ":" | default (hasPrefix "https:" . | ternary "443" "80") -}}
{{- end }}

{{- /* Changes when the node pods have to be replaced: with their template, and with the root that they read once. */}}
{{- define "student-edge.runtime" -}}
{{- $pod := include "student-edge.nodePod" . | fromYaml -}}
{{- list $pod (fromJson .Values.trust.root) | toJson | sha256sum | trunc 12 -}}
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
    "node_selector" .Values.nodeSelector "runtime" (include "student-edge.runtime" .)
    "is_tls" (not (empty .Values.access.tlsSecret)) | toJson -}}
{{- end }}
