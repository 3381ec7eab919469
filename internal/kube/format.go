package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"sigs.k8s.io/yaml"
)

// format is a way in which an object is written.
type format int

const (
	formatUnknown format = iota
	formatJSON
	formatYAML
	formatCBOR
	formatProtobuf
)

var formats = map[string]format{
	"":                 formatJSON, // the API server's default
	"application/json": formatJSON, "application/yaml": formatYAML,
	"application/cbor": formatCBOR, "application/vnd.kubernetes.protobuf": formatProtobuf,
	"application/apply-patch+yaml": formatYAML, "application/apply-patch+cbor": formatCBOR,
}

// formatOf tells how the body of a request is written, and whether it is a server-side apply.
func formatOf(h http.Header) (f format, apply bool) {
	media := h.Get("Content-Type")
	if media != "" {
		var err error
		if media, _, err = mime.ParseMediaType(media); err != nil {
			return formatUnknown, false
		}
	}
	if e := h.Get("Content-Encoding"); e != "" && e != "identity" {
		return formatUnknown, false
	}
	return formats[media], media == "application/apply-patch+yaml" || media == "application/apply-patch+cbor"
}

// normal gives a body in the format in which the rest of this file reads it: YAML as JSON, in the way in which the API
// server does it, and JSON only where it is valid. The other formats stay what they are.
func (f format) normal(body []byte) (format, []byte, error) {
	switch {
	case f != formatJSON && f != formatYAML:
		return f, body, nil
	case json.Valid(body): // which is YAML, too
		return formatJSON, body, nil
	case f == formatJSON:
		return f, nil, errors.New("the body is not valid JSON")
	}
	object, err := yaml.YAMLToJSONStrict(body)
	if err != nil {
		return f, nil, fmt.Errorf("the body is not valid YAML: %w", err)
	}
	return formatJSON, object, nil
}

// mark adds marks to the object in a body that normal gave.
func (f format) mark(body []byte, m marks) ([]byte, error) {
	switch f {
	case formatJSON:
		return splice(body, m)
	case formatCBOR:
		return markCBOR(body, m)
	case formatProtobuf:
		return markProtobuf(body, m)
	}
	return nil, errors.New("the body is in an unknown format")
}

func markCBOR(body []byte, m marks) ([]byte, error) {
	var object map[string]any
	if err := direct.Unmarshal(body, &object); err != nil {
		return nil, fmt.Errorf("the body is not valid CBOR: %w", err)
	}
	if object == nil {
		return nil, errors.New("not an object")
	}
	metadata, ok := object["metadata"].(map[string]any)
	if !ok {
		if object["metadata"] != nil {
			return nil, errors.New("metadata: not an object")
		}
		metadata = map[string]any{}
		object["metadata"] = metadata
	}
	for key, values := range map[string]map[string]string{"labels": m.labels, "annotations": m.annotations} {
		if len(values) == 0 {
			continue
		}
		all, ok := metadata[key].(map[string]any)
		if !ok {
			if metadata[key] != nil {
				return nil, fmt.Errorf("metadata: %s is not an object", key)
			}
			all = map[string]any{}
			metadata[key] = all
		}
		for k, v := range values {
			all[k] = v
		}
	}
	if m.uid != "" {
		metadata["uid"] = m.uid
	}
	return direct.Marshal(object)
}

// protobufMagic begins every object in the protobuf format of Kubernetes.
var protobufMagic = []byte("k8s\x00")

// The numbers of fields in k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto and of every kind of object: ObjectMeta
// is the first one.
const (
	fieldObjectMeta  = 1
	fieldUID         = 5
	fieldLabels      = 11
	fieldAnnotations = 12
)

// markProtobuf needs not understand the object: a message that occurs twice is merged by its readers, and of two entries
// of a map the later one counts. So a second ObjectMeta, with the marks alone, is added at the end.
func markProtobuf(body []byte, m marks) ([]byte, error) {
	envelope, ok := bytes.CutPrefix(body, protobufMagic)
	var object runtime.Unknown
	if !ok || object.Unmarshal(envelope) != nil {
		return nil, errors.New("the body is not valid protobuf of Kubernetes")
	}
	var metadata []byte
	for field, values := range map[protowire.Number]map[string]string{fieldLabels: m.labels, fieldAnnotations: m.annotations} {
		for k, v := range values {
			entry := appendText(appendText(nil, 1, k), 2, v)
			metadata = protowire.AppendBytes(protowire.AppendTag(metadata, field, protowire.BytesType), entry)
		}
	}
	if m.uid != "" {
		metadata = appendText(metadata, fieldUID, m.uid)
	}
	object.Raw = protowire.AppendBytes(protowire.AppendTag(object.Raw, fieldObjectMeta, protowire.BytesType), metadata)
	raw, err := object.Marshal()
	if err != nil {
		return nil, err
	}
	return append(bytes.Clone(protobufMagic), raw...), nil
}

func appendText(to []byte, field protowire.Number, text string) []byte {
	return protowire.AppendString(protowire.AppendTag(to, field, protowire.BytesType), text)
}

// objectMeta is what matters of an object's metadata.
type objectMeta struct {
	Name         string            `json:"name"`
	GenerateName string            `json:"generateName"`
	Namespace    string            `json:"namespace"`
	UID          string            `json:"uid"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
}

// readMeta reads the metadata of an object in a body that normal gave; nothing where it is in a form that has none.
func (f format) readMeta(body []byte) (meta objectMeta) {
	switch f {
	case formatJSON:
		if at, err := member(body, 0, "metadata"); err == nil && at.found() {
			_ = json.Unmarshal(at.of(body), &meta) // a wrong form leaves what could be read: it is the API server's to refuse
		}
	case formatCBOR:
		var object map[string]any
		if direct.Unmarshal(body, &object) == nil {
			raw, _ := json.Marshal(object["metadata"])
			_ = json.Unmarshal(raw, &meta) // the same
		}
	}
	return meta
}

// readAnswer reads the metadata of the object that an answer holds, or of the one row of a table.
func readAnswer(h http.Header, body []byte) objectMeta {
	f, _ := formatOf(h)
	f, body, err := f.normal(body)
	if err != nil {
		return objectMeta{}
	}
	if meta := f.readMeta(body); meta.UID != "" || f != formatJSON {
		return meta
	}
	var table struct {
		Rows []struct {
			Object struct {
				Metadata objectMeta `json:"metadata"`
			} `json:"object"`
		} `json:"rows"`
	}
	if json.Unmarshal(body, &table) == nil && len(table.Rows) == 1 {
		return table.Rows[0].Object.Metadata
	}
	return objectMeta{}
}
