-- +goose Up

-- What was dropped is looked for after each change of the configuration, and there is little of it among many changes.
CREATE INDEX changes_dropped ON changes (id) WHERE fate = 'dropped';
