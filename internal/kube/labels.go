package kube

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
)

// The labels of what is created through the gateway, or by Sentry itself. They tell who created it, and stay when it is
// changed later.
const (
	LabelInstance   = "sentry.dev/instance"   // the state directory
	LabelRollout    = "sentry.dev/rollout"    // its id
	LabelDeployment = "sentry.dev/deployment" // its id
	LabelRepository = "sentry.dev/repository"
	LabelGroup      = "sentry.dev/group"
	LabelAttempt    = "sentry.dev/attempt"
	LabelRequest    = "sentry.dev/request" // of PipelineRuns only: the nonce of the request that created it
)

// AnnotationOrigin is the annotation with an Origin as JSON: labels may be shortened, this is not.
const AnnotationOrigin = "sentry.dev/origin"

// labelPrefix is that of all labels and annotations of ours.
const labelPrefix = "sentry.dev/"

// maxLabel is the longest value of a label, in bytes.
const maxLabel = 63

// Identity is the deployment for which something is done in the cluster.
type Identity struct {
	Instance    string // of the state directory
	Rollout     string
	Deployment  string
	Group       string
	Repository  string
	Commit      string
	Attempt     int
	Namespaces  []string // the only ones, narrower than the cluster's; the first is the default. Empty: the cluster's
	Impersonate string   // instead of the cluster's; "" means the cluster's
}

// origin is what AnnotationOrigin holds.
type origin struct {
	Rollout    string `json:"rollout"`
	Deployment string `json:"deployment"`
	Group      string `json:"group"`
	Repository string `json:"repository"`
	Commit     string `json:"commit,omitempty"`
	Attempt    int    `json:"attempt"`
}

// Labels gives the labels of what the deployment creates; with the nonce of the request where there is one.
func (id Identity) Labels(nonce string) map[string]string {
	labels := map[string]string{
		LabelInstance:   LabelValue(id.Instance),
		LabelRollout:    LabelValue(id.Rollout),
		LabelDeployment: LabelValue(id.Deployment),
		LabelRepository: LabelValue(id.Repository),
		LabelGroup:      LabelValue(id.Group),
		LabelAttempt:    strconv.Itoa(id.Attempt),
	}
	if nonce != "" {
		labels[LabelRequest] = nonce
	}
	return labels
}

// Annotations gives the annotations of what the deployment creates.
func (id Identity) Annotations() map[string]string {
	text, err := json.Marshal(origin{
		Rollout: id.Rollout, Deployment: id.Deployment, Group: id.Group, Repository: id.Repository, Commit: id.Commit, Attempt: id.Attempt,
	})
	if err != nil {
		panic(err) // strings and a number
	}
	return map[string]string{AnnotationOrigin: string(text)}
}

// LabelValue gives the text where it may be the value of a label. Else what may not be there becomes "-", and a hash of
// the text ends it, so that different texts stay different.
func LabelValue(text string) string {
	if validLabel(text) {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	end := "-" + hex.EncodeToString(sum[:4])
	var b strings.Builder
	for _, r := range text {
		if b.Len()+len(end) >= maxLabel {
			break
		}
		if !alphanumeric(r) && (b.Len() == 0 || r != '.' && r != '_' && r != '-') {
			r = '-'
		}
		if b.Len() > 0 || alphanumeric(r) {
			b.WriteRune(r)
		}
	}
	return strings.TrimPrefix(b.String()+end, "-")
}

// validLabel reports whether Kubernetes takes the text as the value of a label.
func validLabel(text string) bool {
	if len(text) > maxLabel {
		return false
	}
	for i, r := range text {
		inner := (r == '.' || r == '_' || r == '-') && i > 0 && i < len(text)-1
		if !alphanumeric(r) && !inner {
			return false
		}
	}
	return true
}

func alphanumeric(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}

// NewNonce makes the value of LabelRequest: unique, and not to be guessed.
func NewNonce() string {
	return strings.ToLower(rand.Text())
}
