package kube

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// verdict tells how the Job has ended: what its pod says, and the Job itself; nil where that is gone.
func (w *jobFollower) verdict(job *wireJob) *JobEnd {
	end := &JobEnd{ExitCode: -1}
	var c *wireContainer
	if w.pod != nil {
		c = w.pod.runner()
		end.Started = w.hasRead || c != nil && (c.State.Running != nil || c.State.Terminated != nil)
	}
	if c != nil && c.State.Terminated != nil {
		t := c.State.Terminated
		end.ExitCode, end.Reason, end.Message = t.ExitCode, t.Reason, t.Message
		if neverRan[t.Reason] {
			end.Started, end.Never = false, true
			return end
		}
	}
	reason, message := w.taken(job)
	switch {
	case end.Reason == "OOMKilled" && end.ExitCode == 0: // something in it was
	case end.Reason == "OOMKilled":
		end.Message = cmp.Or(end.Message, "it used more memory than its limit, or its node, has")
	case w.deadline(job):
		end.Reason, end.Message = "DeadlineExceeded", "it was still there when its time (activeDeadlineSeconds) was over"
	case reason != "" && ownLimit(message):
		end.Own, end.Reason, end.Message = true, reason, message
	case reason != "":
		end.Lost, end.Reason, end.Message = end.ExitCode != 0, reason, message
	case end.ExitCode == 0:
	case end.ExitCode > 0:
		end.Message = cmp.Or(end.Message, fmt.Sprintf("its container ended with exit code %d", end.ExitCode))
	default:
		end.Lost, end.Reason, end.Message = true, "Unknown", "it has ended, and nobody knows how"
	}
	return end
}

// neverRan are the reasons with which a container ends that could not be started at all.
var neverRan = map[string]bool{"StartError": true, "ContainerCannotRun": true, "CreateContainerError": true}

// takenReasons are the reasons of a pod that was taken away, in Kubernetes' words: of the kubelet, and of its controllers.
var takenReasons = map[string]bool{
	"Evicted": true, "NodeLost": true, "Preempting": true, "Preempted": true, "Shutdown": true, "Terminated": true, "NodeShutdown": true,
	"UnexpectedAdmissionError": true, "NodeAffinity": true, "OutOfcpu": true, "OutOfmemory": true, "OutOfpods": true, "OutOfephemeral-storage": true,
}

// taken tells who took the Job away; the empty reason where nobody did.
func (w *jobFollower) taken(job *wireJob) (reason, message string) {
	if w.pod != nil {
		for _, c := range w.pod.Status.Conditions {
			if c.Type == "DisruptionTarget" && c.Status == "True" {
				return cmp.Or(w.pod.Status.Reason, c.Reason), cmp.Or(w.pod.Status.Message, c.Message)
			}
		}
		if takenReasons[w.pod.Status.Reason] {
			return w.pod.Status.Reason, w.pod.Status.Message
		}
		if c := w.pod.runner(); c != nil && c.State.Terminated != nil {
			switch c.State.Terminated.Reason {
			case "ContainerStatusUnknown": // the kubelet's word
				return "NodeLost", "its node has lost sight of it: " + c.State.Terminated.Message
			case "Unknown": // containerd's, with an exit code that is its own as well
				return "NodeLost", "its node does not know how it ended: it may have been restarted"
			}
		}
	}
	switch {
	case w.itself:
		return "", ""
	case job == nil || job.Metadata.DeletionTimestamp != "":
		return "Deleted", "somebody deleted the Job"
	case w.pod == nil:
		return "Deleted", "it has no pod any more" + jobSays(job)
	case !w.deleted.IsZero() && !w.gone && !w.pod.ended():
		return "NodeLost", w.pod.place() + " was deleted, and has not ended: its node does not answer"
	case !w.deleted.IsZero() || w.gone:
		return "Deleted", "somebody deleted its " + w.pod.place()
	}
	return "", ""
}

// endedBeforeDeletion reports whether the container had ended when somebody asked for the pod's deletion, by what the pod says
// while it is there. When it goes it says that it was to go at once.
func (pod *wirePod) endedBeforeDeletion() bool {
	c := pod.runner()
	if c == nil || c.State.Terminated == nil {
		return false
	}
	due, err := time.Parse(time.RFC3339, pod.Metadata.DeletionTimestamp)
	asked := due.Add(-time.Duration(pod.Metadata.DeletionGrace) * time.Second)
	return err == nil && c.State.Terminated.FinishedAt.Before(asked)
}

// jobSays is what the Job says of its end.
func jobSays(job *wireJob) string {
	if c := job.finished(); c != nil {
		return fmt.Sprintf(" (the Job says %s: %s)", cmp.Or(c.Reason, c.Type), c.Message)
	}
	return ""
}

// deadline reports whether the Job's own time ended it.
func (w *jobFollower) deadline(job *wireJob) bool {
	if w.pod != nil && w.pod.Status.Reason == "DeadlineExceeded" {
		return true
	}
	if job == nil {
		return false
	}
	for _, c := range job.Status.Conditions {
		if c.Status == "True" && c.Reason == "DeadlineExceeded" {
			return true
		}
	}
	return false
}

// ownLimit reports whether a pod was evicted for what it did itself, such as filling more of the disk than it may: it would
// be again.
func ownLimit(message string) bool {
	return strings.Contains(message, "exceeds the limit") || strings.Contains(message, "exceeds the total limit") || strings.Contains(message, "exceeded its local ephemeral storage limit")
}
