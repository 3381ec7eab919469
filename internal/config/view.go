package config

import "go.yaml.in/yaml/v4"

// View gives the effective configuration as YAML: every default and every variable filled in, secrets redacted. It
// reads back as a configuration.
func View(c *Config) ([]byte, error) {
	return yaml.Dump(configKeys().show(c), yaml.WithLineWidth(-1))
}
