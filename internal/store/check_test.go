package store

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sentry/internal/sentry"
)

// TestCheck breaks each invariant in turn and expects to be told of it. The last part of each line is what is told.
func TestCheck(t *testing.T) {
	told := map[string]bool{}
	for _, c := range []struct{ sql, says string }{
		{`DROP INDEX rollouts_one_runs; UPDATE rollouts SET status = 'running' WHERE grp = 'g' AND status = 'succeeded'`, "more than one rollout of a group runs: g"},
		{`UPDATE deployments SET status = 'running' WHERE rollout = 1`, "a rollout has ended, but a deployment of it has not: 1-"},
		{`UPDATE steps SET status = 'running' WHERE rollout = 1 AND ordinal = 1`, "a deployment has ended, but a step of it has not: 1-1 step 1"},
		{`UPDATE rollouts SET status = 'pending' WHERE sequence = 1`, "a rollout waits, but has deployments: 1-"},
		{`UPDATE rollouts SET owner = '' WHERE status = 'running'`, "a rollout runs without policy, deployments, owner or epoch: 3-"},
		{`UPDATE rollouts SET epoch = 9 WHERE status = 'running'`, "a rollout runs without policy, deployments, owner or epoch: 3-"},
		{`UPDATE deployments SET pipeline_runs = '[{"uid":' WHERE rollout = 1`, "the pipeline runs of a deployment cannot be read: 1-1"},
		{`UPDATE deployments SET job = '{"uid":' WHERE rollout = 1`, "the Job of a deployment cannot be read: 1-1"},
		{`UPDATE deployments SET job = '{"name":"j","attempt":2}' WHERE rollout = 1`, "a Job is of an attempt that has not begun: 1-1"},
		{`UPDATE deployments SET pipeline_runs = '[{"name":"r","attempt":2}]' WHERE rollout = 1`, "a pipeline run is of an attempt that has not begun: 1-1 r"},
		{`UPDATE deployments SET pipeline_runs = '[{"name":"r","uid":"u"}]' WHERE rollout IN (1, 3)`, "a pipeline run is in two places: u"},
		{
			`UPDATE deployments SET pipeline_runs = '[{"name":"r","uid":"u","attempt":1,"status":"failed"}]' WHERE rollout = 1`,
			"a deployment has succeeded, but a pipeline run that it followed has not: 1-1 r",
		},
		{`UPDATE deployments SET ordinal = 7 WHERE rollout = 3`, "the ordinals of the deployments of a rollout have gaps: 3"},
		{`DELETE FROM heads WHERE repository = 'a'`, "a change has no head: a@main"},
		{`UPDATE heads SET commit_id = 'x' WHERE repository = 'a'`, "the newest change of a watch is not what its head is: a@main"},
		{`UPDATE heads SET generation = generation + 1 WHERE repository = 'a'`, "the newest change of a watch is not what its head is: a@main"},
		{`DELETE FROM changes WHERE repository = 'a' AND generation = 2`, "changes of a watch are missing: a@main"},
		{`UPDATE heads SET generation = 5 WHERE repository = 'quiet'`, "changes of a watch are missing: quiet@main"},
		{`UPDATE changes SET from_commit = 'x' WHERE repository = 'a' AND generation = 3`, "a change does not begin where the one before it ended: a@main generation 3"},
		{`UPDATE changes SET rollout = 4 WHERE repository = 'a' AND generation = 2`, "a change of a watch is in an older rollout of the group than the change before it: a@main generation 3"},
		{`UPDATE changes SET grp = 'h' WHERE repository = 'a' AND generation = 2`, "a rollout answers a change of another group: 1-"},
		{`UPDATE changes SET ledger = 10000 WHERE repository = 'a'`, "something is newer than the newest entry of the ledger: a@main"},
		{`UPDATE rollouts SET status = 'running', grp = 'k' WHERE sequence = 1`, "a verdict was prepared before its rollout has ended: 1-"},
		{`UPDATE deliveries SET id = 99 WHERE state = 'pending' AND rollout LIKE '1-%'`, "a pending comes after the verdict of its rollout: 1-"},
		{`DELETE FROM deliveries WHERE state <> 'pending' AND rollout LIKE '1-%'`, "a commit was told that a rollout is pending, and nothing tells it of the end: 1-"},
		{`PRAGMA foreign_keys = OFF; DELETE FROM rollouts WHERE sequence = 1; PRAGMA foreign_keys = ON`, "reference is broken: "},
		{`PRAGMA ignore_check_constraints = ON; UPDATE heads SET deleted = 7 WHERE repository = 'b'; PRAGMA ignore_check_constraints = OFF`, "structure is broken: CHECK constraint failed in heads"},
		{`PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = 'changes_by_group'; PRAGMA writable_schema = RESET`, "structure is broken: "},
	} {
		s := inMemory(t)
		record(t, s, see("quiet", "1"), see("a", "1"), see("a", "2"))
		first := claim(t, s, pending(t, s, "g"))
		expand(t, s)
		deliver(t, s)
		deployed(t, s, first)
		noError(t, s.Finish(t.Context(), first.ID, sentry.Succeeded, "all succeeded"))
		expand(t, s)
		deliver(t, s)
		record(t, s, see("a", "3"))
		runThrough(t, s, pending(t, s, "g"))
		record(t, s, see("a", "4"), see("b", "1").in("h"), see("b", "2").in("h"))
		claim(t, s, pending(t, s, "g"))
		record(t, s, see("a", "5"))
		healthy(t, s)
		noError(t, s.writer.conn.Exec(c.sql)) // the writer is idle
		broken := must(s.Check(t.Context()))(t)
		if !strings.Contains(strings.Join(broken, "\n"), c.says) {
			t.Errorf("%s\ntells %q\nwant %q", c.sql, broken, c.says)
		}
		for _, rule := range rules {
			if strings.HasPrefix(c.says, rule.broken) {
				told[rule.broken] = true
			}
		}
	}
	for _, rule := range rules {
		if !told[rule.broken] {
			t.Errorf("no case breaks %q", rule.broken)
		}
	}
}

// TestCheckTellsALittle: a state that is broken all over is told of in a few lines.
func TestCheckTellsALittle(t *testing.T) {
	s := inMemory(t)
	for i := range 30 {
		record(t, s, see("r"+string(rune('a'+i)), "1"))
	}
	noError(t, s.writer.conn.Exec(`UPDATE heads SET generation = 2`))
	broken := must(s.Check(t.Context()))(t)
	if len(broken) != brokenLimit+1 || !strings.HasSuffix(broken[brokenLimit], "and 20 more") {
		t.Errorf("%d lines: %q", len(broken), broken)
	}
}

// TestCheckReadsEveryPage: also those that nothing refers to any more.
func TestCheckReadsEveryPage(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir)
	noError(t, s.writer.conn.Exec(`CREATE TABLE big (x TEXT); INSERT INTO big VALUES (hex(zeroblob(40000))); DROP TABLE big`))
	healthy(t, s)
	closed(t, s)
	path := filepath.Join(dir, databaseName)
	data := must(os.ReadFile(path))(t)
	data[len(data)-pageSize-100] ^= 1
	noError(t, os.WriteFile(path, data, 0o600))
	s = openWith(t, Options{Dir: dir, ReadOnly: true})
	if broken := must(s.Check(t.Context()))(t); len(broken) != 1 || !strings.Contains(broken[0], "does not have its checksum") {
		t.Errorf("%q", broken)
	}
}
