package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ncruces/go-sqlite3"

	"sentry/internal/sentry"
)

// conn is one connection to the database with the statements that it has compiled. One goroutine uses it at a time.
type conn struct {
	*sqlite3.Conn
	compiled map[string]*sqlite3.Stmt
}

// row is the current row of a query; columns count from 0. What it gives is the caller's.
type row struct{ stmt *sqlite3.Stmt }

func (r row) text(i int) string          { return r.stmt.ColumnText(i) }
func (r row) int(i int) int64            { return r.stmt.ColumnInt64(i) }
func (r row) bool(i int) bool            { return r.stmt.ColumnInt64(i) != 0 }
func (r row) null(i int) bool            { return r.stmt.ColumnType(i) == sqlite3.NULL }
func (r row) time(i int) time.Time       { return fromMillis(r.stmt.ColumnInt64(i)) }
func (r row) status(i int) sentry.Status { return sentry.Status(r.stmt.ColumnText(i)) }

// json decodes a column that is ” for nothing.
func (r row) json(i int, into any) error {
	raw := r.stmt.ColumnRawText(i)
	if len(raw) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%w: column %s is not JSON: %w", ErrCorrupt, r.stmt.ColumnName(i), err)
	}
	return nil
}

// query runs a statement and calls each for every row. each must not run the same statement on the same connection.
// The texts of statements are constants or built from few parts, so that keeping them compiled is bounded.
func (c *conn) query(sql string, each func(row) error, args ...any) error {
	stmt, err := c.compile(sql)
	if err != nil {
		return err
	}
	for i, arg := range args {
		if err := bind(stmt, i+1, arg); err != nil {
			return err
		}
	}
	for stmt.Step() {
		if err := each(row{stmt}); err != nil {
			_ = stmt.Reset()
			return err
		}
	}
	return stmt.Reset()
}

// exec runs a statement that gives no rows.
func (c *conn) exec(sql string, args ...any) error {
	return c.query(sql, func(row) error { return nil }, args...)
}

// one runs a query of at most one row and reports whether there was one.
func (c *conn) one(sql string, each func(row) error, args ...any) (found bool, err error) {
	err = c.query(sql, func(r row) error {
		found = true
		return each(r)
	}, args...)
	return found, err
}

func (c *conn) compile(sql string) (*sqlite3.Stmt, error) {
	if stmt, ok := c.compiled[sql]; ok {
		if stmt.Busy() {
			return nil, fmt.Errorf("%w: a statement within itself: %s", ErrInvalid, sql)
		}
		return stmt, nil
	}
	stmt, tail, err := c.PrepareFlags(sql, sqlite3.PREPARE_PERSISTENT)
	if err != nil {
		return nil, err
	}
	if tail != "" {
		return nil, errors.Join(fmt.Errorf("%w: more than one statement: %s", ErrInvalid, sql), stmt.Close())
	}
	c.compiled[sql] = stmt
	return stmt, nil
}

// Close gives back the statements, then the connection.
func (c *conn) Close() error {
	for _, stmt := range c.compiled {
		_ = stmt.Close() // repeats the error of the last use of the statement; not news
	}
	clear(c.compiled)
	return c.Conn.Close()
}

func bind(stmt *sqlite3.Stmt, i int, arg any) error {
	switch v := arg.(type) {
	case string:
		return stmt.BindText(i, v)
	case int64:
		return stmt.BindInt64(i, v)
	case int:
		return stmt.BindInt64(i, int64(v))
	case bool:
		return stmt.BindBool(i, v)
	case time.Time:
		return stmt.BindInt64(i, millis(v))
	case *int:
		if v == nil {
			return stmt.BindNull(i)
		}
		return stmt.BindInt64(i, int64(*v))
	case sentry.Status:
		return stmt.BindText(i, string(v))
	default:
		return fmt.Errorf("%w: a parameter of type %T", ErrInvalid, arg)
	}
}

// millis and fromMillis keep a time as Unix milliseconds; no time is 0.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// asKept gives a time as it will be read back.
func asKept(t time.Time) time.Time { return fromMillis(millis(t)) }

// text encodes v as JSON, and nothing (nil, or an empty slice) as ”.
func text[T any](v []T) (string, error) {
	if len(v) == 0 {
		return "", nil
	}
	raw, err := json.Marshal(v)
	return string(raw), err
}
