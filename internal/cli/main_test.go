package cli

import (
	"testing"
)

// testMain runs the tests.
func testMain(m *testing.M) int { return m.Run() }
