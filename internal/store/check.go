package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// rule is an invariant of the data: the query finds what breaks it, as text.
type rule struct{ broken, sql string }

var rules = []rule{
	{"more than one rollout of a group runs", `SELECT grp FROM rollouts WHERE status = 'running' GROUP BY grp HAVING count(*) > 1`},
	{
		"a rollout has ended, but a deployment of it has not",
		`SELECT r.sequence || '-' || r.suffix || '-' || d.ordinal FROM rollouts r JOIN deployments d ON d.rollout = r.sequence
		WHERE r.status NOT IN ('pending', 'running') AND d.status IN ('pending', 'running')`,
	},
	{
		"a deployment has ended, but a step of it has not",
		`SELECT d.rollout || '-' || d.ordinal || ' step ' || s.ordinal FROM deployments d JOIN steps s ON s.rollout = d.rollout AND s.deployment = d.ordinal
		WHERE d.status NOT IN ('pending', 'running') AND s.status = 'running' AND s.attempt = d.attempt`,
	},
	{
		"a rollout waits, but has deployments",
		`SELECT sequence || '-' || suffix FROM rollouts WHERE status = 'pending' AND sequence IN (SELECT rollout FROM deployments)`,
	},
	{
		"a rollout runs without policy, deployments, owner or epoch",
		`SELECT sequence || '-' || suffix FROM rollouts WHERE status = 'running'
		AND (policy = '' OR owner = '' OR attempt < 1 OR epoch < 1 OR epoch > (SELECT epoch FROM meta) OR sequence NOT IN (SELECT rollout FROM deployments))`,
	},
	{
		"the pipeline runs of a deployment cannot be read",
		`SELECT rollout || '-' || ordinal FROM deployments WHERE pipeline_runs <> '' AND NOT json_valid(pipeline_runs)`,
	},
	{
		"the Job of a deployment cannot be read",
		`SELECT rollout || '-' || ordinal FROM deployments WHERE job <> '' AND NOT json_valid(job)`,
	},
	{
		"a Job is of an attempt that has not begun",
		`SELECT rollout || '-' || ordinal FROM deployments WHERE job <> '' AND json_valid(job) AND coalesce(json_extract(job, '$.attempt'), 0) NOT BETWEEN 1 AND attempt`,
	},
	{
		"a pipeline run is of an attempt that has not begun",
		`SELECT d.rollout || '-' || d.ordinal || ' ' || json_extract(p.value, '$.name') FROM readable d, json_each(d.runs) p
		WHERE coalesce(json_extract(p.value, '$.attempt'), 0) > d.attempt`,
	},
	{
		"a pipeline run is in two places",
		`SELECT json_extract(p.value, '$.uid') FROM readable d, json_each(d.runs) p WHERE json_extract(p.value, '$.uid') <> ''
		GROUP BY 1 HAVING count(*) > 1`,
	},
	{
		"a deployment has succeeded, but a pipeline run that it followed has not",
		`SELECT d.rollout || '-' || d.ordinal || ' ' || json_extract(p.value, '$.name') FROM readable d, json_each(d.runs) p
		WHERE d.status = 'succeeded' AND json_extract(p.value, '$.attempt') = d.attempt AND json_extract(p.value, '$.status') <> 'succeeded'
		AND NOT coalesce(json_extract(p.value, '$.untracked'), 0) AND NOT coalesce(json_extract(p.value, '$.superseded'), 0)`,
	},
	{
		"the ordinals of the deployments of a rollout have gaps",
		`SELECT rollout FROM deployments GROUP BY rollout HAVING max(ordinal) <> count(*)`,
	},
	{"a change has no head", `SELECT repository || '@' || branch FROM changes c WHERE NOT EXISTS (SELECT 1 FROM heads h WHERE h.repository = c.repository AND h.branch = c.branch)`},
	{
		"the newest change of a watch is not what its head is",
		`SELECT h.repository || '@' || h.branch FROM heads h JOIN changes c ON c.repository = h.repository AND c.branch = h.branch
		AND c.generation = (SELECT max(generation) FROM changes WHERE repository = h.repository AND branch = h.branch)
		WHERE c.generation <> h.generation OR c.to_commit <> h.commit_id`,
	},
	{"changes of a watch are missing", // of the newest: older ones go with their rollouts
		`SELECT h.repository || '@' || h.branch FROM heads h LEFT JOIN changes c ON c.repository = h.repository AND c.branch = h.branch
		AND c.generation > max(h.generation - ` + strconv.Itoa(changesPerWatch) + `, 1)
		GROUP BY h.repository, h.branch HAVING count(c.id) <> min(h.generation - 1, ` + strconv.Itoa(changesPerWatch) + `)`},
	{
		"a change does not begin where the one before it ended",
		`SELECT c.repository || '@' || c.branch || ' generation ' || c.generation FROM changes c
		JOIN changes p ON p.repository = c.repository AND p.branch = c.branch AND p.generation = c.generation - 1 WHERE p.to_commit <> c.from_commit`,
	},
	{
		"a change of a watch is in an older rollout of the group than the change before it",
		`SELECT c.repository || '@' || c.branch || ' generation ' || c.generation FROM changes c
		JOIN changes p ON p.repository = c.repository AND p.branch = c.branch AND p.generation = c.generation - 1 AND p.grp = c.grp
		JOIN rollouts r ON r.sequence = p.rollout AND (r.attempt > 0 OR r.status = 'pending') -- one that never began has no place in the order
		WHERE c.rollout < p.rollout`,
	},
	{
		"a rollout answers a change of another group",
		`SELECT r.sequence || '-' || r.suffix FROM rollouts r JOIN changes c ON c.rollout = r.sequence WHERE c.grp <> r.grp`,
	},
	{
		"a verdict was prepared before its rollout has ended",
		`SELECT d.rollout || ' on ' || d.commit_id FROM deliveries d JOIN rollouts r ON r.sequence = CAST(d.rollout AS INTEGER)
		WHERE d.state <> 'pending' AND r.status IN ('pending', 'running')`,
	},
	{
		"a pending comes after the verdict of its rollout",
		`SELECT p.rollout || ' on ' || p.commit_id FROM deliveries p JOIN deliveries v ON v.rollout = p.rollout AND v.address = p.address
		AND v.commit_id = p.commit_id AND v.context = p.context AND v.state <> 'pending' WHERE p.state = 'pending' AND p.id > v.id`,
	},
	{
		"a commit was told that a rollout is pending, and nothing tells it of the end",
		`SELECT p.rollout || ' on ' || p.commit_id FROM deliveries p JOIN rollouts r ON r.sequence = CAST(p.rollout AS INTEGER)
		WHERE p.state = 'pending' AND p.fate = 'delivered' AND r.status NOT IN ('pending', 'running')
		AND NOT EXISTS (SELECT 1 FROM deliveries v WHERE v.rollout = p.rollout AND v.address = p.address
			AND v.commit_id = p.commit_id AND v.context = p.context AND v.state <> 'pending')
		AND p.rollout NOT IN (SELECT coalesce(json_extract(payload, '$.rollout'), '') FROM outbox WHERE topic = 'rollout.finished')`,
	},
	{
		"something is newer than the newest entry of the ledger",
		`SELECT repository || '@' || branch FROM changes WHERE ledger > coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'ledger'), 0)`,
	},
}

// readable stands before every rule: the deployments with pipeline runs that can be looked into.
const readable = `WITH readable AS (SELECT rollout, ordinal, status, attempt,
	CASE WHEN json_valid(pipeline_runs) THEN pipeline_runs ELSE '[]' END AS runs FROM deployments WHERE pipeline_runs <> '') `

// brokenLimit is how many findings of one kind are told.
const brokenLimit = 10

// Check verifies the checksums of all pages, the log, the structure of the database and the invariants of the data. It returns
// what is broken, in words; nothing where all is well. It reads everything and may take seconds.
func (s *Store) Check(ctx context.Context) ([]string, error) {
	var broken []string
	if s.memory == "" {
		found, err := checkPages(ctx, filepath.Join(s.options.Dir, databaseName))
		if err != nil {
			return nil, err
		}
		broken = append(broken, found...)
		if err := checkLogAgain(filepath.Join(s.options.Dir, databaseName+"-wal")); errors.Is(err, ErrCorrupt) {
			broken = append(broken, err.Error())
		} else if err != nil {
			return nil, explainFile(s.options.Dir, err)
		}
	}
	err := s.read(ctx, func(c *conn) error {
		for _, q := range []struct{ name, sql string }{{"structure", `PRAGMA integrity_check(10)`}, {"reference", `PRAGMA foreign_key_check`}} {
			err := c.query(q.sql, func(r row) error {
				if text := r.text(0); text != "ok" {
					broken = append(broken, q.name+" is broken: "+text)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		for _, rule := range rules {
			n := 0
			err := c.query(readable+rule.sql, func(r row) error {
				if n++; n <= brokenLimit {
					broken = append(broken, rule.broken+": "+r.text(0))
				}
				return nil
			})
			if err != nil {
				return err
			}
			if n > brokenLimit {
				broken = append(broken, fmt.Sprintf("%s: and %d more", rule.broken, n-brokenLimit))
			}
		}
		return nil
	})
	if err != nil {
		broken = append(broken, explain(err).Error())
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return broken, nil
}

// checkLogAgain looks at the log once more where it seems damaged: a daemon may have written to it meanwhile.
func checkLogAgain(path string) error {
	err := checkLog(path)
	for try := 0; err != nil && try < 2; try++ {
		time.Sleep(20 * time.Millisecond)
		err = checkLog(path)
	}
	return err
}

// checkPages verifies the checksum of every page in the file, those that nothing refers to as well. What a page in the log
// replaces is not looked at: a crash may have left it half moved. A daemon may write meanwhile: a page that was caught half
// written is right when it is read again.
func checkPages(ctx context.Context, path string) (broken []string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	page := make([]byte, pageSize)
	for n := int64(0); ; n++ {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		good := false
		for try := 0; try < 3 && !good; try++ {
			if try > 0 {
				time.Sleep(10 * time.Millisecond)
			}
			size, err := f.ReadAt(page, n*pageSize)
			if size == 0 && err == io.EOF {
				return broken, nil
			}
			if err != nil && err != io.EOF {
				return nil, err
			}
			good = size == pageSize && pageSum(page)
			if !good {
				replaced, err := inLog(path+"-wal", uint32(n+1))
				if err != nil {
					return nil, err
				}
				good = replaced
			}
		}
		if !good {
			broken = append(broken, fmt.Sprintf("page %d of %s does not have its checksum", n+1, path))
			if len(broken) == brokenLimit {
				return append(broken, "there may be more such pages"), nil
			}
		}
	}
}

// pageSum reports whether a page has the checksum that its last 8 bytes tell. https://sqlite.org/cksumvfs.html
func pageSum(page []byte) bool {
	var s0, s1 uint32
	body, sum := page[:len(page)-sumSize], page[len(page)-sumSize:]
	for ; len(body) >= 8; body = body[8:] {
		s0 += binary.LittleEndian.Uint32(body) + s1
		s1 += binary.LittleEndian.Uint32(body[4:]) + s0
	}
	return s0 == binary.LittleEndian.Uint32(sum) && s1 == binary.LittleEndian.Uint32(sum[4:])
}
