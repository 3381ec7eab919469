// Package config reads the configuration file: YAML to nodes, variables expanded in values, every key checked, and all
// mistakes reported at once with their places. One table of keys (keys.go) is what the decoder, the suggestions, the
// JSON Schema and the effective view are made from.
package config
