package kubetest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// ownImage is the name of the image of this source in a cluster of our own: what the chart asks for.
const ownImage = "localhost/sentry:0.1.0"

var built struct {
	sync.Once
	err error
}

// SentryImage gives the name of an image of this source that the cluster has: the one that SENTRY_IMAGE names; in
// our own cluster it is built, once for all tests of a package, and imported. Else the test is skipped, as it is where
// SENTRY_NEED_KUBE is not set, for to build takes a minute.
func (c *Cluster) SentryImage(t testing.TB) string {
	t.Helper()
	c.NeedNode(t)
	if image := os.Getenv("SENTRY_IMAGE"); image != "" {
		return image
	}
	if !c.Ours {
		t.Skip("SENTRY_IMAGE does not name an image that this cluster can pull, as registry.example.com/sentry:tag")
	}
	if os.Getenv("SENTRY_NEED_KUBE") == "" {
		t.Skip("`make test-kube` builds the image for this; SENTRY_IMAGE names one that is there")
	}
	built.Do(func() { built.err = c.buildImage(t) })
	if built.err != nil {
		t.Fatal(built.err)
	}
	return ownImage
}

// buildImage builds the image without anything from elsewhere, and imports it.
func (c *Cluster) buildImage(t testing.TB) error {
	t.Helper()
	if _, err := exec.LookPath("buildah"); err != nil && exec.Command("docker", "info").Run() != nil {
		return errors.New("there is neither a Docker engine nor buildah")
	}
	archive := filepath.Join(t.TempDir(), "sentry.tar")
	cmd := exec.Command("tools/image-build", ownImage)
	cmd.Dir, cmd.Env = c.dir, append(os.Environ(), "OWN_BASES=1", "SAVE="+archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build the image: %w\n%s", err, out)
	}
	c.Import(t, archive)
	return nil
}
