package deploy

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"

	"sentry/internal/sentry"
)

// places are paths that commands are told: HOME, TMPDIR, the file with the vector, and, "" for none, the project's folder
// and the kubeconfig.
type places struct{ home, tmp, vector, project, kubeconfig string }

// environment is everything a command finds in its environment: a private HOME and TMPDIR, the facts of the deployment,
// and the repository's own `env:`. Nothing of Sentry's own environment but PATH, and no token.
//
// Names of the form SENTRY_DSN, SENTRY_RELEASE, SENTRY_PROJECT and so on are never set: the error tracker that is also
// called Sentry reads them.
func environment(job Job, d sentry.Deployment, p places) []string {
	repo := job.Repository
	qaCommit := ""
	if d.Source != nil {
		qaCommit = d.Source.Commit
	}
	env := []string{
		"PATH=" + searchPath(),
		"HOME=" + p.home,
		"TMPDIR=" + p.tmp,
		"LANG=C.UTF-8",
		"CI=true",
		"SENTRY_ROLLOUT_ID=" + job.Rollout.ID,
		"SENTRY_DEPLOYMENT_ID=" + d.ID,
		"SENTRY_ATTEMPT=" + strconv.Itoa(d.Attempt),
		"SENTRY_GROUP=" + job.Rollout.Group,
		"SENTRY_REPOSITORY=" + d.Repository,
		"SENTRY_PROJECT_NAME=" + repo.Deploy.ProjectName,
		"SENTRY_BRANCH=" + oneLine(d.Branch),
		"SENTRY_COMMIT=" + d.Commit,
		"SENTRY_PREVIOUS_COMMIT=" + d.Previous,
		"SENTRY_COMMIT_AUTHOR=" + oneLine(d.Author),
		"SENTRY_COMMIT_SUBJECT=" + oneLine(d.Subject),
		"SENTRY_REPO_URL=" + repo.Monitor.Remote.String(),
		"SENTRY_QA_COMMIT=" + qaCommit,
		"SENTRY_VECTOR_FILE=" + p.vector,
	}
	if p.project != "" {
		env = append(env, "SENTRY_PROJECT_DIR="+p.project)
	}
	if p.kubeconfig != "" {
		env = append(env, "KUBECONFIG="+p.kubeconfig)
	}
	for _, v := range repo.Deploy.Env {
		env = append(env, v.Name+"="+v.Value.Reveal())
	}
	return env
}

// searchPath is PATH as Sentry has it: the commands find the tools that the operator installed for them.
func searchPath() string {
	if p := os.Getenv("PATH"); p != "" {
		return p
	}
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

// oneLine keeps text of strangers from looking like more than one line, or from ending early.
func oneLine(s string) string {
	const most = 4096
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}

// vectorFile is the form of SENTRY_VECTOR_FILE.
type vectorFile struct {
	Rollout string               `json:"rollout"`
	Group   string               `json:"group"`
	Vector  []sentry.VectorEntry `json:"vector"`
}

func writeVector(file string, r sentry.Rollout) error {
	vector := r.Vector
	if vector == nil {
		vector = []sentry.VectorEntry{}
	}
	data, err := json.MarshalIndent(vectorFile{r.ID, r.Group, vector}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o600)
}
