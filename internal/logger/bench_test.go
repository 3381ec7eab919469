package logger

import (
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"sentry/internal/sentry"
)

// randomSecrets are tokens of 40 characters and, where wanted, an RSA key of 3 KB, as an installation has them.
func randomSecrets(n int, withKey bool) []sentry.Secret {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	random := rand.New(rand.NewPCG(1, 2))
	word := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = alphabet[random.IntN(len(alphabet))]
		}
		return string(b)
	}
	var list []sentry.Secret
	for range n {
		list = append(list, sentry.NewSecret("ghp_"+word(36)))
	}
	if withKey {
		lines := []string{"-----BEGIN RSA PRIVATE KEY-----"}
		for range 50 {
			lines = append(lines, word(64))
		}
		list = append(list, sentry.NewSecret(strings.Join(append(lines, "-----END RSA PRIVATE KEY-----", ""), "\n")))
	}
	return list
}

func BenchmarkMaskWriter(b *testing.B) {
	log := strings.Repeat("2026-11-22T10:11:12Z INFO step=4 pulled image registry.example.com/app@sha256:9f86d081884c7d659a2feaa0c55ad015 in 1.2s\n", 600)[:64<<10]
	random := make([]byte, 64<<10)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	zeros := make([]byte, 64<<10)
	for _, text := range []struct {
		name string
		data []byte
	}{{"log", []byte(log)}, {"random", random}, {"zeros", zeros}} {
		for _, n := range []int{1, 20, 200} {
			b.Run(fmt.Sprintf("%s/secrets=%d", text.name, n), func(b *testing.B) {
				w := NewMasker(randomSecrets(n, n > 1)...).Writer(io.Discard)
				b.SetBytes(int64(len(text.data)))
				for b.Loop() {
					if _, err := w.Write(text.data); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// The worst a command can do: print nothing but the beginning of a secret.
func BenchmarkMaskWriterHostile(b *testing.B) {
	all := randomSecrets(20, true)
	text := []byte(strings.Repeat(all[0].Reveal()[:39]+" ", 1700)[:64<<10])
	w := NewMasker(all...).Writer(io.Discard)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := w.Write(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMaskerAdd(b *testing.B) {
	all := randomSecrets(20, true)
	for b.Loop() {
		NewMasker(all...)
	}
}
