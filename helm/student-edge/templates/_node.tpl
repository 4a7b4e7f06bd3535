{{- /* The spec of a node pod, once: the DaemonSet holds it, and its hash tells the controller when it changed. */}}
{{- define "student-edge.nodePod" -}}
{{- $feedback := .Values.feedback -}}
{{- $feedbackCa := and $feedback.target $feedback.caConfigMap -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with include "student-edge.pullSecret" . }}
{{ . }}
{{- end }}
terminationGracePeriodSeconds: 20
securityContext: {{- include "student-edge.podSecurity" . | nindent 2 }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: node
    image: {{ include "student-edge.image" . | quote }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args:
      - edge.node
      - {{ printf "--releases=%s" .Values.releases.url | quote }}
      {{- if .Values.releases.caConfigMap }}
      - --ca=/etc/edgedistill/ca/origin.crt
      {{- end }}
      - --root=/etc/edgedistill/trust/root.json
      - --state=/var/lib/edgedistill
      - {{ printf "--name=%s" .Values.release.name | quote }}
      - --version-file=/etc/edgedistill/assignment/$(NODE_NAME)
      - --node-name=$(NODE_NAME)
      - --poll-s={{ include "student-edge.number" .Values.node.pollSeconds }}
      - --probation-s={{ include "student-edge.number" .Values.node.probationSeconds }}
      - --update-memory-mb={{ .Values.node.updateMemory | int64 }}
      - --listen=0.0.0.0
      {{- with .Values.access }}
      {{- if .tokenSecret }}
      - --token-file=/etc/edgedistill/access/token
      {{- end }}
      {{- if .tlsSecret }}
      - --tls-cert=/etc/edgedistill/access/tls.crt
      - --tls-key=/etc/edgedistill/access/tls.key
      {{- end }}
      {{- if not (and .tokenSecret .tlsSecret) }}
      # Who reaches the pods is the network policies' to say.
      - --trust-network
      {{- end }}
      {{- end }}
      {{- if $feedback.target }}
      - {{ printf "--feedback=%s" $feedback.target | quote }}
      - --feedback-margin={{ include "student-edge.number" $feedback.margin }}
      - --feedback-per-day={{ $feedback.perDay | int64 }}
      - --feedback-every-s={{ include "student-edge.number" $feedback.everySeconds }}
      {{- end }}
      {{- with .Values.drift.limit }}
      - --drift-limit={{ include "student-edge.number" . }}
      {{- end }}
    env:
      - name: NODE_NAME
        valueFrom: { fieldRef: { fieldPath: spec.nodeName } }
      {{- if $feedback.target }}
      - { name: EDGEDISTILL_FEEDBACK_ENDPOINT, value: {{ $feedback.endpoint | quote }} }
      - { name: EDGEDISTILL_FEEDBACK_REGION, value: {{ $feedback.region | quote }} }
      - name: EDGEDISTILL_FEEDBACK_ACCESS_KEY
        valueFrom: { secretKeyRef: { name: {{ quote $feedback.credentialsSecret }}, key: access-key } }
      - name: EDGEDISTILL_FEEDBACK_SECRET_KEY
        valueFrom: { secretKeyRef: { name: {{ quote $feedback.credentialsSecret }}, key: secret-key } }
      {{- if $feedbackCa }}
      - { name: EDGEDISTILL_FEEDBACK_CA, value: /etc/edgedistill/ca/feedback.crt }
      {{- end }}
      {{- end }}
    ports:
      - { name: http, containerPort: 8080 }
      - { name: grpc, containerPort: 8081 }
    {{- $scheme := .Values.access.tlsSecret | empty | ternary "HTTP" "HTTPS" }}
    # Compiling a student on a slow machine takes its time, and a start that was ended counts against its release.
    startupProbe:
      httpGet: { path: /v2/health/live, port: http, scheme: {{ $scheme }} }
      periodSeconds: 2
      timeoutSeconds: 5
      failureThreshold: 300
    livenessProbe:
      httpGet: { path: /v2/health/live, port: http, scheme: {{ $scheme }} }
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 6
    readinessProbe:
      httpGet: { path: /v2/health/ready, port: http, scheme: {{ $scheme }} }
      periodSeconds: 5
      timeoutSeconds: 5
    resources: {{- toYaml .Values.node.resources | nindent 6 }}
    securityContext: {{- include "student-edge.containerSecurity" . | nindent 6 }}
    volumeMounts:
      - { name: state, mountPath: /var/lib/edgedistill }
      - { name: temporary, mountPath: /tmp }
      - { name: trust, mountPath: /etc/edgedistill/trust, readOnly: true }
      - { name: assignment, mountPath: /etc/edgedistill/assignment, readOnly: true }
      {{- if .Values.access.tlsSecret }}
      - { name: access, mountPath: /etc/edgedistill/access, readOnly: true }
      {{- end }}
      {{- if or .Values.releases.caConfigMap $feedbackCa }}
      - { name: ca, mountPath: /etc/edgedistill/ca, readOnly: true }
      {{- end }}
volumes:
  {{- with .Values.node.state }}
  - name: state
    {{- if .hostPath }}
    hostPath: { path: {{ .hostPath | quote }}, type: Directory }
    {{- else }}
    # It outlives restarts of the container and of the node, not the pod's replacement.
    ephemeral:
      volumeClaimTemplate:
        spec:
          accessModes: [ReadWriteOnce]
          {{- with .storageClassName }}
          storageClassName: {{ quote . }}
          {{- end }}
          resources: { requests: { storage: {{ quote .size }} } }
    {{- end }}
  {{- end }}
  - name: temporary
    emptyDir: { sizeLimit: {{ quote .Values.node.temporarySize }} }
  - name: trust
    configMap: { name: {{ .Release.Name }}-trust }
  # Only the controller writes it; it is not there before the first rollout.
  - name: assignment
    configMap: { name: {{ .Release.Name }}-assignment, optional: true }
  {{- if .Values.access.tlsSecret }}
  - name: access
    projected:
      defaultMode: 0440 # the pod's fsGroup reads them
      sources:
        - secret: { name: {{ quote .Values.access.tlsSecret }}, items: [{ key: tls.crt, path: tls.crt }, { key: tls.key, path: tls.key }] }
        {{- with .Values.access.tokenSecret }}
        - secret: { name: {{ quote . }}, items: [{ key: token, path: token }] }
        {{- end }}
  {{- end }}
  {{- if or .Values.releases.caConfigMap $feedbackCa }}
  - name: ca
    projected:
      sources:
        {{- with .Values.releases.caConfigMap }}
        - configMap: { name: {{ quote . }}, items: [{ key: ca.crt, path: origin.crt }] }
        {{- end }}
        {{- with $feedbackCa }}
        - configMap: { name: {{ quote . }}, items: [{ key: ca.crt, path: feedback.crt }] }
        {{- end }}
  {{- end }}
{{- end }}
