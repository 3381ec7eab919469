package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"
)

// The images of this cluster, all of them made here: no registry is asked, and "localhost" is none.
const (
	imagePrefix  = "localhost/sentry-test/"
	imageBusybox = imagePrefix + "busybox:1"
	imagePause   = imagePrefix + "pause:1"
)

// imageTekton is the name of an image with one of Tekton's programs.
func imageTekton(program string) string { return imagePrefix + "tekton-" + program + ":1" }

// entry is something in an image: a file of this machine, a folder, or a link.
type entry struct {
	path string // without a slash at the beginning
	file string // of this machine
	link string // where it leads to
	text string // what is in it
	mode int64
}

// image is an image of one layer.
type image struct {
	name       string
	entrypoint []string
	entries    []entry
}

// epoch is the time of everything in an image: the same files make the same image.
var epoch = time.Unix(0, 0)

// write writes the image as a docker-archive: a layer, a configuration and a manifest.
func (i image) write(w io.Writer) error {
	layer, err := i.layer()
	if err != nil {
		return err
	}
	digest := func(b []byte) string { sum := sha256.Sum256(b); return hex.EncodeToString(sum[:]) }
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": epoch.UTC().Format(time.RFC3339),
		"config": map[string]any{
			"Entrypoint": i.entrypoint, "Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{
		"Config": digest(config) + ".json", "RepoTags": []string{i.name}, "Layers": []string{digest(layer) + "/layer.tar"},
	}})
	if err != nil {
		return err
	}
	archive := tar.NewWriter(w)
	for _, file := range []struct {
		name string
		data []byte
	}{{digest(layer) + "/layer.tar", layer}, {digest(config) + ".json", config}, {"manifest.json", manifest}} {
		header := &tar.Header{Name: file.name, Mode: 0o644, Size: int64(len(file.data)), ModTime: epoch}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if _, err := archive.Write(file.data); err != nil {
			return err
		}
	}
	return archive.Close()
}

// layer is the tar of the entries, with the folders above them.
func (i image) layer() ([]byte, error) {
	var out bytes.Buffer
	layer := tar.NewWriter(&out)
	made := map[string]bool{".": true}
	var folder func(name string, mode int64) error
	folder = func(name string, mode int64) error {
		if made[name] {
			return nil
		}
		made[name] = true
		if err := folder(path.Dir(name), 0o755); err != nil {
			return err
		}
		return layer.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, ModTime: epoch})
	}
	for _, e := range i.entries {
		if err := folder(path.Dir(e.path), 0o755); err != nil {
			return nil, err
		}
		header := &tar.Header{Name: e.path, Mode: e.mode, ModTime: epoch}
		data := []byte(e.text)
		switch {
		case e.file != "":
			var err error
			if data, err = os.ReadFile(e.file); err != nil {
				return nil, err
			}
		case e.link != "":
			header.Typeflag, header.Linkname = tar.TypeSymlink, e.link
		case e.text == "":
			if err := folder(e.path, e.mode); err != nil {
				return nil, err
			}
			continue
		}
		header.Size = int64(len(data))
		if err := layer.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := layer.Write(data); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), layer.Close()
}

// writeImage is the command `image`.
func writeImage(w io.Writer, args []string) error {
	if len(args) < 2 {
		return errors.New("image wants a name and at least one FILE=PATH")
	}
	i := image{name: args[0]}
	for _, arg := range args[1:] {
		file, to, ok := strings.Cut(arg, "=")
		if !ok || !strings.HasPrefix(to, "/") {
			return fmt.Errorf("%q is not FILE=PATH with an absolute PATH", arg)
		}
		if i.entrypoint == nil {
			i.entrypoint = []string{to}
		}
		i.entries = append(i.entries, entry{path: to[1:], file: file, mode: 0o755})
	}
	return i.write(w)
}

// busybox is an image with a shell and the programs of Debian's busybox-static.
func busybox() (image, error) {
	program, err := exec.LookPath("busybox")
	if err != nil {
		return image{}, err
	}
	applets, err := exec.Command(program, "--list").Output()
	if err != nil {
		return image{}, fmt.Errorf("cannot ask busybox for its programs: %w", err)
	}
	i := image{name: imageBusybox, entries: []entry{
		{path: "bin/busybox", file: program, mode: 0o755},
		{path: "tmp", mode: 0o1777},
		{path: "root", mode: 0o700},
		{path: "etc/passwd", text: "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/sh\n", mode: 0o644},
		{path: "etc/group", text: "root:x:0:\nnogroup:x:65534:\n", mode: 0o644},
	}}
	for _, name := range strings.Fields(string(applets)) {
		if name != "busybox" {
			i.entries = append(i.entries, entry{path: "bin/" + name, link: "busybox", mode: 0o777})
		}
	}
	return i, nil
}

// ownImages are the images that the cluster needs for itself and for its tests.
func ownImages(l layout) ([]image, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	shell, err := busybox()
	if err != nil {
		return nil, err
	}
	all := []image{shell, {
		name: imagePause, entrypoint: []string{"/cluster", "pause"}, entries: []entry{{path: "cluster", file: self, mode: 0o755}},
	}}
	for _, program := range []string{"entrypoint", "nop", "workingdirinit"} {
		at := "ko-app/" + program
		all = append(all, image{
			name: imageTekton(program), entrypoint: []string{"/" + at},
			entries: []entry{{path: at, file: l.built("tekton", program), mode: 0o755}},
		})
	}
	return all, nil
}

// loadOwnImages imports the cluster's own images.
func loadOwnImages(l layout) error {
	images, err := ownImages(l)
	if err != nil {
		return err
	}
	for _, i := range images {
		var archive bytes.Buffer
		if err := i.write(&archive); err != nil {
			return fmt.Errorf("cannot make the image %s: %w", i.name, err)
		}
		if err := ctrImport(l, "-", &archive); err != nil {
			return fmt.Errorf("%s: %w", i.name, err)
		}
	}
	return nil
}

// importImages is the command `import`.
func importImages(l layout, archives []string) error {
	for _, archive := range archives {
		if err := ctrImport(l, archive, nil); err != nil {
			return err
		}
	}
	return nil
}

// ctrImport loads one archive into containerd, where the kubelet looks for images.
func ctrImport(l layout, archive string, in io.Reader) error {
	cmd := exec.Command("ctr", slices.Concat([]string{"--address", l.containerd(), "--namespace", "k8s.io", "images", "import"}, snapshotterFlag(l), []string{archive})...)
	cmd.Stdin = in
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot import %s: %w\n%s", archive, err, out)
	}
	return nil
}
