package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"sentry/internal/config"
)

// load reads the configuration for a verb that works by it: all of it must be right. Warnings are told.
func (a *app) load() (*config.Config, error) {
	cfg, warnings, err := config.Load(a.flags.config, a.configOptions(false))
	if err != nil {
		return nil, a.noConfig(err)
	}
	for _, w := range warnings {
		a.note("%s", w.String())
	}
	return cfg, nil
}

func (a *app) configOptions(ignoreUnset bool) config.Options {
	return config.Options{Environ: a.environ, StateDir: a.flags.stateDir, IgnoreUnset: ignoreUnset}
}

// noConfig explains why there is no configuration.
func (a *app) noConfig(err error) error {
	if a.missing() {
		return &problem{code: exitUsage, message: fmt.Sprintf("there is no configuration file %s", a.flags.config), hint: "name it with --config, or start from the example sentry.yaml", cause: err}
	}
	return err
}

// missing reports whether there is no configuration file.
func (a *app) missing() bool {
	_, err := os.Stat(a.flags.config)
	return errors.Is(err, fs.ErrNotExist)
}

// place is what a verb works on that only looks, or asks a daemon.
type place struct {
	stateDir string
	config   *config.Config // nil where it cannot be read; a daemon has its own
}

// locate finds the state directory. The configuration matters little here: a daemon has it, and what is on disk can be
// looked at without. So variables that are not set in this shell do not matter, and with --state-dir neither does a
// configuration that is broken or missing.
func (a *app) locate() (place, error) {
	cfg, _, err := config.Load(a.flags.config, a.configOptions(true))
	switch {
	case err == nil:
		return place{cfg.Global.StateDir, cfg}, nil
	case a.flags.stateDir != "":
		dir, err := filepath.Abs(a.flags.stateDir)
		return place{stateDir: dir}, err
	case a.missing() && !a.root.PersistentFlags().Changed("config"):
		return place{stateDir: config.DefaultStateDir()}, nil
	case a.missing():
		return place{}, a.noConfig(err)
	}
	p := explain(a.root.Context(), err)
	p.hint = "the state directory is named in it; --state-dir names it without"
	return place{}, p
}
