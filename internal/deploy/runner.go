package deploy

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"sentry/internal/command"
	"sentry/internal/config"
	"sentry/internal/forge"
	"sentry/internal/git"
	"sentry/internal/git/gitwire"
	"sentry/internal/kube"
	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// Runner is what runs in the pod of a Job: it is given one assignment, does it as Local does, and tells how it goes.
type Runner struct {
	Dir       string   // all that it writes is there; commands see only their workspace of it
	Authority string   // file with the certificate authority of the API server
	Agent     string   // what it calls itself to servers
	Lacks     []string // what its machine lacks to run commands safely, for people
	Log       *slog.Logger
}

// helloTime is how often a runner says that it waits for its assignment. The first time is at once.
const helloTime = 3 * time.Second

// maxAssignment is the longest line that is read, in bytes.
const maxAssignment = 16 << 20

// Run waits on in for an assignment, does it, and tells on out how it goes, a message a line. It returns nil when it could
// tell how it ended, however that was. When ctx ends, what runs is ended, and that is told.
func (r *Runner) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	voice := &voice{out: out}
	assignment, err := awaitAssignment(ctx, in, voice, message{Kind: sayHello, Protocol: protocol, Lacks: r.Lacks})
	if err != nil {
		return err
	}
	d, outcome := r.do(ctx, assignment, voice)
	d.PipelineRuns = ofAttempt(d)
	return voice.say(message{Kind: sayDone, Outcome: &outcome, Deployment: &d})
}

// awaitAssignment asks for an assignment until it has one. A line that was cut off, when the connection was, is none.
func awaitAssignment(ctx context.Context, in io.Reader, v *voice, ask message) (*Assignment, error) {
	got, failed := make(chan *Assignment), make(chan error, 1)
	ended, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		failed <- readAssignments(in, func(a *Assignment) {
			select {
			case got <- a:
			case <-ended.Done(): // it has one: whoever sends another missed that
			}
		})
	}()
	hello := time.NewTicker(helloTime)
	defer hello.Stop()
	for {
		if err := v.say(ask); err != nil {
			return nil, err
		}
		select {
		case a := <-got:
			return a, nil
		case err := <-failed:
			return nil, err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-hello.C:
		}
	}
}

// readAssignments reads to the end of the input, for which the process does not wait.
func readAssignments(in io.Reader, got func(*Assignment)) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxAssignment)
	for lines.Scan() {
		var a Assignment
		if json.Unmarshal(lines.Bytes(), &a) == nil && a.Protocol != 0 {
			got(&a)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("cannot read the assignment: %w", err)
	}
	return errNoAssignment
}

// do does what is assigned. It gives the deployment as it is then.
func (r *Runner) do(ctx context.Context, a *Assignment, v *voice) (sentry.Deployment, Outcome) {
	states := stateVoice{voice: v}
	if err := states.tell(a.Deployment); err != nil { // so that whoever listens knows that it has its assignment
		return a.Deployment, Outcome{sentry.Failed, err.Error()}
	}
	job, err := a.job()
	if err != nil {
		return a.Deployment, Outcome{sentry.Failed, fmt.Sprintf("the runner cannot do what it was told: %v", err)}
	}
	local, done, err := r.local(a, v)
	if err != nil {
		return a.Deployment, Outcome{sentry.Failed, fmt.Sprintf("the runner cannot begin: %v", err)}
	}
	defer done()
	return local.Perform(ctx, job, states.tell)
}

// local makes what carries the assignment out, and gives what takes it down.
func (r *Runner) local(a *Assignment, v *voice) (local *Local, done func(), err error) {
	var undo []func()
	done = func() {
		for i := len(undo) - 1; i >= 0; i-- {
			undo[i]()
		}
	}
	defer func() {
		if err != nil {
			done()
		}
	}()
	mask := logger.NewMasker(a.secrets()...)
	source, err := r.unpack(&a.Repository.Source)
	if err != nil {
		return nil, nil, err
	}
	var hosts []forge.Host
	if source.authorities != "" || source.certificate != "" {
		hosts = []forge.Host{{Origin: source.origin, CAFile: source.authorities, CertFile: source.certificate, KeyFile: source.key}}
	}
	network := forge.NewNetwork(forge.NetworkOptions{Hosts: hosts, Log: r.Log})
	undo = append(undo, network.Close)
	g, err := git.New(git.Options{
		StateDir: r.Dir, Log: r.Log, CloneTimeout: time.Duration(a.Timeout), Transport: gitwire.NewTransport(network.TLS),
		Certificates: func(origin string) (string, string, string) {
			if origin != source.origin {
				return "", "", ""
			}
			return source.authorities, source.certificate, source.key
		},
	})
	if err != nil {
		return nil, nil, err
	}
	local = &Local{
		Root: filepath.Join(r.Dir, "workspaces"), LogsDir: filepath.Join(r.Dir, "logs"), Mask: mask, Log: r.Log, Instance: a.Instance,
		Commands: command.New(command.Options{Protect: []string{r.Dir}, Grace: time.Duration(a.Grace), Log: r.Log}),
		Auth: func(*config.Repository) git.Auth {
			return a.Repository.Source.gitAuth(source.sshKey, source.knownHosts)
		},
		CopyLog: func(name string) io.WriteCloser { return v.log(name) },
	}
	sources := g.NewSources(local.SourcesOptions(filepath.Join(r.Dir, "mirrors")))
	undo = append(undo, sources.Close)
	local.Sources = sources
	clusters, closeCluster := r.clusters(a)
	undo = append(undo, closeCluster)
	local.Clusters = clusters
	return local, done, nil
}

// unpacked are the files that git is given, "" for none.
type unpacked struct{ origin, sshKey, knownHosts, authorities, certificate, key string }

// unpack writes the files of a source where no command can read them.
func (r *Runner) unpack(s *AssignedSource) (unpacked, error) {
	remote, err := sentry.ParseRemote(s.URL, sentry.RemoteRules{InsecureHTTP: true, Local: true})
	if err != nil {
		return unpacked{}, err
	}
	u := unpacked{origin: remote.Origin()}
	dir := filepath.Join(r.Dir, "credentials")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return u, err
	}
	for _, file := range []struct {
		name string
		data []byte
		path *string
	}{
		{"ssh-key", s.SSHKey, &u.sshKey},
		{"known-hosts", s.KnownHosts, &u.knownHosts},
		{"authorities.pem", s.Authorities, &u.authorities},
		{"certificate.pem", s.Certificate, &u.certificate},
		{"key.pem", s.Key, &u.key},
	} {
		if len(file.data) == 0 {
			continue
		}
		*file.path = filepath.Join(dir, file.name)
		if err := os.WriteFile(*file.path, file.data, 0o600); err != nil {
			return u, err
		}
	}
	return u, nil
}

// clusters gives the cluster of the pod, by the token of the assignment.
func (r *Runner) clusters(a *Assignment) (clusters Clusters, done func()) {
	if a.Cluster == nil {
		if len(a.Repository.Commands) > 0 {
			return nil, func() {}
		}
		return only{err: errors.New("the repository has no commands, and its Job has no access to the cluster: give kubernetes.jobs.service_account, or commands")}, func() {}
	}
	cluster, err := kube.Connect(kube.Options{
		Pod:        &kube.PodAccess{Token: sentry.NewSecret(a.Cluster.Token), Authority: r.Authority},
		Namespaces: a.Cluster.Namespaces, UserAgent: r.Agent, Log: r.Log,
	})
	if err != nil {
		return only{err: err}, func() {}
	}
	gateway, err := cluster.NewGateway(kube.GatewayOptions{})
	if err != nil {
		return only{err: err}, func() {}
	}
	return only{cluster: Kube{Cluster: cluster, Gateway: gateway}}, gateway.Close
}

// only is the one cluster that there is, or why there is none.
type only struct {
	cluster Cluster
	err     error
}

// Hold gives it.
func (o only) Hold() (Cluster, func(), error) { return o.cluster, func() {}, o.err }
