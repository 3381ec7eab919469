package kube

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
)

// Version asks the API server which Kubernetes it is, such as "v1.34.4", and which version of Tekton's API it has, such
// as "tekton.dev/v1". The second is "" with an error where it has none.
func (c *Cluster) Version(ctx context.Context) (kubernetes, tekton string, err error) {
	a, err := c.tracker()
	if err != nil {
		return "", "", err
	}
	var info struct {
		GitVersion string `json:"gitVersion"`
	}
	err = a.unary(ctx, http.MethodGet, "/version", nil, nil, "", func(r io.Reader) error {
		return json.NewDecoder(io.LimitReader(r, maxObject)).Decode(&info)
	})
	if err != nil {
		return "", "", err
	}
	kubernetes = clip(printable(info.GitVersion), 60)
	version, err := a.tekton(ctx)
	if err != nil {
		return kubernetes, "", err
	}
	return kubernetes, group + "/" + version, nil
}
