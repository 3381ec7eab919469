package deploy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"sentry/internal/kube"
)

// What is read of the folder of a project.
const (
	maxManifestFiles = 200
	maxManifestSize  = 1 << 20 // bytes of one file
)

// projectFolder is where the pipelines of a project are in a clone, with slashes.
func projectFolder(name string) string { return path.Join(".tekton", name) }

// projectDir gives the path of the project's folder in a clone; "" where there is none. A link that leads out of the
// clone counts as none.
func projectDir(source, name string) string {
	root, err := os.OpenRoot(source)
	if err != nil {
		return ""
	}
	defer root.Close()
	folder := filepath.FromSlash(projectFolder(name))
	if info, err := root.Stat(folder); err != nil || !info.IsDir() {
		return ""
	}
	return filepath.Join(source, folder)
}

// readManifests reads the YAML files of the project's folder in a clone, in the order of their names.
func readManifests(source, name string) ([]kube.Manifest, error) {
	folder := projectFolder(name)
	root, err := os.OpenRoot(source)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the QA repository has no folder %s: add it with a PipelineRun, or give the repository commands", folder)
	case err != nil:
		return nil, fmt.Errorf("cannot read the folder %s of the QA repository: %w", folder, err)
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool {
		ending := path.Ext(e.Name())
		return e.IsDir() || ending != ".yaml" && ending != ".yml" || strings.HasPrefix(e.Name(), ".")
	})
	switch {
	case len(entries) == 0:
		return nil, fmt.Errorf("the folder %s of the QA repository has no YAML file", folder)
	case len(entries) > maxManifestFiles:
		return nil, fmt.Errorf("the folder %s of the QA repository has %d YAML files; at most %d are read", folder, len(entries), maxManifestFiles)
	}
	var manifests []kube.Manifest
	for _, e := range entries {
		file := path.Join(folder, e.Name())
		data, err := readBounded(root, file)
		if err != nil {
			return nil, fmt.Errorf("cannot read %s of the QA repository: %w", file, err)
		}
		manifests = append(manifests, kube.Manifest{Name: file, Data: data})
	}
	return manifests, nil
}

// readBounded reads a regular file of at most maxManifestSize.
func readBounded(root *os.Root, file string) ([]byte, error) {
	info, err := root.Stat(filepath.FromSlash(file))
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // to open a pipe would wait for ever
		return nil, errors.New("it is no regular file")
	}
	f, err := root.Open(filepath.FromSlash(file))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifestSize+1))
	if err == nil && len(data) > maxManifestSize {
		err = fmt.Errorf("it has more than %d bytes", maxManifestSize)
	}
	return data, err
}
