package kube

import (
	"maps"
	"math"
	"time"
)

// What every pod of a Job has.
const (
	jobUser     = 65532              // who it runs as by default, and its group
	jobRoot     = "kube-root-ca.crt" // the ConfigMap that every namespace has
	jobFolder   = "/var/run/sentry"  // of JobAuthority
	jobState    = "/var/lib/sentry"  // where Sentry's image has its state, of which a Job has none
	safeToEvict = "cluster-autoscaler.kubernetes.io/safe-to-evict"
)

// object is the Job as it is sent.
func (s *JobSpec) object() map[string]any {
	type object = map[string]any
	annotations := map[string]string{safeToEvict: "false"} // an autoscaler that takes the node away would interrupt it
	maps.Copy(annotations, s.Annotations)
	maps.Copy(annotations, s.Identity.Annotations())
	spec := object{
		// One pod, one try: what is tried again is for Sentry to say.
		"backoffLimit": 0, "completions": 1, "parallelism": 1, "podReplacementPolicy": "Failed",
		"ttlSecondsAfterFinished": seconds(s.Keep),
		"template": object{
			"metadata": object{"labels": s.labels(), "annotations": annotations},
			"spec":     s.pod(),
		},
	}
	if s.Deadline > 0 {
		spec["activeDeadlineSeconds"] = max(1, seconds(s.Deadline))
	}
	return object{
		"apiVersion": "batch/v1", "kind": "Job",
		"metadata": object{"namespace": s.Namespace, "name": s.Name, "labels": s.labels(), "annotations": annotations},
		"spec":     spec,
	}
}

// pod is the spec of the Job's pod.
func (s *JobSpec) pod() map[string]any {
	type object = map[string]any
	scratch := object{}
	if s.Scratch != "" {
		scratch["sizeLimit"] = s.Scratch
	}
	pod := object{
		"restartPolicy": "Never", "automountServiceAccountToken": false, "enableServiceLinks": false,
		"terminationGracePeriodSeconds": seconds(s.Grace),
		"securityContext": laidOver(object{
			"runAsNonRoot": true, "runAsUser": jobUser, "runAsGroup": jobUser, "fsGroup": jobUser,
			"seccompProfile": object{"type": "RuntimeDefault"},
		}, s.PodSecurity),
		"containers": []object{s.container()},
		"volumes": []object{
			{"name": "work", "emptyDir": scratch},
			{"name": "tmp", "emptyDir": scratch},
			// Optional: a pod without it runs, and does without the cluster.
			{"name": "authority", "configMap": object{"name": jobRoot, "optional": true}},
			{"name": "state", "emptyDir": object{}},
		},
	}
	if s.Deadline > 0 {
		// The kubelet sees to this one, also where it has lost the cluster.
		pod["activeDeadlineSeconds"] = max(1, seconds(s.Deadline))
	}
	if s.ServiceAccount != "" {
		pod["serviceAccountName"] = s.ServiceAccount
	}
	if len(s.NodeSelector) > 0 {
		pod["nodeSelector"] = s.NodeSelector
	}
	if len(s.Tolerations) > 0 {
		pod["tolerations"] = s.Tolerations
	}
	var secrets []object
	for _, name := range s.PullSecrets {
		secrets = append(secrets, object{"name": name})
	}
	if secrets != nil {
		pod["imagePullSecrets"] = secrets
	}
	return pod
}

// container is the only one of the pod. Its standard input stays open when somebody who was attached goes.
func (s *JobSpec) container() map[string]any {
	type object = map[string]any
	container := object{
		"name": JobContainer, "image": s.Image, "args": s.Args, "stdin": true, "stdinOnce": false,
		"resources": object{"requests": s.Requests, "limits": s.Limits},
		"securityContext": laidOver(object{
			"runAsNonRoot": true, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
			"capabilities": object{"drop": []string{"ALL"}}, "seccompProfile": object{"type": "RuntimeDefault"},
		}, s.ContainerSecurity),
		"volumeMounts": []object{
			{"name": "work", "mountPath": JobWork},
			{"name": "tmp", "mountPath": "/tmp"},
			{"name": "authority", "mountPath": jobFolder, "readOnly": true},
			// A folder that the image calls a volume can be written to, without a limit, where nothing else is mounted.
			{"name": "state", "mountPath": jobState, "readOnly": true},
		},
	}
	if len(s.Command) > 0 {
		container["command"] = s.Command
	}
	if s.PullPolicy != "" {
		container["imagePullPolicy"] = s.PullPolicy
	}
	return container
}

// laidOver gives base with the keys of over in place of its own; those that are null are left out.
func laidOver(base, over map[string]any) map[string]any {
	maps.Copy(base, over)
	maps.DeleteFunc(base, func(_ string, value any) bool { return value == nil })
	return base
}

// seconds gives whole seconds, never fewer than d.
func seconds(d time.Duration) int64 { return int64(math.Ceil(max(0, d.Seconds()))) }
