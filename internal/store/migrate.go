package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strings"
	"sync"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/driver"
	"github.com/ncruces/go-sqlite3/ext/serdes"
	"github.com/ncruces/go-sqlite3/vfs/memdb"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var embedded embed.FS

// migrations are the steps from an empty database to the schema that this version knows.
var migrations = func() fs.FS {
	sub, err := fs.Sub(embedded, "migrations")
	if err != nil {
		panic(err) // a constant path
	}
	return sub
}()

const (
	// applicationID stands in the header of the file and tells the databases of Sentry from all others: "Sntr".
	applicationID = 0x536e7472
	// pageSize and sumSize are fixed for ever: the last 8 bytes of each page are its checksum.
	pageSize = 4096
	sumSize  = 8
)

// migrate brings a database up to the newest schema of steps. Each step is a transaction: a crash in between leaves a
// database of some known version, and the next call goes on from there.
func migrate(ctx context.Context, dsn string, steps fs.FS) error {
	db, err := driver.Open(dsn, func(c *sqlite3.Conn) error { return c.Exec(`PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL`) })
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, steps, goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err == nil {
		_, err = provider.Up(ctx)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("cannot upgrade the state database: %w", err)
	}
	return nil
}

// schemaVersion is the version of the newest step that was applied to a database.
func schemaVersion(c *conn) (version int64, err error) {
	_, err = c.one(`SELECT max(version_id) FROM goose_db_version WHERE is_applied`, func(r row) error { version = r.int(0); return nil })
	return version, err
}

// newestVersion is the version of the newest step of steps.
func newestVersion(steps fs.FS) (int64, error) {
	names, err := fs.Glob(steps, "*.sql")
	if err != nil {
		return 0, err
	}
	newest := int64(0)
	for _, name := range names {
		version, err := goose.NumericComponent(name)
		if err != nil {
			return 0, err
		}
		newest = max(newest, version)
	}
	if newest == 0 || newest == math.MaxInt64 {
		return 0, fmt.Errorf("%w: no migrations", ErrInvalid)
	}
	return newest, nil
}

// template is an empty database of the newest schema, made once in a process: a new state and every database in memory
// begin as a copy of it.
var template = sync.OnceValues(func() ([]byte, error) {
	name := "sentry-template-" + rand.Text()
	memdb.Create(name, nil)
	defer memdb.Delete(name)
	dsn := memoryName(name)
	c, err := sqlite3.OpenFlags(dsn, sqlite3.OPEN_READWRITE|sqlite3.OPEN_URI)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	err = c.Exec(fmt.Sprintf(`PRAGMA page_size = %d; PRAGMA encoding = 'UTF-8'; PRAGMA application_id = %d`, pageSize, applicationID))
	if err == nil {
		err = c.EnableChecksums("main")
	}
	if err == nil {
		err = migrate(context.Background(), dsn, migrations)
	}
	if err != nil {
		return nil, err
	}
	return serdes.Serialize(c, "main")
})

func memoryName(name string) string { return "file:/" + name + "?vfs=memdb" }

// newTemplate gives a copy of the template.
func newTemplate() ([]byte, error) {
	data, err := template()
	return bytes.Clone(data), err
}

// newInstance names a database, so that the copy of another Sentry's is told from ours.
func newInstance() string { return strings.ToLower(rand.Text()) }
