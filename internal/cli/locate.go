package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v4"

	"sentry/internal/config"
)

// configVariable names the configuration file where --config does not: in a container, whoever types a verb need not know
// where it is mounted.
const configVariable = "SENTRY_CONFIG"

// usualConfig is the configuration file where no flag names one.
func (a *app) usualConfig() string {
	if file := getenv(a.environ, configVariable); file != "" {
		return file
	}
	return "sentry.yaml"
}

// named reports whether somebody said which configuration file is meant.
func (a *app) named() bool {
	return a.root.PersistentFlags().Changed("config") || getenv(a.environ, configVariable) != ""
}

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
	case a.missing() && !a.named():
		a.note("there is no %s here; looking at %s (--config and --state-dir name others)", a.flags.config, config.DefaultStateDir())
		return place{stateDir: config.DefaultStateDir()}, nil
	case a.missing():
		return place{}, a.noConfig(err)
	}
	if dir, ok := glimpse(a.flags.config); ok {
		a.note("%s is not valid (see `sentry validate`); looking at %s all the same", a.flags.config, dir)
		return place{stateDir: dir}, nil
	}
	p := explain(a.root.Context(), err)
	p.hint = "the state directory is named in it; --state-dir names it without"
	return place{}, p
}

// glimpse reads nothing but the state directory of a configuration that is wrong elsewhere: whoever has just broken it
// wants to see what the daemon makes of it. It reports false where that is in doubt.
func glimpse(file string) (string, bool) {
	const limit = 1 << 20
	f, err := os.Open(file)
	if err != nil {
		return "", false
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil || len(text) == limit {
		return "", false
	}
	var seen struct {
		Global struct {
			StateDir string `yaml:"state_dir"`
		} `yaml:"global"`
	}
	switch err := yaml.Unmarshal(text, &seen); {
	case err != nil, strings.Contains(seen.Global.StateDir, "$"):
		return "", false
	case seen.Global.StateDir == "":
		dir := config.DefaultStateDir()
		_, err := os.Stat(dir)
		return dir, err == nil
	case filepath.IsAbs(seen.Global.StateDir):
		return filepath.Clean(seen.Global.StateDir), true
	}
	dir, err := filepath.Abs(filepath.Join(filepath.Dir(file), seen.Global.StateDir))
	return dir, err == nil
}
