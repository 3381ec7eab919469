package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"sentry/internal/config"
	"sentry/internal/daemon"
	"sentry/internal/logger"
	"sentry/internal/server"
)

// The results of a check.
const (
	checkOK   = "ok"
	checkWarn = "warn"
	checkFail = "fail"
)

// finding is what one check found.
type finding struct {
	Status  string `json:"status"`  // ok, warn or fail
	Subject string `json:"subject"` // what was looked at
	Message string `json:"message"` // what was found
	Fix     string `json:"fix,omitempty"`
}

func newCheck(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check everything that a rollout needs, and say how to mend it",
		Long: `Check what the configuration needs from outside: tokens with their rights, their end and what is left of their limits,
branches, QA repositories, the cluster with the rights in it, git, the shell, the sandbox, the disk, the state directory.
It asks each repository once. Each line is ok, warn or fail, with a fix; any fail gives exit code 1. "sentry validate" checks the file alone.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.check(cmd.Context()) },
	}
}

func (a *app) check(ctx context.Context) error {
	cfg, err := a.load()
	if err != nil {
		return err
	}
	findings := []finding{{checkOK, "configuration", fmt.Sprintf("%s: %s in %s", cfg.File,
		counted(len(cfg.Repositories), "repository", "repositories"), counted(len(cfg.Groups), "group", "groups")), ""}}
	found, err := checkAll(ctx, cfg)
	if err != nil {
		return err
	}
	findings = append(findings, found...)
	if a.asJSON() {
		if err := a.json(server.List[finding]{Items: findings}); err != nil {
			return err
		}
	} else {
		for _, l := range findingLines(a.out, findings, a.out.width()) {
			fmt.Fprintln(a.out, l)
		}
	}
	count := map[string]int{}
	for _, f := range findings {
		count[f.Status]++
	}
	a.note("%d ok, %s, %s", count[checkOK], counted(count[checkWarn], "warning", "warnings"), counted(count[checkFail], "failure", "failures"))
	if count[checkFail] > 0 {
		return silent(exitFailed)
	}
	return nil
}

// checkAll looks at the machine, then asks the forges and the repositories, by the ways of a daemon. git works in a folder
// of its own for it: looking makes nothing in the state directory.
func checkAll(ctx context.Context, cfg *config.Config) (found []finding, err error) {
	folder, err := os.MkdirTemp("", "sentry-check-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	inquiry, noGit := daemon.NewInquiry(cfg, folder, logger.NewMasker(cfg.Secrets()...), slog.New(slog.DiscardHandler))
	if noGit != nil {
		return append(noGitFound(noGit), checkMachine(ctx, cfg)...), nil
	}
	defer inquiry.Close()
	found = append(found, checkGit(ctx, inquiry.Git())...)
	found = append(found, checkMachine(ctx, cfg)...)
	found = append(found, checkCluster(ctx, cfg)...)
	accounts, err := checkAccounts(ctx, cfg, inquiry)
	if err != nil {
		return found, err
	}
	found = append(found, accounts...)
	remote, err := checkRemotes(ctx, cfg, inquiry)
	return append(found, remote...), err
}

// findingLines draws findings: a line for each, and what to do below it.
func findingLines(s screen, findings []finding, width int) []string {
	subjects := 0
	for _, f := range findings {
		subjects = max(subjects, textWidth(tidy(f.Subject)))
	}
	if width > 0 {
		subjects = min(subjects, max(12, width/3))
	}
	indent := len(checkFail) + gap + subjects + gap
	room := 0
	if width > 0 {
		room = max(width-indent, 20)
	}
	var lines []string
	for _, f := range findings {
		head := s.paint(colourOfCheck(f.Status), pad(f.Status, len(checkFail))) + "  " + pad(cut(tidy(f.Subject), subjects), subjects) + "  "
		text := wrap(tidy(f.Message), room)
		if f.Fix != "" {
			text = append(text, wrap("fix: "+tidy(f.Fix), room)...)
		}
		for i, l := range text {
			if i > 0 {
				head = strings.Repeat(" ", indent)
			}
			lines = append(lines, head+l)
		}
	}
	return lines
}

func colourOfCheck(status string) style {
	return map[string]style{checkOK: green, checkWarn: yellow, checkFail: red}[status]
}
