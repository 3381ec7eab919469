package sentry

import "testing"

func TestSameCluster(t *testing.T) {
	full := ClusterID{Server: "https://a:6443", UID: "u", NamespaceUID: "n", Authorities: []string{"k"}}
	for name, c := range map[string]struct {
		was, is ClusterID
		same    bool
	}{
		"itself":                             {full, full, true},
		"nothing known":                      {ClusterID{}, ClusterID{}, false},
		"another address":                    {full, ClusterID{Server: "https://b", UID: "u"}, true},
		"another CA":                         {full, ClusterID{Server: "https://a:6443", UID: "u", Authorities: []string{"l"}}, true},
		"the namespace was made again":       {full, ClusterID{Server: "https://a:6443", UID: "u", NamespaceUID: "m"}, true},
		"another cluster at the address":     {full, ClusterID{Server: "https://a:6443", UID: "v", Authorities: []string{"k"}}, false},
		"by the namespace":                   {full, ClusterID{Server: "https://b", NamespaceUID: "n", Authorities: []string{"l"}}, true},
		"by the CA, another namespace":       {full, ClusterID{Server: "https://b", NamespaceUID: "m", Authorities: []string{"j", "k"}}, true},
		"another namespace, another CA":      {full, ClusterID{Server: "https://a:6443", NamespaceUID: "m", Authorities: []string{"l"}}, false},
		"a new CA at the address":            {ClusterID{Server: "https://a", Authorities: []string{"k"}}, ClusterID{Server: "https://a", Authorities: []string{"l"}}, true},
		"a new CA in a pod":                  {ClusterID{Server: InPod, Authorities: []string{"k"}}, ClusterID{Server: InPod, Authorities: []string{"l"}}, false},
		"from a pod to a kubeconfig, one CA": {ClusterID{Server: InPod, Authorities: []string{"k"}}, ClusterID{Server: "https://a", Authorities: []string{"k"}}, true},
		"only addresses, which differ":       {ClusterID{Server: "https://a"}, ClusterID{Server: "https://b"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.was.Same(c.is); got != c.same {
				t.Errorf("the same: %v", got)
			}
			if c.was.Same(c.is) != c.is.Same(c.was) {
				t.Error("the order matters")
			}
		})
	}
}
