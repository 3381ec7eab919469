package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
)

// volumes makes a folder of this machine for each claim of the class "local", the default, and removes it with the claim. As on
// a new disk, root owns it: a pod without root needs an fsGroup.
type volumes struct {
	c *cluster
	a *api
}

func newVolumes(c *cluster, a *api) *volumes { return &volumes{c, a} }

// class is the name of the StorageClass; provisioner the one of who makes its volumes.
const class, provisioner = "local", "sentry-test/local"

type claim struct {
	item
	Spec struct {
		Class     string   `json:"storageClassName"`
		Volume    string   `json:"volumeName"`
		Modes     []string `json:"accessModes"`
		Resources struct {
			Requests map[string]string `json:"requests"`
		} `json:"resources"`
	} `json:"spec"`
}

type volume struct {
	item
	Spec struct {
		Class string `json:"storageClassName"`
	} `json:"spec"`
	Status struct {
		Phase string `json:"phase"`
	} `json:"status"`
}

// run follows claims and volumes until ctx ends.
func (v *volumes) run(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		follow(ctx, v.a, "/api/v1/persistentvolumes", func(all map[string]volume) {
			for _, volume := range all {
				if volume.Spec.Class == class && volume.Status.Phase == "Released" {
					v.remove(ctx, volume)
				}
			}
		})
	}()
	follow(ctx, v.a, "/api/v1/persistentvolumeclaims", func(all map[string]claim) {
		for _, claim := range all {
			if claim.Spec.Class == class && claim.Spec.Volume == "" && claim.Metadata.DeletedAt == "" {
				v.make(ctx, claim)
			}
		}
	})
	<-done
}

func (v *volumes) folder(name string) string { return v.c.at("volumes", name) }

// make makes the volume of a claim; that it is there already is as good.
func (v *volumes) make(ctx context.Context, of claim) {
	type o = map[string]any
	name := "pvc-" + of.Metadata.UID
	if err := os.MkdirAll(v.folder(name), 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	err := v.a.call(ctx, http.MethodPost, "/api/v1/persistentvolumes", o{
		"apiVersion": "v1", "kind": "PersistentVolume",
		"metadata": o{"name": name, "annotations": o{"pv.kubernetes.io/provisioned-by": provisioner}},
		"spec": o{
			"capacity": o{"storage": of.Spec.Resources.Requests["storage"]}, "accessModes": of.Spec.Modes,
			"persistentVolumeReclaimPolicy": "Delete", "storageClassName": class, "local": o{"path": v.folder(name)},
			"claimRef": o{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": of.Metadata.Namespace, "name": of.Metadata.Name, "uid": of.Metadata.UID},
			"nodeAffinity": o{"required": o{"nodeSelectorTerms": []o{{"matchExpressions": []o{
				{"key": "kubernetes.io/hostname", "operator": "In", "values": []string{nodeName}},
			}}}}},
		},
	}, nil)
	if err != nil && !isCode(err, http.StatusConflict) {
		fmt.Fprintf(os.Stderr, "volume for %s/%s: %v\n", of.Metadata.Namespace, of.Metadata.Name, err)
	}
}

// remove removes a volume whose claim is gone, with what is in it.
func (v *volumes) remove(ctx context.Context, gone volume) {
	if err := os.RemoveAll(v.folder(gone.Metadata.Name)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	err := v.a.call(ctx, http.MethodDelete, "/api/v1/persistentvolumes/"+gone.Metadata.Name, nil, nil)
	if err != nil && !isCode(err, http.StatusNotFound) {
		fmt.Fprintf(os.Stderr, "volume %s: %v\n", gone.Metadata.Name, err)
	}
}

// isCode reports whether the API server refused with this status.
func isCode(err error, code int) bool {
	refused, ok := err.(*status)
	return ok && refused.Code == code
}
