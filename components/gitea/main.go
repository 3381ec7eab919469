// Gitea as a program of this repository's tests: the forge itself, of its own module, with nothing of ours in it. It has
// a module of its own, so that what Gitea depends on is nothing that Sentry depends on.
package main

import (
	"os"
	"runtime"
	"time"

	"code.gitea.io/gitea/cmd"
	"code.gitea.io/gitea/modules/log"
	"code.gitea.io/gitea/modules/setting"
	"github.com/urfave/cli/v3"
)

// version is Gitea's, set when it is linked: without it the API says "development", and clients of Gitea look at it.
var version = "development"

func main() {
	setting.AppVer, setting.AppBuiltWith, setting.AppStartTime = version, " built with "+runtime.Version(), time.Now().UTC()
	exit := func(code int) {
		log.GetManager().Close() // it writes in the background
		os.Exit(code)
	}
	cli.OsExiter = exit
	if err := cmd.RunMainApp(cmd.NewMainApp(cmd.AppVersion{Version: version, Extra: setting.AppBuiltWith}), os.Args...); err != nil {
		exit(1) // it has said why
	}
	exit(0)
}
