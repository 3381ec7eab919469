package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"sentry/internal/sentry"

	"go.yaml.in/yaml/v4"
)

const maxNamespaces = 100

func kubernetesKeys() *mapping[Kubernetes] {
	return &mapping[Kubernetes]{
		initial: func() Kubernetes { return Kubernetes{} },
		keys: []key[Kubernetes]{
			{
				name:  "kubeconfig",
				about: "A kubeconfig file with the credentials that Sentry uses and that commands never see. By default those of the pod that it runs in.",
				value: path(func(k *Kubernetes) *string { return &k.Kubeconfig }),
			}, {
				name:  "context",
				about: "The context of the kubeconfig file. By default its current one.",
				value: text(func(k *Kubernetes) *string { return &k.Context }, checkKubeName),
			}, {
				name:  "namespaces",
				about: "The namespaces that commands may reach; the first is the one they are in. By default what the credentials allow, in that of the context or of the pod.",
				value: namespaces(func(k *Kubernetes) *[]string { return &k.Namespaces }),
			}, {
				name:  "impersonate",
				about: "The user as whom commands reach the cluster, such as system:serviceaccount:qa:deployer. By default as Sentry itself.",
				value: text(func(k *Kubernetes) *string { return &k.Impersonate }, checkKubeName),
			}, {
				name:  "jobs",
				about: "The Jobs in which deployments run whose executor is kubernetes.",
				value: optional(func(k *Kubernetes) **JobSettings { return &k.Jobs }, jobKeys),
			},
		},
		after: checkKubernetes,
	}
}

func deployKubernetesKeys() *mapping[DeployKubernetes] {
	return &mapping[DeployKubernetes]{
		initial: func() DeployKubernetes { return DeployKubernetes{} },
		keys: []key[DeployKubernetes]{
			{
				name:  "namespaces",
				about: "Of the namespaces under kubernetes, those that the commands of this repository may reach; the first is the one they are in.",
				value: namespaces(func(k *DeployKubernetes) *[]string { return &k.Namespaces }),
			}, {
				name:  "impersonate",
				about: "The user as whom the commands of this repository reach the cluster. By default as kubernetes.impersonate says.",
				value: text(func(k *DeployKubernetes) *string { return &k.Impersonate }, checkKubeName),
			},
		},
		after: checkDeployKubernetes,
	}
}

// kubernetesCodec is the cluster. Being given means something even where nothing is in it: the cluster of the pod.
func kubernetesCodec() codec[Config] {
	c := optional(func(c *Config) **Kubernetes { return &c.Kubernetes }, kubernetesKeys)
	show := c.show
	c.show = func(from *Config) *yaml.Node {
		if shown := show(from); shown != nil || from.Kubernetes == nil {
			return shown
		}
		return &yaml.Node{Kind: yaml.MappingNode}
	}
	return c
}

// namespaces is a list of namespaces, all different.
func namespaces[T any](field func(*T) *[]string) codec[T] {
	item := text(func(s *string) *string { return s }, checkNamespace)
	c := list(field, 1, maxNamespaces, "namespace", func() string { return "" }, item)
	read := c.read
	c.read = func(d *decoder, at *place, n *yaml.Node, into *T) {
		read(d, at, n, into)
		seen := map[string]bool{}
		for i, name := range *field(into) {
			if name != "" && seen[name] {
				d.wrong(at.item(i), follow(n).Content[i], fmt.Sprintf("the namespace %q is there twice", name), "keep one of them")
			}
			seen[name] = true
		}
	}
	return c
}

func checkNamespace(name string) error {
	if sentry.CheckProjectName(name) != nil {
		return withHint(fmt.Errorf("%q is not the name of a namespace", clip(name, 60)), `use at most 63 of a-z, 0-9 and "-", with a letter or digit at both ends`)
	}
	return nil
}

// checkKubeName is for the name of a user or a context: nearly anything.
func checkKubeName(name string) error {
	switch {
	case name == "":
		return errors.New("the name is empty")
	case len(name) > 253:
		return errors.New("the name has more than 253 bytes")
	case strings.ContainsFunc(name, isControl):
		return errors.New("the name holds a control character")
	}
	return nil
}

func checkKubernetes(d *decoder, at *place, _ *yaml.Node, given map[string]*yaml.Node, _ *Kubernetes) {
	if given["context"] != nil && given["kubeconfig"] == nil {
		d.wrong(at.at("context"), given["context"], "a context is one of a kubeconfig file, and none is given", "add kubeconfig, or take context out")
	}
}

// checkDeployKubernetes holds what a repository may reach against what all may.
func checkDeployKubernetes(d *decoder, at *place, _ *yaml.Node, given map[string]*yaml.Node, k *DeployKubernetes) {
	whole := d.config.Kubernetes
	if whole == nil || len(whole.Namespaces) == 0 {
		return
	}
	for i, name := range k.Namespaces {
		if name != "" && !slices.Contains(whole.Namespaces, name) {
			d.wrong(at.at("namespaces").item(i), follow(given["namespaces"]).Content[i],
				fmt.Sprintf("the namespace %q is not among those of kubernetes.namespaces", name), "add it there, or take one of "+listed(whole.Namespaces, "and"))
		}
	}
}

// checkWork looks at what a deployment does, together: its commands, and the cluster.
func checkWork(d *decoder, at *place, n *yaml.Node, given map[string]*yaml.Node, p *Deploy) {
	if len(p.Commands) == 0 && d.config.Kubernetes == nil && wellFormed(given["commands"]) {
		where := n
		if given["commands"] != nil {
			where = follow(given["commands"])
		}
		d.wrong(at.at("commands"), where, "there is no command, and no kubernetes section at the top level: with one, Sentry creates the PipelineRuns of .tekton/PROJECT_NAME itself",
			"add at least one command, or that section: \"kubernetes: {}\" means the cluster of the pod that Sentry runs in, and kubernetes.kubeconfig any other")
	}
	if given["kubernetes"] != nil && p.OwnKubeconfig() && len(p.Commands) > 0 {
		d.warn(at.at("kubernetes"), given["kubernetes"], "nothing reads it: the commands have a KUBECONFIG of their own under env", "take one of the two out")
	}
}

// wellFormed reports whether a list of commands was not given, or is one: anything else was reported already.
func wellFormed(n *yaml.Node) bool {
	return n == nil || follow(n).Kind == yaml.SequenceNode && len(follow(n).Content) == 0
}
