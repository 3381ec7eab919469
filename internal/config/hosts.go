package config

import (
	"fmt"
	"net"

	"sentry/internal/sentry"

	"go.yaml.in/yaml/v4"
)

const maxHosts = 1000

func hostKeys() *mapping[Host] {
	return &mapping[Host]{
		about:   "A server.",
		initial: func() Host { return Host{} },
		keys: []key[Host]{
			{
				name:     "url",
				required: true,
				about:    "The scheme, host and port of the server, such as https://git.example.com. Without a path.",
				value:    origin(func(h *Host) *string { return &h.Origin }),
			}, {
				name:  "ca_file",
				about: "Certificates (PEM) to believe beside those of the system.",
				value: path(func(h *Host) *string { return &h.CAFile }),
			}, {
				name:  "client_cert_file",
				about: "The certificate (PEM) that Sentry shows the server.",
				value: path(func(h *Host) *string { return &h.CertFile }),
			}, {
				name:  "client_key_file",
				about: "The private key (PEM) of client_cert_file.",
				value: path(func(h *Host) *string { return &h.KeyFile }),
			}, {
				name:  "requests_per_hour",
				about: "The most that its API is asked with one credential, where it does not tell its limits.",
				value: integer(func(h *Host) *int { return &h.RequestsPerHour }, 1, 100_000_000),
			}, {
				name:  "concurrency",
				about: "The most requests to it at once: to its API, and questions over Git by HTTP, together.",
				value: integer(func(h *Host) *int { return &h.Concurrency }, 1, 100),
			},
		},
		after: checkHost,
	}
}

// checkHost looks at the keys of one host together.
func checkHost(d *decoder, at *place, n *yaml.Node, given map[string]*yaml.Node, h *Host) {
	cert, key := given["client_cert_file"], given["client_key_file"]
	switch {
	case cert != nil && key == nil:
		d.wrong(at.at("client_key_file"), n, "it is missing", "add the private key of client_cert_file")
	case key != nil && cert == nil:
		d.wrong(at.at("client_cert_file"), n, "it is missing", "add the certificate of client_key_file")
	}
	if given["url"] != nil && len(given) == 1 {
		d.warn(at, n, "nothing is said of the host", "add ca_file, requests_per_hour or another key, or take the entry out")
	}
}

// checkHosts looks for hosts that are there twice, and for those that nothing asks: a slip in one would leave its
// certificates unused.
func checkHosts(d *decoder, at *place, n *yaml.Node, c *Config) {
	if n == nil || len(c.Hosts) == 0 {
		return
	}
	asked := map[string]bool{}
	for i := range c.Repositories {
		r := &c.Repositories[i]
		for _, o := range append(origins(r.Monitor.Remote, r.Monitor.Type, r.Monitor.APIURL), origins(r.Deploy.Remote, r.Deploy.Type, "")...) {
			asked[o] = true
		}
	}
	first := map[string]int{}
	for i, h := range c.Hosts {
		if h.Origin == "" {
			continue // it was reported
		}
		item := follow(follow(n).Content[i])
		here := at.item(i).at("url")
		if line, twice := first[h.Origin]; twice {
			d.wrong(here, item, fmt.Sprintf("the host is there twice, first on line %d", line), "keep one of them")
			continue
		}
		first[h.Origin] = item.Line
		if !asked[h.Origin] {
			d.warn(here, item, "no repository is on this host", "is it written as in repo_url, with its port?")
		}
	}
}

// origins are those to which the questions about a repository go by https, the forge's API included.
func origins(r sentry.Remote, kind, api string) []string {
	var out []string
	switch r.Scheme() {
	case "https", "http":
		out = append(out, r.Origin())
	case "ssh":
		if kind != "git" {
			out = append(out, "https://"+net.JoinHostPort(hostname(r), "443"))
		}
	}
	if r.Host() == "github.com" {
		out = append(out, "https://api.github.com:443")
	}
	if base, err := sentry.ParseRemote(api+"/x", sentry.RemoteRules{InsecureHTTP: true}); err == nil {
		out = append(out, base.Origin())
	}
	return out
}

// checkWebhooks tells of a secret for webhooks that nothing can send.
func checkWebhooks(d *decoder, at *place, given map[string]*yaml.Node, c *Config) {
	if c.Global.Listen == "" && c.Global.WebhookSecret.Path != "" {
		n := valueOf(given["global"], "webhook_secret_file")
		d.warn(at.at("global").at("webhook_secret_file"), follow(n), "no webhook arrives without global.listen", "set it to the address to listen on, such as 127.0.0.1:8080")
	}
}
