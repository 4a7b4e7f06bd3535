{{- /* Values that no schema can judge, or that it would refuse in words that nobody understands: one sentence each. */}}
{{- define "student-edge.check" -}}
{{- $wrong := concat (include "student-edge.wrongSources" . | fromJsonArray)
    (include "student-edge.wrongRollout" . | fromJsonArray) (include "student-edge.wrongAccess" . | fromJsonArray)
    (include "student-edge.wrongFeedback" . | fromJsonArray) -}}
{{- if $wrong }}{{ fail (printf "\n\n%s\n" (join "\n" $wrong)) }}{{ end -}}
{{- end }}

{{- define "student-edge.wrongSources" -}}
{{- $wrong := list -}}
{{- $help := "give the public 1.root.json of your releases: --set-file trust.root=1.root.json" -}}
{{- $root := .Values.trust.root | fromJson -}}
{{- if not .Values.trust.root -}}
{{- $wrong = append $wrong (printf "trust.root is empty: the nodes would have nobody to believe; %s" $help) -}}
{{- else if contains "PRIVATE KEY" .Values.trust.root -}}
{{- $wrong = append $wrong (printf "trust.root holds a private key, which belongs to no cluster; %s, and replace that key if others saw it" $help) -}}
{{- else if not (and $root.signatures (kindIs "map" $root.signed)) -}}
{{- $wrong = append $wrong (printf "trust.root is no root of signed releases: expected JSON with \"signatures\" and a \"signed\" part; %s" $help) -}}
{{- else if not (and (eq "root" (toString $root.signed._type)) $root.signed.keys) -}}
{{- $wrong = append $wrong (printf "trust.root is signed, but no root with keys: its _type is %q; %s" (toString $root.signed._type) $help) -}}
{{- end -}}
{{- if regexMatch "^[a-z]+://[^/]*@" .Values.releases.url -}}
{{- $wrong = append $wrong "releases.url holds a user or a password: releases are signed and need neither; give the address without them" -}}
{{- else if not (regexMatch "^https?://[^/@?#\\s]+(/[^@?#\\s]*)?$" .Values.releases.url) -}}
{{- $wrong = append $wrong (printf "releases.url is %q: expected the http(s) address of the folder that holds metadata/ and targets/, for example --set releases.url=https://HOST/BUCKET/releases" .Values.releases.url) -}}
{{- end -}}
{{- if gt (include "student-edge.port" .Values.releases.url | int) 65535 -}}
{{- $wrong = append $wrong (printf "releases.url is %q: a port is at most 65535" .Values.releases.url) -}}
{{- end -}}
{{- if lt (int .Values.release.version) 1 -}}
{{- $wrong = append $wrong (printf "release.version is %v: expected the number of a published release, 1 or more; give --set release.version=N" .Values.release.version) -}}
{{- end -}}
{{- if eq .Values.image.tag "latest" -}}
{{- $wrong = append $wrong "image.tag is latest: nobody could say which image a node runs; give the tag of one build, or image.digest" -}}
{{- end -}}
{{- if regexMatch "(:[^/]*|@.*)$" .Values.image.repository -}}
{{- $wrong = append $wrong (printf "image.repository is %q: expected a name without tag and digest; give those as image.tag or image.digest" .Values.image.repository) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z][-a-z0-9]*$" .Release.Name) -}}
{{- $wrong = append $wrong (printf "the chart's release is called %q: its Service needs a name of lower-case letters, digits and - that begins with a letter; install it under another name" .Release.Name) -}}
{{- end -}}
{{- $wrong | toJson -}}
{{- end }}

{{- define "student-edge.wrongRollout" -}}
{{- $wrong := list -}}
{{- $rollout := .Values.rollout -}}
{{- if le (float64 $rollout.deadlineSeconds) (float64 $rollout.silenceSeconds) -}}
{{- $wrong = append $wrong (printf "rollout.deadlineSeconds is %v, not more than rollout.silenceSeconds (%v): a silent pod could not be told from a slow one; raise the first or lower the second" $rollout.deadlineSeconds $rollout.silenceSeconds) -}}
{{- end -}}
{{- $before := 0.0 -}}
{{- range $number, $wave := $rollout.waves -}}
{{- if eq (hasKey $wave "percent") (hasKey $wave "label") -}}
{{- $wrong = append $wrong (printf "rollout.waves: wave %d must have either a label or a percent" (add1 $number)) -}}
{{- end -}}
{{- if hasKey $wave "percent" -}}
{{- if le (float64 $wave.percent) $before -}}
{{- $wrong = append $wrong (printf "rollout.waves: wave %d takes %v percent and an earlier one %v: percentages are of the whole fleet, earlier waves included, and must rise" (add1 $number) $wave.percent $before) -}}
{{- end -}}
{{- $before = float64 $wave.percent -}}
{{- end -}}
{{- end -}}
{{- if ne 100.0 (float64 (default 0 (last $rollout.waves).percent)) -}}
{{- $wrong = append $wrong "rollout.waves: the last wave takes every node that is left and has to say so; make it `percent: 100`" -}}
{{- end -}}
{{- $longest := include "student-edge.longestSeconds" . | int64 -}}
{{- if and $rollout.waitSeconds (lt (int64 $rollout.waitSeconds) $longest) -}}
{{- $wrong = append $wrong (printf "rollout.waitSeconds is %v, but %d waves of deadlineSeconds %v and bakeSeconds %v can take %d: helm would fail while the rollout goes on; give 0 or at least %d, or shorten the waves" $rollout.waitSeconds (len $rollout.waves) $rollout.deadlineSeconds $rollout.bakeSeconds $longest $longest) -}}
{{- end -}}
{{- $wrong | toJson -}}
{{- end }}

{{- define "student-edge.wrongAccess" -}}
{{- $wrong := list -}}
{{- $access := .Values.access -}}
{{- if and $access.tokenSecret (not $access.tlsSecret) -}}
{{- $wrong = append $wrong "access.tokenSecret is given without access.tlsSecret: the token would cross the network in the clear; give both" -}}
{{- end -}}
{{- if eq .Values.service.type "NodePort" -}}
{{- if not (and $access.tokenSecret $access.tlsSecret) -}}
{{- $wrong = append $wrong "service.type is NodePort without access.tokenSecret and access.tlsSecret: everybody who reaches a node could ask it; give both, or ClusterIP" -}}
{{- end -}}
{{- $named := false -}}
{{- range .Values.networkPolicy.clients }}{{ if hasKey . "ipBlock" }}{{ $named = true }}{{ end }}{{ end -}}
{{- with .Values.service.nodePorts -}}
{{- if and .http (eq (int .http) (int .grpc)) -}}
{{- $wrong = append $wrong (printf "service.nodePorts.http and service.nodePorts.grpc are both %d: give two ports, or 0" (int .http)) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not $named) -}}
{{- $wrong = append $wrong "service.type is NodePort, but networkPolicy.clients names nobody outside the cluster: add the clients' addresses, for example {ipBlock: {cidr: 192.0.2.0/24}}" -}}
{{- end -}}
{{- else if or .Values.service.nodePorts.http .Values.service.nodePorts.grpc -}}
{{- $wrong = append $wrong "service.nodePorts is given, but service.type is ClusterIP: give NodePort, or leave the ports 0" -}}
{{- end -}}
{{- if and .Values.node.state.hostPath (not (regexMatch "^/[^/]+/?" .Values.node.state.hostPath)) -}}
{{- $wrong = append $wrong (printf "node.state.hostPath is %q: expected the absolute path of a folder of the nodes, for example /var/lib/edgedistill" .Values.node.state.hostPath) -}}
{{- end -}}
{{- $limit := dig "limits" "memory" "" .Values.node.resources | toString -}}
{{- $mebibytes := regexFind "^[0-9]+" $limit | int64 | mul (hasSuffix "Gi" $limit | ternary 1024 1) -}}
{{- if and (regexMatch "^[0-9]+[MG]i$" $limit) (lt $mebibytes (add 350 .Values.node.updateMemory)) -}}
{{- $wrong = append $wrong (printf "node.updateMemory is %v, but node.resources.limits.memory is %s: a node needs 350 MiB beside it; raise the limit to %dMi, or lower updateMemory" .Values.node.updateMemory $limit (add 350 .Values.node.updateMemory)) -}}
{{- end -}}
{{- $wrong | toJson -}}
{{- end }}

{{- define "student-edge.wrongFeedback" -}}
{{- $wrong := list -}}
{{- with .Values.feedback -}}
{{- if regexMatch "://[^/]*@" (printf "%s %s" .target .endpoint) -}}
{{- $wrong = append $wrong "feedback.target or feedback.endpoint holds a user or a password: give them in a Secret, and its name as feedback.credentialsSecret" -}}
{{- else if .target -}}
{{- if not (regexMatch "^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._/-]*)?$" .target) -}}
{{- $wrong = append $wrong (printf "feedback.target is %q: expected s3://bucket or s3://bucket/prefix, in letters, digits and ._-" .target) -}}
{{- end -}}
{{- if not (regexMatch "^https?://[^/@?#\\s]+/?$" .endpoint) -}}
{{- $wrong = append $wrong (printf "feedback.endpoint is %q: expected the http(s) address of the store, for example https://s3.example.org" .endpoint) -}}
{{- end -}}
{{- if not .credentialsSecret -}}
{{- $wrong = append $wrong "feedback.credentialsSecret is empty: name a Secret with the keys access-key and secret-key (kubectl create secret generic)" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $wrong | toJson -}}
{{- end }}
