//go:build !unix

package store

import "testing"

func asNobody(t *testing.T, _, _, _ string, _ func(string)) { t.Skip("no modes here") }
