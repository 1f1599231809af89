-- SPDX-License-Identifier: GPL-2.0-or-later
-- A store of schema 1, as its own dump wrote it. Never edit: make a new file for a new schema.
PRAGMA journal_mode=WAL;
BEGIN;
CREATE TABLE item (key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL, revision INTEGER NOT NULL,  lease INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE INDEX item_lease ON item (lease) WHERE lease <> 0;
CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl INTEGER NOT NULL);
CREATE TABLE counter (name TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counter VALUES ('revision', 7);
INSERT INTO item VALUES ('/instance/default/11111111-1111-4111-8111-111111111111', CAST('{"name":"web-1"}' AS BLOB), 5, 0);
INSERT INTO item VALUES ('/name/default/web-1', CAST('"11111111-1111-4111-8111-111111111111"' AS BLOB), 5, 0);
INSERT INTO item VALUES ('/lease/x', CAST('1' AS BLOB), 7, 42);
INSERT INTO lease VALUES (42, 3600000000);
PRAGMA user_version=1;
PRAGMA application_id=1349675108;
COMMIT;
