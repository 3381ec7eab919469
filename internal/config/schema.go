package config

import "encoding/json"

// Schema gives the JSON Schema (draft 2020-12) of the configuration file, for editors and other checkers. It knows keys,
// types, choices and bounds; what depends on the values of others is for validate.
func Schema() ([]byte, error) {
	s := configKeys().schema()
	s.Schema = "https://json-schema.org/draft/2020-12/schema"
	s.Title = "Sentry configuration"
	return json.MarshalIndent(s, "", "  ")
}
