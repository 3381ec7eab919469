package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"sentry/internal/command"
	"sentry/internal/config"
	"sentry/internal/git"
	"sentry/internal/store"
)

// checkMachine looks at what the machine offers: nothing leaves it.
func checkMachine(ctx context.Context, cfg *config.Config) []finding {
	var list []finding
	list = append(list, checkShell())
	if limits := command.Limits(); len(limits) == 0 {
		list = append(list, finding{checkOK, "sandbox", "commands are confined as far as Sentry knows how to", ""})
	} else {
		for _, l := range limits {
			list = append(list, finding{checkWarn, "sandbox", l, "until that is mended, let only trusted commands run here"})
		}
	}
	list = append(list, checkState(ctx, cfg))
	folders := []string{cfg.Global.StateDir}
	if !strings.HasPrefix(cfg.Global.TmpDir, cfg.Global.StateDir+string(filepath.Separator)) {
		folders = append(folders, cfg.Global.TmpDir)
	}
	for _, folder := range folders {
		list = append(list, checkFolder(folder))
	}
	return list
}

// checkGit judges the git that was found.
func checkGit(ctx context.Context, g *git.Git) []finding {
	v, err := g.Version(ctx)
	if err != nil {
		return noGitFound(err)
	}
	missing := v.Insecure()
	if len(missing) == 0 {
		return []finding{{checkOK, "git", "version " + v.String(), ""}}
	}
	return []finding{{checkWarn, "git", fmt.Sprintf("version %s lacks security fixes: %s", v, strings.Join(missing, "; ")), "upgrade git; where your distribution has taken the fixes over into this version, ignore this"}}
}

// noGitFound says why there is no git to be judged.
func noGitFound(err error) []finding {
	return []finding{{checkFail, "git", err.Error(), fmt.Sprintf("install git %s or newer, and have it in PATH", git.Oldest)}}
}

func checkShell() finding {
	for _, shell := range []string{"bash", "sh"} {
		path, err := exec.LookPath(shell)
		switch {
		case err != nil:
		case shell == "bash":
			return finding{checkOK, "shell", path, ""}
		default:
			return finding{checkWarn, "shell", "there is no bash: commands run in " + path + ", where the failure of a pipe's beginning goes unnoticed", "install bash"}
		}
	}
	return finding{checkFail, "shell", "there is neither bash nor sh in PATH: no command can run", "install bash"}
}

// checkState looks at the state as `status` would. It makes nothing.
func checkState(ctx context.Context, cfg *config.Config) finding {
	const subject = "state"
	dir := cfg.Global.StateDir
	s, err := store.Open(ctx, store.Options{Dir: dir, ReadOnly: true})
	switch {
	case errors.Is(err, store.ErrNoState):
		return finding{checkOK, subject, "nothing yet in " + dir, ""}
	case err != nil:
		return finding{checkFail, subject, err.Error(), "`sentry state check` says more; without the state nothing is watched"}
	}
	if err := s.Close(); err != nil {
		return finding{checkFail, subject, err.Error(), "`sentry state check` says more"}
	}
	c, err := dial(ctx, place{stateDir: dir, config: cfg})
	switch {
	case err != nil:
		return finding{checkFail, subject, err.Error(), "end the process that holds it and start Sentry again"}
	case c != nil:
		defer c.Close()
		return finding{checkOK, subject, "in use by a running daemon", ""}
	}
	return finding{checkOK, subject, "readable; no daemon is running", ""}
}

// How much room a folder needs: below the first it is a failure, below the second a warning.
const (
	leastSpace  = 100 << 20
	wantedSpace = 1 << 30
)

// checkFolder looks whether a folder, or the first one above it that there is, can be written and has room.
func checkFolder(folder string) finding {
	subject := "disk"
	existing := folder
	for {
		info, err := os.Stat(existing)
		if err == nil && !info.IsDir() {
			return finding{checkFail, subject, existing + " is not a folder", "remove it, or name another folder"}
		}
		if err == nil {
			break
		}
		parent := filepath.Dir(existing)
		if !errors.Is(err, fs.ErrNotExist) || parent == existing {
			return finding{checkFail, subject, err.Error(), "let the user that runs Sentry use it, or name another folder"}
		}
		existing = parent
	}
	probe, err := os.CreateTemp(existing, ".sentry-check-")
	if err != nil {
		return finding{checkFail, subject, "cannot write: " + err.Error(), "give the folder to the user that runs Sentry, or name another"}
	}
	_ = probe.Close()
	if err := os.Remove(probe.Name()); err != nil {
		return finding{checkFail, subject, "cannot remove a file: " + err.Error(), "check the permissions of the folder"}
	}
	free, err := freeSpace(existing)
	if err != nil {
		return finding{checkWarn, subject, "cannot tell how much room there is: " + err.Error(), ""}
	}
	text := fmt.Sprintf("%s free for %s", bytesText(free), folder)
	switch {
	case free < leastSpace:
		return finding{checkFail, subject, text, "make room: a full disk stops the recording of changes"}
	case free < wantedSpace:
		return finding{checkWarn, subject, text, "make room: mirrors, workspaces and logs need it"}
	}
	return finding{checkOK, subject, text, ""}
}

// bytesText writes an amount for people.
func bytesText(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if i == 0 || v >= 100 {
		return fmt.Sprintf("%.0f %s", v, units[i])
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}
