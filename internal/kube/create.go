package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"

	"sentry/internal/sentry"
)

// Bounds of the manifests of a deployment.
const (
	maxManifest  = 1 << 20 // bytes of a file
	maxDocuments = 100     // of all files
	maxManifests = 1000    // files
	maxDepth     = 100
	maxName      = 63 // of a run: Tekton makes a label of it
	nonceOfName  = 10 // letters of the nonce in a generated name
)

// Manifest is a file with PipelineRuns: YAML or JSON, any number of documents.
type Manifest struct {
	Name string // for people
	Data []byte
}

// document is one PipelineRun that is to be created.
type document struct {
	where     string // file and number, for people
	object    map[string]any
	version   string // of its apiVersion
	namespace string
	name      string // "" where generateName is to be used
	prefix    string // generateName
}

// Create creates the PipelineRuns of the manifests, in their order, as the deployment id. Everything is checked before
// anything is created: only PipelineRuns, only namespaces that id may use. They get the labels and annotations that the
// gateway gives, and are told to r as the gateway tells them.
//
// A param that a run names in spec.params, or declares in spec.pipelineSpec.params, gets its value of params, in place of
// its own, where its name is the key, whatever its case and with "-" or "." for "_": SENTRY_COMMIT, sentry_commit,
// sentry-commit and sentry.commit are one. A param that the run does not name is not added.
//
// A generateName is completed by Sentry, with letters of the nonce, so that a request whose answer was lost can be sent
// again. While the API server does not answer Create goes on until ctx ends. A name that exists is ours if its nonce is;
// else it is an error.
func (c *Cluster) Create(ctx context.Context, manifests []Manifest, id Identity, params map[string]string, r Recorder) error {
	documents, err := c.readManifests(manifests, id)
	if err != nil {
		return err
	}
	config := c.restConfig()
	if id.Impersonate != "" {
		config.Impersonate.UserName = id.Impersonate
	}
	a, err := apiFor(config)
	if err != nil {
		return err
	}
	for _, d := range documents {
		if err := setParams(d.object, params); err != nil {
			return fmt.Errorf("%s: %w", d.where, err)
		}
	}
	for _, d := range documents {
		if err := c.createOne(ctx, a, d, id, r); err != nil {
			return fmt.Errorf("%s: %w", d.where, err)
		}
	}
	return nil
}

// readManifests reads all documents, and tells every mistake in them.
func (c *Cluster) readManifests(manifests []Manifest, id Identity) ([]document, error) {
	if len(manifests) > maxManifests {
		return nil, fmt.Errorf("%d files with pipeline runs; at most %d are read", len(manifests), maxManifests)
	}
	var all []document
	var errs []error
	for _, m := range manifests {
		objects, err := readDocuments(m.Data)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.Name, err))
			continue
		}
		for i, object := range objects {
			d, err := c.check(object, id)
			d.where = m.Name
			if len(objects) > 1 {
				d.where = fmt.Sprintf("%s, document %d", m.Name, i+1)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", d.where, err))
			}
			all = append(all, d)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if len(all) == 0 || len(all) > maxDocuments {
		return nil, fmt.Errorf("the files hold %d pipeline runs; 1 to %d are created", len(all), maxDocuments)
	}
	return all, nil
}

// readDocuments reads YAML, or JSON, which is YAML, into what JSON can express. Empty documents are left out.
func readDocuments(data []byte) (objects []map[string]any, err error) {
	if len(data) > maxManifest {
		return nil, fmt.Errorf("it has %d bytes; at most %d are read", len(data), maxManifest)
	}
	defer func() {
		if r := recover(); r != nil {
			objects, err = nil, fmt.Errorf("the YAML parser gives up: %v", r)
		}
	}()
	loader, err := yaml.NewLoader(bytes.NewReader(data), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(maxDepth))))
	if err != nil {
		return nil, err
	}
	for {
		var node yaml.Node
		err := loader.Load(&node)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		plainTimes(&node)
		var value any
		if err := node.Load(&value); err != nil {
			return nil, err
		}
		if value == nil {
			continue
		}
		object, ok := value.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("line %d: a document that is no mapping with names as keys", node.Line)
		}
		if objects = append(objects, object); len(objects) > maxDocuments {
			return nil, fmt.Errorf("more than %d documents", maxDocuments)
		}
	}
}

// plainTimes has what looks like a time be the text that it is, as kubectl takes it.
func plainTimes(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!timestamp" {
		n.Tag = "!!str"
	}
	for _, inner := range n.Content {
		plainTimes(inner)
	}
}

// check finds out what is to be created, and whether it may be.
func (c *Cluster) check(object map[string]any, id Identity) (document, error) {
	d := document{object: object}
	apiVersion, _ := object["apiVersion"].(string)
	kind, _ := object["kind"].(string)
	version, ours := strings.CutPrefix(apiVersion, group+"/")
	if kind != "PipelineRun" || !ours || version != "v1" && version != "v1beta1" {
		return d, fmt.Errorf("it is %q of %q; Sentry creates only PipelineRun of tekton.dev/v1 or v1beta1: let a command apply other things", clip(kind, 80), clip(apiVersion, 80))
	}
	d.version = version
	metadata, ok := object["metadata"].(map[string]any)
	if !ok {
		return d, errors.New("it has no metadata")
	}
	d.name, _ = metadata["name"].(string)
	d.prefix, _ = metadata["generateName"].(string)
	d.namespace, _ = metadata["namespace"].(string)
	if d.name == "" && d.prefix == "" {
		return d, errors.New("its metadata has neither name nor generateName")
	}
	if _, ok := object["spec"].(map[string]any); !ok {
		return d, errors.New("it has no spec")
	}
	allowed := id.Namespaces
	if len(allowed) == 0 {
		allowed = c.namespaces
	}
	if d.namespace == "" {
		d.namespace = c.namespace
		if len(allowed) > 0 {
			d.namespace = allowed[0]
		}
	}
	if len(allowed) > 0 && !slices.Contains(allowed, d.namespace) {
		return d, fmt.Errorf("its namespace is %q; the configuration allows %s", d.namespace, strings.Join(allowed, ", "))
	}
	return d, nil
}

// setParams gives the params that the run names their values.
func setParams(object map[string]any, params map[string]string) error {
	spec, _ := object["spec"].(map[string]any)
	list, _ := spec["params"].([]any)
	given := map[string]bool{}
	for _, item := range list {
		param, _ := item.(map[string]any)
		name, value, known := paramValue(param, params)
		given[name] = true
		if !known {
			continue
		}
		switch param["value"].(type) {
		case []any, map[string]any:
			return fmt.Errorf("its param %s is a list or an object; Sentry's value for it is a text", name)
		}
		param["value"] = value
	}
	pipeline, _ := spec["pipelineSpec"].(map[string]any)
	declared, _ := pipeline["params"].([]any)
	for _, item := range declared {
		param, _ := item.(map[string]any)
		name, value, known := paramValue(param, params)
		if !known || given[name] {
			continue
		}
		if kind, typed := param["type"]; typed && kind != "string" {
			return fmt.Errorf("its pipeline declares param %s of type %v; Sentry's value for it is a string", name, kind)
		}
		list = append(list, map[string]any{"name": name, "value": value})
		spec["params"] = list
	}
	return nil
}

// paramValue gives the name of a param, and Sentry's value for it.
func paramValue(param map[string]any, params map[string]string) (name, value string, known bool) {
	name, _ = param["name"].(string)
	value, known = params[strings.NewReplacer("-", "_", ".", "_").Replace(strings.ToUpper(name))]
	return name, value, known
}

// body gives the request that creates the document, and the name of what it creates.
func (d document) body(id Identity, nonce string) (body []byte, name string, err error) {
	metadata := d.object["metadata"].(map[string]any)
	for key, add := range map[string]map[string]string{"labels": id.Labels(nonce), "annotations": id.Annotations()} {
		all, _ := metadata[key].(map[string]any)
		if all == nil {
			all = map[string]any{}
			metadata[key] = all
		}
		for k := range all {
			if strings.HasPrefix(k, labelPrefix) {
				delete(all, k)
			}
		}
		for k, v := range add {
			all[k] = v
		}
	}
	name = d.name
	if name == "" {
		end := nonce[:min(nonceOfName, len(nonce))]
		name = d.prefix[:min(len(d.prefix), maxName-len(end))] + end
	}
	metadata["name"], metadata["namespace"] = name, d.namespace
	body, err = json.Marshal(d.object)
	return body, name, err
}

// createOne creates one run. What a crash leaves after each line: before Intend nothing; after it an intent, which the
// nonce resolves; after Created the run is known.
func (c *Cluster) createOne(ctx context.Context, a *api, d document, id Identity, r Recorder) error {
	nonce := NewNonce()
	body, name, err := d.body(id, nonce)
	if err != nil {
		return err
	}
	run := sentry.PipelineRun{Namespace: d.namespace, Name: name, APIVersion: group + "/" + d.version, Attempt: id.Attempt, Nonce: nonce, Status: sentry.Pending}
	run.Cluster = c.mark(ctx, d.namespace)
	intent := run
	intent.Name = ""
	if err := r.Intend(intent); err != nil {
		return err
	}
	uid, dropped, err := a.create(ctx, run, d.version, body)
	c.log.LogAttrs(ctx, slog.LevelInfo, "created a pipeline run", slog.String("namespace", d.namespace), slog.String("name", name),
		slog.String("uid", uid), slog.String("deployment", id.Deployment), slog.Bool("created", err == nil))
	switch {
	case err == nil:
		run.UID = uid
		return r.Created(run)
	case dropped:
		return errors.Join(err, r.Dropped(nonce))
	}
	return err
}

// create sends the request until it has an answer. Dropped tells that certainly nothing was created.
func (a *api) create(ctx context.Context, run sentry.PipelineRun, version string, body []byte) (uid string, dropped bool, err error) {
	collection := resourcePath(version, run.Namespace, "pipelineruns")
	var wait patience
	lost := false // an answer
	for {
		o, err := a.object(ctx, http.MethodPost, collection, nil, body, "application/json")
		switch {
		case err == nil && o.Metadata.UID != "":
			return o.Metadata.UID, false, nil
		case isCode(err, http.StatusConflict), lost && lasting(err) && !isCode(err, http.StatusUnauthorized):
			// It may be ours all the same: from a request whose answer was lost.
			there, readErr := a.get(ctx, resourcePath(version, run.Namespace, "pipelineruns", run.Name))
			switch {
			case readErr == nil && there.Metadata.Labels[LabelRequest] == run.Nonce:
				return there.Metadata.UID, false, nil
			case readErr == nil && isCode(err, http.StatusConflict):
				return "", true, fmt.Errorf("a pipeline run %s/%s exists, and is not of this request: use generateName for runs that are created again and again", run.Namespace, run.Name)
			case readErr != nil && !lasting(readErr):
				// Neither answer tells: again.
			default:
				return "", !lost, err
			}
		case lasting(err) && !isCode(err, http.StatusUnauthorized):
			return "", true, fmt.Errorf("the API server refuses to create it: %w", err)
		case isCode(err, http.StatusUnauthorized):
			// The credentials may be renewed meanwhile. Nothing was created.
		default:
			lost = true
		}
		if end := sleep(ctx, wait.after(err)); end != nil {
			if !lost {
				return "", true, errors.Join(fmt.Errorf("it was not created: %w", end), err)
			}
			return "", false, errors.Join(fmt.Errorf("nobody knows whether it was created: %w", end), err)
		}
	}
}
