package sentry

import (
	"slices"
	"strings"
)

// InPod is the address in the ClusterID of the cluster in whose pod Sentry runs. Every cluster has one of that name.
const InPod = "https://kubernetes.default.svc"

// ClusterID tells clusters apart, and knows one again that is reached in another way than before. What is not known, or
// may not be read, is empty.
type ClusterID struct {
	Server string `json:"server,omitempty"` // the address of the API server, or InPod
	// UID is that of the namespace kube-system, which lasts as long as the cluster.
	UID string `json:"uid,omitempty"`
	// NamespaceUID is that of the namespace in question. It lasts as long as the namespace, and needs fewer rights.
	NamespaceUID string `json:"namespace_uid,omitempty"`
	// Authorities are hashes of the public keys of those who sign for the API server: a renewed certificate may keep its key.
	Authorities []string `json:"authorities,omitempty"`
}

// Same reports whether both are certainly one cluster: what is not found in it is not in the other either.
func (c ClusterID) Same(other ClusterID) bool {
	if c.UID != "" && other.UID != "" {
		return c.UID == other.UID
	}
	namespaces := c.NamespaceUID != "" && other.NamespaceUID != ""
	if namespaces && c.NamespaceUID == other.NamespaceUID {
		return true
	}
	if slices.ContainsFunc(c.Authorities, func(a string) bool { return slices.Contains(other.Authorities, a) }) {
		return true
	}
	// An address alone proves little: another cluster may have been put there.
	return !namespaces && c.Server == other.Server && c.Server != "" && c.Server != InPod
}

// String names the cluster for people.
func (c ClusterID) String() string {
	name := c.Server
	switch c.Server {
	case "":
		name = "an unknown address"
	case InPod:
		name = "the cluster of Sentry's pod"
	}
	var marks []string
	switch {
	case c.UID != "":
		marks = append(marks, "UID "+c.UID)
	case c.NamespaceUID != "":
		marks = append(marks, "namespace with UID "+c.NamespaceUID)
	case len(c.Authorities) > 0:
		marks = append(marks, "CA "+c.Authorities[0])
	}
	if len(marks) == 0 {
		return name
	}
	return name + " (" + strings.Join(marks, ", ") + ")"
}
