package config

import "testing"

func TestExecutorOf(t *testing.T) {
	c := &Config{
		Groups: []Group{{Name: "here"}, {Name: "there", Executor: ExecutorKubernetes}},
		Repositories: []Repository{
			{Name: "a", Group: "here"},
			{Name: "b", Group: "here", Deploy: Deploy{Executor: ExecutorKubernetes}},
			{Name: "c", Group: "there"},
			{Name: "d", Group: "there", Deploy: Deploy{Executor: ExecutorLocal}},
		},
	}
	want := []string{ExecutorLocal, ExecutorKubernetes, ExecutorKubernetes, ExecutorLocal}
	for i := range c.Repositories {
		if got := c.ExecutorOf(&c.Repositories[i]); got != want[i] {
			t.Errorf("%s runs %s, want %s", c.Repositories[i].Name, got, want[i])
		}
	}
}

func TestJobOf(t *testing.T) {
	r := &Repository{Name: "a"}
	c := &Config{}
	if got := c.JobOf(r); got.StartTimeout == 0 || got.Keep == 0 || got.Image != "" {
		t.Errorf("without settings: %+v", got)
	}
	c.Kubernetes = &Kubernetes{Jobs: &JobSettings{Image: "all"}}
	if got := c.JobOf(r); got.Image != "all" {
		t.Errorf("for all: %+v", got)
	}
	r.Deploy.Job = &JobSettings{Image: "own"}
	if got := c.JobOf(r); got.Image != "own" {
		t.Errorf("its own: %+v", got)
	}
}

func TestCloneOfJobSettings(t *testing.T) {
	whole := JobSettings{
		Labels: map[string]string{"a": "1"}, Resources: Resources{Limits: map[string]string{"cpu": "1"}}, Security: map[string]any{"runAsUser": int64(1)},
	}
	own := whole.clone()
	own.Labels["a"], own.Resources.Limits["cpu"], own.Security["runAsUser"] = "2", "2", int64(2)
	if whole.Labels["a"] != "1" || whole.Resources.Limits["cpu"] != "1" || whole.Security["runAsUser"] != int64(1) {
		t.Errorf("the settings of one repository changed those of all: %+v", whole)
	}
}
